"""Edits of photographs with a known true change, and the drifts that editors add to the rest of the picture.

Pictures are (3, h, w) in 0..1. The drifts are as strong as in examples that users post: a zoom of 1 to 3 %, a shift of
a few pixels, an "enhancement" with more contrast, saturation and sharpness, JPEG compression.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.segmentation import felzenszwalb
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from kontext_core.colour import delta_e_2000, lab
from kontext_core.registration import blur

from .photographs import PHOTOGRAPHS, THINGS, half, other, photograph, thing

SEEN = 3.0  # dE2000 that is visible at a glance; 1 is about the just-noticeable difference
GAP = 0.005  # of the longer side: half the largest gap that is filled between parts of an edit
HOLE = 0.01  # of the picture: larger enclosed areas are not part of an edit
WORDS = ("OPEN", "SALE 20", "HOTEL", "CAFE", "EXIT 4", "WELCOME", "NO ENTRY", "Room 17")


def seen(original: Tensor, clean: Tensor) -> Tensor:
    """The visible part of an edit without drift, (h, w) of bool: gaps and holes filled, specks removed."""
    side = max(original.shape[1:])
    original, clean = (lab(blur(picture, max(0.5, side / 1024))) for picture in (original, clean))
    different = delta_e_2000(original, clean) > SEEN
    radius = max(1, round(GAP * side))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    padded = np.pad(different.numpy(), 2 * radius)
    closed = ndimage.binary_closing(padded, x * x + y * y <= radius * radius + 0.5)[
        (slice(2 * radius, -2 * radius),) * 2
    ]
    region = closed | different.numpy()
    holes, count = ndimage.label(~region)
    areas = ndimage.sum_labels(~region, holes, range(1, count + 1))
    region |= np.isin(holes, 1 + np.flatnonzero(areas < HOLE * region.size))
    return torch.from_numpy(ndimage.binary_opening(region))


# Edits


def paste(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Paste a thing with its shadow."""
    height, width = picture.shape[1:]
    new = thing(rng.choice(half(THINGS, figures)), round(rng.uniform(0.2, 0.5) * min(height, width)))
    top, left = rng.randint(0, height - new.shape[1]), rng.randint(0, width - new.shape[2])
    layer = torch.zeros(4, height, width)
    layer[:, top : top + new.shape[1], left : left + new.shape[2]] = new
    away = max(2, round(0.02 * min(height, width)))
    shadow = blur(layer[3:].roll((away, away), (1, 2)), away / 2) * 0.5
    return picture, torch.lerp(picture * (1 - shadow), layer[:3], layer[3:])


def recolour(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Give a segment another hue."""
    soft = blur(segment(rng, picture, 0.02, 0.2)[None].float(), 0.8)
    luma = picture.mean(0, keepdim=True)
    goal = torch.tensor([rng.random() for _ in range(3)])
    goal = (goal - goal.min()) / (goal.max() - goal.min()).clamp(min=1e-3)
    coloured = luma * (0.25 + 1.1 * goal[:, None, None])
    turned = (picture - luma).roll(rng.choice((1, 2)), 0) + luma
    return picture, torch.lerp(picture, (0.3 * turned + 0.7 * coloured).clamp(0, 1), soft)


def remove(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Fill a segment smoothly from its surroundings."""
    soft = blur(grown(segment(rng, picture, 0.01, 0.12), 3)[None].float(), 1.0)
    return picture, torch.lerp(picture, filled(picture, soft[0] > 0), soft)


def text(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Other words on a sign that is in both pictures."""
    old, new = rng.sample(WORDS, 2)
    height, width = picture.shape[1:]
    size = round(rng.uniform(0.05, 0.12) * min(height, width))
    left, top = rng.uniform(0.05, 0.4) * width, rng.uniform(0.05, 0.7) * height
    plate, ink = (tuple(rng.randint(*levels) for _ in range(3)) for levels in ((150, 255), (0, 90)))
    results = []
    for word in (old, new):
        image = Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        draw = ImageDraw.Draw(image)
        draw.rectangle((left, top, left + 5.5 * size, top + 1.5 * size), fill=plate)
        draw.text((left + 0.2 * size, top + 0.15 * size), word, fill=ink, font=ImageFont.load_default(size))
        results.append(torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1))
    return results[0], results[1]


def background(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Everything but the middle from another photograph: about 45 to 75 % of the picture are new."""
    height, width = picture.shape[1:]
    labels = torch.from_numpy(segments(picture))
    y, x = torch.arange(height)[:, None] / height - 0.5, torch.arange(width) / width - 0.5
    distance, share, kept = (x * x + y * y).sqrt(), rng.uniform(0.3, 0.55), torch.zeros(height, width, dtype=torch.bool)
    order = sorted(labels.unique().tolist(), key=lambda label: float(distance[labels == label].mean()))
    for label in order:
        kept |= labels == label
        if kept.float().mean() > share:
            break
    if kept.float().mean() > 0.6:  # one segment covers nearly the whole picture
        kept = distance < 0.35
    soft = blur(blur(kept[None].float(), 0.004 * max(height, width)).gt(0.5).float(), 0.8)
    new = photograph(other(rng, path, figures), max(height, width))
    factor = max(height / new.shape[1], width / new.shape[2])
    new = interpolate(new[None], scale_factor=factor * 1.01, mode="bicubic")[0, :, :height, :width].clamp(0, 1)
    return picture, torch.lerp(new, picture, soft)


def detail(rng: random.Random, path: str, picture: Tensor, figures: bool) -> tuple[Tensor, Tensor]:
    """Change an area the size of a face or of a part of one: insert another part of the picture, or twist it."""
    height, width = picture.shape[1:]
    radius = rng.uniform(0.02, 0.05) * max(height, width)
    best = None
    for _ in range(20):  # until the change is visible
        x, y = rng.uniform(2 * radius, width - 2 * radius), rng.uniform(2 * radius, height - 2 * radius)
        turned = rotated(picture, x, y, radius, rng.uniform(1, 5))
        if rng.random() < 0.5:
            turned = picture.roll((rng.randint(20, height - 20), rng.randint(20, width - 20)), (1, 2))
        away = torch.hypot(torch.arange(width) - x, torch.arange(height)[:, None] - y)
        soft = ((radius - away) / 2).clamp(0, 1)
        made = torch.lerp(picture, turned, soft)
        visible = seen(picture, made).float().mean() / (math.pi * radius**2 / (height * width))
        if best is None or visible > best[0]:
            best = visible, made
        if visible > 0.6:
            break
    return picture, best[1]


LOCAL = {"paste": paste, "recolour": recolour, "remove": remove, "text": text, "background": background}
LOCAL["detail"] = detail


def night(picture: Tensor) -> Tensor:
    return picture * torch.tensor([0.30, 0.34, 0.52])[:, None, None]


def golden(picture: Tensor) -> Tensor:
    return (
        picture * torch.tensor([1.25, 0.9, 0.5])[:, None, None] + torch.tensor([0.08, 0.02, 0])[:, None, None]
    ).clamp(0, 1)


def from_the_left(picture: Tensor) -> Tensor:
    ramp = torch.linspace(1.9, 0.15, picture.shape[2])
    return (picture * ramp * torch.tensor([1.1, 1.0, 0.85])[:, None, None]).clamp(0, 1)


def snow(picture: Tensor) -> Tensor:
    """The whole picture covered with snow: another look and other details."""
    luma = picture.mean(0, keepdim=True)
    seeded = torch.Generator().manual_seed(picture.shape[1])
    flakes = torch.rand(1, 1, picture.shape[1] // 3, picture.shape[2] // 3, generator=seeded)
    flakes = interpolate(flakes, picture.shape[1:])[0]
    return (0.45 + 0.4 * luma + 0.15 * (picture - luma) + 0.35 * (flakes > 0.8) * flakes).clamp(0, 1)


GLOBAL: dict[str, Callable[[Tensor], Tensor]] = {
    "night": night,
    "golden": golden,
    "light from the left": from_the_left,
    "snow": snow,
}


def segments(picture: Tensor) -> np.ndarray:
    side = max(picture.shape[1:])
    small = interpolate(picture[None], scale_factor=min(1.0, 384 / side), mode="bilinear", antialias=True)[0]
    labels = felzenszwalb(small.permute(1, 2, 0).numpy(), scale=150, sigma=0.8, min_size=120)
    large = interpolate(torch.from_numpy(labels)[None, None].float(), picture.shape[1:], mode="nearest")[0, 0]
    return large.int().numpy()


def segment(rng: random.Random, picture: Tensor, least: float, most: float) -> Tensor:
    """A segment that covers such a fraction of the picture, (h, w) of bool; an ellipse if there is none."""
    labels = segments(picture)
    shares = np.bincount(labels.ravel()) / labels.size
    possible = np.flatnonzero((shares > least) & (shares < most))
    if len(possible):
        return torch.from_numpy(ndimage.binary_fill_holes(labels == rng.choice(list(possible))))
    height, width = picture.shape[1:]
    x = torch.arange(width) / width - rng.uniform(0.3, 0.7)
    y = torch.arange(height)[:, None] / height - rng.uniform(0.3, 0.7)
    return (x / 0.15).square() + (y / 0.12).square() < 1


def grown(region: Tensor, radius: int) -> Tensor:
    return torch.from_numpy(ndimage.binary_dilation(region.numpy(), iterations=radius))


def filled(picture: Tensor, hole: Tensor) -> Tensor:
    """The hole (h, w) of bool filled with averages of its surroundings, taken from farther away deeper inside."""
    result, weight = picture * ~hole, (~hole).float()[None]
    layers = [(result, weight)]
    while min(result.shape[1:]) > 2:
        size = [(side + 1) // 2 for side in result.shape[1:]]
        result, weight = (interpolate(one[None], size, mode="area")[0] for one in (result, weight))
        layers.append((result, weight))
    below = layers[-1][0] / layers[-1][1].clamp(min=1e-6)
    for result, weight in reversed(layers[:-1]):
        below = blur(interpolate(below[None], result.shape[1:], mode="bilinear")[0], 1.0)
        below = result + (1 - weight) * below
    return torch.where(hole, below, picture)


def rotated(picture: Tensor, x: float, y: float, radius: float, angle: float) -> Tensor:
    """A swirl around a point: the rotation is largest in the middle and zero `radius` px away."""
    height, width = picture.shape[1:]
    dx, dy = torch.arange(width) - x, torch.arange(height)[:, None] - y
    turn = angle * (1 - torch.hypot(dx, dy) / radius).clamp(0, 1)
    at_x, at_y = x + turn.cos() * dx - turn.sin() * dy, y + turn.sin() * dx + turn.cos() * dy
    grid = torch.stack(((at_x + 0.5) * 2 / width - 1, (at_y + 0.5) * 2 / height - 1), -1)
    return grid_sample(picture[None], grid[None], mode="bilinear", padding_mode="reflection", align_corners=False)[0]


# Drifts


def warped(
    picture: Tensor, x: float = 0, y: float = 0, zoom: float = 1, stretch: float = 1, angle: float = 0
) -> Tensor:
    """Shift by x, y px, zoom by `zoom`, widen by `stretch`, rotate by degrees; reflected outside."""
    height, width = picture.shape[1:]
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = [
        [cosine / zoom / stretch, -sine * height / width / zoom, -2 * x / width],
        [sine * width / height / zoom, cosine / zoom, -2 * y / height],
    ]
    grid = affine_grid(torch.tensor([matrix]), [1, 3, height, width], align_corners=False)
    return grid_sample(picture[None], grid, mode="bicubic", padding_mode="reflection", align_corners=False)[0].clamp(
        0, 1
    )


def shift(rng, picture):
    reach = max(picture.shape[1:]) / 1024
    return warped(picture, rng.uniform(-8, 8) * reach, rng.uniform(-8, 8) * reach)


def zoom(rng, picture):
    return warped(picture, zoom=rng.choice((1, -1)) * rng.uniform(0.01, 0.03) + 1)


def stretch(rng, picture):
    return warped(picture, stretch=rng.choice((1, -1)) * rng.uniform(0.003, 0.015) + 1)


def turn(rng, picture):
    return warped(picture, angle=rng.choice((1, -1)) * rng.uniform(0.2, 1.0))


def warm(rng, picture):
    strength = rng.uniform(0.03, 0.08)
    return (picture * torch.tensor([1 + strength, 1, 1 - strength])[:, None, None]).clamp(0, 1)


def contrast(rng, picture):
    """More contrast and more saturation."""
    luma = (picture * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
    saturated = luma + rng.uniform(1.1, 1.3) * (picture - luma)
    return ((saturated - 0.5) * rng.uniform(1.1, 1.25) + 0.5).clamp(0, 1)


def curve(rng, picture):
    gammas = torch.tensor([rng.uniform(0.85, 1.18)] * 3) * torch.tensor([rng.uniform(0.95, 1.05) for _ in range(3)])
    return picture ** gammas[:, None, None]


def light(rng, picture):
    """A smoothly varying change of brightness and colour."""
    seed = torch.Generator().manual_seed(rng.getrandbits(31))
    field = torch.randn(1, 1, 3, 3, generator=seed) + 0.3 * torch.randn(1, 3, 3, 3, generator=seed)
    field = interpolate(field, picture.shape[1:], mode="bicubic", align_corners=True)[0]
    return (picture * (1 + 0.07 * field)).clamp(0, 1)


def sharp(rng, picture):
    reach = max(1.0, max(picture.shape[1:]) / 1024)
    return (picture + rng.uniform(0.6, 1.5) * (picture - blur(picture, rng.uniform(0.8, 1.8) * reach))).clamp(0, 1)


def soft(rng, picture):
    return blur(picture, rng.uniform(0.7, 1.5) * max(1.0, max(picture.shape[1:]) / 1024))


def enhance(rng, picture):
    """Local contrast at a larger scale, and sharpness, as "enhancement" filters do."""
    wide = picture - blur(picture, max(picture.shape[1:]) / 50)
    return sharp(rng, (picture + rng.uniform(0.2, 0.4) * wide).clamp(0, 1))


def jpeg(rng, picture):
    file = io.BytesIO()
    image = Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    image.save(file, "JPEG", quality=rng.randint(60, 88))
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)


def grain(rng, picture):
    return noisy(rng, picture, rng.uniform(3, 6))


def noisy(rng: random.Random, picture: Tensor, sigma: float = 2.0) -> Tensor:
    seed = torch.Generator().manual_seed(rng.getrandbits(31))
    return (picture + sigma / 255 * torch.randn(picture.shape, generator=seed)).clamp(0, 1)


FAMILIES = {  # a combination takes at most one of each family, in this order
    "geometry": (shift, zoom, stretch, turn),
    "tone": (warm, contrast, curve, light),
    "sharpness": (sharp, soft, enhance),
    "compression": (jpeg, grain),
}
SINGLE = [drift for family in FAMILIES.values() for drift in family]
COMBINED = ("two", "three")
DRIFTS = ("noise", *(drift.__name__ for drift in SINGLE), *(f"{count} {n}" for count in COMBINED for n in (1, 2)))


def drifted(name: str, rng: random.Random, clean: Tensor) -> Tensor:
    """The edited picture as an editor returns it: noise of 2/255, the named drift, and 8-bit rounding."""
    result = noisy(rng, clean)
    if name.startswith(COMBINED):
        count = 2 + COMBINED.index(name.partition(" ")[0])
        chosen = sorted(rng.sample(range(len(FAMILIES)), count))
        drifts = [rng.choice(list(FAMILIES.values())[index]) for index in chosen]
    else:
        drifts = [drift for drift in SINGLE if drift.__name__ == name]
    for drift in drifts:
        result = drift(rng, result)
    return (result * 255).round() / 255


def case(path: str, edit: str, longest: int, figures: bool) -> tuple[Tensor, Tensor]:
    """The original and the edited picture without drift, both in 8 bits; determined by the names alone."""
    assert path in PHOTOGRAPHS
    rng = random.Random(f"{path} {edit}")
    picture = photograph(path, longest)
    if edit in GLOBAL:
        return picture, (GLOBAL[edit](picture) * 255).round() / 255
    original, clean = LOCAL[edit](rng, path, picture, figures)
    return ((one * 255).round() / 255 for one in (original, clean))
