"""A synthetic world: scenes of coloured shapes and letters on patterned backgrounds, and how they are drawn.

Everything here is pure: a `Scene` is a value, `render` draws it, and the same scene gives the same pixels always.
Positions are cells of a 3x3 grid (2x2 corners on a small canvas), whose centres lie where four tokens meet, and the
largest thing fills these four: each shape meets the tokens in one way only. Sizes are pixels, the same on every canvas,
so that a small canvas shows the same world with less in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

VERSION = "3"

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 140, 35),
    "purple": (130, 60, 180),
    "pink": (250, 150, 190),
    "cyan": (60, 205, 220),
    "white": (250, 250, 250),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "diamond")
LETTERS = tuple("BCEHKLMOSTXZ")  # without A and I, which are words too
RADIUS = {"small": 10, "medium": 13, "large": 16}  # pixels
CELLS = {
    "top left": (0, 0),
    "top": (1, 0),
    "top right": (2, 0),
    "left": (0, 1),
    "centre": (1, 1),
    "right": (2, 1),
    "bottom left": (0, 2),
    "bottom": (1, 2),
    "bottom right": (2, 2),
}
CORNERS = tuple(name for name in CELLS if " " in name)
PATTERNS = ("plain", "striped", "checkered", "gradient")
GRID = 16  # px a token
SMALL_CANVAS = 64  # px; up to here only the corners are used


@dataclass(frozen=True)
class Background:
    pattern: str
    first: str
    second: str  # equal to `first` when plain


@dataclass(frozen=True)
class Thing:
    shape: str  # one of SHAPES or LETTERS
    colour: str
    size: str = "medium"
    cell: str = "centre"


@dataclass(frozen=True)
class Scene:
    background: Background
    things: tuple[Thing, ...]
    effect: str | None = None  # a global effect over the whole picture

    def with_thing(self, index: int, **changes: object) -> Scene:
        """The scene with attributes of one thing changed."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)
        return replace(self, things=tuple(things))

    def without(self, index: int) -> Scene:
        """The scene with one thing taken away."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])


def _scale(*factors: float) -> np.ndarray:
    return np.array(factors, np.float32)


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.repeat((picture @ _scale(0.299, 0.587, 0.114))[..., None], 3, axis=-1)


EFFECTS = {
    "negative": lambda p: 1 - p,
    "grey": _grey,
    "night": lambda p: p * _scale(0.30, 0.34, 0.52),
    "warmer": lambda p: np.minimum(p * _scale(1.06, 0.93, 0.68) + _scale(0.05, 0.0, 0.0), 1),
    "colder": lambda p: np.minimum(p * _scale(0.70, 0.92, 1.06) + _scale(0.0, 0.0, 0.05), 1),
    "darker": lambda p: p * 0.6,
    "brighter": lambda p: 1 - (1 - p) * 0.6,
}


def cells_of(width: int, height: int) -> tuple[str, ...]:
    """The cells that a canvas has."""
    return CORNERS if min(width, height) <= SMALL_CANVAS else tuple(CELLS)


def centre_of(thing: Thing, width: int, height: int) -> tuple[int, int]:
    """The pixel on which a thing is centred, a multiple of 16 from the picture's corner."""
    column, row = CELLS[thing.cell]
    edge = 1 / 4 if min(width, height) <= SMALL_CANVAS else 1 / 6
    place = (edge, 0.5, 1 - edge)
    return GRID * round(width * place[column] / GRID), GRID * round(height * place[row] / GRID)


def render(scene: Scene, width: int = 128, height: int | None = None) -> np.ndarray:
    """Draw a scene, (height, width, 3) float32 in 0..1."""
    height = height or width
    picture = _background(scene.background, width, height).copy()
    for thing in scene.things:
        _paste(picture, thing, *centre_of(thing, width, height))
    return apply_effect(picture, scene.effect)


def apply_effect(picture: np.ndarray, effect: str | None) -> np.ndarray:
    """A global effect on any picture (h, w, 3) in 0..1; None leaves it alone."""
    return picture if effect is None else EFFECTS[effect](picture).astype(np.float32)


def _paste(picture: np.ndarray, thing: Thing, x: int, y: int) -> None:
    height, width, _ = picture.shape
    mask = _mask(thing.shape, RADIUS[thing.size])
    reach = mask.shape[0] // 2
    left, top, right, bottom = max(x - reach, 0), max(y - reach, 0), min(x + reach, width), min(y + reach, height)
    mask = mask[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
    part = picture[top:bottom, left:right]
    part += mask * (_colour(thing.colour) - part)


def _colour(name: str) -> np.ndarray:
    return np.array(COLOURS[name], np.float32) / 255


@lru_cache(maxsize=4096)
def _background(background: Background, width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    mix = {
        "plain": np.zeros((height, width)),
        "striped": (y // 8) % 2,
        "checkered": (y // 16 + x // 16) % 2,
        "gradient": y / (height - 1),
    }[background.pattern][..., None]
    return ((1 - mix) * _colour(background.first) + mix * _colour(background.second)).astype(np.float32)


@lru_cache(maxsize=256)
def _mask(shape: str, radius: int) -> np.ndarray:
    """Coverage of a shape, (2 radius, 2 radius, 1) in 0..1, drawn eight times larger and averaged down."""
    over = 8
    half = radius
    side, centre, r = 2 * half * over, half * over, radius * over
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)

    def box(reach: float) -> tuple[float, ...]:
        return centre - reach, centre - reach, centre + reach, centre + reach

    def polygon(corners: int, reach: tuple[float, ...]) -> list[tuple[float, float]]:
        turns = (-math.pi / 2 + 2 * math.pi * i / corners for i in range(corners))
        reaches = (reach[i % len(reach)] for i in range(corners))
        return [(centre + d * math.cos(a), centre + d * math.sin(a)) for a, d in zip(turns, reaches, strict=True)]

    if shape in ("circle", "ring"):
        draw.ellipse(box(r), fill=255)
        if shape == "ring":
            draw.ellipse(box(0.55 * r), fill=0)
    elif shape == "square":
        draw.rectangle(box(0.85 * r), fill=255)
    elif shape == "diamond":
        draw.polygon(polygon(4, (r, 0.75 * r)), fill=255)
    elif shape == "triangle":
        draw.polygon(polygon(3, (r,)), fill=255)
    elif shape == "star":
        draw.polygon(polygon(10, (r, 0.45 * r)), fill=255)
    else:
        font = ImageFont.load_default(size=2.3 * r)
        draw.text(
            (centre, centre), shape, fill=255, font=font, anchor="mm", stroke_width=int(0.12 * r), stroke_fill=255
        )
    small = image.resize((2 * half, 2 * half), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[..., None] / 255
