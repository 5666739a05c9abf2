"""Files as providers send them: upright, of every bit depth, complete, and within the size limit."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFile

from kontext_core.hosted import pictures
from kontext_core.hosted.errors import HostedError
from stand_in import PICTURE

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def encoded(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def gradient(width=40, height=30):
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (height, width, 3)).copy())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_and_keeps_its_ending(kind):
    read = pictures.read_picture(encoded(gradient(), kind))
    assert read.ending == FORMATS[kind]
    assert read.pixels.shape == (30, 40, 3)
    assert np.abs(read.pixels - np.asarray(gradient()) / 255).max() < 0.05


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(gradient()) / 255
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's transpositions
    stored = gradient() if undo is None else gradient().transpose(undo)
    read = pictures.read_picture(encoded(stored, kind, exif=exif))
    assert read.pixels.shape == upright.shape
    assert np.abs(read.pixels - upright).max() < 0.1


def test_damaged_exif_data_do_not_cost_the_picture():
    content = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\xff" * 200)
    assert pictures.read_picture(content).pixels.shape == (30, 40, 3)


def test_grey_of_16_bits_is_scaled():
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = pictures.read_picture(encoded(Image.fromarray(grey))).pixels
    assert np.abs(pixels[..., 0] - grey / 65535).max() < 1e-4
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_gives_three_channels(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert pictures.read_picture(encoded(gradient().convert(mode), kind)).pixels.shape == (30, 40, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", PICTURE[:-200], PICTURE[:100], b"GIF89a" + PICTURE, PICTURE[:3000] + b"x" + PICTURE[3001:]],
    ids=["nothing", "html", "truncated", "a header", "gif", "damaged"],
)
def test_what_is_no_whole_picture(content):
    with pytest.raises(HostedError, match="not a whole picture"):
        pictures.read_picture(content)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.9, 0.99])
def test_a_truncated_file_is_none_also_where_another_pack_lets_pillow_take_it(monkeypatch, kind, part):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    assert pictures.read_picture(content).pixels.shape == (64, 64, 3)
    with pytest.raises(HostedError, match="not a whole picture"):
        pictures.read_picture(content[: int(part * len(content))])


def test_pixels_are_counted_before_they_are_decoded():
    """142 kB that would take 1.3 GB."""
    content = encoded(Image.new("1", (10_000, 10_000)))
    assert len(content) < 150_000
    tracemalloc.start()
    with pytest.raises(HostedError, match="10000x10000 px"):
        pictures.read_picture(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
