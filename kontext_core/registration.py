"""Align an edited picture with its original: shift, scale, stretch and rotation, estimated from the unchanged parts.

Phase correlation over a grid of scales (and angles) finds candidates on a small copy; robust Gauss-Newton refinement
on larger and larger copies makes them exact to a fraction of a pixel. Pixels that do not fit get little weight, so a
changed part does not bias the estimate. Pictures are (3, h, w) in 0..1; only their luma is compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from .colour import shrunk

COARSE, FINE = 192, 768  # px, the longer sides of the smallest and of the largest copy
SCALES = tuple(1 + 0.01 * step for step in range(-6, 7, 2))
ANGLES = tuple(math.radians(step) for step in (-6, -4.5, -3, -1.5, 0, 1.5, 3, 4.5, 6))
LARGEST_SHIFT = 0.2  # of the shorter side: a larger shift means a different picture
DOUBTFUL_STRETCH = 0.03  # a larger one must reduce the error: lines in one direction do not determine it
LARGEST_STEP = 0.1  # of log scale, log stretch and angle in one iteration: a flat picture determines none
BLOCK = 16  # px of the copy on which blocks are compared
TEXTURE = 0.02  # smallest contrast of a block that can be compared
AGREES, CONFIDENT = 0.6, 0.3  # correlation of a matching block; fraction of blocks that must match
GAIN = 0.5  # a movement is accepted if it reduces the error to at most this fraction
ROUNDING = 1e-10  # energy below this is treated as zero


@dataclass(frozen=True)
class Similarity:
    """Maps positions in the original to positions in the edited picture, relative to the picture's centre."""

    x: float = 0.0  # px to the right
    y: float = 0.0  # px down
    scale: float = 1.0
    angle: float = 0.0  # radians, clockwise as seen
    stretch: float = 1.0  # of the width, before the rotation

    @property
    def matrix(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Maps displacements (x, y) in the original to displacements in the edited picture."""
        cosine, sine = (self.scale * f(self.angle) for f in (math.cos, math.sin))
        return (self.stretch * cosine, -sine), (self.stretch * sine, cosine)

    def displacement(self, width: int, height: int) -> float:
        """The largest displacement of a corner, in px."""
        (xx, xy), (yx, yy) = self.matrix
        right, up = width / 2, height / 2
        turned = [math.hypot((xx - 1) * right + xy * y, yx * right + (yy - 1) * y) for y in (up, -up)]
        return math.hypot(self.x, self.y) + max(turned)

    def scaled(self, factor: float) -> Similarity:
        """The same for pictures `factor` times as large."""
        return replace(self, x=self.x * factor, y=self.y * factor)


@dataclass(frozen=True)
class Registration:
    similarity: Similarity
    confidence: float  # fraction of the textured blocks that match, 0..1

    @property
    def accepted(self) -> bool:
        return self.confidence >= CONFIDENT


def register(
    original: Tensor, edited: Tensor, unchanged: Tensor | None = None, *, rotation: bool = True
) -> Registration:
    """Find the similarity between `original` and `edited`, both (3, h, w).

    unchanged  weights (h, w) in 0..1: where the pictures show the same; default: everywhere
    rotation   search for a rotation too; else for shift, scale and stretch only

    A picture without texture cannot be registered: its confidence is 0. The search covers shifts up to a fifth of the
    shorter side, scales from 0.93 to 1.07 with a stretch of about 2 %, and +-6 degrees.
    """
    width, height = original.shape[-1], original.shape[-2]
    weight = torch.ones_like(original[0]) if unchanged is None else unchanged
    whole = torch.cat((_luma(original), _luma(edited), weight[None].float()))
    copies = [_copy(whole, longest) for longest in _levels(max(width, height))]
    a, b, w = copies[0]
    starts = [Similarity(), *_candidates(a, b, w, ANGLES if rotation else (0.0,))]
    there = _best(a, b, w, [_refine(a, b, w, start, rotation) for start in starts])
    for finer in copies[1:]:
        growth = finer[0].shape[-1] / a.shape[-1]
        a, b, w = finer
        there = _refine(a, b, w, there.scaled(growth), rotation)
    if abs(there.stretch - 1) > DOUBTFUL_STRETCH:
        plain = _refine(a, b, w, replace(there, stretch=1.0), rotation, stretch=False)
        if _error(a, b, w, plain) < 1.1 * _error(a, b, w, there) + 1e-6:
            there = plain
    confidence = _confidence(a, b, w, there)
    believed = _error(a, b, w, there) + 1e-6 <= GAIN * _error(a, b, w, Similarity())
    similarity = there.scaled(width / a.shape[-1]) if believed else Similarity()
    return Registration(similarity, confidence)


def _copy(whole: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Details of both pictures, and the weights, at reduced size."""
    a, b, w = shrunk(whole, longest).split(1)
    return _detail(a), _detail(b), w


def warp(picture: Tensor, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """The edited picture (c, h, w) moved onto its original, and the map (h, w) of bool where it has pixels."""
    height, width = picture.shape[-2:]
    grid = _grid(similarity, width, height, picture)
    inside = (grid.abs() <= 1).all(-1)[0]
    grid = _true(grid, width, height)
    moved = grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    return moved, inside


def _levels(longest: int) -> Sequence[int]:
    """The longer sides of the copies, smallest first."""
    return [side for side in (COARSE, 2 * COARSE) if side < longest] + [min(longest, FINE)]


def _luma(picture: Tensor) -> Tensor:
    return (picture * picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)


def _best(a: Tensor, b: Tensor, weight: Tensor, found: list[Similarity]) -> Similarity:
    """The candidate that the most blocks agree with; the first one (no movement) unless another is clearly better."""
    scores = [_confidence(a, b, weight, one) for one in found]
    scores[0] += 0.05
    return found[scores.index(max(scores))]


def _grid(similarity: Similarity, width: int, height: int, like: Tensor) -> Tensor:
    (xx, xy), (yx, yy) = similarity.matrix
    matrix = [
        [xx, xy * height / width, 2 * similarity.x / width],
        [yx * width / height, yy, 2 * similarity.y / height],
    ]
    return affine_grid(like.new_tensor(matrix)[None], [1, 1, height, width], align_corners=False)


def _true(grid: Tensor, width: int, height: int) -> Tensor:
    """A grid corrected for the error of torch's bicubic kernel (Keys 1981, a = -0.75).

    At a fraction f between two pixels, that kernel samples a ramp at f + f (1 - f) (1 - 2 f) / 2: up to 0.05 px off,
    which would bias every registration.
    """
    half = grid.new_tensor((width, height)) / 2
    between = (grid + 1).mul_(half).sub_(0.5)
    between.sub_(between.floor())
    return grid - between * (1 - between) * (0.5 - between) / half


def _detail(picture: Tensor) -> Tensor:
    """A picture minus its smooth part, so that smooth colour drift does not matter."""
    height, width = picture.shape[1:]
    quarter = interpolate(picture[None], ((height + 3) // 4, (width + 3) // 4), mode="bilinear", antialias=True)[0]
    smooth = interpolate(blur(quarter, 1.2)[None], (height, width), mode="bilinear")[0]
    return picture - smooth


def blur(picture: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of a picture (c, h, w) with replicated edges.

    SciPy takes a fifth of the time of torch's convolutions on a CPU.
    """
    reach = max(1, math.ceil(3 * sigma))
    return torch.from_numpy(gaussian_filter(picture.numpy(), sigma, mode="nearest", radius=reach, axes=(1, 2)))


# Candidates


def _candidates(a: Tensor, b: Tensor, weight: Tensor, angles: Sequence[float], count: int = 3) -> list[Similarity]:
    """The best shifts by phase correlation, one per scale and angle, best first."""
    height, width = a.shape[-2:]
    window = torch.outer(torch.hann_window(height, device=a.device), torch.hann_window(width, device=a.device))
    spectrum = torch.fft.rfft2(a * window * weight)
    limit = LARGEST_SHIFT * min(height, width)
    found = []
    for angle in angles:
        for scale in SCALES:
            turned, _ = warp(b, Similarity(0, 0, scale, angle))
            peak, x, y = _peak(spectrum, torch.fft.rfft2(turned * window), (height, width), limit)
            # `turned` at p is b at c + sR(p - c), so the shift found is multiplied by scale and rotation
            cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
            found.append((peak, Similarity(cosine * x - sine * y, sine * x + cosine * y, scale, angle)))
    found.sort(key=lambda pair: -pair[0])
    return [similarity for _, similarity in found[:count]]


def _peak(a: Tensor, b: Tensor, shape: tuple[int, int], limit: float) -> tuple[float, float, float]:
    """The highest value of the phase correlation within `limit` px, and the shift that takes a to b."""
    height, width = shape
    cross = (b * a.conj()).sum(0)
    rows = torch.fft.fftfreq(height, device=a.device)[:, None]
    columns = torch.fft.rfftfreq(width, device=a.device)
    smooth = torch.exp(-(rows**2 + columns**2) / (2 * 0.15**2))  # autoencoder noise has higher frequencies
    surface = torch.fft.irfft2(smooth * cross / (cross.abs() + 1e-3 * cross.abs().amax()), s=shape)
    y = torch.fft.fftfreq(height, 1 / height, device=a.device)[:, None]
    x = torch.fft.fftfreq(width, 1 / width, device=a.device)
    surface = surface.masked_fill(x**2 + y**2 > limit**2, -1)
    best = int(surface.argmax())
    row, column = divmod(best, width)
    return float(surface.flatten()[best]), float(x[column]), float(y[row, 0])


# The refinement


def _refine(
    a: Tensor, b: Tensor, weight: Tensor, similarity: Similarity, rotation: bool, steps: int = 10, stretch: bool = True
) -> Similarity:
    """Gauss-Newton on the robust squared difference of the details, over shift, log scale, log stretch and angle."""
    height, width = a.shape[-2:]
    slopes = torch.stack([(b.roll(-1, axis) - b.roll(1, axis)) / 2 for axis in (-1, -2)])
    slopes[0, ..., [0, -1]] = slopes[1, :, [0, -1]] = 0
    across = torch.arange(width, device=a.device) + 0.5 - width / 2
    down = torch.arange(height, device=a.device)[:, None] + 0.5 - height / 2
    layers = torch.cat((b, slopes[0], slopes[1]))
    reach = math.hypot(width, height) / 2
    for _ in range(steps):
        warped, inside = warp(layers, similarity)
        moved, gx, gy = warped.split(1)
        (xx, xy), (yx, yy) = similarity.matrix
        stretched = (gx * xx * across + gy * yx * across) * stretch
        dx, dy = xx * across + xy * down, yx * across + yy * down
        jacobian = [gx, gy, gx * dx + gy * dy, stretched] + ([gy * dx - gx * dy] if rotation else [])
        step = _step(jacobian, moved - a, weight[0] * inside)
        similarity = Similarity(
            similarity.x + step[0],
            similarity.y + step[1],
            similarity.scale * math.exp(step[2]),
            similarity.angle + (step[4] if rotation else 0.0),
            similarity.stretch * math.exp(step[3]),
        )
        if max(abs(step[0]), abs(step[1]), *(reach * abs(turned) for turned in step[2:])) < 2e-3:
            break
    return similarity


def _step(jacobian: list[Tensor], residual: Tensor, weight: Tensor) -> list[float]:
    """One damped Gauss-Newton step."""
    distance = blur(residual.square().sum(0)[None], 2.0)[0]  # smoothed, so that a changed part is rejected as a whole
    seen = distance[weight > 0.5]
    if len(seen) < 64:
        return [0.0] * len(jacobian)
    tolerance = 6 * seen.median().clamp(min=1e-6)
    robust = weight / (1 + distance / tolerance).square()  # Geman and McClure
    columns = torch.stack(jacobian).flatten(2)  # (parameters, 1, n)
    weighted = columns * robust.flatten()
    normal = torch.einsum("icn,jcn->ij", weighted, columns).double()
    right = torch.einsum("icn,cn->i", weighted, residual.flatten(1)).double()
    size = normal.diagonal().sqrt().clamp(min=1e-9)  # normalises the units of shift and scale
    normal, right = normal / torch.outer(size, size), right / size
    normal += 1e-4 * torch.eye(len(size), dtype=normal.dtype, device=normal.device)
    step = -torch.linalg.solve(normal, right) / size
    step[2:].clamp_(-LARGEST_STEP, LARGEST_STEP)
    return step.tolist()


# Acceptance


def _error(a: Tensor, b: Tensor, weight: Tensor, similarity: Similarity) -> float:
    """1 - the median correlation of details, where the original has the most of them: 0 is a perfect match.

    Independent of sharpness and contrast, and robust to a changed part.
    """
    moved, inside = warp(b, similarity)
    covariance, energy, other = (blur(p * q, 1.5)[0] for p, q in ((a, moved), (a, a), (moved, moved)))
    known = inside & (weight[0] > 0.5)
    if not known.any():
        return 0.0
    textured = known & (energy >= energy[known][:: max(1, energy.numel() // 50000)].quantile(0.7))
    return float((1 - covariance / (energy * other).sqrt().clamp(min=ROUNDING))[textured].median())


def _confidence(a: Tensor, b: Tensor, weight: Tensor, similarity: Similarity) -> float:
    """The fraction of textured blocks whose details correlate; 0 with fewer than 6 of them."""
    moved, inside = warp(b, similarity)
    covariance, energy_a, energy_b = (_blocks((p * q).sum(0) * inside) for p, q in ((a, moved), (a, a), (moved, moved)))
    textured = (_blocks(weight[0] * inside) > 0.5) & (torch.maximum(energy_a, energy_b) > TEXTURE**2)
    if int(textured.sum()) < 6:
        return 0.0
    agreeing = covariance > AGREES * (energy_a * energy_b).sqrt()
    return float((agreeing & textured).sum() / textured.sum())


def _blocks(picture: Tensor) -> Tensor:
    """Block means."""
    return avg_pool2d(picture[None, None].float(), BLOCK, ceil_mode=True)[0, 0]
