"""The schedule: BFL's numbers, and the laws of the shift."""

import math

import pytest
import torch
from torch.testing import assert_close

from kontext_core.acceleration.control import Control
from kontext_core.acceleration.settings import PRESETS, Settings
from kontext_core.resolutions import TRAINED_SIZES
from kontext_core.schedule import Part, flow_sigmas, fractions, is_during, mu, part_of, progress, time_of, time_shift

MU = {
    "512x512": 0.630,
    "768x768": 0.847,
    "1024x1024": 1.150,
    "1536x1024": 1.497,
    "1440x1440": 1.828,
    "2048x2048": 3.230,
}

SIGMAS_AT_1024 = {  # steps: BFL's `get_schedule` for 4096 tokens
    8: "1 .9567 .9045 .8403 .7595 .6546 .5128 .3109 0",
    20: "1 .9836 .9660 .9471 .9266 .9045 .8805 .8543 .8257 .7942 .7595 .7210 .6780 .6297 .5751 .5128 .4412 "
    ".3579 .2598 .1425 0",
    28: "1 .9884 .9762 .9634 .9499 .9356 .9205 .9045 .8876 .8696 .8504 .8300 .8081 .7847 .7595 .7324 .7031 "
    ".6714 .6370 .5994 .5582 .5128 .4627 .4071 .3448 .2748 .1955 .1047 0",
}


def tokens_of(width, height):
    return (width // 16) * (height // 16)


@pytest.mark.parametrize(("size", "expected"), MU.items(), ids=MU)
def test_mu(size, expected):
    assert mu(tokens_of(*map(int, size.split("x")))) == pytest.approx(expected, abs=5e-4)


def test_mu_hardly_differs_among_the_trained_sizes():
    values = [mu(tokens_of(*size)) for size in TRAINED_SIZES]
    assert (round(min(values), 4), round(max(values), 4)) == (1.1409, 1.1591)


@pytest.mark.parametrize(("steps", "printed"), SIGMAS_AT_1024.items(), ids=map(str, SIGMAS_AT_1024))
def test_sigmas_at_1024(steps, printed):
    expected = torch.tensor([float(number) for number in printed.split()])
    assert_close(flow_sigmas(steps, 4096), expected, atol=5.1e-5, rtol=0)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 1.15, 3.23])
def test_time_shift(shift):
    times = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    shifted = time_shift(shift, times)
    assert_close(shifted, math.exp(shift) / (math.exp(shift) + (1 / times - 1)))  # BFL's form
    assert_close(time_shift(-shift, shifted), times)
    assert [time_shift(shift, time) for time in times.tolist()] == pytest.approx(shifted.tolist())


@pytest.mark.parametrize("tokens", [1, 64, 256, 4096, 16384])
def test_sigmas_fall_from_exactly_1_to_exactly_0(tokens):
    sigmas = flow_sigmas(30, tokens)
    assert sigmas.dtype == torch.float32
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize(
    ("steps", "denoise", "of"), [(4, 0.5, 8), (28, 0.75, 37), (20, 0.7, 28), (10, 0.3, 33), (1, 0.9, 1)], ids=str
)
def test_denoise_takes_the_last_steps_of_a_longer_run(steps, denoise, of):
    assert torch.equal(flow_sigmas(steps, 4096, denoise=denoise), flow_sigmas(of, 4096)[-(steps + 1) :])


def test_a_given_mu_replaces_that_of_the_size():
    assert torch.equal(flow_sigmas(4, 64, mu=0.0), torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    assert torch.equal(flow_sigmas(9, 64, mu=mu(4096)), flow_sigmas(9, 4096))


@pytest.mark.parametrize(
    ("steps", "denoise", "complaint"),
    [(0, 1.0, "steps is 0"), (-3, 1.0, "steps is -3"), (8, 0.0, "denoise is 0"), (8, 1.1, "denoise is 1.1")],
)
def test_impossible_runs_are_refused(steps, denoise, complaint):
    with pytest.raises(ValueError, match=complaint):
        flow_sigmas(steps, 4096, denoise=denoise)


@pytest.mark.parametrize("denoise", [1.0, 0.4])
def test_progress_counts_the_steps_of_a_run(denoise):
    sigmas = flow_sigmas(10, 64, denoise=denoise)
    done = fractions(sigmas)
    assert [progress(float(sigma), sigmas, done) for sigma in sigmas] == pytest.approx(
        [step / 10 for step in range(11)]
    )
    assert progress(float(sigmas[3] + sigmas[4]) / 2, sigmas, done) == pytest.approx(0.35)
    assert progress(2.0, sigmas, done) == 0
    assert progress(-1.0, sigmas, done) == 1


@pytest.mark.parametrize("mu", [0.0, 0.47, 1.15, 3.0])
def test_a_time_comes_back(mu):
    times = [0.0, 0.01, 0.3, 0.99, 1.0]
    assert [time_of(time_shift(mu, time), mu) for time in times] == pytest.approx(times)


PARTS = {"first": (0, 4), "middle": (3, 6), "last": (4, 8), "one step": (3, 4), "the last step": (7, 8)}
SHIFTS = (0.4675, 1.15)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(("start", "end"), PARTS.values(), ids=PARTS)
def test_a_part_of_a_run_knows_its_place(start, end, shift):
    """With any of the shifts; in float32, and rounded to a table of 10000 entries."""
    sigmas = flow_sigmas(8, 64, mu=shift)
    rounded = torch.tensor([time_shift(shift, round(9999 * time_of(float(sigma), shift)) / 9999) for sigma in sigmas])
    for levels in (sigmas, rounded):
        found = fractions(levels[start : end + 1], part=True, shifts=SHIFTS)
        assert found == pytest.approx([step / 8 for step in range(start, end + 1)], abs=1e-9)


def test_a_part_off_every_schedule_goes_by_the_last_shift():
    levels = torch.tensor([0.9, 0.63, 0.31])
    found = fractions(levels, part=True, shifts=SHIFTS)
    assert found == pytest.approx([1 - time_of(float(sigma), 1.15) for sigma in levels])


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.35, 0.7, 1.0])
def test_two_ranges_divide_a_run(cut):
    sigmas = flow_sigmas(10, 64)
    for sigma in sigmas[:-1]:
        share = progress(float(sigma), sigmas, fractions(sigmas))
        assert is_during(share, 0.0, cut) != is_during(share, cut, 1.0)
    assert is_during(1.0, 0.0, 1.0)


@pytest.mark.parametrize("steps", [4, 8, 28])
def test_a_part_is_found_by_its_fractions(steps):
    for start in range(steps):
        for end in range(start + 1, steps + 1):
            done = [step / steps for step in range(start, end + 1)]
            assert part_of(done) == Part(start, steps)
    assert part_of([0.0]) == Part(0, 0)  # no step at all


def test_listed_steps_and_a_limit_are_those_of_the_whole_run():
    listed, limited = Settings(steps=(0, 1, 3, 7, 14, 21)), Settings(most=9)
    assert [listed.of_part(Part(first, 28), 7).steps for first in (0, 7, 14, 21)] == [(0, 1, 3), (0,), (0,), (0,)]
    assert [listed.of_part(Part(first, 28), 14).steps for first in (0, 10)] == [(0, 1, 3, 7), (0, 4, 11)]
    assert [limited.of_part(Part(first, 28), 7).most for first in (0, 7, 14, 21)] == [2, 2, 2, 3]
    assert limited.of_part(Part(4, 28), 1).most == 1  # the first step of a part is always computed
    for settings in (listed, limited, PRESETS["fast"], Settings()):
        assert settings.of_part(Part(0, 28), 28) == settings


def test_a_later_part_expects_errors_to_grow_as_in_the_least_decided_flow():
    """What came before is not known there; a velocity that changes against its one-step estimate is decided."""
    sigmas, x = flow_sigmas(28, 24).tolist(), torch.ones(1, 24, 64)
    grown = []
    for part in (None, Part(7, 35)):
        control = Control(PRESETS["quality"], sigmas, part)
        for step in range(2):
            control.step(step, x, lambda step, x: x * (1 + sigmas[step]))
        grown += control.weighted([1.0], 1.0)
    assert grown[1] > 2 * grown[0]
