"""The velocity of a step that is not computed, from those that were.

With order 0 the last velocity is used again, with order 1 it goes on along the line through the last two, with order 2
along the parabola through the last three; sigma is the variable. This is what a multistep solver does (Hairer, Norsett,
Wanner: Solving Ordinary Differential Equations I, section III.5), but on the fine steps of the schedule: so the result
tends to that of the full schedule, and not to another one's. TaylorSeer (arXiv 2503.06923) forecasts features alike.
"""

from __future__ import annotations

from collections import deque

from torch import Tensor

ORDERS = (0, 1, 2)


class Forecast:
    """Computed velocities of a run, and the polynomial of `order` through the last ones; any shape, one for all."""

    def __init__(self, order: int):
        self._known: deque[tuple[float, Tensor]] = deque(maxlen=order + 1)

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, sigma: float, velocity: Tensor) -> None:
        """A computed velocity; sigmas must differ."""
        self._known.append((sigma, velocity))

    def at(self, sigma: float) -> Tensor:
        """The velocity to expect at `sigma`; exact if it is a polynomial of sigma of that order."""
        weights = lagrange([known for known, _ in self._known], sigma)
        terms = [weight * velocity for weight, (_, velocity) in zip(weights, self._known, strict=True)]
        return sum(terms[1:], terms[0])


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
