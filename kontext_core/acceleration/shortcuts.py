"""Decide whether cheaper kinds of evaluation (KV cache, active tokens) are exact enough, by one comparison per run.

In the third computed step (or the next, after going back) the cheaper kinds are evaluated in addition to the full one.
The difference of the velocities is assumed to grow with the age of the cache, and to move the picture over the
following gap.
"""

from __future__ import annotations

from torch import Tensor

from .control import Control
from .forecast import rms
from .stream import Kind

LOOK = 2  # index of the first computed step that may compare; the one before it fills the cache
WORTH = 2.0  # the expected saving of a comparison must be at least this multiple of its cost
SHARE = 0.5  # fraction of a gap's tolerance that the cache's error may use


class Shortcuts:
    """A run's measurements of the cheaper kinds."""

    def __init__(self, control: Control):
        self.control = control
        self.prices: dict[Kind, float] = {}  # as a fraction of a full evaluation
        self.rates: dict[Kind, list[float]] = {}  # per picture: rms difference per unit of age
        self._kept_at: float | None = None  # sigma
        self._seen: dict[Kind, Tensor] = {}
        self._decided = False  # whether to compare

    def looks(self, step: int) -> list[Kind]:
        """The kinds to compare with the full one in this step."""
        gap = step - self.control.last
        if self._decided or self.control.computed < LOOK or not self._kept_before(step) or not gap:
            return []
        self._decided = True
        left = (self.control.steps - step) / gap  # remaining computed steps, if gaps stay the same
        cheap = min(self.prices.values(), default=1.0)
        return list(self.prices) if left * (1 - cheap) >= WORTH * sum(self.prices.values()) else []

    def choose(self, step: int) -> Kind:
        """The cheapest kind that is exact enough."""
        if self._kept_before(step):
            for kind in sorted(self.rates.keys() & self.prices.keys(), key=lambda kind: self.prices[kind]):
                if self._near(self.errors(kind, step)):
                    return kind
        return "full"

    def keeps(self, step: int) -> bool:
        """Whether a full evaluation in this step should fill the cache: before and at the comparison, and while it is
        useful.
        """
        if self._seen or not self._decided:
            return bool(self.prices) and self.control.computed >= LOOK - 1
        return any(self._near(self._errors(rates, self._width(step), step)) for rates in self.rates.values())

    def _kept_before(self, step: int) -> bool:
        """Whether the cache is from an earlier step: after going back it may be from a state that was discarded."""
        return self._kept_at is not None and self._kept_at > self.control.sigmas[step]

    def _near(self, errors: list[float]) -> bool:
        return max(errors) <= SHARE * self.control.tolerance

    def kept(self, step: int, keys: bool) -> None:
        """Record a full evaluation, which may have filled the cache."""
        self._kept_at = self.control.sigmas[step] if keys else None

    def saw(self, kind: Kind, velocity: Tensor) -> None:
        """Record the velocity of a cheaper kind."""
        self._seen[kind] = velocity

    def compare(self, step: int, velocity: Tensor) -> None:
        """Compare with the full evaluation of the same step, before its keys replace the cached ones."""
        if self._seen and self._kept_at is not None:
            age = self._kept_at - self.control.sigmas[step]
            self.rates = {kind: [x / age for x in rms(seen - velocity).tolist()] for kind, seen in self._seen.items()}
            self._seen = {}

    def errors(self, kind: Kind, step: int) -> list[float]:
        """The expected error of each picture at the end of the run, for an evaluation of that kind."""
        assert self._kept_at is not None
        return self._errors(self.rates[kind], self._kept_at - self.control.sigmas[step], step)

    def _errors(self, rates: list[float], age: float, step: int) -> list[float]:
        width = self._width(step)
        return self.control.weighted([rate * age * width for rate in rates], self.control.sigmas[step])

    def _width(self, step: int) -> float:
        """The width of the last gap in sigma, as an estimate of the next."""
        return self.control.sigmas[self.control.last] - self.control.sigmas[step]
