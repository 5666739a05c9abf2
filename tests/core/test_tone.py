"""The affine map of colours: for what only the edit has."""

import pytest
import torch

from kontext_core.colour import fit_colours
from kontext_core.preservation import preserve
from kontext_core.tone import fit_affine, inverse, not_clipped, simplest

LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


@pytest.fixture
def muted():
    """Smooth colours between 0.25 and 0.7, without a strong hue."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (160, 160), mode="bicubic", align_corners=True)[0].clamp(0, 1)
    return 0.25 + 0.45 * torch.lerp((smooth * LUMA).sum(0, keepdim=True), smooth, 0.5)


def vivid(picture, saturation=1.25, contrast=1.2):
    luma = (picture * LUMA).sum(0, keepdim=True)
    return ((luma + saturation * (picture - luma) - 0.5) * contrast + 0.5).clamp(0, 1)


def warm(picture):
    return (picture * torch.tensor([1.08, 1.0, 0.92])[:, None, None]).clamp(0, 1)


def grainy(picture):
    return (picture + 0.01 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)


def mapped(original, edited, unchanged):
    general = fit_colours(original, edited, unchanged.float())
    return general, simplest(general, original, edited, unchanged & not_clipped(edited))


@pytest.mark.parametrize("drift", [vivid, warm, lambda p: vivid(warm(p)), lambda p: grainy(vivid(p))])
@pytest.mark.parametrize("colour", [(0.85, 0.2, 0.15), (0.1, 0.3, 0.8), (0.2, 0.75, 0.3)])
def test_a_colour_that_only_the_edit_has_comes_back(muted, drift, colour):
    """What clipping loses stays lost: here at most 0.05 of a channel."""
    clean, inside = muted.clone(), torch.zeros(160, 160, dtype=torch.bool)
    inside[50:100, 60:110] = True
    clean[:, inside] = torch.tensor(colour)[:, None]
    edited = drift(clean)
    general, found = mapped(muted, edited, ~inside)
    left, before, made = (
        (one - clean).abs()[:, inside].mean() for one in (found.over(edited), general.over(edited), edited)
    )
    assert left < 0.05
    assert left < 0.5 * min(before, made)


def test_a_change_that_varies_over_the_picture_is_not_taken_for_an_affine_one(muted):
    light = torch.linspace(0.85, 1.15, 160)
    general, found = mapped(muted, muted * light, torch.ones(160, 160, dtype=torch.bool))
    assert found is general


def test_clipped_pixels_have_no_say(muted):
    """Half of the picture is white afterwards, and the map is still that of the other half."""
    original = muted.clone()
    original[:, :, 80:] += 0.4
    edited = vivid(original.clamp(0, 1), saturation=1.0, contrast=1.6)
    usable = not_clipped(edited)
    assert (~usable).float().mean() > 0.2
    found = fit_affine(original.clamp(0, 1), edited, usable)
    ramp = torch.linspace(0.3, 0.7, 16).expand(3, 16, 16)
    assert found is not None
    assert (inverse(found).over(vivid(ramp, 1.0, 1.6)) - ramp).abs().max() < 0.01


def test_a_channel_that_is_clipped_everywhere_follows_the_others(muted):
    """Blue is black all over the unchanged part; what the edit has of it comes back by contrast and saturation."""
    original, inside = muted.clone(), torch.zeros(160, 160, dtype=torch.bool)
    original[2] = 0.08 + 0.1 * muted[2]
    inside[50:100, 60:110] = True
    clean = torch.where(inside, torch.tensor([0.3, 0.4, 0.7])[:, None, None], original)
    edited = vivid(clean, contrast=1.3)
    assert edited[2][~inside].max() == 0
    general, found = mapped(original, edited, ~inside)
    left, before = ((one.over(edited) - clean).abs()[:, inside].mean() for one in (found, general))
    assert left < 0.02 < 0.5 * before


def test_usable_channels_contradict_an_affine_map_where_one_is_clipped(muted):
    original, inside = muted.clone(), torch.zeros(160, 160, dtype=torch.bool)
    original[2] = 0
    inside[50:100, 60:110] = True
    general, found = mapped(original, original * torch.linspace(0.85, 1.15, 160), ~inside)
    assert found is general


def test_thin_lines_on_white_determine_no_map():
    drawing = torch.ones(3, 192, 192)
    drawing[:, 10::20] = 0.5
    general, found = mapped(drawing, drawing, torch.ones(192, 192, dtype=torch.bool))
    assert found is general


@pytest.mark.parametrize(
    "lost", [lambda p: (p * LUMA).sum(0, keepdim=True).expand_as(p).clone(), lambda p: 0.3 * p + 0.35]
)
def test_a_map_that_loses_colours_is_not_inverted(muted, lost):
    """Black and white, or a third of the contrast: the inverse would amplify noise."""
    assert fit_affine(muted, lost(muted), torch.ones(3, 160, 160, dtype=torch.bool)) is None


def test_nothing_unchanged_is_no_affine_map(muted):
    general, found = mapped(muted, vivid(muted), torch.zeros(160, 160, dtype=torch.bool))
    assert found is general
    assert fit_affine(muted, vivid(muted), torch.zeros(3, 160, 160, dtype=torch.bool)) is None


def test_preserve_corrects_colours_under_contrast_that_clips(muted):
    """Half of the unchanged part becomes brighter than white; the edit's own colour comes back all the same."""
    original, inside = muted.clone(), torch.zeros(160, 160, dtype=torch.bool)
    original[:, :, 80:] = 0.5 * original[:, :, 80:] + 0.65
    inside[50:100, 20:70] = True
    clean = torch.where(inside, torch.tensor([0.7, 0.4, 0.3])[:, None, None], original)
    edited = vivid(clean, contrast=1.4)
    assert (edited == 1).float().mean() > 0.2
    left = (preserve(original, edited, inside.float(), match=["tone"]).picture - clean).abs()[:, inside].mean()
    assert left < 0.02 < (edited - clean).abs()[:, inside].mean()
