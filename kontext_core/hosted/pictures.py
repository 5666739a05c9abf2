"""Pictures as providers take them, and what comes back as numbers."""

from __future__ import annotations

import base64
import io
import math
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from .errors import NO_PICTURE, HostedError
from .wire import Sent

MOST_PIXELS = 20_000_000  # of a picture that is sent: BFL's guide to Kontext
MOST_BYTES = 20_000_000  # of its file
LARGEST_RESULT = 4096 * 4096  # px; a result has about a million
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # how the files begin
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
    """The picture in a file's bytes, upright. HostedError for anything that is not a whole PNG, JPEG or WebP.

    How many pixels it has is read before any is decoded: a file of 142 kB can hold a gigabyte of them.
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
                pixels = _pixels(_upright(file))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise HostedError(
            NO_PICTURE, f"what came back is not a whole picture ({len(content)} bytes: {error})."
        ) from None
    return Read(pixels, ending)


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF data says; damaged data do not cost the picture."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - Pillow's readers of EXIF raise whatever the bytes lead them to
        return picture


def _pixels(picture: Image.Image) -> np.ndarray:
    """(h, w, 3) in 0..1. Grey of 16 bits is scaled here, as Pillow's own conversion cuts it off at 255."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture, dtype=np.float32) / 65535
        return np.repeat(grey.clip(0, 1)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def _is_whole(content: bytes) -> bool:
    """Whether a file has its end. Pillow asks the same, unless another pack told it not to (LOAD_TRUNCATED_IMAGES)."""
    if content.startswith(PNG):
        return _has_all_chunks(content)
    if content.startswith(JPEG):
        scan = content.rfind(b"\xff\xda")  # in the data of a scan, 0xFF is followed by 0
        return scan > 0 and content.find(b"\xff\xd9", scan) > 0
    if content.startswith(b"RIFF"):
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True  # not one of ours: Pillow says so


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
