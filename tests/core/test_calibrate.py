"""The fit of how much an early error grows."""

import math
import random

import pytest

from benchmarks.calibrate import fit_growth, stamped
from benchmarks.cases import HALVES, cases


def rows(spread):
    """Growths after a known law, times a random factor."""
    rng = random.Random(3)
    for _ in range(200):
        sigma, slope, undecided = rng.uniform(0.2, 1), rng.uniform(0.5, 5), rng.uniform(-0.2, 1)
        growth = (0.4 * slope**0.7 * math.exp(2 * undecided)) ** sigma * math.exp(rng.gauss(0, spread))
        yield {"sigma": sigma, "slope": slope, "undecided": undecided, "growth": growth}


def test_a_law_without_scatter_is_found():
    assert fit_growth(list(rows(0))) == pytest.approx({"scale": 0.4, "slope": 0.7, "undecided": 2}, abs=0.002)


def test_four_of_five_growths_stay_below_the_fitted_one():
    """Weighted by sigma, because the fit has no term that is independent of it."""
    whole = below = 0.0
    fit = fit_growth(list(rows(0.5)))
    for row in rows(0.5):
        base = fit["scale"] * row["slope"] ** fit["slope"] * math.exp(fit["undecided"] * row["undecided"])
        whole += row["sigma"]
        below += row["sigma"] * (row["growth"] < base ** row["sigma"])
    assert below / whole == pytest.approx(0.8, abs=0.02)


def test_results_of_other_code_are_in_another_folder(tmp_path):
    code = tmp_path / "control.py"
    code.write_text("LONGEST = 0.5")
    before = stamped(tmp_path, code)
    assert stamped(tmp_path, code) == before != stamped(tmp_path)
    code.write_text("LONGEST = 0.6")
    assert stamped(tmp_path, code) != before


@pytest.mark.parametrize("kind", ["unknown words", "vague text"])
def test_no_text_is_in_both_halves(kind):
    """Nor in the kind that calibration never sees."""
    calibrated, held_out = ({case.requests[0].text for case in cases(half, 24, (kind, "rough"))} for half in HALVES)
    assert calibrated and held_out and not calibrated & held_out
