"""Pictures that are not scenes: procedural textures, and crops of freely licensed photographs that packages ship.

Training uses scikit-image's photographs and textures; scikit-learn's two photographs and scikit-image's cat are kept
out of training and serve as the test.
"""

from __future__ import annotations

import random
from functools import lru_cache
from importlib import resources

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


@lru_cache(maxsize=1)
def training_photographs() -> tuple[np.ndarray, ...]:
    """The photographs that training may see, (h, w, 3) uint8 each; those that the installed package has."""
    return tuple(photograph(*source) for source in TRAINING if resources.files(source[0]).joinpath(source[1]).is_file())


@lru_cache(maxsize=8)
def photograph(package: str, name: str) -> np.ndarray:
    """One photograph out of an installed package, (h, w, 3) uint8."""
    with resources.files(package).joinpath(name).open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def crop(rng: random.Random, photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """A random crop at a random scale, mirrored half of the time, (height, width, 3) float32 in 0..1."""
    largest = min(photo.shape[1] / width, photo.shape[0] / height)
    scale = rng.uniform(min(1.0, largest), largest)
    w, h = int(width * scale), int(height * scale)
    x, y = rng.randint(0, photo.shape[1] - w), rng.randint(0, photo.shape[0] - h)
    part = Image.fromarray(photo[y : y + h, x : x + w]).resize((width, height), Image.Resampling.BOX)
    picture = np.asarray(part, np.float32) / 255
    return picture[:, ::-1].copy() if rng.random() < 0.5 else picture


def texture(rng: random.Random, width: int, height: int) -> np.ndarray:
    """Clouds of several scales, posterised now and then, in two or three colours, (height, width, 3) in 0..1."""
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
