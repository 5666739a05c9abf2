"""Colours as they are seen: perceptual spaces, colour difference, and one picture's colours fitted to another's.

Pictures are (c, h, w) in 0..1, sRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

_TO_XYZ = (  # linear sRGB to XYZ over the white D65: IEC 61966-2-1
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_TO_LMS = (  # Ottosson 2020, https://bottosson.github.io/posts/oklab
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def lab(picture: Tensor) -> Tensor:
    """CIE L*a*b* of an sRGB picture (3, h, w), white D65."""
    xyz = _times(_TO_XYZ, linear(picture))
    f = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-8).pow(1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def oklab(picture: Tensor) -> Tensor:
    """Oklab of an sRGB picture (3, h, w), times 100: a step of 1 is about the smallest that is seen."""
    return 100 * _times(_TO_OKLAB, _times(_TO_LMS, linear(picture)).clamp(min=0).pow(1 / 3))


def linear(picture: Tensor) -> Tensor:
    """Linear light of sRGB values; values outside 0..1 are cut."""
    picture = picture.clamp(0, 1)
    return torch.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055).pow(2.4))


def delta_e_2000(a: Tensor, b: Tensor) -> Tensor:
    """CIEDE2000 between two pictures in L*a*b* (3, ...): (...). Sharma, Wu, Dalal 2005, equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = a, b
    mean_chroma = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * (mean_chroma**7 / (mean_chroma**7 + 25.0**7)).sqrt()
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    coloured = (c1 * c2) > 0
    turn = (h2 - h1 + math.pi) % (2 * math.pi) - math.pi
    turn = torch.where(coloured, turn, torch.zeros_like(turn))
    d_hue = 2 * (c1 * c2).sqrt() * (turn / 2).sin()
    hue = torch.where(coloured, h1 + turn / 2, h1 + h2)
    chroma, light = (c1 + c2) / 2, (l1 + l2) / 2
    t = (
        1
        - 0.17 * (hue - math.radians(30)).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + math.radians(6)).cos()
        - 0.20 * (4 * hue - math.radians(63)).cos()
    )
    degrees = torch.rad2deg(hue % (2 * math.pi))
    rotation = math.radians(60) * (-(((degrees - 275) / 25) ** 2)).exp()
    s_light = 1 + 0.015 * (light - 50) ** 2 / (20 + (light - 50) ** 2).sqrt()
    x, y, z = (l2 - l1) / s_light, (c2 - c1) / (1 + 0.045 * chroma), d_hue / (1 + 0.015 * chroma * t)
    twist = -2 * (chroma**7 / (chroma**7 + 25.0**7)).sqrt() * rotation.sin()
    return (x**2 + y**2 + z**2 + twist * y * z).clamp(min=0).sqrt()


def _times(matrix: tuple[tuple[float, ...], ...], picture: Tensor) -> Tensor:
    return torch.einsum("ij,j...->i...", picture.new_tensor(matrix), picture)


WARY, FREE = 0.12, 0.4  # the usual size of a coefficient: while it is not known what changed, and when it is
TERMS = 29
COPY = 160  # px, the longer side of the copy on which colours are fitted
BINS, NEAR = 32, 5  # a side of the table of colours, and how many of them are alike
RARE = 1e-5  # the density in that table from which a colour counts as known: some 0.1 % of the pixels have one like it
STRIP = 128  # rows that are mapped at once: their features take 29 times the memory


@dataclass(frozen=True)
class ColourMap:
    """What takes one picture's colours to another's: linear in the colour, its coefficients smooth over the picture.

    coefficients  (3, 29), a row a channel: the change of its colour by R, G and B, each with a coefficient of degree 2
                  in x and y (3 x 6 terms), and by an offset of degree 3 and x^2 y^2 (11 terms); all zero is no change
    """

    coefficients: Tensor
    reach: float  # no colour moves farther
    known: Tensor  # (32768,) in 0..1: how well each of 32 x 32 x 32 colours is known; others are left as they are

    def over(self, picture: Tensor, left: int = 0, top: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """A picture (3, h, w) mapped, not cut to 0..1; or the part at `left`, `top` of one of `size`."""
        height, width = size or picture.shape[1:]
        x, y = positions(height, width, picture)
        x, y = x[:, left : left + picture.shape[2]], y[top : top + picture.shape[1]]
        coefficients = self.coefficients.to(picture)
        rows = [
            strip + self._change(coefficients @ _features(strip, x, y_strip).flatten(1), strip).view_as(strip)
            for strip, y_strip in zip(picture.split(STRIP, 1), y.split(STRIP), strict=True)
        ]
        return torch.cat(rows, 1)

    def _change(self, wanted: Tensor, picture: Tensor) -> Tensor:
        """Changes (3, n) of a picture's colours, none longer than `reach`, and less of what is not known."""
        share = (self.reach / wanted.norm(dim=0).clamp(min=1e-9)).clamp(max=1)
        return wanted * share * self.known.to(picture)[_bins(picture)]


def fit_colours(original: Tensor, edited: Tensor, unchanged: Tensor, likely: float = FREE) -> ColourMap:
    """The map that takes the colours of `edited` to those of `original`, both (3, h, w), where they show the same.

    unchanged  weights (h, w) in 0..1
    likely     the usual size of a coefficient, in a picture with little noise: what the colours where nothing changed
               do not determine stays near no change

    Least squares on a small copy, in which the noise of an autoencoder is averaged away, with little weight for what
    does not fit (Geman and McClure). With less than 0.5 % of the picture unchanged there is nothing to fit: no change.
    What the map does to a colour that is not near an unchanged one would be a guess, so such a colour stays as it is.
    """
    target, source = shrunk(original, COPY), shrunk(edited, COPY)
    weight = shrunk(unchanged[None], COPY)[0]
    weight = torch.where(weight > 0.95, weight, 0).flatten()
    if weight.mean() < 0.005:
        return ColourMap(torch.zeros(3, TERMS), 0.0, torch.zeros(BINS**3))
    features = _features(source, *positions(source.shape[1], source.shape[2], source)).flatten(1)
    difference = (target - source).flatten(1)
    coefficients = features.new_zeros(3, TERMS)
    for _ in range(8):
        error = (difference - coefficients @ features).square().sum(0)
        usual = error[weight > 0].median() + 1e-6
        trust = weight / (1 + error / (6 * usual)).square()
        weighted = features * trust
        ridge = usual / 3 / likely**2  # the ratio of variances: of a channel's error, and of a coefficient
        normal = weighted @ features.T / trust.sum() + ridge * torch.eye(len(features)).to(features)
        coefficients = torch.linalg.solve(normal, weighted @ difference.T / trust.sum()).T
    moved = (coefficients @ features).norm(dim=0)[weight > 0]
    return ColourMap(coefficients, float(moved.max()), _known(source, weight))


def _known(picture: Tensor, weight: Tensor) -> Tensor:
    """How near each of 32 x 32 x 32 colours is to what a picture has where `weight` (n,) is not zero: in 0..1."""
    count = torch.bincount(_bins(picture)[weight > 0], minlength=BINS**3).view(1, BINS, BINS, BINS).float()
    for _ in range(2):
        count = avg_pool3d(count, NEAR, 1, NEAR // 2)
    return (count.flatten() / count.sum() / RARE).clamp(max=1)


def _bins(picture: Tensor) -> Tensor:
    """The place of each pixel's colour among the 32 x 32 x 32, (n,)."""
    red, green, blue = (picture.clamp(0, 1) * (BINS - 1)).round().long().flatten(1)
    return (red * BINS + green) * BINS + blue


def positions(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x (1, w) and y (h, 1) of the pixels, in -1..1 over the picture."""
    y, x = ((torch.arange(side).to(like) + 0.5) * 2 / side - 1 for side in (height, width))
    return x[None], y[:, None]


def shrunk(picture: Tensor, longest: int) -> Tensor:
    """A copy of a picture (c, h, w) with its longer side at most `longest`, in float32."""
    height, width = picture.shape[-2:]
    if max(height, width) <= longest:
        return picture.float()
    size = [max(1, round(side * longest / max(height, width))) for side in (height, width)]
    return interpolate(picture[None].float(), size, mode="bilinear", antialias=True)[0]


def _features(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """What the coefficients of a `ColourMap` multiply, (29, h, w)."""
    one = torch.ones_like(picture[0])
    powers = [1.0, x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3, x * x * y * y]
    of_colours = [(colour - 0.5) * term for colour in picture for term in powers[:6]]
    return torch.stack([*of_colours, *(one * term for term in powers)])
