"""What may be left out of a run: the artist names a fidelity, the run finds the steps."""

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

    fidelity: float | None = None  # dB to stay within, as expected while the run goes; None: no step is left out
    most: int | None = None  # at most so many steps are computed, whatever that costs
    steps: tuple[int, ...] = ()  # exactly these are computed, from 0; the fidelity then decides nothing
    half_precision: bool = False  # keep keys and values in 16 bits
    cache_gigabytes: float = 12.0  # at most this much for kept keys and values; 0: nothing is kept

    @property
    def leaves_out(self) -> bool:
        """Whether any step may be left out."""
        return bool(self.fidelity is not None or self.most or self.steps)

    @property
    def cache_bytes(self) -> int:
        """At most this much for kept keys and values."""
        return int(self.cache_gigabytes * GIGABYTE)

    def limited(self, cache_gigabytes: float) -> Settings:
        """The same with at most so much kept."""
        return replace(self, cache_gigabytes=min(cache_gigabytes, self.cache_gigabytes))

    def exact(self) -> Settings:
        """For a sampler that calls the model where it likes: every call is computed."""
        return replace(self, fidelity=None, most=None, steps=())

    def of_part(self, part: Part, steps: int) -> Settings:
        """For `steps` steps of a longer run: those listed that lie in them, and their share of `most`.

        The first is computed, because nothing before it is known. Unchanged for a whole run.
        """
        last = part.first + steps
        listed = {step - part.first for step in self.steps if part.first < step < last}
        most = self.most and max(last * self.most // part.whole - part.first * self.most // part.whole, 1)
        return replace(self, most=most, steps=(0, *sorted(listed)) if self.steps else ())

    def describe(self) -> str:
        """What the settings mean, for the user."""
        if self.steps:
            return f"computes the steps {', '.join(map(str, self.steps))}, counted from 0, and forecasts the others"
        if not self.leaves_out:
            return "every step is computed"
        limit = f"at most {self.most} steps" if self.most else "as many steps as that needs"
        aim = "" if self.fidelity is None else f"aims at {self.fidelity:g} dB to the full run, and "
        return f"{aim}computes {limit}; the sampler's report says what to expect"


PRESETS = {"exact": Settings()} | {name: Settings(fidelity=decibels) for name, decibels in FIDELITIES.items()}


@cache
def calibration() -> dict[str, Any]:
    """What `python -m benchmarks.calibrate` measured."""
    return json.loads(Path(__file__).with_name("calibration.json").read_text(encoding="utf-8"))


def tolerance(fidelity: float) -> float:
    """How far, weighted, one gap between computed steps may move the picture for a fidelity in dB.

    The logarithm is linear in dB between the calibration's points, and beyond them.
    """
    points = [(decibels, math.log(tolerance)) for tolerance, decibels in calibration()["levels"]]  # dB fall
    pairs = list(pairwise(points))
    (above, high), (below, low) = next((pair for pair in pairs if fidelity >= pair[1][0]), pairs[-1])
    return math.exp(high + (low - high) * (above - fidelity) / (above - below))


def parse_steps(text: str) -> tuple[int, ...]:
    """Numbers from 0, parted by commas or spaces; raises ValueError for anything else, or without step 0."""
    words = text.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"steps is {text!r}; give whole numbers from 0, such as 0, 1, 3, 7, 14, 21.")
    steps = tuple(sorted({int(word) for word in words}))
    if steps and steps[0] != 0:
        raise ValueError(f"steps is {text!r}; it must have 0, the first step: there is nothing to forecast it from.")
    return steps
