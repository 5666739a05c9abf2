"""Fit one picture's sharpness to another's: the gain of each band of detail.

A band is the difference between two Gaussian blurs, the wider one twice as wide. Sharpening, softening, local contrast
and denoising all change the gains of bands. Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .registration import blur

FINEST = 0.6  # px, sigma of the narrowest blur
PLAIN = 0.3  # fraction of the picture, with the least detail, in which grain is measured
FAINT = 1e-6  # contrast squared, mean over the picture: fainter details hardly determine the sharpness
STEP = 2  # px between sampled pixels of the fit
WIDEST = 1 / 30  # of the longer side: the largest details


@dataclass(frozen=True)
class Sharpness:
    """The gain to add to each band, separately for plain and busy places.

    gains  (2, 2, n): plain and busy; the channel itself and the mean of the channels; n bands
    level  contrast squared at which a place counts as half plain, half busy
    """

    gains: Tensor
    level: float

    def over(self, picture: Tensor) -> Tensor:
        """The picture with its bands amplified, not clamped to 0..1."""
        busy, result = _busy(picture, self.level), picture.clone()
        for gains, band in zip(self.gains.movedim(-1, 0), bands_of_detail(picture, self.gains.shape[-1]), strict=True):
            own, common = ((other - one) * busy + one for one, other in gains.T.tolist())
            result.addcmul_(band, own).add_(band.mean(0, keepdim=True).mul_(common))
        return result


def fit_sharpness(source: Tensor, target: Tensor, unchanged: Tensor, count: int | None = None) -> Sharpness:
    """The map from the sharpness of `source` to that of `target`, both (3, h, w), fitted where they show the same.

    unchanged  weights (h, w) in 0..1
    count      number of bands; default: `bands_of` the picture

    Robust least squares (Geman and McClure). In plain places the finest bands of the source are mostly noise, so plain
    and busy places have separate gains.
    """
    count = count or bands_of(max(source.shape[1:]))
    likely = unchanged > 0.5
    if likely.float().mean() < 0.005:
        return Sharpness(source.new_zeros(2, 2, count), 1.0)
    energy = energy_of(source)[0]
    level = 4 * float(energy[likely][:: max(1, energy.numel() // 50000)].quantile(PLAIN)) + 1e-6
    busy, known, difference = (one[..., ::STEP, ::STEP] for one in (_busy(source, level), unchanged, target - source))
    bands = [band[..., ::STEP, ::STEP] for band in bands_of_detail(source, count)]
    both = [*bands, *(band.mean(0, keepdim=True).expand_as(band) for band in bands)]
    features = torch.stack([*(band * (1 - busy) for band in both), *(band * busy for band in both)]).flatten(1)
    gains = source.new_zeros(len(features))
    for _ in range(4):
        left = difference - (gains @ features).view_as(difference)
        error = blur(left.square().sum(0)[None], 1.0)[0]  # smoothed, so that a changed part is rejected as a whole
        trust = known / (1 + error / (6 * error[known > 0.5].median() + 1e-6)).square()
        weighted = features * trust.expand_as(difference).flatten()
        normal = weighted @ features.T / features.shape[1]
        normal += torch.diag(1e-3 * normal.diagonal() + FAINT)
        gains = torch.linalg.solve(normal, weighted @ difference.flatten() / features.shape[1])
    return Sharpness(gains.view(2, 2, count), level)


def energy_of(picture: Tensor) -> Tensor:
    """Squared contrast of the finest details around each pixel, (1, h, w)."""
    return blur((picture - blur(picture, 4 * FINEST)).square().sum(0)[None], 2.0)


def _busy(picture: Tensor, level: float) -> Tensor:
    """How busy each place of a picture is, (1, h, w) in 0..1."""
    energy = energy_of(picture)
    return energy / (energy + level)


def bands_of(longest: int) -> int:
    """The number of bands of detail in a picture."""
    count, sigma = 1, FINEST
    while sigma < WIDEST * longest:
        count, sigma = count + 1, 2 * sigma
    return count


def bands_of_detail(picture: Tensor, count: int):
    """The bands of detail (3, h, w), finest first."""
    above, sigma = picture, FINEST
    for _ in range(count):
        below = wide_blur(picture, sigma)
        yield above - below
        above, sigma = below, 2 * sigma


def wide_blur(picture: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur, computed on a reduced copy where sigma allows it."""
    factor = int(sigma // 2.4)
    if factor < 2:
        return blur(picture, sigma)
    size = [max(1, -(-side // factor)) for side in picture.shape[1:]]
    small = interpolate(picture[None], size, mode="area")
    return interpolate(blur(small[0], (sigma**2 / factor**2 - 0.25) ** 0.5)[None], picture.shape[1:], mode="bilinear")[
        0
    ]
