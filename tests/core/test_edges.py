"""Edges that an editor softened, restored where they are far stronger than the noise."""

import pytest
import torch

from kontext_core.edges import fit_edges
from kontext_core.preservation import preserve
from kontext_core.registration import blur

SIDE, INSIDE = 192, (slice(60, 130), slice(50, 140))


def textured():
    """Details of all sizes, (3, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(1)
    layers = [blur(torch.randn(3, SIDE, SIDE, generator=generator), sigma) * sigma for sigma in (0.7, 2.0, 6.0, 18.0)]
    return (0.5 + 0.15 * sum(layers)).clamp(0.05, 0.95)


def lettered(picture):
    """The picture with strokes that are two pixels wide on a plate."""
    made = picture.clone()
    made[:, *INSIDE] = 0.9
    made[:, 70:120:8, 60:130] = made[:, 71:121:8, 60:130] = 0.1
    return made


def rounded(picture):
    return (picture.clamp(0, 1) * 255).round() / 255


def grainy(picture, sigma):
    return picture + sigma * torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_letters_that_were_softened_come_back(sigma):
    """From the picture around them, which has no letters."""
    original = textured()
    clean, outside = lettered(original), torch.ones(SIDE, SIDE)
    outside[INSIDE] = 0
    edited = rounded(blur(clean, sigma))
    found = fit_edges(edited, original, outside)
    left, made = ((one - clean).abs()[:, *INSIDE].mean() for one in (found.over(edited, edited), edited))
    assert left < 0.4 * made
    kept = preserve(original, edited, 1 - outside)
    assert (kept.picture - clean).abs()[:, *INSIDE].mean() < 0.4 * made


def test_the_filter_is_the_one_that_was_applied():
    """Its inverse undoes each frequency that the blur leaves far above the noise."""
    original, sigma = textured(), 0.8
    inverse = fit_edges(blur(original, sigma), original, torch.ones(SIDE, SIDE)).inverse(64, 64)
    passed = torch.exp(-2 * (torch.pi * sigma * torch.fft.rfftfreq(64)) ** 2)
    clear = passed > 0.3
    torch.testing.assert_close((inverse[0] * passed)[clear], torch.ones(int(clear.sum())), atol=0.05, rtol=0)


def test_noise_in_plain_places_stays_as_it_is():
    original = textured()
    original[:, 60:130, 50:140] = 0.5
    edited = grainy(blur(original, 1.2), 2 / 255)
    found = fit_edges(edited, original, torch.ones(SIDE, SIDE))
    plain = (slice(75, 115), slice(65, 125))
    noise = (found.over(edited, edited) - 0.5)[:, *plain].std()
    assert found.amplification > 2
    assert noise < 1.1 * (edited - 0.5)[:, *plain].std()


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_sharpening_needs_no_inverse(amount):
    original = textured()
    sharpened = original + amount * (original - blur(original, 1.2))
    assert fit_edges(sharpened, original, torch.ones(SIDE, SIDE)) is None


def test_nothing_unchanged_determines_no_filter():
    assert fit_edges(blur(textured(), 1.0), textured(), torch.zeros(SIDE, SIDE)) is None
