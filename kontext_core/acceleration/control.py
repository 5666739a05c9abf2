"""Decide during a run which steps are computed, and estimate how near to the full run its picture will be.

At a computed step the curvature of the velocity predicts how far a forecast over the following steps would move the
picture. The growth of an error until the end is estimated from the slope of the velocity and from its alignment with
the one-step estimate of the picture. While that estimate only gains contrast, it is an average of several possible
pictures; the run has yet to choose one, and errors influence the choice. The longest gap whose weighted error stays
within the tolerance is forecast; in a batch the worst picture decides. If the next computed velocity shows that a gap
was far too long, the run goes back to its middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor

from ..schedule import Part
from .forecast import Velocities, alignment, rms
from .settings import Settings, calibration, tolerance

LONGEST = 0.5  # largest gap, as a fraction of the steps, so that unpredicted changes are noticed in time
LEAST, MOST = 0.1, 24.0  # range of the error growth that the calibration covers
OVERSHOT = 2.5  # a gap whose error exceeds this multiple of the tolerance is repeated
SPARE = 2  # evaluations by which repeated gaps may at most exceed those of the full run
TENTATIVE = 0.015  # with at least this tolerance the first step after the start is skipped, before any slope is known


class Expectation(NamedTuple):
    """PSNR to the full run, dB; nine of ten runs of the calibration lay between low and high."""

    decibels: float
    low: float
    high: float


class Seen(NamedTuple):
    """Measurements from the computed velocities, per picture."""

    velocities: Velocities
    bends: list[list[float]]  # rms of the coefficients of each order from 1
    undecided: list[float]  # largest cosine so far between slope and one-step estimate
    growths: list[float]  # growth of an error from the start of a run to its end


class Control:
    """The decisions of one run over `sigmas` (decreasing), or of a part of it.

    A later part begins with two computed steps, because no slope is known, and assumes the least decided flow, because
    its history is not known either. A part with a successor ends with a computed step, because the error of its last
    gap can only be corrected there.
    """

    def __init__(self, settings: Settings, sigmas: list[float], part: Part | None = None):
        self.sigmas, self.steps = sigmas, len(sigmas) - 1
        self.part = part or Part(0, self.steps)
        self.settings = settings.of_part(self.part, self.steps)
        self._end = self.steps if sigmas[-1] == 0 else self.steps - 1  # the last step that a gap may reach
        self.tolerance = 0.0 if settings.fidelity is None else tolerance(settings.fidelity)
        self.computed = 0
        self.next = 0  # the next step to compute
        self.forget(0)
        self.correction: Tensor | None = None  # the part of the last velocity that corrects earlier forecasts
        self._errors: list[float] = []  # per picture, sum of squared weighted errors

    def step(self, step: int, x: Tensor, ask: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The velocity (b, n, c) for a step from x; `ask` evaluates the model in a step at a state."""
        self.correction = None
        if not self.computes(step):
            velocity = self.foreseen(step)
            self._move(step, velocity)
            return velocity
        velocity = ask(step, x)
        self.computed += 1
        seen = self._see(step, x, velocity)
        mended, errors = self._mended(step, seen)
        if max(errors, default=0.0) > OVERSHOT * self.tolerance and self._may_repeat(step):
            return self._again(step, x, ask)
        return self._learn(step, velocity, seen, mended, errors)

    def computes(self, step: int) -> bool:
        """Whether the model is evaluated in this step."""
        return step >= self.next or not len(self._seen.velocities)

    def foreseen(self, step: int) -> Tensor:
        """The forecast velocity of a step."""
        return self._seen.velocities.at(self.sigmas[step], self._order)

    @property
    def _free(self) -> bool:
        """Whether steps are chosen by their errors."""
        return not self.settings.steps and not (self.settings.most and self.computed >= self.settings.most)

    def _may_repeat(self, step: int) -> bool:
        """Whether the gap before `step` may be repeated: steps are chosen by their errors, and the run stays cheap even
        if every step from the gap's middle on is computed.
        """
        return bool(self.tolerance) and self._free and self.computed <= self._middle(step) + SPARE

    def _middle(self, step: int) -> int:
        return self.last + (step - self.last) // 2

    def _see(self, step: int, x: Tensor, velocity: Tensor) -> Seen:
        """The measurements including a new velocity, computed from x."""
        velocities = self._seen.velocities.with_another(self.sigmas[step], velocity)
        bends = [rms(velocities.bend(order)).tolist() for order in range(1, len(velocities))]
        if not bends:
            return Seen(velocities, [], [], [])
        fit = calibration()["growth"]
        now = alignment(velocities.bend(1), x - self.sigmas[step] * velocity).tolist()
        before = self._seen.undecided or ([1.0] * len(now) if self._late else now)
        undecided = [max(pair) for pair in zip(now, before, strict=True)]
        growths = [
            fit["scale"] * slope ** fit["slope"] * math.exp(fit["undecided"] * cosine)
            for slope, cosine in zip(bends[0], undecided, strict=True)
        ]
        return Seen(velocities, bends, undecided, [min(max(one, LEAST), MOST) for one in growths])

    def _mended(self, step: int, seen: Seen) -> tuple[Tensor | None, list[float]]:
        """The error of the forecasts since the last computed step (or None), and its weighted rms per picture."""
        if step - self.last < 2 or self._moved is None:
            return None, []
        order = min(self._order + 1, len(seen.velocities) - 1)
        mended = seen.velocities.moved(self.sigmas[self.last : step + 1], order) - self._moved
        return mended, _weighted(rms(mended).tolist(), self.sigmas[step], seen.growths)

    def _again(self, step: int, x: Tensor, ask: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Repeat the gap before `step` from its middle, which is computed; x is the state after the gap."""
        middle = self.next = self._middle(step)
        known = self._seen.velocities
        state = x - known.moved(self.sigmas[middle : step + 1], self._order)
        self._moved = known.moved(self.sigmas[self.last : middle + 1], self._order)
        for one in range(middle, step):
            state = state + (self.sigmas[one + 1] - self.sigmas[one]) * self.step(one, state, ask)
        velocity, moved = self.step(step, state, ask), (state - x) / (self.sigmas[step + 1] - self.sigmas[step])
        self.correction = moved if self.correction is None else self.correction + moved
        return velocity + moved

    def _learn(self, step: int, velocity: Tensor, seen: Seen, mended: Tensor | None, errors: list[float]) -> Tensor:
        """Use a computed velocity; returns the velocity to follow, which corrects the forecasts' error."""
        if mended is not None:
            self.remember(errors)
            self.correction = mended / (self.sigmas[step + 1] - self.sigmas[step])
        self._seen, self._moved, self.last = seen, None, step
        self._move(step, velocity)
        self._decide(step)
        return velocity if self.correction is None else velocity + self.correction

    def forget(self, step: int) -> None:
        """Start again at a step, without the history, which does not lead to this state."""
        self._late = bool(self.part.first + step)  # whether there were steps before
        self._seen = Seen(Velocities(), [], [], [])
        self._order = 0
        self.last = self.next = step  # the last computed one, and the next
        self._moved: Tensor | None = None  # movement of the steps since then
        self._ahead: list[float] = []  # expected weighted errors of the current gap

    def close(self) -> None:
        """Drop the tensors; the counts and the estimated error stay."""
        self._seen, self._moved, self.correction = Seen(Velocities(), [], [], []), None, None

    @property
    def error(self) -> float:
        """The error of the forecasts in the worst picture, as far as known: rms, weighted."""
        pictures = zip_longest(self._errors, self._ahead, fillvalue=0.0)
        return max((math.sqrt(before + ahead**2) for before, ahead in pictures), default=0.0)

    def expected(self) -> Expectation | None:
        """The expected fidelity to the full run; None if every step was computed."""
        if not self.error:
            return None
        fit = calibration()["decibels"]
        decibels = fit["at_one"] + fit["slope"] * math.log10(self.error)
        return Expectation(decibels, decibels + fit["low"], decibels + fit["high"])

    def _decide(self, step: int) -> None:
        """Set the next computed step, and the order of the forecast until then."""
        self.next, self._order = step + 1, min(len(self._seen.velocities) - 1, 1)
        if self.settings.steps:
            self.next = min((one for one in self.settings.steps if one > step), default=self.steps)
        elif not self._free:
            self.next = self.steps
        elif not self._seen.bends:
            tentative = self.tolerance >= TENTATIVE and not self._late
            self.next = step + (2 if tentative and step + 2 <= self._end else 1)
        elif self.tolerance:
            for end in range(step + 2, min(self._end, step + int(LONGEST * self.part.whole)) + 1):
                errors, order = self._errors_until(step, end)
                if max(errors) > self.tolerance:
                    break
                self.next, self._order = end, order
        self._ahead = self._errors_until(step, self.next)[0] if self._seen.bends and self.next > step + 1 else []

    def _errors_until(self, step: int, end: int) -> tuple[list[float], int]:
        """The expected error of each picture at the end of the run for a forecast up to `end`, and the best order."""
        sigmas = self.sigmas[step : end + 1]
        found = []
        for order, bends in enumerate(self._seen.bends):
            reach = self._seen.velocities.reach(sigmas, order)
            found.append(
                (self.weighted([bend * reach for bend in bends], self.sigmas[min(end, self.steps - 1)]), order)
            )
        return min(found, key=lambda errors: max(errors[0]))

    def weighted(self, errors: list[float], sigma: float) -> list[float]:
        """Errors at `sigma`, weighted by their growth until the end of the run."""
        return _weighted(errors, sigma, self._seen.growths)

    def remember(self, errors: list[float]) -> None:
        before = self._errors or [0.0] * len(errors)
        self._errors = [square + error**2 for square, error in zip(before, errors, strict=True)]

    def _move(self, step: int, velocity: Tensor) -> None:
        moved = (self.sigmas[step + 1] - self.sigmas[step]) * velocity
        self._moved = moved if self._moved is None else self._moved + moved


def _weighted(errors: list[float], sigma: float, growths: list[float]) -> list[float]:
    """Errors at `sigma`, weighted by their growth until the end of the run: near the end the weight is 1."""
    return [error * growth**sigma for error, growth in zip(errors, growths or [1.0] * len(errors), strict=True)]
