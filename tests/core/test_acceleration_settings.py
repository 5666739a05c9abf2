"""Settings of acceleration: lists of steps, and the tolerance for a fidelity."""

import pytest

from kontext_core.acceleration.settings import calibration, parse_steps, tolerance


@pytest.mark.parametrize("text", ["0 1 3", "3,1, 0", "0,1,3,3"])
def test_a_list_of_steps_is_read(text):
    assert parse_steps(text) == (0, 1, 3)
    assert parse_steps("") == ()


@pytest.mark.parametrize("text", ["1 2", "0, -1", "0; 3", "first"])
def test_a_list_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="steps is"):
        parse_steps(text)


def test_the_tolerance_falls_with_the_fidelity_also_beyond_what_was_measured():
    fidelities = [10, 28, 34, 40, 60, 80]
    tolerances = [tolerance(one) for one in fidelities]
    assert tolerances == sorted(tolerances, reverse=True) and tolerances[-1] > 0
    for known, decibels in calibration()["levels"]:
        assert tolerance(decibels) == pytest.approx(known)
