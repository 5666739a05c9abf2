"""The velocity of a step that is not computed, from those that were.

With order 0 the last velocity is used again, with order 1 it goes on along the line through the last two, with order 2
along the parabola through the last three; sigma is the variable. An order between two whole ones is their mixture, for
long gaps, where a slope tells less. This is what a multistep solver does (Hairer, Norsett, Wanner: Solving Ordinary
Differential Equations I, section III.5), but on the fine steps of the schedule: so the result tends to that of the full
schedule, and not to another one's. TaylorSeer (arXiv 2503.06923) forecasts features alike.
"""

from __future__ import annotations

import math
from collections import deque

from torch import Tensor

HIGHEST_ORDER = 2.0


class Forecast:
    """Computed velocities of a run, and the polynomial of `order` through the last ones; any shape, one for all."""

    def __init__(self, order: float):
        self.order = order
        self._known: deque[tuple[float, Tensor]] = deque(maxlen=math.ceil(order) + 1)

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, sigma: float, velocity: Tensor) -> None:
        """A computed velocity; sigmas must differ."""
        self._known.append((sigma, velocity))

    def at(self, sigma: float) -> Tensor:
        """The velocity to expect at `sigma`; exact if it is a polynomial of sigma of that (whole) order."""
        terms = [weight * velocity for weight, (_, velocity) in zip(self._weights(sigma), self._known, strict=True)]
        return sum(terms[1:], terms[0])

    def _weights(self, sigma: float) -> list[float]:
        points = [known for known, _ in self._known]
        low, high = math.floor(self.order), math.ceil(self.order)
        upper = lagrange(points, sigma)
        if low == high or len(points) <= low + 1:
            return upper
        lower = [0.0] * (len(points) - low - 1) + lagrange(points[-low - 1 :], sigma)
        share = self.order - low
        return [share * a + (1 - share) * b for a, b in zip(upper, lower, strict=True)]


def lagrange(points: list[float], at: float) -> list[float]:
    """The weights of the values at `points` in the polynomial through them, at `at`."""
    weights = []
    for point in points:
        weight = 1.0
        for other in points:
            if other != point:
                weight *= (at - other) / (point - other)
        weights.append(weight)
    return weights
