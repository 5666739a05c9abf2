"""One sampling run that follows a plan. All of its state is in a `Run` and goes with it.

A `Run` stands between a first-order solver and the model. Before an evaluation it is told sigma (`begin`). A forecast
step is answered from earlier velocities (`forecast`); at any other the model is evaluated, by one `Stream` for each
conditioning (`evaluate`), and the velocity after guidance handed in (`finish`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..transformer import Attention, sdpa
from . import cost
from .forecast import Forecast
from .plan import EVERYTHING, GIGABYTE, KINDS, Kind, Settings, Step, make_plan
from .regions import edited_tokens, worthwhile
from .stream import Inputs, Limits, Stream, stream_bytes


class Run:
    """The state of one run over `sigmas` (falling; the last is where the run ends) under `settings`.

    Its references have `weight` times the target's tokens.
    """

    def __init__(self, settings: Settings, sigmas: Sequence[float], weight: float = 1):
        self.settings, self.sigmas = settings, list(sigmas)
        self.plan = make_plan(len(self.sigmas) - 1, settings, weight)
        self.streams: dict[Hashable, Stream] = {}
        self.step: Step = EVERYTHING
        self.sigma = float("nan")
        self.mask: Tensor | None = None  # (b, n) the region
        self.kinds: Counter[Kind] = Counter()  # what the steps did
        self.share: float | None = None  # of the target's tokens that the region has
        self.notes: list[str] = []  # what of the plan could not be done, and why
        self.refused: str | None = None  # why no evaluation of this run can be ours
        self._latest, self._everywhere = Forecast(settings.order), Forecast(settings.order)
        self._did: Kind | None = None  # the most that an evaluation in this step did
        self._budget = settings.cache_bytes
        self._elsewhere = Cost(0, 0)  # of evaluations that the model's own forward made

    def begin(self, sigma: float) -> Step:
        """What to do at `sigma`. Off the schedule: what the step does in which it lies, but no forecast."""
        self.sigma, self._did = sigma, None
        index = self._index(sigma)
        self.step = self.plan[index]
        if self.step.kind == "forecast" and not (self._latest and self.sigmas[index] == sigma):
            self.step = EVERYTHING
        return self.step

    @property
    def begun(self) -> bool:
        """Whether it has been told sigma; a call before that is none of the run's."""
        return not math.isnan(self.sigma)

    def evaluate(
        self, key: Hashable, tree: Any, describe: Callable[[], Inputs], img: Tensor, attention: Attention = sdpa
    ) -> Tensor:
        """The velocity (b, n, c) of the target's tokens `img` under one conditioning.

        It is known by `key`, and described when it is first seen.
        """
        if key not in self.streams:
            inputs = describe()
            computed = [s for s, step in zip(self.sigmas, self.plan, strict=False) if step.kind != "forecast"]
            self.streams[key] = Stream(tree, inputs, img, computed, self._limits(tree, inputs, img))
        velocity, kind = self.streams[key].velocity(img, self.sigma, self.step, self.mask, attention)
        self.did(kind)
        return velocity

    def did(self, kind: Kind) -> None:
        """An evaluation of this step was of that kind; of several the most complete counts."""
        if self._did is None or KINDS.index(kind) < KINDS.index(self._did):
            self._did = kind

    def left_out(self, params: Any, batch: int, text: int, target: int, references: int) -> None:
        """An evaluation of this step that the model's own forward makes, of so many tokens."""
        self.did("full")
        flops = cost.vanilla_flops(params, batch, text, target, references)
        self._elsewhere += Cost(batch * (target + references), flops)

    def forecast(self) -> Tensor:
        """The velocity (b, n, c) of a step that is not computed."""
        self.kinds["forecast"] += 1
        return self._blend(self._latest.at(self.sigma))

    def finish(self, x: Tensor, velocity: Tensor) -> Tensor:
        """Take x and the velocity (b, n, c) after guidance; give the velocity to go on with.

        Tokens outside the region follow the forecast from the steps that computed them.
        """
        if self._did is None:
            return velocity
        self.kinds[self._did] += 1
        if self._did == "region":
            velocity = self._blend(velocity)
        else:
            self._everywhere.add(self.sigma, velocity)
            if self.step.keep_target:
                self._partition(x - self.sigma * velocity)
        self._latest.add(self.sigma, velocity)
        return velocity

    def note(self, text: str) -> None:
        """Something for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def close(self) -> None:
        """Drop everything that is large."""
        self.streams.clear()
        self.mask, self._latest, self._everywhere = None, Forecast(0), Forecast(0)

    def report(self) -> str:
        """What the run did, in lines."""
        done = ", ".join(f"{self.kinds[kind]} {kind}" for kind in KINDS if self.kinds[kind])
        lines = [f"{sum(self.kinds.values())} steps: {done or 'none'}"]
        if self.share is not None:
            lines.append(f"the edit covers {self.share:.0%} of the picture")
        spent, vanilla = self.spent(), self.vanilla()
        if spent.flops:
            tokens, flops = spent.tokens / vanilla.tokens, spent.flops / vanilla.flops
            lines.append(f"{tokens:.0%} of all image tokens computed, about {flops:.0%} of the arithmetic")
        return "\n".join([*lines, *self.notes])

    def spent(self) -> Cost:
        """What the evaluations cost."""
        parts = (Cost(stream.spent.tokens, stream.spent.flops) for stream in self.streams.values())
        return sum(parts, self._elsewhere)

    def vanilla(self) -> Cost:
        """What the same steps had cost with the model's own forward; a forecast one as a computed one on average."""
        full = self._elsewhere
        for stream in self.streams.values():
            evaluations, one = stream.spent.evaluations, stream.vanilla()
            full += Cost(evaluations * one.tokens, evaluations * one.flops)
        steps = self.kinds.total()
        computed = max(steps - self.kinds["forecast"], 1)
        return Cost(full.tokens * steps // computed, full.flops * steps // computed)

    def _index(self, sigma: float) -> int:
        """The step in which `sigma` lies."""
        place = bisect_left(self.sigmas, -sigma, key=float.__neg__)  # sigmas fall
        if place == len(self.sigmas) or self.sigmas[place] != sigma:
            place -= 1
        return min(max(place, 0), len(self.plan) - 1)

    def _blend(self, velocity: Tensor) -> Tensor:
        if self.mask is None:
            return velocity
        return torch.where(self.mask[..., None], velocity, self._everywhere.at(self.sigma))

    def _partition(self, estimate: Tensor) -> None:
        """Find the region from the one-step estimate; a picture whose region would save too little is all region."""
        pair = self._reference(estimate)
        if pair is None:
            self.note("no region: that needs one reference of the size of the target")
            return
        mask = edited_tokens(estimate, *pair)
        self.share = mask.float().mean().item()
        useful = worthwhile(mask)
        self.mask = mask | ~useful[:, None] if useful.any() else None

    def _reference(self, estimate: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
        """The one reference of the target's size, and the grid."""
        for stream in self.streams.values():
            grids, references = stream.inputs.grids, stream.inputs.references
            if len(grids) == 2 and grids[0] == grids[1] and stream.target == estimate.shape[1]:
                return references[0][-len(estimate) :], grids[0]  # of a joined batch the positive is last
        return None

    def _limits(self, tree: Any, inputs: Inputs, img: Tensor) -> Limits:
        """What a new stream may keep, within the run's budget."""
        half = self.settings.half_precision and img.dtype == torch.float32
        itemsize = 2 if half else img.dtype.itemsize
        others = sum(part.shape[1] for part in inputs.references)
        allowed = []
        for wanted, tokens, what in (
            (any(step.keep_references for step in self.plan), others, "references"),
            (any(step.keep_target for step in self.plan), img.shape[1], "target"),
        ):
            need = stream_bytes(tree.params, len(img), tokens, itemsize) if wanted and others else 0
            allowed.append(need <= self._budget)
            self._budget -= need if allowed[-1] else 0
            if not allowed[-1]:
                self.note(
                    f"keys and values of the {what} need {need / GIGABYTE:.2f} GB; cache_gb, or half of the device's "
                    "memory, allows less: not kept"
                )
        references, target = allowed
        return Limits(references, target, torch.float16 if half else None)


@dataclass(frozen=True)
class Cost:
    """Image tokens computed, and floating-point operations."""

    tokens: int
    flops: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.flops + other.flops)
