"""Grain: remove the noise that one picture has in excess of another, and add the grain that it lacks.

Both are measured in plain places where the pictures show the same. Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .registration import blur
from .sharpness import FINEST, PLAIN, bands_of_detail, energy_of

OPPONENT = ((0.57735, 0.57735, 0.57735), (0.70711, 0.0, -0.70711), (0.40825, -0.81650, 0.40825))  # orthonormal
BANDS = 3  # of detail, finest first: coarser ones hold little of a picture's noise
NEAR = 1.5  # px, sigma: the neighbourhood whose energy is compared with that of the noise
FAINTEST = 1 / 255  # standard deviation: fainter grain cannot be seen and is not added
KEPT = 0.60  # fraction of white noise's standard deviation that the finest band retains


@dataclass(frozen=True)
class Noise:
    """energy (3, n): of a picture's noise in opponent channels and in bands of detail, finest first."""

    energy: Tensor

    def removed(self, picture: Tensor) -> Tensor:
        """The picture without its noise: a band keeps the share of its local energy that is not noise's (Lee 1980)."""
        if not self.energy.any():
            return picture
        kinds = torch.tensor(OPPONENT)
        result = []
        for channel, energies in zip(torch.einsum("ij,jhw->ihw", kinds, picture), self.energy.tolist(), strict=True):
            clean = channel[None].clone()
            for band, noise in zip(bands_of_detail(channel[None], len(energies)), energies, strict=True):
                clean -= band * (noise / blur(band.square(), NEAR).clamp(min=1e-12)).clamp(max=1)
            result.append(clean)
        return torch.einsum("ji,jhw->ihw", kinds, torch.cat(result))


def fit_noise(source: Tensor, target: Tensor, unchanged: Tensor) -> Noise:
    """The noise that `source` has in excess of `target`, both (3, h, w), measured in plain, unchanged places.

    unchanged  weights (h, w) in 0..1

    Details of `source` that are not multiples of those of `target` are noise, as far as `source` has more energy.
    """
    energy, plain = torch.zeros(3, BANDS), plain_places(target, unchanged)
    if not plain.any():
        return Noise(energy)
    kinds = torch.tensor(OPPONENT)
    pictures = (bands_of_detail(torch.einsum("ij,jhw->ihw", kinds, one), BANDS) for one in (source, target))
    for number, bands in enumerate(zip(*pictures, strict=True)):
        first, second = (band[:, plain] for band in bands)
        own, others, both = (
            (one * other).mean(1) for one, other in ((first, first), (second, second), (first, second))
        )
        energy[:, number] = torch.minimum(own - others, own - both.square() / others.clamp(min=1e-12)).clamp(min=0)
    return Noise(energy)


@dataclass(frozen=True)
class Grain:
    """spread (3, 3): square root of the covariance of the noise that gives a picture the target's grain."""

    spread: Tensor

    def over(self, picture: Tensor) -> Tensor:
        """The picture with grain; the noise is the same on every call."""
        if not self.spread.any():
            return picture
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
        return picture + torch.einsum("ij,jhw->ihw", self.spread, noise).to(picture)


def fit_grain(source: Tensor, target: Tensor, unchanged: Tensor) -> Grain:
    """The grain that `target` has in excess of `source`, both (3, h, w), measured in plain, unchanged places.

    unchanged  weights (h, w) in 0..1
    """
    plain = plain_places(target, unchanged)
    if not plain.any():
        return Grain(torch.zeros(3, 3))
    first, second = (picture - blur(picture, FINEST) for picture in (source, target))
    missing = sum(sign * band[:, plain] @ band[:, plain].T / plain.sum() for sign, band in ((1, second), (-1, first)))
    values, vectors = torch.linalg.eigh(missing)
    deviations = values.clamp(min=0).sqrt() / KEPT
    return Grain(vectors @ torch.diag(deviations * (deviations > FAINTEST)) @ vectors.T)


def plain_places(target: Tensor, unchanged: Tensor) -> Tensor:
    """The unchanged places with the least detail, (h, w) of bool; none if hardly anything is unchanged."""
    likely = unchanged > 0.5
    if likely.float().mean() < 0.005:
        return torch.zeros_like(likely)
    busy = energy_of(blur(target, FINEST))[0]
    return likely & (busy <= busy[likely][:: max(1, busy.numel() // 50000)].quantile(PLAIN))
