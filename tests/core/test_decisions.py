"""What a run decides from errors: how they weigh, when it goes back, and what it then follows."""

import pytest
import torch
from small_run import LONG, TARGET, noise

from kontext_core.acceleration.control import Control
from kontext_core.acceleration.settings import PRESETS, Settings


def sample(control, flow):
    """Euler's method; the steps that were computed, in their order."""
    x, asked = noise(1, TARGET, 64), []

    def ask(step, x):
        asked.append(step)
        return flow(LONG[step])

    for step in range(28):
        x = x + (LONG[step + 1] - LONG[step]) * control.step(step, x, ask)
    return asked


def wave(frequency, height=1.0):
    return lambda sigma: height * noise(1, TARGET, 64, seed=6) * torch.cos(torch.tensor(frequency * sigma))


def test_an_early_error_weighs_more_and_the_more_the_steeper_the_flow():
    """A flow that changes fast amplifies what is wrong before."""
    found = []
    for height in (0.5, 1.0, 2.0):
        control = Control(PRESETS["quality"], LONG)
        sample(control, wave(4, height))
        early, middle, late = (control.weighted([1.0], sigma)[0] for sigma in (1.0, 0.5, 0.0))
        assert early > middle > late == 1.0
        found.append(early)
    assert found == sorted(found) and found[0] < found[-1]


@pytest.mark.parametrize("frequency", [40.0, 50.0])
@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
def test_going_back_costs_at_most_two_evaluations_more_than_the_full_run(preset, frequency):
    assert len(sample(Control(PRESETS[preset], LONG), wave(frequency))) <= 28 + 2


CORRECTED = {
    "after a gap": (Settings(steps=(0, 1, 4, 9)), {4, 9}),
    "after going back": (Settings(fidelity=50), {15, 22, 23, 25}),
}


@pytest.mark.parametrize(("settings", "steps"), CORRECTED.values(), ids=CORRECTED)
def test_what_is_followed_is_the_models_velocity_and_a_correction(settings, steps):
    control, x, own, corrected = Control(settings, LONG), noise(1, TARGET, 64), {}, set()

    def ask(step, x):
        own[step] = noise(*x.shape, seed=4 if LONG[step] > 0.75 else 5)
        return own[step]

    for step in range(28):
        velocity = control.step(step, x, ask)
        if control.correction is not None:
            corrected.add(step)
        if control.correction is not None and control.last == step:
            torch.testing.assert_close(velocity - control.correction, own[step], atol=1e-5, rtol=0)
        elif control.last == step:
            assert velocity is own[step]
        x = x + (LONG[step + 1] - LONG[step]) * velocity
    assert corrected == steps
