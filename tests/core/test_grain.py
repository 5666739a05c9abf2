"""Grain: noise that only the edited picture has is removed, grain that only the original has is added."""

from dataclasses import replace

import pytest
import torch

from kontext_core.grain import OPPONENT, Noise, fit_grain, fit_noise
from kontext_core.looks import fit_look
from kontext_core.preservation import MATCH
from kontext_core.registration import blur

SIDE = 192


def photograph(seed=1):
    """Smooth places, details and an edge, (3, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(seed)
    layers = [blur(torch.randn(3, SIDE, SIDE, generator=generator), sigma) * sigma for sigma in (1.0, 3.0, 12.0)]
    details = 0.1 * sum(layers)
    details[:, :, : SIDE // 2] = blur(details, 8.0)[:, :, : SIDE // 2]
    return (0.5 + details).clamp(0.1, 0.9)


def grainy(picture, sigma, seed=3):
    return picture + sigma * torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))


def everywhere():
    return torch.ones(SIDE, SIDE)


def off(first, second):
    return float((first - second).abs().mean())


def test_opponent_channels_are_orthonormal():
    kinds = torch.tensor(OPPONENT)
    torch.testing.assert_close(kinds @ kinds.T, torch.eye(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [2 / 255, 6 / 255])
def test_noise_of_the_edited_picture_is_removed_from_what_is_new(sigma):
    """Fitted on one picture, applied to another with the same noise."""
    original, new = photograph(), photograph(2)
    found = fit_noise(grainy(original, sigma), original, everywhere())
    noisy = grainy(new, sigma, seed=4)
    assert off(found.removed(noisy), new) < 0.7 * off(noisy, new)


def test_the_energy_of_noise_is_measured():
    """White noise has the same energy in each opponent channel; the finest band retains 0.6 of its deviation."""
    sigma = 4 / 255
    energy = fit_noise(grainy(photograph(), sigma), photograph(), everywhere()).energy
    torch.testing.assert_close(energy[:, 0].sqrt(), torch.full((3,), 0.6 * sigma), rtol=0.05, atol=0)


def detailed(seed=1):
    """A picture with fine details everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 0.15 * blur(torch.randn(3, SIDE, SIDE, generator=generator), 0.8)


@pytest.mark.parametrize("change", [lambda p: p, lambda p: blur(p, 1.0), lambda p: p + 0.8 * (p - blur(p, 1.5))])
def test_sharpness_is_not_noise(change):
    """Neither detail that is amplified, although it has more energy, nor detail that is lost."""
    energy = fit_noise(change(detailed()), detailed(), everywhere()).energy
    details = fit_noise(detailed(), torch.full_like(detailed(), 0.5), everywhere()).energy
    assert energy.sum() < 0.1 * details.sum()


def test_other_details_of_the_same_strength_are_mostly_not_noise():
    """An editor that draws the grain anew; it has more where the original, by chance, has the least."""
    energy = fit_noise(detailed(2), detailed(1), everywhere()).energy
    details = fit_noise(detailed(2), torch.full_like(detailed(), 0.5), everywhere()).energy
    assert energy.sum() < 0.4 * details.sum()


def test_the_same_grain_in_both_is_not_noise():
    original = grainy(photograph(), 5 / 255)
    assert fit_noise(original, original, everywhere()).energy.sqrt().max() < 1e-4


def test_no_noise_changes_nothing():
    picture = photograph()
    assert Noise(torch.zeros(3, 3)).removed(picture) is picture


def test_grain_of_the_original_is_added():
    original, sigma = grainy(photograph(), 5 / 255), 5 / 255
    found = fit_grain(photograph(), original, everywhere())
    added = found.over(photograph()) - photograph()
    torch.testing.assert_close(added.std(dim=(1, 2)), torch.full((3,), sigma), rtol=0.1, atol=0)


def test_grain_that_cannot_be_seen_is_not_added():
    original = grainy(photograph(), 0.7 / 255)
    picture = photograph()
    assert fit_grain(picture, original, everywhere()).over(picture) is picture


@pytest.mark.parametrize("fit", [lambda a, b, c: fit_noise(a, b, c).energy, lambda a, b, c: fit_grain(a, b, c).spread])
def test_nothing_unchanged_determines_no_grain(fit):
    assert not fit(grainy(photograph(), 0.02), photograph(), torch.zeros(SIDE, SIDE)).any()


@pytest.mark.parametrize("side", [64, 600])
def test_a_box_has_what_the_whole_picture_has_there(side):
    """Its look does not depend on where the box ends."""
    generator = torch.Generator().manual_seed(5)
    layers = [blur(torch.randn(3, side, side, generator=generator), sigma) * sigma for sigma in (0.8, 3.0, 9.0)]
    original = (0.5 + 0.1 * sum(layers)).clamp(0.05, 0.95)
    original[:, :, ::8] = original[:, :, 1::8] = 0.0
    edited = grainy(blur(original, 1.5), 1 / 255)
    look = replace(fit_look(edited, original, torch.ones(side, side, dtype=torch.bool), MATCH), grain=None)
    whole, third = look.over(edited, (0, 0, side, side)), side // 3
    for top, left in ((0, 0), (third, third), (2 * third, third)):
        part = look.over(edited, (top, left, top + third, left + third))
        expected = whole[:, top : top + third, left : left + third]
        torch.testing.assert_close(part, expected, atol=1 / 255, rtol=0)


def test_grain_is_left_alone_unless_it_is_matched():
    original = photograph()
    edited = grainy(original, 4 / 255)
    unchanged = torch.ones(SIDE, SIDE, dtype=torch.bool)
    looks = (fit_look(edited, original, unchanged, match) for match in ({"grain"}, {"tone"}))
    with_it, without = (look.over(edited, (0, 0, SIDE, SIDE)) for look in looks)
    assert off(with_it, original) < 0.7 * off(edited, original)
    assert off(without, original) > 0.9 * off(edited, original)
