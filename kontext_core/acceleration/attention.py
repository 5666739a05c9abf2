"""Attention with a KV cache for tokens that a step does not compute.

Keys are cached after the rotary embedding, so that they need no further computation. Attention does not depend on the
order of keys, so cached keys are appended to computed ones. A token's keys depend on the noise level and on the tokens
it attends to, so the cache becomes stale and has to be refreshed. Sources: RegionE (arXiv 2510.25590), which caches the
unedited tokens, and OminiControl2 (arXiv 2503.08280), which caches the condition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..transformer import Attention


class Kept(NamedTuple):
    """A KV cache: keys and values of some tokens in every block, each (b, heads, n, d)."""

    blocks: list[tuple[Tensor, Tensor]]

    def select(self, rows: slice, tokens: Tensor) -> Kept:
        """The given batch rows and tokens (indices)."""
        return Kept([(k[rows][:, :, tokens], v[rows][:, :, tokens]) for k, v in self.blocks])

    def rows(self, rows: slice) -> Kept:
        """The given batch rows, without a copy."""
        return Kept([(k[rows], v[rows]) for k, v in self.blocks])


def keeping(attention: Attention, tokens: slice, dtype: torch.dtype | None, into: Kept) -> Attention:
    """`attention` that caches keys and values of `tokens`, in `dtype` (None: unchanged).

    For one evaluation: each block appends to `into`.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        copies = (x[:, :, tokens].to(dtype or x.dtype, copy=True) for x in (k, v))
        key, value = copies
        into.blocks.append((key, value))
        return attention(q, k, v)

    return attend


def with_kept(attention: Attention, *kept: Kept) -> Attention:
    """`attention` over the computed and the cached tokens. For one evaluation: it advances from block to block."""
    blocks = [iter(part.blocks) for part in kept]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pairs = [next(part) for part in blocks]
        keys = torch.cat([k, *(key.to(k.dtype) for key, _ in pairs)], dim=2)
        values = torch.cat([v, *(value.to(v.dtype) for _, value in pairs)], dim=2)
        return attention(q, keys, values)

    return attend


def kept_bytes(blocks: int, batch: int, tokens: int, hidden_size: int, itemsize: int) -> int:
    """The size of a `Kept`: keys and values of every block."""
    return 2 * blocks * batch * tokens * hidden_size * itemsize
