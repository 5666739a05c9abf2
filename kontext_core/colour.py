"""Colour: perceptual spaces, colour difference, and a map fitted from one picture's colours to another's.

Pictures are (c, h, w) in 0..1, sRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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
REFLECTED = 0.003  # light that a typical screen reflects, as a fraction of white


def lab(picture: Tensor) -> Tensor:
    """CIE L*a*b* of an sRGB picture (3, h, w), white D65."""
    xyz = _times(_TO_XYZ, linear(picture))
    f = torch.where(xyz > 216 / 24389, xyz.clamp(min=1e-8).pow(1 / 3), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def oklab(picture: Tensor, reflected: float = 0.0) -> Tensor:
    """Oklab of an sRGB picture (3, h, w), times 100. `reflected` is the light a screen adds, as a fraction of white.

    A step of 1 is about the smallest visible one. Without reflected light, a step of 2/255 near black counts as 8.
    """
    seen = (_times(_TO_LMS, linear(picture)).clamp(min=0) + reflected).pow(1 / 3) - reflected ** (1 / 3)
    return 100 * _times(_TO_OKLAB, seen)


def linear(picture: Tensor) -> Tensor:
    """Linear light of sRGB values; values outside 0..1 are clamped."""
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


TERMS = 41
COPY = 160  # px, the longer side of the copy on which colours are fitted
USUAL = 0.4  # typical size of a coefficient
KNOTS = (0.2, 0.4, 0.6, 0.8)  # knots of the curve of a channel
ALIKE = 100  # neighbouring pixels that count as one independent sample
UNSURE = 0.03  # a colour change whose standard error exceeds this is suppressed
REACH = 0.97  # no colour changes more than this quantile of the unchanged ones; larger changes are rims of the edit
STRIP = 128  # rows mapped at once: their features take 41 times the memory of the picture


@dataclass(frozen=True)
class ColourMap:
    """A map from one picture's colours to another's that varies smoothly over the picture.

    coefficients  (3, 41), one row per channel: the change of its colour as a function of R, G and B, each with a
                  coefficient of degree 2 in x and y (3 x 6 terms), an offset of degree 3 and x^2 y^2 (11 terms), and a
                  curve of R, G and B with four knots each (12 terms); all zero is no change
    uncertainty   (41, 41), a square root of the covariance of the coefficients' errors
    """

    coefficients: Tensor
    uncertainty: Tensor
    reach: float  # upper bound of a colour's change

    def over(self, picture: Tensor, left: int = 0, top: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """A picture (3, h, w) mapped, not clamped to 0..1; or the part at `left`, `top` of a picture of `size`.

        Colours that the fit does not determine stay as they are.
        """
        height, width = size or picture.shape[1:]
        x, y = positions(height, width, picture)
        x, y = x[:, left : left + picture.shape[2]], y[top : top + picture.shape[1]]
        strips = zip(picture.split(STRIP, 1), y.split(STRIP), strict=True)
        return torch.cat([strip + self._change(_features(strip, x, rows)) for strip, rows in strips], 1)

    def _change(self, features: Tensor) -> Tensor:
        """Changes (3, h, w) of colours, at most `reach` long and damped where the fit is uncertain."""
        flat = features.flatten(1)
        wanted = self.coefficients.to(flat) @ flat
        error = (self.uncertainty.to(flat) @ flat).square().sum(0)
        length = wanted.square().sum(0).sqrt()  # norm(dim=0) takes six times as long
        share = (self.reach / length.clamp(min=1e-9)).clamp(max=1) / (1 + error / UNSURE**2)
        return (wanted * share).view(3, *features.shape[1:])


def fit_colours(original: Tensor, edited: Tensor, unchanged: Tensor) -> ColourMap:
    """The map that takes the colours of `edited` to those of `original`, both (3, h, w), where they show the same.

    unchanged  weights (h, w) in 0..1

    Robust least squares on a small copy, in which noise averages out. Coefficients that the unchanged colours do not
    determine stay near zero. With less than 0.5 % of the picture unchanged the map is the identity.
    """
    target, source = shrunk(original, COPY), shrunk(edited, COPY)
    weight = shrunk(unchanged[None], COPY)[0].flatten()
    if weight.mean() < 0.005:
        return ColourMap(torch.zeros(3, TERMS), torch.zeros(TERMS, TERMS), 0.0)
    features = _features(source, *positions(source.shape[1], source.shape[2], source)).flatten(1).double()
    fitted, usual, normal = robust(features, (target - source).flatten(1).double(), weight.double())
    moved = (fitted @ features).norm(dim=0)[weight > 0.5 * weight.max()]
    uncertainty = (usual / 3).sqrt() * torch.linalg.inv(torch.linalg.cholesky(normal))
    return ColourMap(fitted.float(), uncertainty.float(), float(moved.quantile(REACH)))


def robust(features: Tensor, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (c, f) by which features (f, n) give the wanted values (c, n), weighted by (n,).

    Also the usual squared error, and the normal matrix. All are float64, because that matrix is nearly singular for
    similar colours. Robust least squares (Geman and McClure); coefficients that the features do not determine stay near
    zero.
    """
    coefficients, likely = features.new_zeros(len(wanted), len(features)), weight > 0.5 * weight.max()
    usual, normal = features.new_zeros(()), torch.eye(len(features)).to(features)
    for _ in range(8):
        error = (wanted - coefficients @ features).square().sum(0)
        usual = error[likely].median() + 1e-6
        trust = weight / (1 + error / (6 * usual)).square()
        weighted = features * trust
        ridge = usual / len(wanted) / USUAL**2  # the ratio of variances: of a channel's error, and of a coefficient
        normal = weighted @ features.T / ALIKE + ridge * torch.eye(len(features)).to(features)
        coefficients = torch.linalg.solve(normal, weighted @ wanted.T / ALIKE).T
    return coefficients, usual, normal


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
    """The features that the coefficients of a `ColourMap` multiply, (41, h, w)."""
    one = torch.ones_like(picture[0])
    powers = [1.0, x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3, x * x * y * y]
    of_colours = [(colour - 0.5) * term for colour in picture for term in powers[:6]]
    bends = [(5 * (colour - knot)).abs().neg().add(1).clamp(min=0) for colour in picture for knot in KNOTS]
    return torch.stack([*of_colours, *(one * term for term in powers), *bends])
