"""Restore edges that an editor softened or sharpened: the inverse of its filter, fitted where nothing changed.

Least squares from the edited picture to the original (`sharpness`) restores only as much as noise allows on average,
which is little of a blurred letter. Here the filter is fitted in its own direction, what it took at edges alone: JPEG
and autoencoders remove faint details and keep edges. Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from .colour import robust
from .registration import blur
from .sharpness import STEP, energy_of

fft: Any = scipy.fft  # its own annotations say less than what its functions give

SIGMAS = tuple(0.42 * 2 ** (step / 2) for step in range(10))  # px, of the blurs between which the bands of detail lie
TYPICAL = 15 / 255  # standard deviation of an edge's spectrum
CLEAR = 30.0  # an edge counts half if its energy is this multiple of the noise's
PADDING = 48  # px, beyond which the inverse of a blur of up to 3 px hardly reaches
MEDIAN = 0.6745  # of the absolute value of noise with a standard deviation of 1
STRIP = 512  # rows restored at once: their spectra take several times the memory of the picture
BOUNDS = 3  # px: a restored value lies between the least and the greatest one that is as near
ROUNDS = 3  # iterations of restoring within bounds


@dataclass(frozen=True)
class Edges:
    """What an editor did to edges.

    gains  (n,) by how much each band of detail was amplified, in addition to 1
    noise  standard deviation of what the filter does not explain at edges
    """

    gains: Tensor
    noise: float

    def over(self, picture: Tensor, otherwise: Tensor) -> Tensor:
        """`otherwise`, with the restored edges of `picture` in place of its own."""
        height, noise, result = picture.shape[1], CLEAR * len(picture) * self.noise**2, torch.empty_like(otherwise)
        for top in range(0, height, STRIP):
            first, bottom = max(0, top - PADDING), min(height, top + STRIP)
            restored = self._restored(picture[:, first : bottom + PADDING])
            energy = energy_of(restored)
            restored, energy = (one[:, top - first : bottom - first] for one in (restored, energy))
            result[:, top:bottom] = torch.lerp(otherwise[:, top:bottom], restored, energy / (energy + noise))
        return result

    def _restored(self, picture: Tensor) -> Tensor:
        """The picture before the filter, within the bounds of the values nearby (Schafer, Mersereau, Richards 1981)."""
        height, width = picture.shape[1:]
        right, below = (fft.next_fast_len(side + 2 * PADDING, real=True) - side - PADDING for side in (width, height))
        wide = pad(picture[None], (PADDING, right, PADDING, below), mode="replicate")[0]
        size = wide.shape[1:]
        there = self._filter(*size)
        back, low, high = self._inverse(there), -_greatest(-wide), _greatest(wide)
        seen, restored = torch.fft.rfft2(wide), wide
        for _ in range(ROUNDS):
            missing = (seen - torch.fft.rfft2(restored) * there) * back
            restored = (restored + torch.fft.irfft2(missing, s=size)).clamp(low, high)
        return restored[:, PADDING : PADDING + height, PADDING : PADDING + width]

    def _filter(self, height: int, width: int) -> Tensor:
        """The filter at the frequencies of `torch.fft.rfft2`: (height, width / 2 + 1)."""
        there = torch.ones(height, width // 2 + 1)
        above, down, across = torch.ones_like(there), torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        for gain, sigma in zip(self.gains.tolist(), SIGMAS, strict=True):
            below = _passed(down, sigma)[:, None] * _passed(across, sigma)
            there, above = there + gain * (above - below), below
        return there

    def _inverse(self, there: Tensor) -> Tensor:
        """The Wiener filter that undoes a filter; 1 for frequency 0."""
        ratio = (self.noise / TYPICAL) ** 2
        return there * (1 + ratio) / (there.square() + ratio)


def fit_edges(source: Tensor, target: Tensor, unchanged: Tensor) -> Edges | None:
    """What made the edges of `source` from those of `target`, both (3, h, w), fitted where they show the same.

    unchanged  weights (h, w) in 0..1

    All details show what the filter amplified, edges alone what it took: compression takes faint details too. None with
    less than 0.5 % of the picture unchanged, and without any detail there.
    """
    known = unchanged[..., ::STEP, ::STEP].expand(len(source), -1, -1).flatten().double()
    if known.mean() < 0.005:
        return None
    bands, above = [], target
    for sigma in SIGMAS:
        below = blur(target, sigma)
        bands.append((above - below)[..., ::STEP, ::STEP].flatten())
        above = below
    features, wanted = torch.stack(bands).double(), (source - target)[..., ::STEP, ::STEP].flatten().double()[None]
    energy = energy_of(target)[..., ::STEP, ::STEP].expand(len(source), -1, -1).flatten()
    gains, usual, _ = robust(features, wanted, known)
    amplified = gains.clamp(min=0)
    weight = known * energy / (energy + CLEAR * len(source) * usual / MEDIAN**2)
    if not weight.any():
        return None
    gains, usual, _ = robust(features, wanted - amplified @ features, weight)
    return Edges((amplified + gains)[0], float(usual) ** 0.5 / MEDIAN)


def _greatest(picture: Tensor) -> Tensor:
    """The greatest value within `BOUNDS` of each pixel."""
    rows = max_pool2d(picture[None], (2 * BOUNDS + 1, 1), 1, (BOUNDS, 0))
    return max_pool2d(rows, (1, 2 * BOUNDS + 1), 1, (0, BOUNDS))[0]


def _passed(frequencies: Tensor, sigma: float) -> Tensor:
    """What a Gaussian blur leaves of each frequency, in cycles per pixel: of the kernel of `registration.blur`."""
    reach = torch.arange(-max(1, math.ceil(3 * sigma)), max(1, math.ceil(3 * sigma)) + 1)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    return (torch.cos(2 * math.pi * frequencies[:, None] * reach) * (kernel / kernel.sum())).sum(1)
