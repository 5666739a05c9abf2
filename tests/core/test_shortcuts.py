"""Cheaper kinds of evaluation within a run: when they are chosen, and what is kept for them."""

import pytest
import torch
from small_run import GRID, LONG, TARGET, conditions, noise, plain, random_model

from kontext_core.acceleration.control import Control
from kontext_core.acceleration.run import Run, Task
from kontext_core.acceleration.settings import PRESETS
from kontext_core.acceleration.shortcuts import Shortcuts
from kontext_core.acceleration.stream import Stream
from kontext_core.transformer import KontextTransformer

LEFT = (torch.arange(TARGET) % GRID[1] < 2)[None]  # tokens of the left columns


@pytest.fixture(scope="module")
def model() -> KontextTransformer:
    return random_model(0.05)


def compared(**rates: float) -> Shortcuts:
    """After the comparison in step 6, which filled the cache."""
    shortcuts = Shortcuts(Control(PRESETS["fast"], LONG))
    shortcuts.rates = {kind: [rate] for kind, rate in rates.items()}
    shortcuts.prices = {"active": 0.2, "cached": 0.5}
    shortcuts.control.computed, shortcuts.control.last = 3, 6
    shortcuts.kept(6, True)
    return shortcuts


CHOICES = {
    "both exact": ({"active": 0.0, "cached": 0.0}, "active"),
    "tokens too inexact": ({"active": 9.0, "cached": 0.0}, "cached"),
    "both too inexact": ({"active": 9.0, "cached": 9.0}, "full"),
    "never compared": ({}, "full"),
}


@pytest.mark.parametrize(("rates", "kind"), CHOICES.values(), ids=CHOICES)
def test_the_cheapest_kind_that_is_exact_enough_is_chosen(rates, kind):
    assert compared(**rates).choose(9) == kind


def test_a_kind_without_a_price_is_not_chosen():
    """After the comparison the edit may have grown too large for active tokens."""
    shortcuts = compared(active=0.0, cached=0.0)
    shortcuts.prices = {"cached": 0.5}
    assert shortcuts.choose(9) == "cached"
    shortcuts.prices = {}
    assert shortcuts.choose(9) == "full"


def test_a_cache_of_this_step_or_a_later_one_is_not_used():
    """After going back it is from a state that was discarded."""
    shortcuts = compared(cached=0.0)
    assert shortcuts.choose(6) == shortcuts.choose(5) == "full"
    assert shortcuts.choose(7) == "cached"


def test_the_comparison_fills_the_cache():
    shortcuts = Shortcuts(Control(PRESETS["fast"], LONG))
    shortcuts.prices, shortcuts.control.computed = {"cached": 0.2}, 2
    shortcuts.kept(1, True)
    assert shortcuts.looks(2) == ["cached"]
    shortcuts.saw("cached", noise(1, TARGET, 64))
    assert shortcuts.keeps(2)


def two_streams(model, run, kinds):
    """Evaluations of one step under two conditionings, of which the second may not use its cache."""
    x = noise(1, TARGET, 64)

    def velocity(x, sigma):
        first = run.evaluate("first", model, conditions(seed=1), x)
        task, run.task = run.task, run.task._replace(kind=kinds[1])
        second = run.evaluate("second", model, conditions(seed=5), x)
        run.task = task
        return first + second

    return run._evaluated(0, Task("full", LONG[0], keep=True), x, velocity), lambda kind: run._evaluated(
        1, Task(kind, LONG[1]), x, velocity
    )


def test_a_step_counts_as_its_least_complete_evaluation(model):
    """So that its error counts, and caches that were not all filled again stay as old as the oldest."""
    run = Run(PRESETS["fast"], LONG)
    _, later = two_streams(model, run, ("cached", "full"))
    later("cached")
    assert run.done == {0: "full", 1: "cached"}


def test_active_tokens_change_only_when_the_caches_are_filled_again(model):
    """Their cache holds the keys of the others."""
    run = Run(PRESETS["fast"], LONG)
    x, inputs = noise(1, TARGET, 64), conditions()
    evaluate = lambda x, sigma: run.evaluate("one", model, inputs, x)  # noqa: E731
    run.control.computed = 1
    run.shortcuts.prices = {"cached": 0.5}
    run._ask(evaluate, 0, x)
    run.mask, run.share = LEFT, 1 / 3
    run.control.step(0, x, lambda step, x: evaluate_full(run, evaluate, x))
    run.control.computed, run.shortcuts.rates = 3, {"active": [0.0]}
    run.shortcuts.prices, run.shortcuts._decided = {"active": 0.1}, True
    run._ask(evaluate, 3, x + 1)
    assert run.done[3] == "active" and torch.equal(run.mask, LEFT)


def evaluate_full(run, evaluate, x):
    return run._evaluated(0, Task("full", LONG[0], keep=True), x, evaluate)


def test_without_references_nothing_is_kept_and_every_evaluation_is_full(model):
    """As a negative of text alone beside a positive with references: cache_gb counts what is kept."""
    x = noise(1, TARGET, 64)
    stream = Stream(model, conditions(references=0), x, LONG[:-1], None)
    stream.velocity(x, LONG[0], "full", True, None, plain)
    assert stream.references is None and stream.target_kept is None
    assert stream.arithmetic("active", 0.1) == stream.arithmetic("cached") == stream.arithmetic("full")
