"""One conditioning in a run: its full and partial evaluations, and its caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..transformer import Attention, Constants, forward, precompute
from .attention import Kept, keeping, kept_bytes, with_kept
from .modulation import EVERY, ModulationTable

Grid = tuple[int, int]  # rows and columns of tokens
Kind = Literal["full", "cached", "active", "forecast"]
"""full: all tokens. cached: text and target, with the references' KV cache. active: text and the target tokens that the
edit changes, with a KV cache for all others. forecast: no evaluation."""


class Inputs(NamedTuple):
    """The inputs of a conditioning to every evaluation of a run; the first axis of a tensor is the batch."""

    txt: Tensor  # (b, t, context_in_dim)
    y: Tensor | None  # (b, vec_in_dim)
    guidance: Tensor | None  # (b,)
    references: list[Tensor]  # (b, r, 4 * channels) packed, each
    grids: list[Grid]  # of the target and of each reference
    ids: Tensor  # (1, n + all r, 3) positions of target and references

    def changed(self, other: Inputs) -> bool:
        """Whether another evaluation has other values."""
        mine = [self.txt, self.y, self.guidance, self.ids, *self.references]
        theirs = [other.txt, other.y, other.guidance, other.ids, *other.references]
        return len(mine) != len(theirs) or not all(_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def copy(self) -> Inputs:
        """A copy that does not change when these tensors are modified."""
        y, guidance = (None if x is None else x.clone() for x in (self.y, self.guidance))
        return self._replace(
            txt=self.txt.clone(), y=y, guidance=guidance, references=[x.clone() for x in self.references]
        )


class Part(NamedTuple):
    """The active tokens of one picture in the batch."""

    tokens: Tensor  # their indices in the target
    positions: Tensor  # rotary table of text and active tokens
    absent: Kept  # KV cache of the target's other tokens


class Stream:
    """One conditioning, or several that share a batch, over `tree`.

    img (b, n, 4 * channels), the target's tokens, gives sizes and dtype. `sigmas` are those that may be computed;
    `dtype` is that of the caches (None: unchanged).
    """

    def __init__(self, tree: Any, inputs: Inputs, img: Tensor, sigmas: Sequence[float], dtype: torch.dtype | None):
        self.tree, self.inputs, self.dtype = tree, inputs.copy(), dtype
        references = torch.cat(inputs.references, dim=1) if inputs.references else None
        txt_ids = inputs.ids.new_zeros(1, inputs.txt.shape[1], 3)
        self.constants = precompute(tree, inputs.txt, txt_ids, inputs.ids, references)
        self.table = ModulationTable(tree, sigmas, inputs.y, inputs.guidance, like=img)
        self.batch, self.target = img.shape[:2]
        self.text = inputs.txt.shape[1]
        self.others = 0 if references is None else references.shape[1]
        self.references: Kept | None = None
        self.target_kept: Kept | None = None
        self.before: Tensor | None = None  # the last velocity
        self._parts: dict[int, Part] = {}  # per picture, while the target's cache is valid

    def velocity(
        self, img: Tensor, sigma: float, kind: Kind, keep: bool, mask: Tensor | None, attention: Attention
    ) -> tuple[Tensor, Kind]:
        """The velocity (b, n, c) at `sigma`, and the kind that was evaluated: `kind`, or a more complete one.

        With `keep` a full evaluation fills the caches, if there are references. mask (pictures, n) marks the active
        tokens; the batch has one or more conditionings for that many pictures. The target's other tokens keep their
        previous velocity.
        """
        kind = self.possible(kind, mask)
        if kind == "active":
            assert mask is not None and self.before is not None
            velocity = self.before.clone()
            for picture, inside in enumerate(mask):
                rows = slice(picture, None, len(mask)) if len(mask) > 1 else EVERY
                part = self._part(picture, inside, rows)
                velocity[rows][:, part.tokens] = self._active(img[rows], sigma, part, rows, attention)
        else:
            full = kind == "full"
            velocity = self._everywhere(img, sigma, full, full and keep and bool(self.others), attention)
        self.before = velocity
        return velocity, kind

    def possible(self, kind: Kind, mask: Tensor | None) -> Kind:
        """`kind`, or the next more complete one whose caches exist."""
        if kind == "active" and (mask is None or self.target_kept is None or mask.shape[1] != self.target):
            kind = "cached"
        return "full" if self.references is None else kind

    def arithmetic(self, kind: Kind, share: float = 1.0) -> float:
        """Floating-point operations of an evaluation; `share` is the active tokens' fraction of the target."""
        kind = kind if self.others else "full"
        target = self.target * (share if kind == "active" else 1.0)
        others = self.others if kind == "full" else 0
        kept = self.target + self.others - target - others
        return self.batch * arithmetic(self.tree.params, self.text + target + others, kept)

    def keeps_bytes(self, itemsize: int) -> int:
        """The size of the caches of references and target."""
        params = self.tree.params
        blocks = params.depth + params.depth_single_blocks
        return kept_bytes(blocks, self.batch, self.target + self.others, params.hidden_size, itemsize)

    def drop(self) -> None:
        """Drop the caches."""
        self.references, self.target_kept, self._parts = None, None, {}

    def _everywhere(self, img: Tensor, sigma: float, full: bool, keep: bool, attention: Attention) -> Tensor:
        """Evaluate all target tokens, and with `full` the references."""
        pe, txt, references = self.constants
        image = slice(self.text, self.text + self.target)
        if keep:
            self._parts, self.references, self.target_kept = {}, Kept([]), Kept([])
            attention = keeping(attention, slice(image.stop, None), self.dtype, self.references)
            attention = keeping(attention, image, self.dtype, self.target_kept)
        elif full:
            self.drop()
        else:
            assert self.references is not None
            attention = with_kept(attention, self.references)
            pe, references = pe[:, :, : image.stop], None
        return self._evaluate(img, sigma, Constants(pe, txt, references), attention, EVERY)

    def _active(self, img: Tensor, sigma: float, part: Part, rows: slice, attention: Attention) -> Tensor:
        """Evaluate the active tokens for `rows` of the batch; all other keys and values are cached."""
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
        return forward(
            self.tree, img, ids, constants.txt, ids, img.new_full((len(img),), sigma, dtype=torch.float32),
            None if y is None else y[rows], None if guidance is None else guidance[rows],
            attention=attention, constants=constants, modulation=modulation,
        )  # fmt: skip


def arithmetic(params: Any, computed: float, kept: float = 0) -> float:
    """Floating-point operations of the blocks for `computed` tokens that also attend to `kept` cached ones.

    `params` are the tree's sizes (`Geometry`, or the host's). Embedders and modulations are left out: about 1 %.
    """
    hidden, blocks = params.hidden_size, params.depth + params.depth_single_blocks
    return blocks * computed * hidden * (2 * (4 + 2 * params.mlp_ratio) * hidden + 4 * (computed + kept))


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
