"""Detect which target tokens an edit changes, from the run's own early estimate of the picture.

Source: RegionE (arXiv 2510.25590), section on adaptive region partition: cosine similarity of each token of the
one-step estimate with the reference's, then erosion and dilation. Difference: the erosion, which removes single tokens,
is applied only on grids where a token is small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITY = 0.93  # below it a token counts as edited
LARGEST_SHARE = 0.6  # of the target: more active tokens save too little
SPECK_GRID = 32  # tokens per side from which single tokens are removed


def edited_tokens(estimate: Tensor, reference: Tensor, grid: tuple[int, int], similarity: float = SIMILARITY) -> Tensor:
    """(b, n) true where the picture differs from the reference, with a margin of one token (two on large grids).

    estimate, reference (b, n, c) packed latents of the model's space; `grid` is (rows, columns), n of them.
    """
    alike = F.cosine_similarity(estimate.float(), reference.float(), dim=-1)
    mask = (alike < similarity).float().unflatten(1, grid)[:, None]
    large = min(grid) >= SPECK_GRID
    if large:
        mask = _without_specks(mask)
    margin = 2 if large else 1
    return F.max_pool2d(mask, 2 * margin + 1, 1, margin)[:, 0].flatten(1) > 0


def _without_specks(mask: Tensor) -> Tensor:
    """Erosion with a 3x3 cross: a token stays if its four neighbours are edited too; the outside counts as edited."""
    padded = F.pad(mask, (1, 1, 1, 1), value=1.0)
    parts = (mask, padded[..., :-2, 1:-1], padded[..., 2:, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:])
    return torch.stack(parts).amin(0)


def worthwhile(mask: Tensor) -> Tensor:
    """(b,) whether computing only the masked tokens saves enough; False if there are none."""
    share = mask.float().mean(1)
    return (share <= LARGEST_SHARE) & (share > 0)
