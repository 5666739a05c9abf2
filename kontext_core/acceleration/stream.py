"""One conditioning in a run: its evaluations, whole or in part, and what it keeps between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..transformer import Attention, Constants, forward, precompute
from . import cost
from .attention import Kept, keeping, kept_bytes, with_kept
from .modulation import EVERY, ModulationTable
from .plan import Kind, Step

Grid = tuple[int, int]  # rows and columns of tokens


class Inputs(NamedTuple):
    """What a conditioning gives to every evaluation of a run; the first axis of a tensor is the batch."""

    txt: Tensor  # (b, t, context_in_dim)
    y: Tensor | None  # (b, vec_in_dim)
    guidance: Tensor | None  # (b,)
    references: list[Tensor]  # (b, r, 4 * channels) packed, each
    grids: list[Grid]  # of the target and of each reference
    ids: Tensor  # (1, n + all r, 3) positions of target and references


@dataclass
class Limits:
    """What a stream may keep between steps."""

    references: bool = True
    target: bool = True
    dtype: torch.dtype | None = None  # of what is kept; None: as it is


@dataclass
class Spent:
    """What the evaluations of a stream cost, in image tokens and in floating-point operations."""

    evaluations: int = 0
    tokens: int = 0
    flops: int = 0


class Part(NamedTuple):
    """The region of one picture of the batch."""

    tokens: Tensor  # indices of the target tokens in it
    positions: Tensor  # those of text and region in the rotary table
    absent: Kept  # of the target tokens outside it


class Stream:
    """One conditioning, or several that share a batch, over `tree`.

    img (b, n, 4 * channels), the target's tokens, give sizes and type. `sigmas` are those that will be computed.
    """

    def __init__(self, tree: Any, inputs: Inputs, img: Tensor, sigmas: Sequence[float], limits: Limits):
        self.tree, self.inputs, self.limits = tree, inputs, limits
        references = torch.cat(inputs.references, dim=1) if inputs.references else None
        txt_ids = inputs.ids.new_zeros(1, inputs.txt.shape[1], 3)
        self.constants = precompute(tree, inputs.txt, txt_ids, inputs.ids, references)
        self.table = ModulationTable(tree, sigmas, inputs.y, inputs.guidance, like=img)
        self.batch, self.target = img.shape[:2]
        self.text = inputs.txt.shape[1]
        self.others = 0 if references is None else references.shape[1]
        self.spent = Spent(flops=self._once(len(sigmas)))
        self.references: Kept | None = None
        self.target_kept: Kept | None = None
        self.before: Tensor | None = None  # the last velocity
        self._parts: dict[int, Part] = {}  # by picture, while the kept target is of use

    def velocity(
        self, img: Tensor, sigma: float, step: Step, mask: Tensor | None, attention: Attention
    ) -> tuple[Tensor, Kind]:
        """The velocity (b, n, c) at `sigma`, and what was done for it, which is the step's kind or a more complete one.

        mask (pictures, n) is the region; the batch holds one or more conditionings of so many pictures each. Tokens
        outside the region have the velocity that they had before.
        """
        kind = self.possible(step.kind, mask)
        if kind == "region":
            assert mask is not None and self.before is not None
            velocity = self.before.clone()
            for picture, inside in enumerate(mask):
                rows = slice(picture, None, len(mask)) if len(mask) > 1 else EVERY
                part = self._part(picture, inside, rows)
                velocity[rows][:, part.tokens] = self._region(img[rows], sigma, part, rows, attention)
        else:
            velocity = self._everywhere(img, sigma, kind == "full", step, attention)
        self.before = velocity
        self.spent.evaluations += 1
        return velocity, kind

    def possible(self, kind: Kind, mask: Tensor | None) -> Kind:
        """`kind`, or the next more complete one for which what it needs is there."""
        if kind == "region" and (mask is None or self.target_kept is None or mask.shape[1] != self.target):
            kind = "cached"
        return "full" if self.references is None else kind

    def vanilla(self) -> Spent:
        """What one evaluation of the model's own forward costs."""
        flops = cost.vanilla_flops(self.tree.params, self.batch, self.text, self.target, self.others)
        return Spent(1, self.batch * (self.target + self.others), flops)

    def _everywhere(self, img: Tensor, sigma: float, full: bool, step: Step, attention: Attention) -> Tensor:
        """All target tokens, and with `full` the references."""
        pe, txt, references = self.constants
        image = slice(self.text, self.text + self.target)
        self._parts = {}
        if full:
            self.references = Kept([]) if step.keep_references and self.limits.references and self.others else None
            if self.references is not None:
                attention = keeping(attention, slice(image.stop, None), self.limits.dtype, self.references)
        else:
            assert self.references is not None
            attention = with_kept(attention, self.references)
            pe, references = pe[:, :, : image.stop], None
        self.target_kept = Kept([]) if step.keep_target and self.limits.target and self.others else None
        if self.target_kept is not None:
            attention = keeping(attention, image, self.limits.dtype, self.target_kept)
        return self._evaluate(img, sigma, Constants(pe, txt, references), attention, EVERY)

    def _region(self, img: Tensor, sigma: float, part: Part, rows: slice, attention: Attention) -> Tensor:
        """The region's tokens of the batch's `rows`; keys and values of all others are kept ones."""
        assert self.references is not None
        attention = with_kept(attention, part.absent, self.references.rows(rows))
        constants = Constants(self.constants.pe[:, :, part.positions], self.constants.txt[rows], None)
        return self._evaluate(img[:, part.tokens], sigma, constants, attention, rows)

    def _part(self, picture: int, inside: Tensor, rows: slice) -> Part:
        if picture not in self._parts:
            assert self.target_kept is not None
            tokens, outside = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
            text = torch.arange(self.text, device=tokens.device)
            absent = self.target_kept.select(rows, outside)
            self._parts[picture] = Part(tokens, torch.cat((text, self.text + tokens)), absent)
        return self._parts[picture]

    def _evaluate(self, img: Tensor, sigma: float, constants: Constants, attention: Attention, rows: slice) -> Tensor:
        txt, y, guidance, _, _, ids = self.inputs
        modulation = self.table.at(sigma, rows)
        self._count(img, constants, known=modulation is not None)
        return forward(
            self.tree, img, ids, constants.txt, ids, img.new_full((len(img),), sigma, dtype=torch.float32),
            None if y is None else y[rows], None if guidance is None else guidance[rows],
            attention=attention, constants=constants, modulation=modulation,
        )  # fmt: skip

    def _count(self, img: Tensor, constants: Constants, known: bool) -> None:
        batch, target = img.shape[:2]
        references = 0 if constants.references is None else self.others
        kept = self.target + self.others - target - references
        self.spent.tokens += batch * (target + references)
        params = self.tree.params
        self.spent.flops += cost.step_flops(params, batch, self.text, target, references, kept)
        if not known:
            self.spent.flops += batch * cost.conditioning_flops(params)

    def _once(self, steps: int) -> int:
        """What the table and the constants cost."""
        params = self.tree.params
        constants = cost.constants_flops(params, self.batch, self.text, self.others)
        return constants + steps * self.table.rows * cost.conditioning_flops(params)


def stream_bytes(params: Any, batch: int, tokens: int, itemsize: int) -> int:
    """What keys and values of so many tokens take over all blocks."""
    return kept_bytes(params.depth + params.depth_single_blocks, batch, tokens, params.hidden_size, itemsize)
