"""One picture's sharpness fitted to another's: how much of each band of detail a picture has.

A band is what lies between two Gaussian blurs, the wider twice as wide. Sharpening, softening and local contrast give
each band another gain; so does the removal of noise. Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .registration import blur

FINEST = 0.6  # px, the narrowest of the blurs
PLAIN = 0.3  # the share of the picture in which grain is measured: where there is least detail
FAINT = 1e-6  # contrast squared, the mean over the picture: details with less say little of sharpness
STEP = 2  # px from one pixel of the fit to the next
KEPT = 0.60  # what the finest band keeps of the standard deviation of white noise
WIDEST = 1 / 30  # of the longer side: details are no larger


@dataclass(frozen=True)
class Sharpness:
    """What is added of each band, where a picture is plain and where it is busy.

    gains  (2, 2, n): plain and busy; the channel itself and the mean of the channels; n bands
    level  contrast squared at which a place is half plain, half busy
    """

    gains: Tensor
    level: float

    def over(self, picture: Tensor) -> Tensor:
        """The picture with its bands amplified, not cut to 0..1."""
        busy, result = _busy(picture, self.level), picture.clone()
        for gains, band in zip(self.gains.movedim(-1, 0), _bands(picture, self.gains.shape[-1]), strict=True):
            own, common = ((other - one) * busy + one for one, other in gains.T.tolist())
            result.addcmul_(band, own).add_(band.mean(0, keepdim=True).mul_(common))
        return result


def fit_sharpness(source: Tensor, target: Tensor, unchanged: Tensor, count: int | None = None) -> Sharpness:
    """What takes the sharpness of `source` to that of `target`, both (3, h, w), where they show the same.

    unchanged  weights (h, w) in 0..1
    count      how many bands; without, `bands_of` the picture

    Least squares with little weight for what does not fit (Geman and McClure). Where the source is plain its finest
    bands are mostly noise, so there and elsewhere the gains are fitted apart.
    """
    count = count or bands_of(max(source.shape[1:]))
    likely = unchanged > 0.5
    if likely.float().mean() < 0.005:
        return Sharpness(source.new_zeros(2, 2, count), 1.0)
    energy = _energy(source)[0]
    level = 4 * float(energy[likely][:: max(1, energy.numel() // 50000)].quantile(PLAIN)) + 1e-6
    busy, known, difference = (one[..., ::STEP, ::STEP] for one in (_busy(source, level), unchanged, target - source))
    bands = [band[..., ::STEP, ::STEP] for band in _bands(source, count)]
    both = [*bands, *(band.mean(0, keepdim=True).expand_as(band) for band in bands)]
    features = torch.stack([*(band * (1 - busy) for band in both), *(band * busy for band in both)]).flatten(1)
    gains = source.new_zeros(len(features))
    for _ in range(4):
        left = difference - (gains @ features).view_as(difference)
        error = blur(left.square().sum(0)[None], 1.0)[0]  # neighbours agree: a changed part goes as a whole
        trust = known / (1 + error / (6 * error[known > 0.5].median() + 1e-6)).square()
        weighted = features * trust.expand_as(difference).flatten()
        normal = weighted @ features.T / features.shape[1]
        normal += torch.diag(1e-3 * normal.diagonal() + FAINT)
        gains = torch.linalg.solve(normal, weighted @ difference.flatten() / features.shape[1])
    return Sharpness(gains.view(2, 2, count), level)


def _energy(picture: Tensor) -> Tensor:
    """Contrast squared of the finest details around each pixel, (1, h, w)."""
    return blur((picture - blur(picture, 4 * FINEST)).square().sum(0)[None], 2.0)


def _busy(picture: Tensor, level: float) -> Tensor:
    """How busy a picture is, (1, h, w) in 0..1."""
    energy = _energy(picture)
    return energy / (energy + level)


@dataclass(frozen=True)
class Grain:
    """spread (3, 3): the root of the covariance of what the finest band of a picture needs to be as grainy."""

    spread: Tensor

    def over(self, picture: Tensor) -> Tensor:
        """The picture with grain, the same one each time."""
        if not self.spread.any():
            return picture
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
        return picture + torch.einsum("ij,jhw->ihw", self.spread, noise).to(picture)


def fit_grain(source: Tensor, target: Tensor, unchanged: Tensor) -> Grain:
    """The grain that `target` has and `source` has not, both (3, h, w), where they are plain and show the same.

    unchanged  weights (h, w) in 0..1
    """
    first, second = (picture - blur(picture, FINEST) for picture in (source, target))
    likely = unchanged > 0.5
    if likely.float().mean() < 0.005:
        return Grain(torch.zeros(3, 3))
    busy = _energy(blur(target, FINEST))[0]
    plain = likely & (busy <= busy[likely][:: max(1, busy.numel() // 50000)].quantile(PLAIN))
    missing = sum(sign * band[:, plain] @ band[:, plain].T / plain.sum() for sign, band in ((1, second), (-1, first)))
    values, vectors = torch.linalg.eigh(missing)
    return Grain(vectors @ torch.diag(values.clamp(min=0).sqrt() / KEPT) @ vectors.T)


def bands_of(longest: int) -> int:
    """How many bands of detail a picture has."""
    count, sigma = 1, FINEST
    while sigma < WIDEST * longest:
        count, sigma = count + 1, 2 * sigma
    return count


def _bands(picture: Tensor, count: int):
    """The bands of detail (3, h, w), the finest first."""
    above, sigma = picture, FINEST
    for _ in range(count):
        below = wide_blur(picture, sigma)
        yield above - below
        above, sigma = below, 2 * sigma


def wide_blur(picture: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur on a copy as small as it allows."""
    factor = int(sigma // 2.4)
    if factor < 2:
        return blur(picture, sigma)
    size = [max(1, -(-side // factor)) for side in picture.shape[1:]]
    small = interpolate(picture[None], size, mode="area")
    return interpolate(blur(small[0], (sigma**2 / factor**2 - 0.25) ** 0.5)[None], picture.shape[1:], mode="bilinear")[
        0
    ]
