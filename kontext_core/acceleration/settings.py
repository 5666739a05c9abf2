"""Settings of acceleration: the user names a fidelity, and the run chooses the steps."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..schedule import Part

GIGABYTE = 1000**3
FIDELITIES = {"quality": 40.0, "balanced": 34.0, "fast": 28.0}  # dB, PSNR to the full run


@dataclass(frozen=True)
class Settings:
    """How much of a run is computed. The defaults compute everything."""

    fidelity: float | None = None  # target in dB, as estimated during the run; None: every step is computed
    most: int | None = None  # limit on the number of computed steps, regardless of fidelity
    steps: tuple[int, ...] = ()  # exactly these steps are computed, from 0; then the fidelity has no effect
    half_precision: bool = False  # cache keys and values in 16 bits
    cache_gigabytes: float = 12.0  # size limit of the KV cache; 0: no cache

    @property
    def leaves_out(self) -> bool:
        """Whether steps may be skipped."""
        return bool(self.fidelity is not None or self.most or self.steps)

    @property
    def cache_bytes(self) -> int:
        """The size limit of the KV cache in bytes."""
        return int(self.cache_gigabytes * GIGABYTE)

    def limited(self, cache_gigabytes: float) -> Settings:
        """The same settings with a lower limit of the KV cache."""
        return replace(self, cache_gigabytes=min(cache_gigabytes, self.cache_gigabytes))

    def exact(self) -> Settings:
        """For a sampler that calls the model off the schedule: every call is computed."""
        return replace(self, fidelity=None, most=None, steps=())

    def of_part(self, part: Part, steps: int) -> Settings:
        """The settings for `steps` steps of a longer run: the listed steps within them, and their fraction of `most`.

        The first step is computed, because nothing before it is known. Unchanged for a complete run.
        """
        last = part.first + steps
        listed = {step - part.first for step in self.steps if part.first < step < last}
        most = self.most and max(last * self.most // part.whole - part.first * self.most // part.whole, 1)
        return replace(self, most=most, steps=(0, *sorted(listed)) if self.steps else ())

    def describe(self) -> str:
        """The settings in words, for the user."""
        if self.steps:
            return f"computes the steps {', '.join(map(str, self.steps))}, counted from 0, and forecasts the others"
        if not self.leaves_out:
            return "every step is computed"
        limit = f"at most {self.most} steps" if self.most else "as many steps as that needs"
        aim = "" if self.fidelity is None else f"aims at {self.fidelity:g} dB to the full run; "
        return f"{aim}computes {limit}; the sampler's report says what to expect"


PRESETS = {"exact": Settings()} | {name: Settings(fidelity=decibels) for name, decibels in FIDELITIES.items()}


@cache
def calibration() -> dict[str, Any]:
    """The measurements of `python -m benchmarks.calibrate`."""
    return json.loads(Path(__file__).with_name("calibration.json").read_text(encoding="utf-8"))


def tolerance(fidelity: float) -> float:
    """The largest weighted error of one gap between computed steps, for a fidelity in dB.

    The logarithm is linear in dB between the calibration's points, and beyond them.
    """
    points = [(decibels, math.log(tolerance)) for tolerance, decibels in calibration()["levels"]]  # dB fall
    pairs = list(pairwise(points))
    (above, high), (below, low) = next((pair for pair in pairs if fidelity >= pair[1][0]), pairs[-1])
    return math.exp(high + (low - high) * (above - fidelity) / (above - below))


def parse_steps(text: str) -> tuple[int, ...]:
    """Numbers from 0, separated by commas or spaces; raises ValueError for anything else, or without step 0."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"steps is {text!r}; give whole numbers from 0, such as 0, 1, 3, 7, 14, 21.")
    steps = tuple(sorted({int(word) for word in words}))
    if steps and steps[0] != 0:
        raise ValueError(f"steps is {text!r}; it must have 0, the first step: there is nothing to forecast it from.")
    return steps
