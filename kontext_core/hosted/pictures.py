"""Encode pictures for providers, and decode what they return."""

from __future__ import annotations

import base64
import io
import math
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from ..decoding import UNREADABLE, pixels, upright
from .errors import NO_PICTURE, HostedError
from .wire import Sent

MOST_PIXELS = 20_000_000  # of a picture to send: BFL's guide to Kontext
MOST_BYTES = 20_000_000  # of its file
LARGEST_RESULT = 4096 * 4096  # px; a result has about a million
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # magic bytes
FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # Pillow's names, endings of files


class Read(NamedTuple):
    pixels: np.ndarray  # (h, w, 3), float32 in 0..1
    ending: str  # file extension of the received bytes


def to_send(pixels: np.ndarray, most_pixels: int = MOST_PIXELS, most_bytes: int = MOST_BYTES) -> Sent:
    """A picture (h, w, 3) in 0..1 as PNG, tagged sRGB; reduced only if it exceeds a limit."""
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
        note = (
            f"made smaller from {width}x{height} px: at most {most_pixels / 1e6:g} megapixels "
            f"and {most_bytes / 1e6:g} MB are accepted"
        )
    return Sent(*size, len(content), base64.b64encode(content).decode(), note)


def _within(width: int, height: int, most: int) -> tuple[int, int]:
    """The largest size with the same ratio and at most `most` pixels."""
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
    """The decoded, upright picture. HostedError for anything but a complete PNG, JPEG or WebP.

    The size in pixels is checked before decoding: a file of 142 kB can contain a gigabyte of pixels.
    """
    try:
        if not _is_whole(content):
            raise ValueError("it is cut off")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as file:
                if file.width * file.height > LARGEST_RESULT:
                    raise ValueError(f"it has {file.width}x{file.height} px")
                ending = FORMATS[str(file.format)]
                found = pixels(upright(file))
    except UNREADABLE as error:
        raise HostedError(
            NO_PICTURE, f"what came back is not a whole picture ({len(content)} bytes: {error})."
        ) from None
    return Read(found, ending)


def _is_whole(content: bytes) -> bool:
    """Whether a file is complete. Pillow checks it too, unless another pack has set LOAD_TRUNCATED_IMAGES."""
    if content.startswith(PNG):
        return _has_all_chunks(content)
    if content.startswith(JPEG):
        scan = content.rfind(b"\xff\xda")  # inside scan data 0xFF is followed by 0
        return scan > 0 and content.find(b"\xff\xd9", scan) > 0
    if content.startswith(b"RIFF"):
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True  # another format: Pillow decides


def _has_all_chunks(content: bytes) -> bool:
    start = len(PNG)
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        data = memoryview(content)[start + 4 : start + 8 + length]
        start += 12 + length
        if start > len(content) or zlib.crc32(data) != int.from_bytes(content[start - 4 : start], "big"):
            return False
        if kind == b"IEND":
            return True
    return False
