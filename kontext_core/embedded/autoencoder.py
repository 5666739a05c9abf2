"""The embedded model's autoencoder: pictures to 16 channels at 1/8 resolution, and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE, SHIFT = 0.3611, 0.1159  # FLUX's latent format: the model sees SCALE * (z - SHIFT), with about unit variance


class Residual(nn.Module):
    def __init__(self, channels: int, operations: Any, **factory: Any):
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **factory)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(F.gelu(x, approximate="tanh")), approximate="tanh"))


class Autoencoder(nn.Module):
    """A plain convolutional autoencoder whose latents have the shape and the value range of FLUX's.

    `operations` supplies the layers (torch.nn, or a host's own that cast on use).
    """

    def __init__(self, operations: Any = nn, device: torch.device | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        conv = operations.Conv2d
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv(48, 64, 3, padding=1, **factory),
            Residual(64, operations, **factory),
            nn.PixelUnshuffle(2),
            conv(256, 96, 1, **factory),
            Residual(96, operations, **factory),
            nn.GELU(approximate="tanh"),
            conv(96, 16, 1, **factory),
        )
        self.decoder = nn.Sequential(
            conv(16, 128, 3, padding=1, **factory),
            Residual(128, operations, **factory),
            Residual(128, operations, **factory),
            conv(128, 256, 1, **factory),
            nn.PixelShuffle(2),
            Residual(64, operations, **factory),
            Residual(64, operations, **factory),
            conv(64, 128, 1, **factory),
            nn.PixelShuffle(2),
            Residual(32, operations, **factory),
            conv(32, 12, 3, padding=1, **factory),
            nn.PixelShuffle(2),
        )

    def encode(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) in -1..1, h and w multiples of 8 -> raw latents (b, 16, h / 8, w / 8)."""
        return self.encoder(x) / SCALE + SHIFT

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents (b, 16, h, w) -> (b, 3, 8 h, 8 w), about -1..1."""
        return self.decoder((z - SHIFT) * SCALE)
