"""A synthetic world: scenes of coloured shapes and letters on patterned backgrounds, and how they are drawn.

Everything here is pure: a `Scene` is a value, `render` draws it, and the same scene always gives the same pixels.

Things that an instruction asks for ("a large red star at the top") have a fixed position and size: cells of a 3x3
grid (2x2 corners on a small canvas), whose centres lie where four tokens meet, and radii in pixels, the same on every
canvas. The source scene may be off the grid: a thing with a `Place` has any position, size, rotation and shade of its
colour, on backgrounds whose stripes have any width and direction (`training/free.py` draws them at random).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from training.photographs import Crop, pixels_of

VERSION = "4"

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
LETTERS = tuple("BCEHKLMOSTXZ")  # without A and I, which are also words
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
RESIZE = 1.3  # factor of "bigger" on an off-grid thing, like one step of `RADIUS`
GRID = 16  # px per token
SHADOW_REACH = 6  # px that a shadow extends around its thing
SMALL_CANVAS = 64  # px; canvases up to this size use only the corners


PHOTOGRAPH = "photograph"  # pattern name of a photographic background

Shade = tuple[int, int, int]  # RGB in 0..255


@dataclass(frozen=True)
class Weave:
    """Geometry of a pattern other than the default: width of a stripe or square, direction, shift."""

    period: float  # px
    angle: float  # degrees; 0 varies along the columns, like the default stripes
    phase: float  # px


@dataclass(frozen=True)
class Background:
    pattern: str
    first: str
    second: str  # equal to `first` when plain
    shades: tuple[Shade | None, Shade | None] = (None, None)  # non-default shades of the two colours
    weave: Weave | None = None
    crop: Crop | None = None  # of a photograph; then the pattern is PHOTOGRAPH and the colours have no names


@dataclass(frozen=True)
class Place:
    """An off-grid position and size."""

    x: float  # px, its centre
    y: float
    radius: float  # px
    turn: float = 0.0  # degrees, clockwise


@dataclass(frozen=True)
class Finish:
    """The appearance of a thing pasted into a photograph."""

    light: float  # how much brighter one side is than the middle, as a fraction
    angle: float  # degrees; direction of the light
    soft: float  # px, sigma of the edge blur
    shadow: float  # darkness of the shadow, 0..1


@dataclass(frozen=True)
class Thing:
    shape: str  # one of SHAPES or LETTERS
    colour: str
    size: str = "medium"
    cell: str = "centre"
    place: Place | None = None  # off the grid; then `size` and `cell` are not read
    shade: Shade | None = None  # a non-default shade of its colour
    finish: Finish | None = None  # of an off-grid thing; None: flat


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

    def put(self, index: int, thing: Thing) -> Scene:
        """The scene with another thing in place of one of its own."""
        return replace(self, things=(*self.things[:index], thing, *self.things[index + 1 :]))

    def without(self, index: int) -> Scene:
        """The scene without one of its things."""
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
    """The cells of a canvas."""
    return CORNERS if min(width, height) <= SMALL_CANVAS else tuple(CELLS)


def centre_of_cell(cell: str, width: int, height: int) -> tuple[int, int]:
    """The pixel in the middle of a cell, a multiple of 16 from the picture's corner."""
    column, row = CELLS[cell]
    edge = 1 / 4 if min(width, height) <= SMALL_CANVAS else 1 / 6
    place = (edge, 0.5, 1 - edge)
    return GRID * round(width * place[column] / GRID), GRID * round(height * place[row] / GRID)


def centre_of(thing: Thing, width: int, height: int) -> tuple[float, float]:
    """The centre of a thing, in pixels."""
    return centre_of_cell(thing.cell, width, height) if thing.place is None else (thing.place.x, thing.place.y)


def radius_of(thing: Thing) -> float:
    """A thing's radius in pixels."""
    return RADIUS[thing.size] if thing.place is None else thing.place.radius


def changed(thing: Thing, attribute: str, value: Any, width: int, height: int) -> Thing:
    """A thing after an instruction; the value is a name, or for "size" also a number of steps.

    An off-grid thing keeps its size and rotation when it moves, and stays completely inside the picture. A new shape is
    upright (a new letter keeps the rotation); a new colour has the default shade.
    """
    if attribute == "colour":
        return replace(thing, colour=value, shade=None)
    if attribute == "size" and not isinstance(value, str):
        return _resized(thing, value)
    if thing.place is None:
        return replace(thing, **{attribute: value})
    place = thing.place
    if attribute == "shape":
        both_letters = thing.shape in LETTERS and value in LETTERS
        return replace(thing, shape=value, place=place if both_letters else replace(place, turn=0.0))
    if attribute == "size":
        return replace(thing, place=replace(place, radius=float(RADIUS[value])))
    x, y = centre_of_cell(value, width, height)
    x, y = (min(max(at, place.radius), side - place.radius) for at, side in ((x, width), (y, height)))
    return replace(thing, cell=value, place=replace(place, x=x, y=y))


def _resized(thing: Thing, steps: int) -> Thing:
    if thing.place is not None:
        return replace(thing, place=replace(thing.place, radius=thing.place.radius * RESIZE**steps))
    sizes = tuple(RADIUS)
    return replace(thing, size=sizes[min(max(sizes.index(thing.size) + steps, 0), len(sizes) - 1)])


def render(scene: Scene, width: int = 128, height: int | None = None) -> np.ndarray:
    """Draw a scene, (height, width, 3) float32 in 0..1."""
    height = height or width
    picture = _background(scene.background, width, height).copy()
    for thing in scene.things:
        _paste(picture, thing, *centre_of(thing, width, height))
    return apply_effect(picture, scene.effect)


def apply_effect(picture: np.ndarray, effect: str | None) -> np.ndarray:
    """Apply a global effect to any picture (h, w, 3) in 0..1; None leaves it unchanged."""
    return picture if effect is None else EFFECTS[effect](picture).astype(np.float32)


def _paste(picture: np.ndarray, thing: Thing, x: float, y: float) -> None:
    height, width, _ = picture.shape
    if thing.place is None:
        mask, corner_x, corner_y = _mask(thing.shape, RADIUS[thing.size]), int(x), int(y)
        corner_x, corner_y = corner_x - mask.shape[1] // 2, corner_y - mask.shape[0] // 2
    else:
        reach = thing.place.radius + 1 + (SHADOW_REACH if thing.finish else 0)
        corner_x, corner_y = math.floor(x - reach), math.floor(y - reach)
        mask = _free_mask(thing.shape, x - corner_x, y - corner_y, thing.place.radius, thing.place.turn, reach)
    colour = _colour(thing.colour, thing.shade)
    if thing.finish is not None:
        mask, colour = _finished(picture, mask, colour, thing.finish, corner_x, corner_y)
    left, top = max(corner_x, 0), max(corner_y, 0)
    right, bottom = min(corner_x + mask.shape[1], width), min(corner_y + mask.shape[0], height)
    inside = slice(top - corner_y, bottom - corner_y), slice(left - corner_x, right - corner_x)
    part = picture[top:bottom, left:right]
    part += mask[inside] * ((colour[inside] if colour.ndim == 3 else colour) - part)


def _finished(
    picture: np.ndarray, mask: np.ndarray, colour: np.ndarray, finish: Finish, corner_x: int, corner_y: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cast a thing's shadow on the picture, in place; returns its softened mask and its lit colour (n, m, 3)."""
    soft = Image.fromarray((255 * mask[..., 0]).astype(np.uint8))
    angle = math.radians(finish.angle)
    y, x = np.mgrid[-1 : 1 : mask.shape[0] * 1j, -1 : 1 : mask.shape[1] * 1j]
    lit = 1 + finish.light * (x * math.cos(angle) + y * math.sin(angle))
    away = [round(-SHADOW_REACH / 2 * turn) for turn in (math.cos(angle), math.sin(angle))]
    shadow = np.asarray(ImageChops.offset(soft.filter(ImageFilter.GaussianBlur(SHADOW_REACH / 3)), *away), np.float32)
    height, width, _ = picture.shape
    left, top = max(corner_x, 0), max(corner_y, 0)
    right, bottom = min(corner_x + mask.shape[1], width), min(corner_y + mask.shape[0], height)
    inside = shadow[top - corner_y : bottom - corner_y, left - corner_x : right - corner_x, None] / 255
    picture[top:bottom, left:right] *= 1 - finish.shadow * inside
    blurred = np.asarray(soft.filter(ImageFilter.GaussianBlur(finish.soft)), np.float32)[..., None] / 255
    return blurred, np.clip(colour * lit[..., None], 0, 1).astype(np.float32)


def _colour(name: str, shade: Shade | None = None) -> np.ndarray:
    return np.array(shade or COLOURS[name], np.float32) / 255


@lru_cache(maxsize=256)
def _background(background: Background, width: int, height: int) -> np.ndarray:
    if background.crop is not None:
        return pixels_of(background.crop, width, height)
    mix = _mix(background, width, height)[..., None]
    first, second = (
        _colour(name, shade)
        for name, shade in zip((background.first, background.second), background.shades, strict=True)
    )
    return ((1 - mix) * first + mix * second).astype(np.float32)


def _mix(background: Background, width: int, height: int) -> np.ndarray:
    """The fraction of the second colour at each pixel of a background, (height, width) in 0..1."""
    y, x = np.mgrid[0:height, 0:width]
    weave, pattern = background.weave, background.pattern
    if weave is None or pattern == "plain":
        return {
            "plain": np.zeros((height, width)),
            "striped": (y // 8) % 2,
            "checkered": (y // 16 + x // 16) % 2,
            "gradient": y / (height - 1),
        }[pattern]
    angle = math.radians(weave.angle)
    along = (x - width / 2) * math.sin(angle) + (y - height / 2) * math.cos(angle)
    if pattern == "gradient":
        reach = abs(width / 2 * math.sin(angle)) + abs(height / 2 * math.cos(angle))
        return 0.5 + 0.5 * along / reach
    across = (x - width / 2) * math.cos(angle) - (y - height / 2) * math.sin(angle)
    first = _square_wave(along + weave.phase, weave.period)
    return first if pattern == "striped" else abs(first - _square_wave(across + weave.phase, weave.period))


def _square_wave(at: np.ndarray, period: float) -> np.ndarray:
    """A square wave of 0 and 1, each `period` pixels long, with edges one pixel soft."""
    inside = at % (2 * period)
    return np.clip(np.minimum(inside, 2 * period - inside) - period / 2 + 0.5, 0, 1)


@lru_cache(maxsize=256)
def _mask(shape: str, radius: int) -> np.ndarray:
    """Coverage of a shape, (2 radius, 2 radius, 1) in 0..1, supersampled eight times."""
    over = 8
    side = 2 * radius * over
    return _averaged(_outline(shape, side, radius * over, radius * over, radius * over, 0.0), over)


def _free_mask(shape: str, x: float, y: float, radius: float, turn: float, reach: float) -> np.ndarray:
    """Coverage of a rotated shape around any point of a square canvas, (n, n, 1) in 0..1, `reach` to each side."""
    over = 4
    side = over * (math.ceil(reach + max(x, y)) + 1)
    return _averaged(_outline(shape, side, x * over, y * over, radius * over, turn), over)


def _averaged(image: Image.Image, over: int) -> np.ndarray:
    small = image.resize((image.width // over, image.height // over), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[..., None] / 255


def _outline(shape: str, side: int, x: float, y: float, r: float, turn: float) -> Image.Image:
    """A shape of radius r around (x, y), white on a black square of `side` pixels."""
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)

    def box(reach: float) -> tuple[float, ...]:
        return x - reach, y - reach, x + reach, y + reach

    def polygon(corners: int, reach: tuple[float, ...], first: float = -math.pi / 2) -> list[tuple[float, float]]:
        turns = (first + math.radians(turn) + 2 * math.pi * i / corners for i in range(corners))
        reaches = (reach[i % len(reach)] for i in range(corners))
        return [(x + d * math.cos(a), y + d * math.sin(a)) for a, d in zip(turns, reaches, strict=True)]

    if shape in ("circle", "ring"):
        draw.ellipse(box(r), fill=255)
        if shape == "ring":
            draw.ellipse(box(0.55 * r), fill=0)
    elif shape == "square" and turn == 0:
        draw.rectangle(box(0.85 * r), fill=255)
    elif shape == "square":
        draw.polygon(polygon(4, (0.85 * 2**0.5 * r,), first=-math.pi / 4), fill=255)
    elif shape == "diamond":
        draw.polygon(polygon(4, (r, 0.75 * r)), fill=255)
    elif shape == "triangle":
        draw.polygon(polygon(3, (r,)), fill=255)
    elif shape == "star":
        draw.polygon(polygon(10, (r, 0.45 * r)), fill=255)
    else:
        stroke = {"stroke_width": int(0.12 * r), "stroke_fill": 255}
        draw.text((x, y), shape, fill=255, font=_font(round(2.3 * r, 1)), anchor="mm", **stroke)
        if turn:
            image = image.rotate(-turn, Image.Resampling.BICUBIC, center=(x, y))
    return image


@lru_cache(maxsize=256)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
