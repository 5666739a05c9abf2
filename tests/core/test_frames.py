"""Fitting a picture to a size, and restoring it."""

import collections
import itertools
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from kontext_core import frames
from kontext_core.frames import FITS, SIZES, Box, Frame, frame_for, make_frame
from kontext_core.resolutions import MEGAPIXEL

every_mode = pytest.mark.parametrize("mode", FITS)


def fit(picture, size, mode="pad"):
    return make_frame((picture.shape[2], picture.shape[1]), size, mode, "edge").fit(picture)


def picture(width, height, batch=1, channels=3):
    generator = torch.Generator().manual_seed(width * height)
    return torch.rand(batch, height, width, channels, generator=generator)


@every_mode
def test_a_picture_of_that_size_comes_back_bit_for_bit(mode):
    source = picture(17, 11) * 3 - 1  # also outside 0..1
    assert torch.equal(fit(source, (17, 11), mode), source)


@pytest.mark.parametrize("size", [(64, 64), (9, 80), (80, 9), (7, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("source", [(64, 64), (33, 50), (8, 8), (2000, 2), (1, 700)], ids=str)
@every_mode
def test_the_size_is_exact_and_values_stay_in_range(mode, source, size):
    result = fit(picture(*source), size, mode)
    assert result.shape == (1, size[1], size[0], 3)
    assert torch.equal(result, result.clamp(0, 1))


MARGINS = {  # larger size, and the margin to the left of and above a centred 4x4
    "wide": ((8, 4), 2, 0),
    "wide, odd": ((7, 4), 1, 0),
    "tall": ((4, 8), 0, 2),
    "tall, odd": ((4, 9), 0, 2),
}


@pytest.mark.parametrize(("source", "left", "top"), MARGINS.values(), ids=MARGINS)
def test_crop_takes_the_centre(source, left, top):
    whole = picture(*source)
    assert torch.equal(fit(whole, (4, 4), "crop"), whole[:, top : top + 4, left : left + 4])


def test_crop_keeps_the_ratio_when_it_scales():
    whole = picture(200, 100)
    assert torch.equal(fit(whole, (64, 64), "crop"), fit(whole[:, :, 50:150], (64, 64), "stretch"))


@pytest.mark.parametrize(("size", "left", "top"), MARGINS.values(), ids=MARGINS)
def test_pad_centres_the_picture_and_repeats_its_edges(size, left, top):
    whole = picture(4, 4)
    columns = (torch.arange(size[0]) - left).clamp(0, 3)
    rows = (torch.arange(size[1]) - top).clamp(0, 3)
    assert torch.equal(fit(whole, size, "pad"), whole[:, rows][:, :, columns])


def test_pad_keeps_the_ratio_when_it_scales():
    whole = picture(200, 100)
    padded = fit(whole, (64, 64), "pad")
    assert torch.equal(padded[:, 16:48], fit(whole, (64, 32), "stretch"))
    assert torch.equal(padded[:, :16], padded[:, 16:17].expand(-1, 16, -1, -1))


@pytest.mark.parametrize("size", [(16, 24), (90, 30), (50, 41)], ids=str)
def test_the_kernel_is_pillows_bicubic(size):
    source = picture(40, 40, channels=1)
    expected = Image.fromarray(source[0, :, :, 0].numpy()).resize(size, Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(expected)).clamp(0, 1)
    assert_close(fit(source, size, "stretch")[0, :, :, 0], expected, atol=1e-5, rtol=0)


def test_shrinking_does_not_alias():
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2  # a chequerboard of single pixels
    small = fit(board[None, :, :, None].float(), (20, 20), "stretch")
    assert_close(small, torch.full_like(small, 0.5), atol=0.02, rtol=0)


@every_mode
def test_a_batch_is_fitted_like_its_members(mode):
    batch = picture(30, 20, batch=3, channels=4)
    one_by_one = [fit(one, (16, 16), mode) for one in batch.split(1)]
    assert torch.equal(fit(batch, (16, 16), mode), torch.cat(one_by_one))


@every_mode
def test_a_transposed_picture_is_fitted_transposed(mode):
    source = picture(30, 20)
    assert_close(fit(source.transpose(1, 2), (16, 28), mode), fit(source, (28, 16), mode).transpose(1, 2))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'squeeze'.*pad, crop, stretch"):
        fit(picture(8, 8), (8, 8), "squeeze")


# Frames: laws over random sizes, 1:4 to 4:1, 64 to 8192 px, odd numbers too


def random_sizes(count, largest=8192, seed=0):
    rng = random.Random(seed)
    while count:
        width, height = (round(2 ** rng.uniform(6, math.log2(largest))) for _ in range(2))
        if max(width, height) <= 4 * min(width, height):
            count -= 1
            yield width, height


def frames_of(source):
    """Every frame that a picture of this size can get."""
    for size, mode, margin in itertools.product(SIZES, FITS, frames.MARGINS):
        yield frame_for(source, size, mode, margin, megapixels=0.25)


def any_frame(rng, source, size=None, modes=FITS):
    """One of them."""
    margin = rng.choice(frames.MARGINS)
    return frame_for(source, size or rng.choice(SIZES), rng.choice(modes), margin, megapixels=0.25)


def strips(frame):
    """The frame along each axis: its effect on two equal rows, and on two equal columns.

    A frame maps the two axes independently, so laws for them hold for the picture, and cost little at any size. (Two,
    because torch's antialiased bicubic is wrong for a picture one pixel wide.)
    """
    part, window, (width, height), (across, down) = frame.part, frame.window, frame.source, frame.grid
    rows = Box(part.left, 0, part.width, 2), Box(window.left, 0, window.width, 2)
    columns = Box(0, part.top, 2, part.height), Box(0, window.top, 2, window.height)
    return Frame((width, 2), (across, 2), *rows, frame.margin), Frame((2, height), (2, down), *columns, frame.margin)


def grain(strip):
    """Noise along a strip, (1, h, w, 1), away from 0 and 1."""
    line = 0.2 + torch.rand(max(strip.source)) / 2
    return (line if strip.source[1] == 2 else line[:, None]).expand(*reversed(strip.source))[None, ..., None]


def test_every_grid_suits_the_model_and_every_picture_comes_back_in_its_size():
    """Over 2,000 sizes, with an empty batch, which has sizes too."""
    rng = random.Random(1)
    for source in itertools.chain([(1920, 1080), (1080, 1350), (3000, 2000), (511, 770), (64, 64)], random_sizes(2000)):
        picture = torch.empty(0, source[1], source[0], 3)
        for frame in (any_frame(rng, source), any_frame(rng, source)):
            fitted = frame.fit(picture)
            assert fitted.shape == (0, frame.grid[1], frame.grid[0], 3)
            assert frame.grid[0] % 16 == frame.grid[1] % 16 == 0
            assert frame.restore(fitted, picture).shape == picture.shape


def test_what_was_not_resampled_comes_back_bit_for_bit():
    seen = collections.Counter()
    for source in [(1024, 1024), (1392, 752), *random_sizes(40, largest=700)]:
        whole = picture(*source)
        for frame in frames_of(source):
            if not frame.resamples:
                assert torch.equal(frame.restore(frame.fit(whole), whole), whole)
                seen["crop" if not frame.whole else "pad" if frame.window.size != frame.grid else "same"] += 1
    assert seen["crop"] >= 70 <= seen["pad"]
    assert seen["same"] >= 6


def test_rows_and_columns_of_any_size_that_were_not_resampled_come_back_bit_for_bit():
    """Over 2,000 sizes up to 8192 px."""
    rng = random.Random(6)
    for source in random_sizes(2000, seed=7):
        for strip in strips(any_frame(rng, source, "as is", ("pad", "crop"))):
            whole = grain(strip)
            assert torch.equal(strip.restore(strip.fit(whole), whole), whole)


def test_a_frame_does_to_rows_and_columns_what_it_does_to_the_picture():
    rng = random.Random(8)
    for source in random_sizes(40, largest=600, seed=9):
        frame = any_frame(rng, source)
        lines = [grain(strip) for strip in strips(frame)]
        rows, columns = (strip.fit(line) for strip, line in zip(strips(frame), lines, strict=True))
        whole = lines[0][:, :1] * lines[1][:, :, :1]
        assert_close(frame.fit(whole), rows[:, :1] * columns[:, :, :1], atol=1e-5, rtol=0)


def test_a_limit_makes_only_larger_grids_smaller():
    """To at most that many megapixels."""
    for source in random_sizes(300):
        free, limited = (frame_for(source, "as is", most=most).grid for most in (0, 0.5))
        larger = free[0] * free[1] > 0.5 * MEGAPIXEL
        assert limited == free if not larger else 0.4 < limited[0] * limited[1] / MEGAPIXEL <= 0.5


def test_as_is_resamples_nothing():
    for source in random_sizes(1000):
        assert not frame_for(source, "as is", "pad").resamples
        assert not frame_for(source, "as is", "crop").resamples


def on_grid(frame, x, y):
    """The position on the grid of a position in the picture. Positions are continuous: a pixel's centre is at 0.5."""
    part, window = frame.part, frame.window
    across, down = window.width / part.width, window.height / part.height
    return window.left + (x - part.left) * across, window.top + (y - part.top) * down


def marker(size, x, y, radius):
    """A soft disc around (x, y), (1, h, w, 1)."""
    rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in reversed(size))
    down, across = (torch.exp(-((at - centre) ** 2) / (2 * radius**2)) for at, centre in ((rows, y), (columns, x)))
    return (down[:, None] * across)[None, :, :, None]


def centre_of(picture):
    """The centre of brightness, (x, y)."""
    light = picture[0, :, :, 0]
    places = (torch.arange(side, dtype=light.dtype) + 0.5 for side in light.shape)
    y, x = ((light.sum(1 - axis) * place).sum() / light.sum() for axis, place in enumerate(places))
    return float(x), float(y)


def test_a_marker_returns_to_its_place():
    """Within 0.05 px; and on the grid the marker is where the frame says, to 0.05 px."""
    rng = random.Random(2)
    for source in random_sizes(80, largest=1000, seed=3):
        for frame in rng.sample(list(frames_of(source)), 2):
            shrink = max(frame.part.width / frame.window.width, frame.part.height / frame.window.height, 1)
            radius = min(2 * shrink, min(frame.part.size) / 14)
            x, y = (
                start + rng.uniform(0.45, 0.55) * length
                for start, length in zip(frame.part[:2], frame.part.size, strict=True)
            )
            fitted = frame.fit(marker(source, x, y, radius))
            alone = frame.window.of(fitted)  # without mirror images
            place = centre_of(alone)
            there = place[0] + frame.window.left, place[1] + frame.window.top
            assert there == pytest.approx(on_grid(frame, x, y), abs=0.05)
            back = frame.restore(fitted, torch.zeros(1, source[1], source[0], 1, dtype=torch.float64))
            assert centre_of(back) == pytest.approx((x, y), abs=0.05)


def test_a_marker_returns_to_its_place_at_any_size():
    """The same along rows and columns, over 2,000 sizes up to 8192 px."""
    rng = random.Random(10)
    for source in random_sizes(2000, seed=11):
        frame = any_frame(rng, source)
        for axis, strip in enumerate(strips(frame)):
            length, shown = strip.part.size[axis], strip.window.size[axis]
            at = strip.part[axis] + rng.uniform(0.3, 0.7) * length
            place = (at, 1) if axis == 0 else (1, at)
            fitted = strip.fit(marker(strip.source, *place, min(2 * max(length / shown, 1), length / 14)))
            there = centre_of(strip.window.of(fitted))[axis] + strip.window[axis]
            assert there == pytest.approx(on_grid(strip, *place)[axis], abs=0.05)
            back = strip.restore(fitted, torch.zeros(1, strip.source[1], strip.source[0], 1, dtype=torch.float64))
            assert centre_of(back)[axis] == pytest.approx(at, abs=0.05)


def test_the_margin_continues_the_picture():
    whole = picture(5, 4)
    columns = {"reflect": [2, 1, 0, 1, 2, 3, 4, 3, 2, 1], "edge": [0, 0, 0, 1, 2, 3, 4, 4, 4, 4]}
    for margin, shown in columns.items():
        frame = Frame((5, 4), (10, 4), Box(0, 0, 5, 4), Box(2, 0, 5, 4), margin)
        assert torch.equal(frame.fit(whole), whole[:, :, shown])


def test_a_margin_wider_than_the_picture_is_mirrored_again():
    whole = picture(3, 1)
    shown = make_frame((3, 1), (11, 1), "pad").fit(whole)
    assert torch.equal(make_frame((3, 1), (3, 1)).fit(whole), whole)
    frame = Frame((3, 1), (11, 1), Box(0, 0, 3, 1), Box(4, 0, 3, 1))
    assert torch.equal(frame.fit(whole), whole[:, :, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]])
    assert shown.shape == (1, 1, 11, 3)


def test_a_crop_is_pasted_back_into_the_original():
    whole = picture(200, 100)
    frame = make_frame((200, 100), (64, 64), "crop")
    restored = frame.restore(torch.ones(1, 64, 64, 3), whole)
    assert_close(restored[:, :, 50:150], torch.ones(1, 100, 100, 3))
    assert torch.equal(restored[:, :, :50], whole[:, :, :50])
    assert torch.equal(restored[:, :, 150:], whole[:, :, 150:])


def test_an_upscaled_result_is_restored_too():
    frame = make_frame((100, 60), (64, 64), "pad")
    fitted = frame.fit(picture(100, 60))
    larger = fitted.repeat_interleave(3, 1).repeat_interleave(3, 2)
    window = Box(*(3 * side for side in frame.window))
    assert torch.equal(frame.restore(larger), fit(window.of(larger), (100, 60), "stretch"))


def test_a_result_of_any_size_is_restored_to_its_place():
    """From a hosted model with its own sizes a marker returns within 0.05 px in any size of nearly the same ratio."""
    rng = random.Random(4)
    for source in random_sizes(60, largest=900, seed=5):
        frame = rng.choice([frame for frame in frames_of(source) if frame.whole])
        factor, squeeze = rng.uniform(0.7, 1.8), rng.uniform(0.98, 1.02)
        size = round(frame.grid[0] * factor), round(frame.grid[1] * factor * squeeze)
        shrink = max(frame.part.width / frame.window.width, frame.part.height / frame.window.height, 1) / min(factor, 1)
        x, y = (rng.uniform(0.45, 0.55) * side for side in source)
        fitted = frame.fit(marker(source, x, y, min(3 * shrink, min(source) / 14)))
        back = frame.restore(fit(fitted, size, "stretch"))
        assert back.shape[1:3] == source[::-1]
        assert centre_of(back) == pytest.approx((x, y), abs=0.05)


def test_edges_between_pixels_are_read_by_the_same_kernel():
    """Where both methods apply, away from the border, they give the same result."""
    whole = picture(90, 70)
    for size in ((60, 40), (150, 101)):
        inside = slice(None), slice(10, -10), slice(10, -10)
        plain = frames.resample(whole, size, (0, 0, 90, 70))
        between = frames.resample(whole, size, (1e-6, 0, 90, 70))
        assert_close(between[inside], plain[inside], atol=2e-5, rtol=0)


WRONG = {  # call, message
    "another picture": (lambda frame: frame.fit(picture(9, 9)), "picture is 9x9 px.*needs 200x100 px"),
    "another shape": (
        lambda frame: frame.restore(picture(100, 90), picture(200, 100)),
        "is 100x90 px.*needs 64x64 px here, or another size of that shape",
    ),
    "no original": (lambda frame: frame.restore(picture(64, 64)), "shows 100x100 px.*Connect the original"),
    "another original": (lambda frame: frame.restore(picture(64, 64), picture(9, 9)), "original is 9x9 px"),
    "other batches": (
        lambda frame: frame.restore(picture(64, 64, batch=3), picture(200, 100, batch=2)),
        "original holds 2 pictures and image 3; give one original, or as many",
    ),
    "an unknown margin": (lambda frame: make_frame((9, 9), (16, 16), margin="grey"), "'grey'.*reflect, edge"),
    "an unknown size": (lambda frame: frame_for((9, 9), "huge"), "'huge'.*nearest trained size"),
}


@pytest.mark.parametrize(("do", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_belong_to_a_frame_is_refused(do, message):
    with pytest.raises(ValueError, match=message):
        do(make_frame((200, 100), (64, 64), "crop"))
