"""Leads over rivals in the benchmark of quality against speed: computed by hand for simple curves."""

import pytest

from benchmarks.frontier import Point, lead, psnr_at

STEPS = [Point("14", 2, 50), Point("7", 4, 40), Point("3", 8, 30)]
CACHE = [Point("low", 1.5, 45), Point("high", 3, 35)]

LEADS = {
    "on a rival's point": (Point("p", 6, 40), 6 / 4, "", "7"),
    "between two of them": (Point("p", 6, 45), 6 / 8**0.5, "", "between 7 and 14"),
    "more exact than all": (Point("p", 3, 55), 3 / 2, ">", "14"),
    "less exact than all": (Point("p", 12, 25), 12 / 8, "<", "3"),
}


@pytest.mark.parametrize(("point", "times", "bound", "rival"), LEADS.values(), ids=LEADS)
def test_the_lead_is_over_the_fastest_rival_of_that_fidelity(point, times, bound, rival):
    found = lead(point, [STEPS, CACHE])
    assert (found.times, found.bound) == (pytest.approx(times), bound)
    assert found.rival.name == rival


def test_a_rival_that_is_faster_and_more_exact_counts_whatever_lies_on_its_curve():
    odd = [Point("a", 5, 60), Point("b", 2, 40), Point("c", 8, 20)]
    assert lead(Point("p", 10, 45), [odd]).times == 2


@pytest.mark.parametrize(("ratio", "psnr"), [(1, 50), (2, 50), (8**0.5, 45), (4, 40), (8, 30), (9, None)])
def test_the_best_fidelity_at_a_speed(ratio, psnr):
    assert psnr_at(ratio, [CACHE, STEPS]) == (None if psnr is None else pytest.approx(psnr))
