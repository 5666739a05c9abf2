"""Attention over tokens that a step leaves out: their keys and values are kept from an earlier step.

Keys are kept after the rotary embedding, so that nothing of them is computed again. Attention does not depend on the
order of keys, so what is kept simply follows what is computed. The keys of a token change with the noise level and with
what it attends to; kept ones grow stale, which is what a refresh is for. Sources: RegionE (arXiv 2510.25590), which
keeps those of the unedited tokens, and OminiControl2 (arXiv 2503.08280), those of the condition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..transformer import Attention


class Kept(NamedTuple):
    """Keys and values of some tokens in every block, each (b, heads, n, d)."""

    blocks: list[tuple[Tensor, Tensor]]

    def select(self, rows: slice, tokens: Tensor) -> Kept:
        """The given rows of the batch and tokens (indices)."""
        return Kept([(k[rows][:, :, tokens], v[rows][:, :, tokens]) for k, v in self.blocks])

    def rows(self, rows: slice) -> Kept:
        """The given rows of the batch; nothing is copied."""
        return Kept([(k[rows], v[rows]) for k, v in self.blocks])


def keeping(attention: Attention, tokens: slice, dtype: torch.dtype | None, into: Kept) -> Attention:
    """`attention` that keeps keys and values of `tokens` on the way, in `dtype` (None: as they are).

    For one evaluation: block after block is appended to `into`.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        copies = (x[:, :, tokens].to(dtype or x.dtype, copy=True) for x in (k, v))
        key, value = copies
        into.blocks.append((key, value))
        return attention(q, k, v)

    return attend


def with_kept(attention: Attention, *kept: Kept) -> Attention:
    """`attention` over the computed tokens and the kept ones. For one evaluation: it goes from block to block."""
    blocks = [iter(part.blocks) for part in kept]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pairs = [next(part) for part in blocks]
        keys = torch.cat([k, *(key.to(k.dtype) for key, _ in pairs)], dim=2)
        values = torch.cat([v, *(value.to(v.dtype) for _, value in pairs)], dim=2)
        return attention(q, keys, values)

    return attend


def kept_bytes(blocks: int, batch: int, tokens: int, hidden_size: int, itemsize: int) -> int:
    """What `Kept` takes: keys and values of every block."""
    return 2 * blocks * batch * tokens * hidden_size * itemsize
