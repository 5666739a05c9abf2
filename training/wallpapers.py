"""Collect photographs for training from Debian's wallpaper packages: `python -m training.wallpapers`.

Each picture is stored once, at a moderate size, in a folder of the user's cache, where training finds it. None of them
is part of the pack. RESULTS.md lists packages and licences.
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
SMALLEST = 700  # px of the shorter side; smaller files are icons or previews
SIDE = 720  # px of the shorter side after resizing
SAME = 4.0  # two thumbnails with a mean difference (0..255) up to this show the same picture
QUALITY = 95


def thumbnail(image: Image.Image) -> np.ndarray:
    """A picture at 16x16 px regardless of its ratio, so that its other sizes and ratios match."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32)


def gather(sources: list[tuple[str, Path]], out: Path) -> int:
    """Store each picture of (package, file) in `out` once; returns their number."""
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
