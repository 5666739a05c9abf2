"""What each step of a run computes: a pure function of the number of steps and the settings.

full       all tokens
cached     text and target; keys and values of the references are those of an earlier step
region     text and the target tokens that the edit changes; all others are as in an earlier step
forecast   nothing: the velocity is foreseen from computed ones

Whether there is a region, the run's own early estimate says; a region step without one is a cached step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

GIGABYTE = 1000**3
CLOSER = 1.3  # power by which computed steps draw together towards the end; 1: even ones
Kind = Literal["full", "cached", "region", "forecast"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # the most complete first


@dataclass(frozen=True)
class Settings:
    """How much of a run is computed. The defaults compute everything."""

    computed: int | None = None  # steps the model computes, however many the schedule has; None: all
    order: float = 1  # of the forecast of the others, see `forecast`
    refresh: int | None = 1  # references are computed in every so many computed steps; 0: once; None: see `every`
    keep_from: int = 1  # the computed step that first keeps them, from 1; those before compute them too
    warmup: int | None = None  # computed steps over all target tokens before the first region step; None: no regions
    region_refresh: int = 4  # of so many computed steps after that, the last is over all target tokens
    smooth: int = 1  # so many last computed steps are over all target tokens
    half_precision: bool = False  # keep keys and values in 16 bits
    cache_gigabytes: float = 12.0  # at most this much for kept keys and values

    def every(self, weight: float) -> int:
        """`refresh`, for references of `weight` times the target's tokens.

        An open one is that multiple from three on: the more the references cost, the more seldom they are computed.
        Below it is every computed step, since kept keys cost more fidelity there than they save.
        """
        if self.refresh is not None:
            return self.refresh
        multiple = round(weight)
        return multiple if multiple > 2 else 1

    def keeps(self, weight: float) -> bool:
        """Whether keys and values are kept."""
        return self.every(weight) != 1

    @property
    def cache_bytes(self) -> int:
        """At most this much for kept keys and values."""
        return int(self.cache_gigabytes * GIGABYTE)

    def limited(self, cache_gigabytes: float) -> Settings:
        """The same with at most so much kept."""
        return replace(self, cache_gigabytes=min(cache_gigabytes, self.cache_gigabytes))

    def keeping(self, cache_gigabytes: float, half_precision: bool, keep_from: int) -> Settings:
        """The same with other numbers for what is kept."""
        return replace(self, cache_gigabytes=cache_gigabytes, half_precision=half_precision, keep_from=keep_from)

    def without_forecast(self) -> Settings:
        """For a sampler that calls the model where it likes: every call is computed, over all target tokens."""
        return replace(self, computed=None, warmup=None)


PRESETS = {
    "exact": Settings(),
    "quality": Settings(computed=10, refresh=None),
    "balanced": Settings(computed=7, refresh=None),
    "fast": Settings(computed=3, order=0.3, refresh=None),
}


class Step(NamedTuple):
    kind: Kind
    keep_references: bool = False  # a later step uses the references' keys and values of this one
    keep_target: bool = False  # likewise the target's, and this one's estimate says where the edit is


EVERYTHING = Step("full")


def make_plan(steps: int, settings: Settings, weight: float = 1) -> tuple[Step, ...]:
    """One `Step` for each of `steps`, with references of `weight` times the target's tokens.

    The first is always computed over all tokens.
    """
    at = computed_steps(steps, settings.computed)
    every = settings.every(weight)
    kinds: list[Kind] = [_kind(rank, len(at), every, settings) for rank in range(len(at))]
    following: list[Kind | None] = [*kinds[1:], None]
    plan: list[Step] = [Step("forecast")] * steps
    for step, kind, then in zip(at, kinds, following, strict=True):
        plan[step] = Step(kind, kind == "full" and then not in (None, "full"), kind != "region" and then == "region")
    return tuple(plan)


def computed_steps(steps: int, count: int | None) -> list[int]:
    """Which steps are computed: the first, and others ever closer to each other, the last one shortly before the end.

    Towards the end sigma falls faster from step to step, and what goes wrong there nothing mends.
    """
    if count is None or count >= steps:
        return list(range(steps))
    at = [0]
    for rank in range(1, count):
        place = round(steps * (1 - (1 - rank / (count - 0.5)) ** CLOSER))
        at.append(min(max(place, at[-1] + 1), steps - count + rank))
    return at


def _kind(rank: int, count: int, every: int, settings: Settings) -> Kind:
    kept_for = rank - (settings.keep_from - 1)
    if kept_for <= 0 or every == 1 or (every and kept_for % every == 0):
        return "full"
    if settings.warmup is None or rank >= count - settings.smooth:
        return "cached"
    since = rank - max(settings.warmup, 1)
    return "cached" if since < 0 or since % settings.region_refresh == settings.region_refresh - 1 else "region"


def describe(settings: Settings) -> str:
    """What the settings mean, in a few lines for the user."""
    lines = ["every step is computed" if settings.computed is None else f"{settings.computed} steps are computed"]
    if settings.computed is not None:
        lines[0] += f", the others forecast (order {settings.order:g})"
    if settings.refresh != 1:
        lines.append(f"references computed {_when(settings)}, else kept: at most {settings.cache_gigabytes:g} GB")
    if settings.warmup is not None:
        lines.append(f"after {max(settings.warmup, 1)} computed steps, only the part that the edit changes")
    return "\n".join(lines)


def _when(settings: Settings) -> str:
    """When references are computed, in words."""
    first = f"the first {settings.keep_from} computed steps" if settings.keep_from > 1 else "the first step"
    if settings.refresh == 0:
        return f"in {first}"
    every = "n computed steps, where they are n > 2 times the target's size"
    if settings.refresh:
        every = f"{settings.refresh} computed steps"
    return f"every {every}" if settings.keep_from == 1 else f"in {first} and then every {every}"
