"""The nodes of frames and crops: every setting has its effect."""

import pytest
import torch

from kontext_core.resolutions import TRAINED_SIZES

AS_IS, NEAREST = {"size": "as is"}, {"size": "nearest trained size"}


@pytest.fixture(scope="module")
def vae(pack):
    """The embedded autoencoder."""
    return pack["KontextLoader"].execute({"source": "embedded"}).result[2]


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 100, 200, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mask():
    marked = torch.zeros(1, 100, 200)
    marked[:, 30:60, 80:120] = 1
    return marked


def test_the_margin_continues_the_picture_as_chosen(pack, picture):
    for margin, is_repeated in (("edge", True), ("reflect", False)):
        fitted, frame = pack["KontextFitFrame"].execute(picture, AS_IS, "pad", margin).result
        assert frame.window.top > 0
        assert torch.equal(fitted[:, 0], fitted[:, frame.window.top]) == is_repeated


def test_the_trained_sizes_are_those_of_the_vae(pack, picture, mask, vae):
    for name, given in (("KontextFitFrame", ("pad", "edge")), ("KontextCropRegion", (0.5, "one crop"))):
        inputs = (picture, mask) if name == "KontextCropRegion" else (picture,)
        large, small = (pack[name].execute(*inputs, NEAREST, *given, one).result[0] for one in (None, vae))
        assert (large.shape[2], large.shape[1]) in TRAINED_SIZES
        assert max(small.shape[1:3]) <= 256


def test_more_context_gives_a_larger_crop(pack, picture, mask):
    sizes = [pack["KontextCropRegion"].execute(picture, mask, AS_IS, c, "one crop").result[0].shape for c in (0.0, 1.0)]
    assert sizes[0][1] < sizes[1][1] and sizes[0][2] < sizes[1][2]


def test_a_wider_feather_fades_out_farther(pack, picture, mask):
    crop, _, region = pack["KontextCropRegion"].execute(picture, mask, AS_IS, 1.0, "one crop").result
    shown = [(pack["KontextStitchRegion"].execute(picture, 1 - crop, region, px).result[1] > 0).sum() for px in (0, 4)]
    assert mask.sum() == shown[0] < shown[1]


def test_a_size_too_small_for_the_model_is_refused(pack, picture):
    with pytest.raises(ValueError, match=r"image \(200x100 px\) with size 'keep ratio' is 64x32 px"):
        pack["KontextFitFrame"].execute(picture, {"size": "keep ratio", "megapixels": 0.002}, "pad", "edge")
