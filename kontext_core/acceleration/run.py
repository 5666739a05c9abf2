"""The complete state of one sampling run: the task of each step (`Task`), the work done, and the measurements.

A `Run` connects a solver and the model. The solver asks for the velocity of each step (`step`). If it is not forecast,
the run has the model evaluated; each evaluation under one conditioning goes to a `Stream` (`evaluate`), and the
velocity after guidance goes to `control` and `shortcuts`, which decide about the following steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ..schedule import Part
from ..transformer import Attention, sdpa
from .active import edited_tokens, worthwhile
from .control import Control
from .settings import GIGABYTE, Settings
from .shortcuts import Shortcuts
from .stream import Inputs, Kind, Stream, arithmetic

KINDS: tuple[Kind, ...] = get_args(Kind)  # most complete first
MOST_TABLED = 100  # steps whose modulations are computed together: FLUX.1's take 2 MB a step in bfloat16
TOLD = {"full": "{} full", "cached": "{} cached", "active": "{} active", "forecast": "{} forecast"}  # in the report
Model = Callable[[Tensor, float], Tensor]  # x (b, n, c), sigma -> velocity after guidance


class Task(NamedTuple):
    """The task of the evaluations in a step."""

    kind: Kind
    sigma: float
    keep: bool = False  # a full evaluation fills the caches
    look: bool = False  # only to measure the error of that kind


class Run:
    """The state of one run, or a part of one, over `sigmas` (decreasing, with the final level) under `settings`."""

    def __init__(self, settings: Settings, sigmas: Sequence[float], part: Part | None = None):
        self.settings, self.sigmas = settings, list(sigmas)
        self.control = Control(settings, self.sigmas, part)
        self.shortcuts = Shortcuts(self.control)
        self.streams: dict[Hashable, Stream] = {}
        self.task: Task | None = None  # during an evaluation for this run
        self.mask: Tensor | None = None  # (b, n) the active tokens
        self.share = 1.0  # the active tokens' fraction of the target
        self.done: dict[int, Kind] = {}  # the kind of each step
        self.asked = 0  # evaluations after guidance, without comparisons
        self.elsewhere = 0  # steps that another node answered, or kept from us
        self.notes: list[str] = []  # what could not be done, and why
        self.refused: str | None = None  # why our forward cannot be used in this run
        self._did: Kind | None = None  # the least complete kind evaluated for the task
        self._room = settings.cache_bytes
        self._step = -1
        self._spent = self._looked = self._full = 0.0  # arithmetic: total, of comparisons, and if everything were full

    def step(self, x: Tensor, sigma: float, model: Model) -> Tensor:
        """The velocity (b, n, c) to follow from x at sigma. Off the schedule, or out of order, it is computed."""
        step = self._index(sigma)
        if not self.settings.leaves_out or self.sigmas[step] != sigma:
            self._step, self.control.correction = -2, None
            return self._evaluated(step, Task("full", sigma), x, model)
        if step != self._step + 1:
            self.elsewhere += max(step - self._step - 1, 0) if self._step >= 0 else 0
            self._forget(step)
        self._step = step
        if not self.control.computes(step):
            self.done[step] = "forecast"
        strange, velocity = self.elsewhere, self.control.step(step, x, partial(self._ask, model))
        if self.elsewhere > strange:
            self._forget(step + 1)
        return velocity

    def changed(self, key: Hashable, inputs: Inputs) -> bool:
        """Whether a conditioning differs from when it was first seen."""
        return key in self.streams and self.streams[key].inputs.changed(inputs)

    def evaluate(self, key: Hashable, tree: Any, inputs: Inputs, img: Tensor, attention: Attention = sdpa) -> Tensor:
        """The velocity (b, n, c) of the target's tokens `img` under one conditioning, identified by `key`."""
        assert self.task is not None
        if key not in self.streams:
            dtype = torch.float16 if self.settings.half_precision and img.dtype == torch.float32 else None
            self.streams[key] = Stream(tree, inputs, img, self.sigmas[:-1][:MOST_TABLED], dtype)
            self._reserve(self.streams[key])
        stream, (kind, sigma, keep, _) = self.streams[key], self.task
        velocity, did = stream.velocity(img, sigma, kind, keep and self._room >= 0, self.mask, attention)
        self._count(did, stream.arithmetic(did, self.share), stream.arithmetic("full"))
        return velocity

    def left_out(self, params: Any, batch: int, tokens: int) -> None:
        """Count an evaluation of this many tokens by the model's own forward."""
        flops = batch * arithmetic(params, tokens)
        self._count("full", flops, flops)

    def note(self, text: str) -> None:
        """Add a message for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def end(self) -> None:
        """Count the last steps if another node answered them, and note if it answered all."""
        if not self.done:
            self.note("nothing was accelerated: another node is between the sampler and the model")
        elif self._step >= 0:
            self.elsewhere += len(self.sigmas) - 2 - self._step

    def close(self) -> None:
        """Drop all large tensors."""
        self.streams.clear()
        self.mask = None
        self.control.close()

    @property
    def kinds(self) -> Counter[Kind]:
        """The number of steps of each kind."""
        return Counter(self.done.values())

    # A step

    def _ask(self, model: Model, step: int, x: Tensor) -> Tensor:
        """Evaluate the model in a step of the schedule, and measure cheaper kinds."""
        sigma, shortcuts = self.sigmas[step], self.shortcuts
        for kind in shortcuts.looks(step):
            velocity = self._evaluated(step, Task(kind, sigma, look=True), x, model)
            shortcuts.saw(kind, self._blend(step, kind, velocity))
        task = Task(shortcuts.choose(step), sigma, shortcuts.keeps(step))
        velocity = self._evaluated(step, task, x, model)
        did = self._did or "full"
        velocity = self._blend(step, did, velocity)
        shortcuts.compare(step, velocity)
        if did == "full":
            shortcuts.kept(step, task.keep)
        else:
            self.control.remember(shortcuts.errors(did, step))
        self._price(x - sigma * velocity if task.keep and did == "full" else None)
        return velocity

    def _evaluated(self, step: int, task: Task, x: Tensor, model: Model) -> Tensor:
        """The model's velocity for a task."""
        self.task, self._did = task, None
        try:
            velocity = model(x, task.sigma)
        finally:
            self.task = None
        if not task.look:
            self.asked += self._did is not None
            self.elsewhere += self._did is None
            if self._did is not None:
                self.done[step] = self._did
        return velocity

    def _count(self, did: Kind, flops: float, full: float) -> None:
        """Count an evaluation under one conditioning."""
        self._spent += flops
        if self.task is not None and self.task.look:
            self._looked += flops
            return
        self._full += full
        if self._did is None or KINDS.index(did) > KINDS.index(self._did):
            self._did = did

    def _blend(self, step: int, did: Kind, velocity: Tensor) -> Tensor:
        """Use the forecast outside the active tokens."""
        if did != "active" or self.mask is None:
            return velocity
        return torch.where(self.mask[..., None], velocity, self.control.foreseen(step))

    def _forget(self, step: int) -> None:
        self.control.forget(step)
        self.shortcuts.kept(step, False)

    def _index(self, sigma: float) -> int:
        """The step that contains `sigma`."""
        place = bisect_left(self.sigmas, -sigma, key=float.__neg__)  # sigmas decrease
        if place == len(self.sigmas) or self.sigmas[place] != sigma:
            place -= 1
        return min(max(place, 0), len(self.sigmas) - 2)

    # Cheaper kinds

    def _price(self, estimate: Tensor | None) -> None:
        """Set the cost of cheaper kinds; with an estimate of the picture also that of active tokens."""
        streams = list(self.streams.values())
        if not self.control.tolerance or self._room < 0 or not any(stream.others for stream in streams):
            return
        if estimate is not None:
            self._partition(estimate)
        kinds: tuple[Kind, ...] = ("cached",) if self.mask is None else ("active", "cached")
        full = sum(stream.arithmetic("full") for stream in streams)
        self.shortcuts.prices = {
            kind: sum(stream.arithmetic(kind, self.share) for stream in streams) / full for kind in kinds
        }

    def _partition(self, estimate: Tensor) -> None:
        """Find the active tokens from the one-step estimate; where they save too little, all are active."""
        for stream in self.streams.values():
            grids, references = stream.inputs.grids, stream.inputs.references
            if len(grids) == 2 and grids[0] == grids[1] and stream.target == estimate.shape[1]:
                # in a joined batch the positive is last
                mask = edited_tokens(estimate, references[0][-len(estimate) :], grids[0])
                useful = worthwhile(mask)
                mask = mask | ~useful[:, None]
                self.mask, self.share = (mask, mask.float().mean().item()) if useful.any() else (None, 1.0)

    def _reserve(self, stream: Stream) -> None:
        """Reserve memory for a stream's caches; if there is too little, the run uses no caches."""
        if not self.control.tolerance or not stream.others or self._room < 0:
            return
        need = stream.keeps_bytes((stream.dtype or stream.inputs.txt.dtype).itemsize)
        self._room -= need
        if self._room < 0:
            self.shortcuts.prices, self.shortcuts.rates = {}, {}
            for each in self.streams.values():
                each.drop()
            self.note(
                f"the KV cache needs {need / GIGABYTE:.2f} GB; cache_gb, or half of the device's memory, allows less: "
                "references are computed in every computed step"
            )

    # The report

    def report(self) -> str:
        """The report, as lines of text."""
        done = ", ".join(TOLD[kind].format(self.kinds[kind]) for kind in KINDS if self.kinds[kind])
        steps = f"{len(self.done) + self.elsewhere} steps{self._place()}"
        lines = [f"{steps}: {done or 'none computed here'}"]
        if self.elsewhere:
            lines[0] += f", {self.elsewhere} answered by another node"
        computed = len(self.done) - self.kinds["forecast"]
        if self.asked > computed > 0 and self.settings.leaves_out:
            lines[0] += f"; {self.asked - computed} computed a second time, where the flow bent more than expected"
        if self.kinds["active"]:
            lines.append(f"the edit covers {self.share:.0%} of the picture")
        if self._full:
            lines.append(f"about {self.spent():.0%} of the arithmetic{self._price_of_looks()}")
        return "\n".join([*lines, *self._expected(), *self.notes])

    def _place(self) -> str:
        """The position of a part in the complete run."""
        first, whole = self.control.part
        if self._is_whole:
            return ""
        return f", from {first / whole:.0%} to {(first + self.control.steps) / whole:.0%} of a run"

    @property
    def _is_whole(self) -> bool:
        return self.control.part.whole == self.control.steps

    def spent(self) -> float:
        """The fraction of the full run's arithmetic; a forecast step would have cost the average of computed ones."""
        return self._spent * self.asked / max(self._full * len(self.done), 1)

    def _price_of_looks(self) -> str:
        if not self._looked:
            return ""
        useful = "used here" if self.kinds["cached"] or self.kinds["active"] else "too inexact, not used"
        return f", {self.spent() * self._looked / self._spent:.0%} of it to test cached references: {useful}"

    def _expected(self) -> list[str]:
        """The expected fidelity of the picture to the full run."""
        expected = self.control.expected()
        if self.kinds["forecast"] and self.elsewhere:
            return ["the fidelity to the full run is unknown: another node answered some steps"]
        if expected is not None:
            alone = "" if self._is_whole else " if all other parts are computed in full"
            return [
                f"{expected.decibels:.0f} dB to the full run expected{alone}, "
                f"{expected.low:.0f} to {expected.high:.0f} in nine of ten (as calibrated on the embedded model)"
            ]
        if self.kinds["forecast"]:
            return ["the fidelity to the full run cannot be estimated from one computed step"]
        if self.control.tolerance and self.done and not self.elsewhere:
            return ["every step was computed: forecasts would have moved the picture too far"]
        return []
