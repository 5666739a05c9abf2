"""What an edit left alone: found, and put back pixel for pixel.

Pictures are (3, h, w) in 0..1, masks (h, w), 1 where something changed. The mathematics runs on a copy with a longer
side of at most 768 px; only the paste-back touches every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .colour import WARY, ColourMap, delta_e_2000, fit_colours, lab, oklab, shrunk
from .registration import Registration, blur, register, warp

ndimage: Any = scipy.ndimage  # its own annotations are vaguer than what its functions give

COPY, SMALL = 768, 192  # px, the longer sides of the copy, and of the one on which colours are compared
SEEN, SURE = 3.5, 4.0  # differences in Oklab x 100: of a changed pixel, and of a change that is no noise
ABOVE, FAR_ABOVE = 4.0, 8.0  # the same in units of the picture's own noise
NO_CHANGE = 3.0  # a smaller difference may be drift
SLOW = 1 / 12  # of the longer side: drift changes over a longer way
RELATIVE = 0.4  # a change counts from this share of the picture's strongest one
NOISIEST = 2.0  # the most that is taken for noise: where all differs by more, all changed
EDGE = 0.15  # a blurred edge is where the difference falls to this share of what lies inside
GLOBAL_SHARE, GLOBAL_DRIFT = 0.6, 7.0  # beyond, the whole picture was edited: share of pixels, mean dE2000
STILL = 0.1  # px: a smaller displacement is not worth resampling
SHARP = 0.5  # px: how much less than the rest the picture is blurred in which edges are looked for
GAP = 2  # px: pieces of one change may lie twice as far apart
BRIDGE = 0.012  # of the longer side: what lies between parts of a change, twice as far apart at most, goes with them
EVIDENCE = 16.0  # what 1 means in a map of latent evidence, in units of the latents' noise
JOINS = ("union", "intersection", "limit")


@dataclass(frozen=True)
class Change:
    """What differs between two pictures."""

    core: Tensor  # (h, w) of bool, at the copy's size
    drift: float  # mean dE2000 of the smooth change of colours that was taken for drift

    @property
    def share(self) -> float:
        return float(self.core.float().mean())

    @property
    def is_global(self) -> bool:
        """Whether so much changed that there is nothing to keep."""
        return self.share > GLOBAL_SHARE or self.drift > GLOBAL_DRIFT


@dataclass(frozen=True)
class Preserved:
    """A picture with everything put back that did not change, and what was done for it."""

    picture: Tensor  # (3, h, w)
    mask: Tensor  # (h, w) in 0..1: 0 is the original's pixel, bit for bit
    registration: Registration | None  # None: not asked for
    moved: bool  # whether the edited picture was resampled
    is_global: bool  # then nothing was put back
    colour_error: tuple[float, float] | None  # mean dE2000 of unchanged pixels before and after the fit


def find_change(
    original: Tensor,
    edited: Tensor,
    *,
    sensitivity: float = 1.0,
    smallest: float = 5e-4,
    evidence: Tensor | None = None,
) -> Change:
    """What changed between two pictures that lie on each other, beyond noise and a smooth drift of colours.

    sensitivity  above 1 finds weaker changes, below 1 only stronger ones
    smallest     share of the picture below which an island is noise
    evidence     what `latent_evidence` says, at any size, over the same picture

    Differences in Oklab are compared at three scales with the noise floor of the picture itself, which is higher where
    the original has edges, since there an autoencoder errs; hysteresis joins what hangs together.
    """
    a, b = shrunk(original, COPY), shrunk(edited, COPY)
    colours = fit_colours(a, b, torch.ones_like(a[0]), WARY)
    small = shrunk(b, SMALL)
    drift = float(delta_e_2000(lab(small), lab(colours.over(small))).mean())
    fitted = colours.over(b)
    difference = _levelled(oklab(a) - oklab(fitted))
    sharp, fine, middle, coarse = (blur(difference, sigma).square().sum(0).sqrt() for sigma in (SHARP, 1.0, 2.0, 4.0))
    activity = _activity(a)
    strongest = float(middle.flatten().topk(max(16, middle.numel() // 1000)).values[-1])
    sure = max(SURE / sensitivity, RELATIVE / max(1.0, sensitivity) * min(strongest, 30.0))
    seeds = torch.zeros_like(fine, dtype=torch.bool)
    for distance, share in ((middle, 1.0), (coarse, 0.7)):
        seeds |= (distance > share * sure) & (distance > FAR_ABOVE * _floor(distance, activity))
    seen = (fine > SEEN / sensitivity) & (fine > ABOVE * _floor(fine, activity))
    if evidence is not None:
        seeds &= _resized(evidence, seeds.shape) > FAR_ABOVE / 2 / EVIDENCE
    return Change(torch.from_numpy(_region(seeds.numpy(), seen.numpy(), sharp.numpy(), smallest)), drift)


def latent_evidence(reference: Tensor, result: Tensor) -> Tensor:
    """How much latents (c, h, w) of reference and result differ, in units of their own noise: (h, w), 1 is 16 times.

    Raises ValueError when their shapes differ.
    """
    if reference.shape != result.shape:
        raise ValueError(
            f"reference latent has the shape {tuple(reference.shape)}, the result {tuple(result.shape)}; they must be "
            "equal. Connect the latent of the reference that was edited."
        )
    distance = (reference.float() - result.float()).square().mean(0).sqrt()
    noise = distance.flatten().quantile(0.4).clamp(min=1e-3)
    return (distance / noise / EVIDENCE).clamp(0, 1)


def soft_mask(core: Tensor, size: Sequence[int], grow: float = 0.005, feather: float = 0.01) -> Tensor:
    """A core (h, w) of bool as a mask for a picture of size (height, width): 1 up to `grow` around it, then falling.

    grow, feather  widths as shares of the longer side; the mask is exactly 0 beyond both
    """
    if not core.any():
        return torch.zeros(*size)
    away = torch.from_numpy(ndimage.distance_transform_edt(~core.numpy())).float()
    longest = max(core.shape)
    ramp = (1 - (away - grow * longest) / max(feather * longest, 1e-6)).clamp(0, 1)
    ramp = torch.where(core, 1.0, ramp)
    return _resized(ramp * ramp * (3 - 2 * ramp), size)


def join(core: Tensor, mask: Tensor, how: str) -> Tensor:
    """A core (h, w) of bool and a user's mask of any size: bool.

    union         what either has
    intersection  what both have
    limit         the islands of the core that touch the mask, whole

    Raises ValueError for another word.
    """
    drawn = _resized(mask, core.shape) > 0.5
    if how == "union":
        return core | drawn
    if how == "intersection":
        return core & drawn
    if how == "limit":
        islands, _ = ndimage.label(core.numpy(), np.ones((3, 3)))
        return torch.from_numpy(np.isin(islands, np.setdiff1d(islands[drawn.numpy()], 0)))
    raise ValueError(f"join is {how!r}; choose one of {', '.join(JOINS)}.")


def align(original: Tensor, edited: Tensor, unchanged: Tensor | None = None, *, rotation: bool = False):
    """The edited picture moved onto its original where that is known and needed.

    Gives the picture, where it has pixels (h, w) of bool, and the `Registration`. A registration without confidence
    moves nothing; nor does one below a tenth of a pixel, so that no picture is resampled in vain.
    """
    found = register(original, edited, unchanged, rotation=rotation)
    if not found.accepted or found.similarity.displacement(*edited.shape[:0:-1]) < STILL:
        return edited, None, found
    return *warp(edited, found.similarity), found


def preserve(
    original: Tensor,
    edited: Tensor,
    mask: Tensor | None = None,
    *,
    registered: bool = True,
    rotation: bool = False,
    colours: bool = True,
    paste: bool = True,
    **finding,
) -> Preserved:
    """The edited picture with all that did not change as in the original, both (3, h, w).

    mask        (h, w) where the edit is; without, it is found
    registered  move the edited picture onto the original;  rotation: turn it too
    colours     take back the drift of colours, as seen where nothing changed
    paste       put the original's pixels back outside the mask
    finding     `sensitivity`, `smallest`, `evidence` of `find_change`; `grow`, `feather` of `soft_mask`

    Raises ValueError when the sizes differ.
    """
    if original.shape != edited.shape:
        raise ValueError(
            "edited is {1}x{0} px, original {3}x{2} px; they must be equal. Use Kontext Restore Frame before.".format(
                *edited.shape[1:], *original.shape[1:]
            )
        )
    known = None if mask is None else 1 - mask
    moved, inside, found = align(original, edited, known, rotation=rotation) if registered else (edited, None, None)
    if mask is None:
        edges = {name: finding.pop(name) for name in ("grow", "feather") if name in finding}
        change = find_change(original, moved, **finding)
        if change.is_global:
            return Preserved(edited, torch.ones_like(original[0]), found, False, True, None)
        mask = soft_mask(change.core, original.shape[1:], **edges)
    if inside is not None:
        mask = mask * inside  # beyond its border the edited picture has nothing to show
    return _composite(original, moved, mask, found, inside is not None, colours, paste)


def _composite(
    original: Tensor,
    moved: Tensor,
    mask: Tensor,
    found: Registration | None,
    resampled: bool,
    colours: bool,
    paste: bool,
) -> Preserved:
    goal, small = shrunk(original, SMALL), shrunk(moved, SMALL)
    unchanged = _resized(mask, goal.shape[1:]) == 0
    colour_map = fit_colours(goal, small, unchanged.float()) if colours else None
    error = colour_error(goal, small, unchanged, colour_map)
    top, left, bottom, right = _bounds(mask > 0) if paste else (0, 0, *mask.shape)
    picture = original.clone()
    part = (slice(None), slice(top, bottom), slice(left, right))
    new = moved[part]
    if colour_map is not None:
        new = colour_map.over(new, left, top, (mask.shape[0], mask.shape[1])).clamp(0, 1)
    if paste:
        weight = mask[part[1:]]
        new = torch.where(weight >= 1, new, torch.lerp(original[part], new, weight))
        new = torch.where(weight > 0, new, original[part])
    picture[part] = new.to(picture)
    return Preserved(picture, mask, found, resampled, False, error)


def colour_error(
    original: Tensor, edited: Tensor, unchanged: Tensor, colours: ColourMap | None
) -> tuple[float, float] | None:
    """Mean dE2000 on the unchanged pixels (h, w) of bool, before and after a map; None without such pixels."""
    if not unchanged.any():
        return None
    goal = lab(original)
    after = edited if colours is None else colours.over(edited).clamp(0, 1)
    before, after = (float(delta_e_2000(goal, lab(picture))[unchanged].mean()) for picture in (edited, after))
    return before, after


# How the change is found


def _levelled(difference: Tensor) -> Tensor:
    """A difference (3, h, w) without what varies slowly over the picture where it is small: drift that the fit left."""
    size = difference.shape[1:]
    spread = SLOW * max(size)
    cell = max(1, int(spread // 4))
    for _ in range(2):
        weight = 1 / (1 + (difference.square().sum(0, keepdim=True).sqrt() / NO_CHANGE) ** 4)
        cells = [-(-side // cell) for side in size]
        sums = blur(interpolate(torch.cat((difference * weight, weight))[None], cells, mode="area")[0], spread / cell)
        slow = sums[:3] / sums[3:].clamp(min=0.25)  # where nearly all changed, little is taken away
        difference = difference - interpolate(slow[None], size, mode="bilinear")[0]
    return difference


def _activity(picture: Tensor) -> Tensor:
    """How much a picture changes from pixel to pixel, (h, w)."""
    seen = oklab(picture)
    across, down = (seen.diff(dim=axis).square().sum(0) for axis in (2, 1))
    energy = torch.zeros_like(seen[0])
    energy[:, 1:] += across
    energy[:, :-1] += across
    energy[1:] += down
    energy[:-1] += down
    return blur(energy[None], 2.0)[0].clamp(min=0).sqrt()


def _floor(distance: Tensor, activity: Tensor, bins: int = 12) -> Tensor:
    """The noise of a distance, (h, w): the 40th of 100 among pixels of like activity, growing with it.

    So far down it is not moved by a change of less than half of the picture.
    """
    sample = slice(None, None, max(1, distance.numel() // 60000))
    flat, level = distance.flatten()[sample], activity.flatten()[sample].contiguous()
    edges = level.quantile(torch.linspace(0, 1, bins + 1).to(level))[1:-1].contiguous()
    place, overall = torch.bucketize(level, edges), flat.quantile(0.4)
    groups = [flat[place == index] for index in range(bins)]
    floors = torch.stack([group.quantile(0.4) if len(group) > 20 else overall for group in groups])
    floors = floors.clamp(max=4 * overall).cummax(0).values.clamp(max=NOISIEST)
    return floors[torch.bucketize(activity, edges)]


def _region(seeds: np.ndarray, seen: np.ndarray, distance: np.ndarray, smallest: float) -> np.ndarray:
    """Hysteresis, closing, exact edges, filled holes, no small islands: (h, w) of bool."""
    islands, _ = ndimage.label(_closed(seen | seeds, GAP), np.ones((3, 3)))
    region = np.isin(islands, np.setdiff1d(islands[seeds & seen], 0)) & seen
    region = ndimage.binary_fill_holes(_closed(region, 1))
    inside = ndimage.maximum_filter(np.where(region, distance, 0), size=13)
    deep = ndimage.binary_erosion(region, iterations=4, border_value=1)
    region = deep | (region & (distance > EDGE * inside))
    region = ndimage.binary_fill_holes(_closed(region, max(4, round(BRIDGE * max(region.shape)))))
    region = ndimage.binary_opening(np.pad(region, 2, mode="edge"))[2:-2, 2:-2]
    islands, count = ndimage.label(region)
    areas = ndimage.sum_labels(region, islands, range(1, count + 1))
    return np.isin(islands, 1 + np.flatnonzero(areas >= max(12, smallest * region.size)))


def _closed(region: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= radius * radius + 0.5
    margin = 2 * radius
    return ndimage.binary_closing(np.pad(region, margin), disc)[margin:-margin, margin:-margin] | region


def _resized(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A map (h, w) at another (height, width); larger by linear interpolation, smaller by averaging."""
    if tuple(mask.shape) == tuple(size):
        return mask.float()
    larger = interpolate(mask[None, None].float(), list(size), mode="bilinear", antialias=True)[0, 0]
    return torch.where(larger > 1e-6, larger, 0.0)


def _bounds(region: Tensor) -> tuple[int, int, int, int]:
    """top, left, bottom, right of what is true; all 0 for nothing."""
    if not region.any():
        return 0, 0, 0, 0
    rows, columns = (region.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
