"""Arithmetic of evaluations, from the sizes alone: floating-point operations, two a multiplication.

What `torch.utils.flop_counter` counts too: matrix products and attention.
"""

from __future__ import annotations

from typing import Any


def step_flops(params: Any, batch: int, text: int, target: int, references: int, kept: int) -> int:
    """One evaluation with constants and table: so many tokens computed, and of `kept` ones keys and values read.

    `params` are the tree's sizes (`Geometry`, or the host's). In the last block the references' rows are not finished.
    """
    hidden, ratio = params.hidden_size, params.mlp_ratio
    finished = text + target
    computed = finished + references
    keys = computed + kept
    last = 2 * hidden**2 * ((3 + ratio) * computed + (1 + ratio) * finished) + 4 * finished * keys * hidden
    blocks = (params.depth + params.depth_single_blocks - 1) * _block(params, computed, keys) + last
    return round(batch * (blocks + 2 * _token(params) * target))


def vanilla_flops(params: Any, batch: int, text: int, target: int, references: int) -> int:
    """One evaluation of the model's own forward, which computes everything anew."""
    computed, image = text + target + references, target + references
    blocks = (params.depth + params.depth_single_blocks) * _block(params, computed, computed)
    ends = 2 * _token(params) * image + 2 * params.context_in_dim * params.hidden_size * text
    return round(batch * (blocks + ends + conditioning_flops(params)))


def constants_flops(params: Any, batch: int, text: int, references: int) -> int:
    """What a run computes once: the embedded text and references."""
    return batch * (2 * params.context_in_dim * params.hidden_size * text + _token(params) * references)


def conditioning_flops(params: Any) -> int:
    """Embedders and modulations of one row at one sigma."""
    hidden = params.hidden_size
    embedders = (2 if params.guidance_embed else 1) * (256 * hidden + hidden**2)
    embedders += params.vec_in_dim * hidden + hidden**2
    return 2 * (embedders + (12 * params.depth + 3 * params.depth_single_blocks + 2) * hidden**2)


def _block(params: Any, computed: int, keys: int) -> float:
    hidden = params.hidden_size
    return 2 * (4 + 2 * params.mlp_ratio) * hidden**2 * computed + 4 * computed * keys * hidden


def _token(params: Any) -> int:
    """A token's way in, or out, between latent and hidden size."""
    return 2 * params.in_channels * params.patch_size**2 * params.hidden_size
