"""One complete file per row: written under a temporary name, synced, then renamed. A file that exists is complete.

The file itself contains the key of the work that it results from, so no other record has to be kept consistent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
TEXT_KEY = "kontext_batch"  # the PNG's text chunk for the key
IMAGE_DESCRIPTION = 0x010E  # the EXIF field for it in other formats
QUALITY = 95
MARK = ".part"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.\d+\.part")


def content_hash(path: Path) -> str:
    """The hash of a complete file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def key_of(value: Any) -> str:
    """A key for any JSON value; equal values give equal keys in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stored_key(path: Path) -> str | None:
    """The key in a committed file; None for a missing file, and for one that no batch has written."""
    try:
        with Image.open(path) as picture:
            if picture.format == "PNG":
                return picture.info.get(TEXT_KEY)
            text = str(picture.getexif().get(IMAGE_DESCRIPTION, ""))
            return text.removeprefix(f"{TEXT_KEY}:") if text.startswith(f"{TEXT_KEY}:") else None
    except (OSError, SyntaxError, ValueError):
        return None


def write_picture(path: Path, picture: Image.Image, key: str, metadata: dict[str, str]) -> None:
    """Commit a picture with its key. Raises OSError, and leaves nothing behind then.

    metadata  further text in a PNG, such as ComfyUI's "prompt" and "workflow"
    """
    kind = {suffix: kind for kind, suffix in SUFFIXES.items()}[path.suffix]

    def save(file: IO[bytes]) -> None:
        if kind == "png":
            info = PngImagePlugin.PngInfo()
            for name, text in {TEXT_KEY: key, **metadata}.items():
                info.add_text(name, text)
            picture.save(file, "PNG", pnginfo=info, compress_level=4)
        else:
            exif = Image.Exif()
            exif[IMAGE_DESCRIPTION] = f"{TEXT_KEY}:{key}"
            picture.save(file, kind.upper(), quality=QUALITY, exif=exif)

    write_whole(path, save, key[:12])


def write_whole(path: Path, save: Callable[[IO[bytes]], object], mark: str) -> None:
    """Atomic, even on power loss: write under a temporary name in the same folder, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{mark}.{os.getpid()}{MARK}")
    try:
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write a complete JSONL file."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(path, lambda file: file.write(text.encode()), "0" * 12)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, whose last line may be incomplete after a kill; none without a file."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # texts may hold other separators
        try:
            lines.append(json.loads(line))
        except ValueError:  # an incomplete line
            continue
    return lines


def sweep(folders: Iterable[Path]) -> int:
    """Remove temporary files of killed processes; returns their number. Requires the folder's lock."""
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    found = [path for path in found if TEMPORARY.fullmatch(path.name)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
