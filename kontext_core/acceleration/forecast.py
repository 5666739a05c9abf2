"""Forecast velocities from computed ones, and correct the steps in between afterwards.

A step that is not computed uses the velocity of the polynomial through the last computed ones, in sigma. When the next
velocity is known, the movement of the steps in between is corrected by the parabola through it: an Adams
predictor-corrector (Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, sections III.1 and III.5), but
on the fine steps of the schedule, so that the result converges to that of the full schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

HIGHEST_ORDER = 2


class Velocities:
    """The last computed velocities of a run, (b, n, c) each."""

    def __init__(self, known: Sequence[tuple[float, Tensor]] = ()):
        self._known = list(known)

    def __len__(self) -> int:
        return len(self._known)

    def with_another(self, sigma: float, velocity: Tensor) -> Velocities:
        """The last ones and a new one; sigmas must differ."""
        return Velocities([*self._known[-HIGHEST_ORDER:], (sigma, velocity)])

    def at(self, sigma: float, order: int) -> Tensor:
        """The expected velocity at `sigma`; exact if it is a polynomial of that order in sigma."""
        return self._combined(self._weights(sigma, order))

    def moved(self, sigmas: Sequence[float], order: int) -> Tensor:
        """The movement of Euler's steps over `sigmas` with the expected velocities."""
        each = [[(b - a) * weight for weight in self._weights(a, order)] for a, b in pairwise(sigmas)]
        return self._combined([sum(column) for column in zip(*each, strict=True)])

    def bend(self, order: int) -> Tensor:
        """(b, n, c) leading coefficient of the polynomial of that order: the slope for 1, half the curvature for 2."""
        points = [sigma for sigma, _ in self._last(order)]
        weights = []
        for point in points:
            weight = 1.0
            for other in points:
                if other != point:
                    weight /= point - other
            weights.append(weight)
        return self._combined(weights)

    def reach(self, sigmas: Sequence[float], order: int) -> float:
        """The error of Euler's steps over `sigmas` with the forecast of `order`, per unit of the next coefficient."""
        total = 0.0
        for a, b in pairwise(sigmas):
            product = b - a
            for sigma, _ in self._last(order):
                product *= a - sigma
            total += product
        return abs(total)

    def _last(self, order: int) -> list[tuple[float, Tensor]]:
        return self._known[-(order + 1) :]

    def _weights(self, at: float, order: int) -> list[float]:
        return lagrange([sigma for sigma, _ in self._last(order)], at)

    def _combined(self, weights: list[float]) -> Tensor:
        terms = [weight * velocity for weight, (_, velocity) in zip(weights, self._last(len(weights) - 1), strict=True)]
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


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """(b,) cosine between two tensors (b, ...)."""
    return torch.cosine_similarity(a.flatten(1).float(), b.flatten(1).float(), dim=1)


def rms(x: Tensor) -> Tensor:
    """(b, ...) -> (b,) root of the mean square."""
    return x.flatten(1).float().square().mean(1).sqrt()
