"""Restore edges that an editor softened: the inverse of a filter that is fitted where nothing changed.

Least squares from the edited picture to the original (`sharpness`) restores only as much as noise allows on average,
which is little of a blurred letter. Here the filter is fitted in its own direction, so that noise hardly biases it, and
its inverse is used where details are far stronger than the noise that it amplifies. Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .colour import robust
from .registration import blur
from .sharpness import STEP, energy_of

SIGMAS = tuple(0.42 * 2 ** (step / 2) for step in range(10))  # px, of the blurs between which the bands of detail lie
TYPICAL = 15 / 255  # standard deviation of an edge's spectrum
CLEAR = 30.0  # an edge counts half if its energy is this multiple of the amplified noise
PADDING = 48  # px, beyond which the inverse of a filter does not reach
MEDIAN = 0.6745  # of the absolute value of noise with a standard deviation of 1
PROBE = 64  # px, the side of the grid of frequencies on which the gain of noise is averaged


@dataclass(frozen=True)
class Edges:
    """What an editor did to details.

    gains  (n,) by how much each band of detail was amplified, in addition to 1
    noise  standard deviation of the edited picture's noise
    """

    gains: Tensor
    noise: float

    @property
    def amplification(self) -> float:
        """By how much the inverse amplifies the energy of white noise."""
        return float(self.inverse(PROBE, PROBE).square().mean())

    def over(self, picture: Tensor, otherwise: Tensor) -> Tensor:
        """`otherwise`, with the restored edges of `picture` in place of its own; not clamped to 0..1."""
        wide = pad(picture[None], (PADDING,) * 4, mode="replicate")[0]
        size = wide.shape[1:]
        restored = torch.fft.irfft2(torch.fft.rfft2(wide) * self.inverse(*size), s=size)
        restored = restored[:, PADDING:-PADDING, PADDING:-PADDING]
        energy = energy_of(restored)
        noise = len(picture) * self.noise**2 * self.amplification
        return torch.lerp(otherwise, restored, energy / (energy + CLEAR * noise))

    def inverse(self, height: int, width: int) -> Tensor:
        """The Wiener filter at the frequencies of `torch.fft.rfft2`, (height, width / 2 + 1); 1 for frequency 0."""
        there = torch.ones(height, width // 2 + 1)
        above, down, across = torch.ones_like(there), torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        for gain, sigma in zip(self.gains.tolist(), SIGMAS, strict=True):
            below = _passed(down, sigma)[:, None] * _passed(across, sigma)
            there, above = there + gain * (above - below), below
        ratio = (self.noise / TYPICAL) ** 2
        return there * (1 + ratio) / (there.square() + ratio)


def fit_edges(source: Tensor, target: Tensor, unchanged: Tensor) -> Edges | None:
    """What made the edges of `source` from those of `target`, both (3, h, w), fitted where they show the same.

    unchanged  weights (h, w) in 0..1

    None with less than 0.5 % of the picture unchanged, and if the inverse amplifies nothing.
    """
    known = unchanged[..., ::STEP, ::STEP].expand(len(source), -1, -1).flatten().double()
    if known.mean() < 0.005:
        return None
    bands, above = [], target
    for sigma in SIGMAS:
        below = blur(target, sigma)
        bands.append((above - below)[..., ::STEP, ::STEP].flatten())
        above = below
    wanted = (source - target)[..., ::STEP, ::STEP].flatten().double()
    gains, usual, _ = robust(torch.stack(bands).double(), wanted[None], known)
    edges = Edges(gains[0], float(usual) ** 0.5 / MEDIAN)
    return edges if edges.amplification > 1 else None


def _passed(frequencies: Tensor, sigma: float) -> Tensor:
    """What a Gaussian blur leaves of each frequency, in cycles per pixel: of the kernel of `registration.blur`."""
    reach = torch.arange(-max(1, math.ceil(3 * sigma)), max(1, math.ceil(3 * sigma)) + 1)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    return (torch.cos(2 * math.pi * frequencies[:, None] * reach) * (kernel / kernel.sum())).sum(1)
