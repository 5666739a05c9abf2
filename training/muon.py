"""Muon: momentum with orthogonalised updates, for weight matrices. Source: Keller Jordan et al., 2024 (Muon).

torch's implementation treats each parameter as one matrix; a fused qkv must count as three.
"""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalise(update: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix: five Newton-Schulz iterations of Muon's quintic in bfloat16."""
    tall = update.shape[0] > update.shape[1]
    x = (update.T if tall else update).bfloat16().contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).to(update)


def muon_update(gradient: Tensor, momentum: Tensor, beta: float = 0.95) -> Tensor:
    """Advance `momentum` in place; returns the update for one matrix (rows, columns), or a convolution (rows, ...).

    A fused qkv (three times as many rows as columns) is treated as three matrices.
    """
    momentum.mul_(beta).add_(gradient)
    update = (gradient + beta * momentum).flatten(1)
    parts = 3 if update.shape[0] == 3 * update.shape[1] else 1
    rows, columns = update.shape[0] // parts, update.shape[1]
    step = torch.cat([orthogonalise(part) for part in update.chunk(parts)]) * max(1.0, rows / columns) ** 0.5
    return step.view_as(gradient)
