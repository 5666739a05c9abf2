"""Noise levels (sigmas): linear from 1 to 0, shifted towards noise for larger targets.

The rules are those of black-forest-labs/flux, `src/flux/sampling.py: get_schedule`. References do not affect them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Time = TypeVar("Time", float, Tensor)

_TABLE = 2e-4  # tolerance, as a fraction of a run: hosts read noise levels from a table of 10000 entries
_SAME_TIME = 1e-4  # tolerance: a step's fraction is computed from its noise level, which is float32


def mu(tokens: int) -> float:
    """The log-shift for a target of `tokens` tokens: 0.5 at 256 (256x256 px), 1.15 at 4096 (1024x1024 px).

    Linear in `tokens`, not clamped. Source: `get_lin_function` in BFL's sampling.py.
    """
    return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)


_mu_of_tokens = mu  # flow_sigmas has a keyword argument of that name


def time_shift(mu: float, t: Time) -> Time:
    """Shift times `t` in 0..1 towards 1 (noise) by the log-shift `mu`; 0 and 1 are fixed points.

    With alpha = e^mu this is alpha t / (alpha t + 1 - t): BFL's `time_shift` at sigma 1 (arXiv 2506.15742,
    appendix A.2), written so that t = 0 needs no division by zero.
    """
    noise = math.exp(mu) * t
    return noise / (noise + (1 - t))


def flow_sigmas(steps: int, target_tokens: int, *, denoise: float = 1.0, mu: float | None = None) -> Tensor:
    """The `steps` + 1 noise levels of a run, float32, falling to exactly 0.

    target_tokens   tokens of the target, without references; they set the shift unless `mu` is given
    denoise         in (0, 1]; below 1 the run starts later: the last `steps` of int(steps / denoise) steps,
                    as in ComfyUI's BasicScheduler

    Raises ValueError for fewer than one step and for a denoise outside (0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed.")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}; it must be above 0 and at most 1 (from pure noise).")
    shift = _mu_of_tokens(target_tokens) if mu is None else mu
    times = torch.linspace(1, 0, int(steps / denoise) + 1, dtype=torch.float64)
    return time_shift(shift, times)[-(steps + 1) :].float()


def time_of(sigma: float, mu: float) -> float:
    """The inverse of `time_shift`."""
    return sigma / (sigma + math.exp(mu) * (1 - sigma))


def fractions(sigmas: Tensor, part: bool = False, shifts: Sequence[float] = ()) -> list[float]:
    """The completed fraction of a run at each of its noise levels `sigmas` (n + 1,): 0 at the first, 1 at the last.

    Each step counts as 1/n. A `part` of a split run does not begin at 0 or does not end at 1. Its position follows from
    its noise levels: under one of the log-shifts `shifts` they are steps of equal length. If they are not under any,
    the last shift is used, as for the host's own ranges.
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    times: list[float] = []
    for shift in shifts if part and levels[0] > levels[-1] else ():
        times = [time_of(level, shift) for level in levels]
        count = round(steps / (times[0] - times[-1]))
        places = [round(time * count) for time in times]
        if all(abs(time - place / count) < _TABLE for time, place in zip(times, places, strict=True)):
            return [1 - place / count for place in places]
    return [1 - time for time in times] if times else [step / max(steps, 1) for step in range(steps + 1)]


class Part(NamedTuple):
    """Which steps of a longer run a sampler was given."""

    first: int  # counted from 0
    whole: int  # steps of the longer run


def part_of(done: Sequence[float]) -> Part:
    """The part of a run whose noise levels lie at the fractions `done` (n + 1,), see `fractions`."""
    steps = len(done) - 1
    whole = max(round(steps / ((done[-1] - done[0]) or 1)), steps)
    return Part(round(done[0] * whole), whole)


def progress(sigma: float, sigmas: Tensor, done: Sequence[float]) -> float:
    """The completed fraction of a run at noise level `sigma`; linear in sigma between two levels.

    `sigmas` (n + 1,) is decreasing; `done` holds the fractions of its levels, see `fractions`.
    """
    levels = sigmas.tolist()
    if sigma >= levels[0]:
        return done[0]
    for (above, below), (before, after) in zip(pairwise(levels), pairwise(done), strict=True):
        if sigma >= below:
            return before + (after - before) * (above - sigma) / (above - below)
    return done[-1]


def require_range(start: float, end: float, names: tuple[str, str] = ("start", "end")) -> None:
    """ValueError for a range that ends before it starts."""
    if start > end:
        raise ValueError(
            f"{names[0]} is {start:g} and {names[1]} {end:g}, so it would have no effect; start must not be above end."
        )


def is_during(progress: float, start: float, end: float) -> bool:
    """Whether `start` <= `progress` < `end`, all fractions of a run; an end of 1 includes the last step.

    So the ranges 0 to p and p to 1 split a run without gap or overlap.
    """
    return progress >= start - _SAME_TIME and (end >= 1 or progress < end - _SAME_TIME)
