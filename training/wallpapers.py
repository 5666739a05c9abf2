"""Gather photographs for training from Debian's wallpaper packages: `python -m training.wallpapers`.

The pictures go to a folder of the user's cache, at a moderate size and each once; training takes what is there. None of
them is part of the pack. Packages and licences are listed in RESULTS.md.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from training.photographs import FOLDER

PACKAGES = (
    "gnome-backgrounds",
    "plasma-workspace-wallpapers",
    "mate-backgrounds",
    "ukui-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SMALLEST = 700  # px of the shorter side; what is smaller is an icon or a preview
SIDE = 720  # px of the shorter side that is kept
SAME = 4.0  # mean difference of two thumbnails (0..255) up to which they show one picture
QUALITY = 95


def thumbnail(image: Image.Image) -> np.ndarray:
    """A picture at 16x16 px, whatever its shape: its other sizes and shapes look the same."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)


def gather(sources: list[tuple[str, Path]], out: Path) -> int:
    """Put each picture of (package, file) into `out` once; how many there are."""
    seen: list[np.ndarray] = []
    for package, path in sources:
        with Image.open(path) as opened:
            if min(opened.size) < SMALLEST:
                continue
            image = opened.convert("RGB")
        small = thumbnail(image)
        if any(abs(small - other).mean() < SAME for other in seen):
            continue
        seen.append(small)
        scale = SIDE / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
        stem = "-".join(part for part in path.parts[-4:-1] if part not in ("contents", "images", "share"))
        image.save(out / f"{package}_{stem}_{path.stem}.jpg", quality=QUALITY)
    return len(seen)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
        sources = []
        for package in PACKAGES:
            (archive,) = Path(folder).glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "--extract", archive, Path(folder) / package], check=True)
            files = sorted(p for p in (Path(folder) / package).rglob("*") if p.suffix in SUFFIXES and p.is_file())
            sources += [(package, path) for path in files if not path.is_symlink()]
        print(f"{gather(sources, FOLDER)} pictures in {FOLDER}")


if __name__ == "__main__":
    main()
