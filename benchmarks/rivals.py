"""The published rules by which other packs skip model calls, as rivals of Kontext Accelerate.

Each wraps a `Velocity` for one run with Euler, evaluates it or reuses an earlier result, and counts the model calls.
In a batch, and with cfg, all pictures are decided together.

EasyCache   ComfyUI, `comfy_extras/nodes_easycache.py`
TeaCache    ComfyUI-TeaCache 91dff8e, its coefficients, threshold and range for FLUX.1 Kontext [dev]
MagCache    ComfyUI-MagCache 47bdd2a, its magnitude ratios for the same model in 20 steps
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Velocity
from kontext_core.tokens import unpack
from kontext_core.transformer import conditioning_vector, last_layer

TEACACHE = (-1046.55119, 312.563399, -16.9500694, 0.410995971, 0.0374537863)  # highest power first
# fmt: off
MAGCACHE = (
    1.0, 1.21875, 1.0625, 1.03125, 1.03125, 1.0, 1.00781, 1.03906, 0.98047, 1.03125,
    0.96875, 1.02344, 1.0, 0.99219, 1.02344, 0.98047, 0.95703, 0.98828, 0.98047, 0.88672,
)
# fmt: on
ALWAYS = 11  # the step that MagCache computes in every schedule


class Rule(ABC):
    """Wraps a `Velocity` for one run and replaces its evaluations before guidance."""

    START, END = 0.0, 1.0  # fractions of the run in which calls may be skipped

    def __init__(self, velocity: Velocity, steps: int, threshold: float):
        self.velocity, self.steps, self.threshold = velocity, steps, threshold
        self.step = self.calls = 0
        self.waited = 0.0
        self.evaluate = velocity.evaluate
        velocity.evaluate = self._evaluate  # type: ignore[method-assign]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        v = self.velocity(x, sigma)
        self.step += 1
        return v

    @property
    def inside(self) -> bool:
        return self.START <= self.step / self.steps <= self.END

    @abstractmethod
    def _evaluate(self, x: Tensor, times: Tensor) -> Tensor:
        """An evaluation before guidance, or its replacement."""


class EasyCache(Rule):
    """Reuses the output's increment over the input while the estimated change of the output stays below a threshold.

    Changes are measured on every eighth row and column of the latent, of the first conditioning in the batch.
    """

    START, END, SUBSAMPLE = 0.15, 0.95, 8
    before: tuple[Tensor, Tensor] | None = None  # x and output of the last model call in the range
    rate: float | None = None  # change of the output for a change of x

    def _evaluate(self, x: Tensor, times: Tensor) -> Tensor:
        moved = self.change(x, self.before[0]) if self.inside and self.before else None
        if moved is not None and self.rate is not None:
            self.waited += self.rate * moved / size(self.before[1])
            if self.waited < self.threshold:
                return x + self.before[1] - self.before[0]
            self.waited = 0.0
        v = self.evaluate(x, times)
        self.calls += 1
        if moved is not None:
            self.rate = self.change(v, self.before[1]) / moved
        self.before = (x, v) if self.inside else self.before
        return v

    def change(self, a: Tensor, b: Tensor) -> float:
        first = slice(0 if self.velocity.cfg == 1 else len(a) // 2, None)  # the host's batch begins with the negative
        side = 2 * math.isqrt(a.shape[1])
        return size(unpack(a[first] - b[first], side, side)[..., :: self.SUBSAMPLE, :: self.SUBSAMPLE])


class BlockCache(Rule):
    """Adds the change that the blocks made to the target's tokens when they last ran, while `reuses` says so."""

    change: Tensor | None = None

    def _evaluate(self, x: Tensor, times: Tensor) -> Tensor:
        given, tree = self.velocity, self.velocity.tree
        vec = conditioning_vector(tree, times, given.pooled, given.guidance, like=x)
        entering = tree.img_in(x)
        if self.inside and self.reuses(entering, vec) and self.change is not None:
            return last_layer(tree.final_layer, entering + self.change, lambda module: module(vec))
        leaving: list[Tensor] = []
        hook = tree.final_layer.norm_final.register_forward_pre_hook(lambda _, inputs: leaving.extend(inputs))
        v = self.evaluate(x, times)
        hook.remove()
        self.calls += 1
        self.change = leaving[0] - entering
        return v

    @abstractmethod
    def reuses(self, entering: Tensor, vec: Tensor) -> bool:
        """Whether a step in the range skips the blocks; `entering` are the target's embedded tokens (b, n, hidden)."""


class TeaCache(BlockCache):
    """Skips while a polynomial of the relative change of the first block's input, summed, is below the threshold."""

    START, END = 0.2, 0.9
    before: Tensor | None = None

    def reuses(self, entering: Tensor, vec: Tensor) -> bool:
        block, references = self.velocity.tree.double_blocks[0], self.velocity.constants.references
        tokens = entering if references is None else torch.cat((entering, references), dim=1)
        first, _ = block.img_mod(vec)
        tokens = block.img_norm1(tokens) * (1 + first.scale) + first.shift
        before, self.before = self.before, tokens
        if before is None:
            return False
        self.waited += abs(float(np.polyval(TEACACHE, size(tokens - before) / size(before))))
        if self.waited < self.threshold:
            return True
        self.waited = 0.0
        return False


class MagCache(BlockCache):
    """Skips up to four steps in a row, while the error predicted by the known magnitude ratios is below a threshold."""

    START, IN_A_ROW = 0.2, 4
    product, skipped = 1.0, 0

    def reuses(self, entering: Tensor, vec: Tensor) -> bool:
        self.product *= MAGCACHE[round(self.step * (len(MAGCACHE) - 1) / max(self.steps - 1, 1))]
        self.skipped += 1
        self.waited += abs(1 - self.product)
        if self.waited <= self.threshold and self.skipped <= self.IN_A_ROW and self.step != ALWAYS:
            return True
        self.product, self.skipped, self.waited = 1.0, 0, 0.0
        return False


def size(x: Tensor) -> float:
    """The mean absolute value."""
    return float(x.abs().mean())
