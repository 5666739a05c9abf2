"""An affine map of colours, for colours that only an edit has: a general fit knows those that did not change.

Pictures are (3, h, w) in 0..1, sRGB.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .colour import TERMS, ColourMap, robust
from .registration import blur

AFFINE = [0, 6, 12, 18]  # the terms of a `ColourMap` in R, G, B and the offset that are equal over the whole picture
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
OWN = 0.1  # typical size of what a channel has alone, relative to contrast and saturation, which are common to all
AS_GOOD, NEGLIGIBLE = 1.5, 1e-6  # the affine map may have this multiple of the general map's squared error, and more
CLIPPED = 0.004  # a value this near to black or white may have been clipped
SMOOTH, CROWDED = 2.0, 0.3  # px, sigma of the blur that removes sharpness; least fraction of usable pixels in it
ENOUGH = 0.01  # of the picture: least fraction of usable pixels
STRETCH = 2.0  # a map that stretches or shrinks some colours by more is not inverted


def simplest(general: ColourMap, original: Tensor, edited: Tensor, usable: Tensor) -> ColourMap:
    """The affine map from `edited` to `original`, both (3, h, w), if it explains them about as well as `general`.

    Otherwise `general`. Channels that are clipped have no say: they are taken as the affine map would have made them.

    usable  (3, h, w) of bool: channels of pixels that show the same and are not clipped in `edited`
    """
    affine = fit_affine(original, edited, usable)
    if affine is None:
        return general
    back, whole = inverse(affine), torch.where(usable, edited, affine.over(original))
    errors = (one - original for one in (back.over(whole), general.over(edited)))
    simple, best = ((error.square() * usable).sum(0)[usable.any(0)].median() for error in errors)
    return back if simple <= AS_GOOD * best + NEGLIGIBLE else general


def not_clipped(picture: Tensor) -> Tensor:
    """Where the channels of a picture (3, h, w) are neither black nor white: (3, h, w) of bool."""
    return (picture > CLIPPED) & (picture < 1 - CLIPPED)


def fit_affine(original: Tensor, edited: Tensor, usable: Tensor) -> ColourMap | None:
    """The affine map from the colours of `original` to those of `edited`, both (3, h, w).

    usable  as in `simplest`. None if these are too few, or if the map cannot be inverted safely

    More contrast, saturation or warmth is an affine map, then clipped. It is fitted in this direction and to blurred
    pictures, so that noise, sharpness and clipping hardly bias it. The channels are fitted together: one that is nearly
    everywhere clipped follows the contrast and the saturation of the others.
    """
    features, wanted, basis = [], [], _basis()
    for channel, (before, after, known) in enumerate(zip(original, edited, usable, strict=True)):
        mass = blur(known[None].float(), SMOOTH)[0]
        inside = known & (mass > CROWDED)
        even = (blur(torch.stack((*(original - 0.5), after - before)) * known, SMOOTH) / mass)[:, inside].double()
        features.append(basis[:, channel] @ torch.cat((even[:3], torch.ones_like(even[:1]))))
        wanted.append(even[3:])
    if sum(map(torch.numel, wanted)) < ENOUGH * usable.numel():
        return None
    weight = torch.ones_like(torch.cat(wanted, 1)[0])
    found = robust(torch.cat(features, 1), torch.cat(wanted, 1), weight)[0][0]
    change = (found[:, None, None] * basis).sum(0)
    one = torch.eye(3).to(change)
    stretches = torch.linalg.svdvals(one + change[:, :3])
    if stretches.max() > STRETCH or stretches.min() < 1 / STRETCH:
        return None
    return _affine(change)


def inverse(affine: ColourMap) -> ColourMap:
    """The inverse of an affine map."""
    change, one = affine.coefficients[:, AFFINE].double(), torch.eye(3, dtype=torch.float64)
    back = torch.linalg.inv(one + change[:, :3])
    return _affine(torch.cat((back - one, -back @ change[:, 3:]), 1))


def _affine(change: Tensor) -> ColourMap:
    """The map that changes colours by these coefficients (3, 4) of R, G and B, relative to 0.5, and 1."""
    coefficients = torch.zeros(3, TERMS)
    coefficients[:, AFFINE] = change.float()
    return ColourMap(coefficients, torch.zeros(TERMS, TERMS), math.inf)


def _basis() -> Tensor:
    """Changes (14, 3, 4) of R, G, B by R, G, B and an offset: saturation, contrast, and what each channel has alone."""
    one, luma = torch.eye(3, dtype=torch.float64), torch.tensor(LUMA, dtype=torch.float64).expand(3, 3)
    common = torch.nn.functional.pad(torch.stack((one - luma, luma)), (0, 1))
    own = torch.eye(12, dtype=torch.float64).view(12, 3, 4) * torch.tensor((OWN, OWN, OWN, 1.0), dtype=torch.float64)
    return torch.cat((common, own))
