"""The files of turns. A file gets its name only when its content is on disk, so a named file is complete."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .. import disk
from .database import SessionError

PICTURE, MASK, LATENT, THUMBNAIL = ".png", ".mask.png", ".safetensors", ".thumbnail.jpg"
THUMBNAIL_SIDE = 192  # px, the longer one


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`disk.write_whole`. Raises SessionError when the disk is full or the folder is not writable."""
    try:
        disk.write_whole(path, write)
    except OSError as error:
        raise SessionError(
            f"{path} cannot be written: {error.strerror or error}. Free some space, or make the folder writable; "
            "nothing was stored."
        ) from error


def write_picture(path: Path, picture: np.ndarray, metadata: Mapping[str, str]) -> None:
    """Write (h, w, 3) or (h, w) uint8 as a lossless PNG with texts in its metadata."""
    info = PngInfo()
    for name, text in metadata.items():
        info.add_text(name, text)
    image = Image.fromarray(picture)
    write_whole(path, lambda file: image.save(file, "PNG", pnginfo=info, compress_level=4))


def write_latent(path: Path, latent: Tensor) -> None:
    """Write (c, h, w) as a safetensors file. Raises SessionError like `write_whole`."""
    content = safetensors.torch.save({"latent": latent.contiguous().cpu()})
    write_whole(path, lambda file: file.write(content))


def thumbnail(picture: np.ndarray) -> bytes:
    """(h, w, 3) uint8 as a small JPEG."""
    image, content = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    image.save(content, "JPEG", quality=85)
    return content.getvalue()


def read_picture(path: Path, what: str) -> np.ndarray:
    """(h, w, 3) uint8, or (h, w) for a mask. Raises SessionError if the file is missing or damaged; `what` names it."""
    try:
        with Image.open(path) as image:
            return np.asarray(image).copy()
    except (OSError, SyntaxError) as error:
        raise SessionError(_lost(path, what, error)) from error


def read_latent(path: Path, what: str) -> Tensor:
    """(c, h, w). Raises SessionError when the file is missing or damaged."""
    try:
        return safetensors.torch.load(path.read_bytes())["latent"]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise SessionError(_lost(path, what, error)) from error


def _lost(path: Path, what: str, error: Exception) -> str:
    problem = "is missing, it was deleted" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    return f"{what}: the file {path} {problem}. Continue from another turn, or put the file back."
