"""Decode picture files that come from outside: a provider, a browser."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)  # Pillow's errors


def upright(picture: Image.Image) -> Image.Image:
    """Loaded, and rotated by its EXIF orientation; damaged EXIF data are ignored. Raises any of `UNREADABLE`."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - Pillow's EXIF readers raise any exception on damaged data
        return picture


def pixels(picture: Image.Image) -> np.ndarray:
    """(h, w, 3), float32 in 0..1. 16-bit grey is scaled here, because Pillow's own conversion clips it at 255."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture, dtype=np.float32) / 65535
        return np.repeat(grey.clip(0, 1)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
