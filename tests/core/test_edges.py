"""Edges that an editor softened come back; edges that it kept stay as they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kontext_core.edges import Edges, fit_edges
from kontext_core.preservation import preserve
from kontext_core.registration import blur

SIDE, INSIDE = 192, (slice(60, 130), slice(50, 140))


def textured(strength=0.15):
    """Details of all sizes, (3, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(1)
    layers = [blur(torch.randn(3, SIDE, SIDE, generator=generator), sigma) * sigma for sigma in (0.7, 2.0, 6.0, 18.0)]
    return (0.5 + strength * sum(layers)).clamp(0.05, 0.95)


def lettered(picture):
    """The picture with strokes that are four pixels wide on a plate."""
    made = picture.clone()
    made[:, *INSIDE] = 0.9
    for top in range(68, 120, 10):
        made[:, top : top + 4, 60:130] = 0.1
    return made


def rounded(picture):
    return (picture.clamp(0, 1) * 255).round() / 255


def grainy(picture, sigma):
    return picture + sigma * torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))


def compressed(picture, quality):
    """The picture as a JPEG file returns it."""
    file = io.BytesIO()
    pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)


def outside():
    """1 outside the letters' plate."""
    weight = torch.ones(SIDE, SIDE)
    weight[INSIDE] = 0
    return weight


def off(picture, clean):
    """The mean difference inside the letters' plate."""
    return float((picture - clean).abs()[:, *INSIDE].mean())


@pytest.mark.parametrize(("sigma", "left"), [(0.7, 0.4), (1.0, 0.4), (1.5, 0.6)])
def test_letters_that_were_softened_come_back(sigma, left):
    """From the picture around them, which has no letters."""
    original = textured()
    clean = lettered(original)
    edited = rounded(blur(clean, sigma))
    found = fit_edges(edited, original, outside())
    assert off(found.over(edited, edited), clean) < left * off(edited, clean)
    assert off(preserve(original, edited, 1 - outside()).picture, clean) < left * off(edited, clean)


def test_the_filter_is_the_one_that_was_applied():
    """At each frequency that the blur leaves far above the noise."""
    original, sigma = textured(), 0.8
    found = fit_edges(blur(original, sigma), original, torch.ones(SIDE, SIDE))._filter(64, 64)[0]
    passed = torch.exp(-2 * (torch.pi * sigma * torch.fft.rfftfreq(64)) ** 2)
    clear = passed > 0.3
    torch.testing.assert_close(found[clear], passed[clear], atol=0.05, rtol=0)


@pytest.mark.parametrize("strength", [0.01, 0.02, 0.04])
@pytest.mark.parametrize("quality", [60, 80])
def test_letters_that_jpeg_kept_do_not_glare(strength, quality):
    """JPEG removes the faint details around them, which must not be taken for a blur of the letters."""
    original = textured(strength)
    clean = lettered(original)
    edited = compressed(clean, quality)
    kept = preserve(original, edited, 1 - outside(), match=("sharpness",)).picture
    assert off(kept, clean) < off(edited, clean) + 1 / 255


def test_restored_values_stay_within_those_nearby():
    """A much too strong inverse makes no halo beside an edge."""
    picture = torch.full((3, 40, 40), 0.3)
    picture[:, :, 20:] = 0.7
    strong = Edges(torch.full((10,), -0.6), 0.004)
    restored = strong.over(picture, picture)
    assert restored.min() >= 0.3 - 1e-6 and restored.max() <= 0.7 + 1e-6


@pytest.mark.parametrize("sigma", [2 / 255, 8 / 255])
def test_noise_in_plain_places_stays_as_it_is(sigma):
    """Although the inverse of the blur amplifies it."""
    original = textured()
    original[:, 60:130, 50:140] = 0.5
    edited = grainy(blur(original, 1.2), sigma)
    found = fit_edges(edited, original, torch.ones(SIDE, SIDE))
    plain = (slice(75, 115), slice(65, 125))
    noise = (found.over(edited, edited) - 0.5)[:, *plain].std()
    assert noise < 1.1 * (edited - 0.5)[:, *plain].std()


def test_letters_under_grain_stay_sharp():
    """Least squares softens everything under grain; edges need it least."""
    original = textured(0.05)
    clean = lettered(original)
    edited = rounded(grainy(clean, 5 / 255))
    step = preserve(original, edited, 1 - outside()).picture[:, 98:102, 65:125].mean()  # a stroke
    assert abs(float(step) - 0.1) < 0.01


def test_strips_are_seamless(monkeypatch):
    picture = blur(lettered(textured()), 1.0)
    found = fit_edges(picture, lettered(textured()), torch.ones(SIDE, SIDE))
    whole = found.over(picture, picture)
    monkeypatch.setattr("kontext_core.edges.STRIP", 50)
    torch.testing.assert_close(found.over(picture, picture), whole, atol=1e-3, rtol=0)


def test_sharpening_is_undone_where_only_faint_details_show_it():
    """Nothing around the letters is as strong as they are."""
    original = textured(0.02)
    clean = lettered(original)
    noisy = grainy(clean, 2 / 255)
    edited = rounded(noisy + 0.8 * (noisy - blur(noisy, 1.2)))
    kept = preserve(original, edited, 1 - outside(), match=("sharpness",)).picture
    assert off(kept, clean) < 0.6 * off(edited, clean)


@pytest.mark.parametrize("colour", [0.0, 0.3, 1.0])
def test_a_plain_picture_determines_no_filter(colour):
    """A product on a plain ground: nothing around the edit has details."""
    original = torch.full((3, SIDE, SIDE), colour)
    edited = blur(lettered(original), 1.0)
    assert fit_edges(edited, original, outside()) is None
    kept = preserve(original, edited, 1 - outside())
    assert torch.isfinite(kept.picture).all()
    assert torch.equal(kept.picture[:, outside() > 0], original[:, outside() > 0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 40), (40, 1), (3, 5)])
def test_tiny_pictures_come_back_without_gaps(height, width):
    generator = torch.Generator().manual_seed(1)
    original, edited = torch.rand(2, 3, height, width, generator=generator)
    mask = (torch.arange(width) < (width + 1) // 2).float().expand(height, width)
    kept = preserve(original, edited, mask)
    assert torch.isfinite(kept.picture).all()
    assert torch.equal(kept.picture[:, mask == 0], original[:, mask == 0])


def test_nothing_unchanged_determines_no_filter():
    assert fit_edges(blur(textured(), 1.0), textured(), torch.zeros(SIDE, SIDE)) is None
