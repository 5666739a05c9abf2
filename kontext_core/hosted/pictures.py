"""Pictures as providers take them, and what comes back as numbers."""

from __future__ import annotations

import base64
import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from .errors import NO_PICTURE, HostedError
from .wire import Sent

MOST_PIXELS = 20_000_000  # of a picture that is sent: BFL's guide to Kontext
MOST_BYTES = 20_000_000  # of its file
LARGEST_RESULT = 50_000_000  # px; a result has about a million
FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # Pillow's names, endings of files


class Read(NamedTuple):
    pixels: np.ndarray  # (h, w, 3), float32 in 0..1
    ending: str  # of a file that holds the bytes as they came


def to_send(pixels: np.ndarray, most_pixels: int = MOST_PIXELS, most_bytes: int = MOST_BYTES) -> Sent:
    """A picture (h, w, 3) in 0..1 as PNG, marked as sRGB; made smaller only if it exceeds a limit."""
    height, width = pixels.shape[:2]
    whole = Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
    size = _within(width, height, most_pixels)
    while True:
        picture = whole if size == whole.size else whole.resize(size, Image.Resampling.LANCZOS)
        content = _png(picture)
        if len(content) <= most_bytes:
            break
        size = _within(*size, int(0.95 * size[0] * size[1] * most_bytes / len(content)))
    note = ""
    if size != whole.size:
        note = f"made smaller from {width}x{height} px: at most {most_pixels / 1e6:g} megapixels"
        note += f" and {most_bytes / 1e6:g} MB are taken"
    return Sent(*size, len(content), base64.b64encode(content).decode(), note)


def _within(width: int, height: int, most: int) -> tuple[int, int]:
    """The largest size of the same shape with at most `most` pixels."""
    if width * height <= most:
        return width, height
    scale = math.sqrt(most / (width * height))
    return max(1, math.floor(width * scale)), max(1, math.floor(height * scale))


def _png(picture: Image.Image) -> bytes:
    marks = PngImagePlugin.PngInfo()
    marks.add(b"sRGB", b"\x00")  # perceptual, the usual intent
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=marks, compress_level=3)
    return out.getvalue()


def read_picture(content: bytes) -> Read:
    """The picture in a file's bytes. HostedError for anything that is not a whole PNG, JPEG or WebP."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as file:
                if file.width * file.height > LARGEST_RESULT:
                    raise ValueError(f"{file.width}x{file.height} px")
                ending = FORMATS[str(file.format)]
                pixels = np.asarray(file.convert("RGB"), dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise HostedError(
            NO_PICTURE, f"what came back is not a whole picture ({len(content)} bytes: {error})."
        ) from None
    return Read(pixels, ending)
