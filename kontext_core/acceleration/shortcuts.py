"""Whether an evaluation with kept keys and values is near enough: looked at once in a run, and then known.

In the third computed step the cheaper kinds are evaluated beside the full one. The difference of the velocities is
taken as growing with the age of what was kept, and as moving the picture over the gap that follows.
"""

from __future__ import annotations

from torch import Tensor

from .control import Control
from .forecast import rms
from .stream import Kind

LOOK = 2  # the computed step, from 0, in which it is looked; the one before it keeps
WORTH = 2.0  # times its price, a look must be able to save
SHARE = 0.5  # of a gap's tolerance, for what is kept


class Shortcuts:
    """What a run knows of cheaper kinds."""

    def __init__(self, control: Control):
        self.control = control
        self.prices: dict[Kind, float] = {}  # as a share of a full evaluation
        self.rates: dict[Kind, list[float]] = {}  # of each picture: rms difference a unit of age
        self._kept_at: float | None = None  # sigma
        self._seen: dict[Kind, Tensor] = {}

    def looks(self, step: int) -> list[Kind]:
        """The kinds to evaluate beside the full one in this step."""
        gap = step - self.control.last
        if self.control.computed != LOOK or self._kept_at is None or not gap:
            return []
        left = (self.control.steps - step) / gap  # computed steps, if gaps stay like this
        cheap = min(self.prices.values(), default=1.0)
        return list(self.prices) if left * (1 - cheap) >= WORTH * sum(self.prices.values()) else []

    def choose(self, step: int) -> Kind:
        """The cheapest kind that is near enough."""
        for kind in sorted(self.rates, key=lambda kind: self.prices[kind]):
            if self._kept_at is not None and self._near(self.errors(kind, step)):
                return kind
        return "full"

    def keeps(self, step: int) -> bool:
        """Whether a full evaluation in this step is to keep: before the look, and while it may be of use."""
        if not self.prices or self.control.computed < LOOK:
            return bool(self.prices) and self.control.computed == LOOK - 1
        return any(self._near(self._errors(rates, self._width(step), step)) for rates in self.rates.values())

    def _near(self, errors: list[float]) -> bool:
        return max(errors) <= SHARE * self.control.tolerance

    def kept(self, step: int, keys: bool) -> None:
        """A full evaluation was made, and perhaps kept its keys."""
        self._kept_at = self.control.sigmas[step] if keys else None

    def saw(self, kind: Kind, velocity: Tensor) -> None:
        """What a look gave."""
        self._seen[kind] = velocity

    def compare(self, step: int, velocity: Tensor) -> None:
        """With the full evaluation of the same step, before that one's keys replace the kept ones."""
        if self._seen and self._kept_at is not None:
            age = abs(self._kept_at - self.control.sigmas[step])
            self.rates = {kind: [x / age for x in rms(seen - velocity).tolist()] for kind, seen in self._seen.items()}
            self._seen = {}

    def errors(self, kind: Kind, step: int) -> list[float]:
        """How far an evaluation of that kind will have moved each picture at the end of the run."""
        assert self._kept_at is not None
        age = abs(self._kept_at - self.control.sigmas[step])  # a run that goes back may have kept later ones
        return self._errors(self.rates[kind], age, step)

    def _errors(self, rates: list[float], age: float, step: int) -> list[float]:
        width = self._width(step)
        return self.control.weighted([rate * age * width for rate in rates], self.control.sigmas[step])

    def _width(self, step: int) -> float:
        """In sigma, of the gap before, which stands for the one that follows."""
        return self.control.sigmas[self.control.last] - self.control.sigmas[step]
