"""Pictures that are not scenes: procedural textures, and crops of freely licensed photographs from packages.

Training uses scikit-image's photographs and textures; scikit-learn's two photographs and scikit-image's cat are held
out for evaluation. Backgrounds are these and the wallpapers that `training/wallpapers.py` collects, of which every
fifth is held out.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

TRAINING = tuple(
    ("skimage.data", name)
    for name in (
        "astronaut.png",
        "coffee.png",
        "rocket.jpg",
        "hubble_deep_field.jpg",
        "ihc.png",
        "brick.png",
        "grass.png",
        "gravel.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "color.png",
    )
)
HELD_OUT = (
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("skimage.data", "chelsea.png"),
)

FOLDER = Path.home() / ".cache" / "kontext-nodes" / "backgrounds"  # filled by `training/wallpapers.py`
EVERY = 5  # one in EVERY wallpapers is held out


@dataclass(frozen=True)
class Crop:
    """The crop of a photograph that serves as a scene's background."""

    source: tuple[str, str]  # (package, name), or (FOLDER's name, file name)
    box: tuple[int, int, int, int]  # px in the photograph: left, top, right, bottom
    mirrored: bool


@lru_cache(maxsize=2)
def backgrounds(held_out: bool) -> tuple[tuple[str, str], ...]:
    """The photographs for backgrounds, either for training or held out."""
    found = sorted(path.name for path in FOLDER.glob("*.jpg"))
    kept = [name for name in found if (hashlib.sha256(family(name).encode()).digest()[0] % EVERY == 0) is held_out]
    return (*(HELD_OUT if held_out else TRAINING), *((FOLDER.name, name) for name in kept))


def family(name: str) -> str:
    """The common part of the file names of a wallpaper's light, dark and portrait versions."""
    return re.sub(r"-images(_dark)?|_\d+x\d+|-[dl]$", "", name.removesuffix(".jpg"))


def random_crop(rng: random.Random, held_out: bool, width: int, height: int) -> Crop:
    """A random crop of a random photograph with the canvas' aspect ratio."""
    source = rng.choice(backgrounds(held_out))
    photo = background_photograph(source)
    largest = min(photo.shape[1] / width, photo.shape[0] / height)
    scale = rng.uniform(min(1.0, largest), largest)
    w, h = int(width * scale), int(height * scale)
    left, top = rng.randint(0, photo.shape[1] - w), rng.randint(0, photo.shape[0] - h)
    return Crop(source, (left, top, left + w, top + h), rng.random() < 0.5)


@lru_cache(maxsize=128)
def background_photograph(source: tuple[str, str]) -> np.ndarray:
    """A complete photograph, (h, w, 3) uint8."""
    if source[0] != FOLDER.name:
        return photograph(*source)
    with Image.open(FOLDER / source[1]) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=64)
def pixels_of(crop: Crop, width: int, height: int) -> np.ndarray:
    """A crop resized to the canvas, (height, width, 3) float32 in 0..1."""
    left, top, right, bottom = crop.box
    part = Image.fromarray(background_photograph(crop.source)[top:bottom, left:right])
    picture = np.asarray(part.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    return picture[:, ::-1].copy() if crop.mirrored else picture


@lru_cache(maxsize=1)
def training_photographs() -> tuple[np.ndarray, ...]:
    """The installed photographs that training may use, (h, w, 3) uint8 each."""
    return tuple(photograph(*source) for source in TRAINING if resources.files(source[0]).joinpath(source[1]).is_file())


@lru_cache(maxsize=8)
def photograph(package: str, name: str) -> np.ndarray:
    """One photograph from an installed package, (h, w, 3) uint8."""
    with resources.files(package).joinpath(name).open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def crop(rng: random.Random, photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """A random crop at a random scale, mirrored with probability 1/2, (height, width, 3) float32 in 0..1."""
    largest = min(photo.shape[1] / width, photo.shape[0] / height)
    scale = rng.uniform(min(1.0, largest), largest)
    w, h = int(width * scale), int(height * scale)
    x, y = rng.randint(0, photo.shape[1] - w), rng.randint(0, photo.shape[0] - h)
    part = Image.fromarray(photo[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BOX)
    picture = np.asarray(part, np.float32) / 255
    return picture[:, ::-1].copy() if rng.random() < 0.5 else picture


def texture(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Clouds at several scales, sometimes posterised, in two or three colours, (height, width, 3) in 0..1."""
    noise = np.random.default_rng(rng.getrandbits(32))
    field = np.zeros((height, width), np.float32)
    for cells in (2, 4, 8, 16, 32):
        layer = noise.standard_normal((cells, cells)).astype(np.float32)
        smooth = Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC)
        field += np.asarray(smooth) * cells ** -rng.uniform(0.3, 1.2)
    field = (field - field.min()) / (np.ptp(field) + 1e-6)
    if rng.random() < 0.4:
        field = np.round(field * 4) / 4
    colours = noise.random((3, 3)).astype(np.float32)
    picture = np.stack([np.interp(field, (0, 0.5, 1), colours[:, channel]) for channel in range(3)], axis=-1)
    return picture.astype(np.float32)


def training_picture(rng: random.Random, width: int, height: int) -> np.ndarray:
    """A texture or a crop of a training photograph."""
    if rng.random() < 0.4:
        return texture(rng, width, height)
    return crop(rng, rng.choice(training_photographs()), width, height)
