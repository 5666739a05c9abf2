"""Compare ways at equal fidelity and at equal speed: points of speedup and PSNR, and curves through them.

A way with a parameter (steps, a threshold) gives a curve: between two points the logarithm of the speedup is
interpolated linearly in PSNR. A point also covers everything worse: slower at its fidelity, or less exact at its speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """One measured result of a way."""

    name: str
    ratio: float  # speedup
    psnr: float  # dB


Curve = list[Point]  # the points of one parameter


class Lead(NamedTuple):
    """A point against the fastest rival at the same fidelity."""

    point: Point
    rival: Point
    bound: str  # "": compared at the point's PSNR; ">": every rival is less exact; "<": every rival is more exact

    @property
    def times(self) -> float:
        """How much faster the point is: exactly, at least (">") or at most ("<")."""
        return self.point.ratio / self.rival.ratio


def lead(point: Point, rivals: Iterable[Curve]) -> Lead:
    """`point` against the rivals' best at its PSNR.

    If none is as exact, against the most exact one, which is faster than any could be at that PSNR. If all are more
    exact, against the fastest, which could be faster still.
    """
    curves = [sorted(curve, key=lambda p: p.psnr) for curve in rivals]
    known = [p for curve in curves for p in curve]
    exact_enough = [p for p in known if p.psnr >= point.psnr]
    if not exact_enough:
        return Lead(point, max(known, key=lambda p: p.psnr), ">")
    between = [at for curve in curves for a, b in pairwise(curve) if (at := _at_psnr(a, b, point.psnr))]
    best = max(exact_enough + between, key=lambda p: p.ratio)
    return Lead(point, best, "" if any(p.psnr <= point.psnr for p in known) else "<")


def psnr_at(ratio: float, curves: Iterable[Curve]) -> float | None:
    """The best PSNR at a speedup of `ratio`; None if none is as fast."""
    found = []
    for curve in curves:
        ordered = sorted(curve, key=lambda p: p.ratio)
        found += [p.psnr for p in ordered if p.ratio >= ratio]
        for a, b in pairwise(ordered):
            if a.ratio <= ratio <= b.ratio and a.ratio < b.ratio:
                share = math.log(ratio / a.ratio) / math.log(b.ratio / a.ratio)
                found.append(a.psnr + share * (b.psnr - a.psnr))
    return max(found, default=None)


def _at_psnr(a: Point, b: Point, psnr: float) -> Point | None:
    """The point at `psnr` on the curve from a to b, where a is the more exact one."""
    if not a.psnr <= psnr <= b.psnr or a.psnr == b.psnr:
        return None
    share = (psnr - a.psnr) / (b.psnr - a.psnr)
    return Point(f"between {a.name} and {b.name}", a.ratio * (b.ratio / a.ratio) ** share, psnr)
