"""Fitting a picture to a size."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from kontext_core.frames import FITS, fit

every_mode = pytest.mark.parametrize("mode", FITS)


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
