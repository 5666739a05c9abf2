"""Find what an edit left unchanged, and restore it bit for bit.

Pictures are (3, h, w) in 0..1, masks (h, w), 1 where something changed. Changes are detected on a copy with a longer
side of at most 768 px; moving, correcting and pasting run at full size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .colour import REFLECTED, delta_e_2000, fit_colours, lab, oklab, shrunk
from .looks import SMALL, Look, fit_look
from .registration import Registration, blur, register, warp
from .sharpness import fit_sharpness

ndimage: Any = scipy.ndimage  # its own annotations are vaguer than what its functions give

COPY = 768  # px, the longer side of the copy on which changes are detected
SEEN, SURE = 3.5, 4.0  # thresholds in Oklab x 100: of a changed pixel, and of a seed that proves a change
ABOVE = 4.0  # the first threshold in units of the picture's own noise; the second is twice as high
NO_CHANGE = 3.0  # a smaller difference may be drift
SLOW = 1 / 12  # of the longer side: the scale above which a difference counts as drift
NOISIEST = 2.0  # upper bound of the noise floor; if everything differs by more, everything changed
EDGE = 0.15  # the edge of a change lies where the blurred difference falls to this fraction of its inside
GLOBAL_SHARE, GLOBAL_DRIFT = 0.85, 8.0  # above either, the edit is global: fraction of pixels, mean dE2000
CHANCE = 0.2  # weight of details that agree inside a large change: some agree by chance
UNCERTAIN_SHARE = 0.4  # above this fraction, drift and edit are hard to separate: the user should check
STILL = 0.1  # px: a smaller displacement is not worth resampling
GAP = 2  # px: half the largest gap between pieces of one change; at the end, gaps at least twice as large are filled
BRIDGE = 0.006  # of the longer side: half the largest gap that is filled at the end in a large copy
HOLE = 0.01  # of the picture: smaller enclosed holes are filled
PLAIN = 1e-4  # contrast squared: below it there are no details to compare
ROUNDS = 2  # iterations that separate drift from change
MATCH = ("geometry", "rotation", "tone", "sharpness", "grain")
JOINS = ("union", "intersection", "limit")


@dataclass(frozen=True)
class Change:
    """The difference between two pictures."""

    core: Tensor  # (h, w) of bool, at the copy's size
    drift: float  # mean dE2000 where both show the same, which after a large change only details prove: colour drift

    @property
    def share(self) -> float:
        return float(self.core.float().mean())

    @property
    def is_global(self) -> bool:
        """Whether so much changed that there is nothing to keep."""
        return self.share > GLOBAL_SHARE or self.drift > GLOBAL_DRIFT

    @property
    def is_uncertain(self) -> bool:
        """Whether so much changed that drift and edit are hard to tell from each other."""
        return not self.is_global and self.share > UNCERTAIN_SHARE


@dataclass(frozen=True)
class Preserved:
    """The preserved picture, and how it was made."""

    picture: Tensor  # (3, h, w)
    mask: Tensor  # (h, w) in 0..1: 0 is the original's pixel, bit for bit
    registration: Registration | None  # None: not requested
    moved: bool  # whether the edited picture was resampled
    change: Change | None  # what was found; None with a mask
    look: Look | None  # the look that was matched; None for a global edit, which is left as it is

    @property
    def is_global(self) -> bool:
        return self.look is None


def find_change(
    original: Tensor,
    edited: Tensor,
    *,
    sensitivity: float = 1.0,
    smallest: float = 1e-4,
    evidence: Tensor | None = None,
    inside: Tensor | None = None,
) -> Change:
    """The change between two aligned pictures, beyond noise and smooth colour drift.

    sensitivity  above 1 finds weaker changes, below 1 only stronger ones
    smallest     fraction of the picture below which an island counts as noise
    evidence     result of `latent_evidence`, at any size, over the same picture
    inside       (h, w) of bool: where the edited picture has pixels, if not everywhere

    Differences in Oklab are compared at three scales with the picture's own noise floor, which is higher at edges of
    the original, where autoencoders err; hysteresis joins connected pixels.
    """
    a, b = shrunk(original, COPY), shrunk(edited, COPY)
    alike, proven = agreement(a, b)
    known = torch.ones_like(a[0]) if inside is None else _away_from(~inside, a.shape[1:])
    usable = known * _comparable(a, b, proven)
    weight, core = alike.square() * usable, torch.zeros_like(a[0], dtype=torch.bool)
    for _ in range(ROUNDS):
        colours = fit_colours(b, a, weight)
        toned = colours.over(a)
        expected = fit_sharpness(toned, b, weight).over(toned).clamp(0, 1)
        difference = _levelled(oklab(b, REFLECTED) - oklab(expected, REFLECTED)) * known
        core = _differing(difference, _activity(expected), weight > 0.5, sensitivity, smallest, evidence)
        weight = usable * ~_grown(core)
    if inside is not None:
        core = _continued(core, known > 0)
    changed = core.float().mean() > UNCERTAIN_SHARE
    return Change(core, _drift(a, b, proven * torch.where(core, CHANCE, 1.0) if changed else alike * ~core))


def _drift(a: Tensor, b: Tensor, weight: Tensor) -> float:
    """The colour drift, mean dE2000, weighted by how surely both pictures show the same (h, w).

    Detected changes have no weight. After a large change, which may be one of light, only equal details count, and less
    inside the change.
    """
    before, after, weight = (shrunk(one, SMALL) for one in (a, b, weight[None]))
    return float((delta_e_2000(lab(before), lab(after)) * weight[0]).sum() / weight.sum().clamp(min=1))


def _comparable(a: Tensor, b: Tensor, proven: Tensor) -> Tensor:
    """How likely two pictures (3, h, w) show the same, before anything is fitted: (h, w) in 0..1.

    Drift hardly changes a place by more than twice `GLOBAL_DRIFT`; there, only details that agree prove it.

    proven  the second map of `agreement`
    """
    small = (lab(blur(shrunk(one, SMALL), 2.0)) for one in (a, b))
    return torch.where(_resized(delta_e_2000(*small), a.shape[1:]) > 2 * GLOBAL_DRIFT, proven, 1.0)


def agreement(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How well the details of two pictures (3, h, w) agree, regardless of their colours: two maps (h, w).

    Places without details agree in the first map; in the second they do not, because nothing proves it.
    """
    size = a.shape[1:]
    a, b = (shrunk(picture.mean(0, keepdim=True), 2 * SMALL) for picture in (a, b))
    a, b = a - blur(a, 6.0), b - blur(b, 6.0)
    covariance, first, second = (blur(p * q, 4.0) for p, q in ((a, b), (a, a), (b, b)))
    scale = ((first + PLAIN) * (second + PLAIN)).sqrt()
    both = torch.cat(((covariance + PLAIN) / scale, covariance / scale)).clamp(0, 1)
    alike, proven = interpolate(both[None], size, mode="bilinear")[0]
    return alike, proven.square()


def _differing(
    difference: Tensor,
    activity: Tensor,
    likely: Tensor,
    sensitivity: float,
    smallest: float,
    evidence: Tensor | None,
) -> Tensor:
    """Where a difference (3, h, w) in Oklab exceeds noise, which is measured where both are likely the same."""
    sharp, fine, middle, coarse = (blur(difference, sigma).square().sum(0).sqrt() for sigma in (0.5, 1.0, 2.0, 4.0))
    seeds = torch.zeros_like(fine, dtype=torch.bool)
    for distance, share in ((middle, 1.0), (coarse, 0.7)):
        seeds |= (distance > share * SURE / sensitivity) & (distance > 2 * ABOVE * _floor(distance, activity, likely))
    seen = (fine > SEEN / sensitivity) & (fine > ABOVE * _floor(fine, activity, likely))
    if evidence is not None:
        seeds &= _resized(evidence, seeds.shape) > 0.25
    return torch.from_numpy(_region(seeds.numpy(), seen.numpy(), sharp.numpy(), smallest))


def _away_from(outside: Tensor, size: Sequence[int]) -> Tensor:
    """1 where no resampled or blurred pixel includes pixels outside the edited picture, else 0: a map (h, w)."""
    near = ndimage.binary_dilation(_resized(outside, size).numpy() > 0, np.ones((5, 5)))
    return torch.from_numpy(~near).float()


def _continued(core: Tensor, known: Tensor) -> Tensor:
    """The core, where nothing is known with the value of the nearest known pixel: a change reaches the border."""
    row, column = ndimage.distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    return core[torch.from_numpy(row), torch.from_numpy(column)]


def _grown(core: Tensor) -> Tensor:
    """The core dilated by 1.5 % of the longer side."""
    return soft_mask(core, core.shape, 0.015, 0.0) > 0


def latent_evidence(reference: Tensor, result: Tensor) -> Tensor:
    """How much latents (c, h, w) of reference and result differ: (h, w); 1 is 16 times the latents' own noise.

    Raises ValueError when their shapes differ.
    """
    if reference.shape != result.shape:
        raise ValueError(
            f"reference latent has the shape {tuple(reference.shape)}, the result {tuple(result.shape)}; they must be "
            "equal. Connect the latent of the reference that was edited."
        )
    distance = (reference.float() - result.float()).square().mean(0).sqrt()
    noise = distance.flatten().quantile(0.4).clamp(min=1e-3)
    return (distance / noise / (4 * ABOVE)).clamp(0, 1)


def soft_mask(core: Tensor, size: Sequence[int], grow: float = 0.004, feather: float = 0.006) -> Tensor:
    """A core (h, w) of bool as a mask of size (height, width): 1 within `grow` of the core, then falling smoothly.

    grow, feather  widths as fractions of the longer side; the mask is exactly 0 beyond both
    """
    if not core.any():
        return torch.zeros(*size)
    away = torch.from_numpy(ndimage.distance_transform_edt(~core.numpy())).float()
    longest = max(core.shape)
    ramp = (1 - (away - grow * longest) / max(feather * longest, 1e-6)).clamp(0, 1)
    ramp = torch.where(core, 1.0, ramp)
    return _resized(ramp * ramp * (3 - 2 * ramp), size)


def join(core: Tensor, mask: Tensor, how: str) -> Tensor:
    """A core (h, w) of bool combined with a user's mask of any size: bool.

    union         pixels in either
    intersection  pixels in both
    limit         complete islands of the core that touch the mask

    Raises ValueError for another value of `how`.
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


def align(original: Tensor, edited: Tensor, unchanged: Tensor | None = None, *, rotation: bool = True):
    """The edited picture moved onto its original, if the registration is confident and the displacement matters.

    Returns the picture, the map (h, w) of bool where it has pixels, and the `Registration`. A registration without
    confidence moves nothing; nor does a displacement below a tenth of a pixel, to avoid needless resampling.
    """
    found = register(original, edited, unchanged, rotation=rotation)
    if not found.accepted or found.similarity.displacement(*edited.shape[:0:-1]) < STILL:
        return edited, None, found
    return *warp(edited, found.similarity), found


def compare(
    original: Tensor, edited: Tensor, *, aligned: bool = True, rotation: bool = True, **finding
) -> tuple[Tensor, Tensor | None, Registration | None, Change]:
    """Align two pictures and find the change between them.

    After a large change, or if the pictures could not be aligned, they are aligned again by what is likely the same, in
    two ways. An alignment that moves the picture, and so fits far better, is preferred; of those, the one after which
    less has changed.

    aligned, rotation  whether to align at all, and by a rotation too
    finding            of `find_change`

    Returns what `align` returns, and the `Change`; without alignment the edited picture, twice None, and the change.
    """
    if not aligned:
        return edited, None, None, find_change(original, edited, **finding)
    moved, inside, found = align(original, edited, rotation=rotation)
    first = moved, inside, found, find_change(original, moved, inside=inside, **finding)
    change = first[3]
    large = change.share > UNCERTAIN_SHARE or not found.accepted
    if not large or not 0 < change.share <= GLOBAL_SHARE:
        return first
    tried, a, b = [first], shrunk(original, COPY), shrunk(moved, COPY)
    for likely in (_comparable(a, b, agreement(a, b)[1]), ~_grown(change.core)):
        again, within, refound = align(original, edited, _resized(likely, original.shape[1:]), rotation=rotation)
        if refound.accepted:
            same = inside is None and within is None
            rechange = change if same else find_change(original, again, inside=within, **finding)
            tried.append((again, within, refound, rechange))
    return min(tried, key=lambda one: (not one[2].accepted, one[1] is None, one[3].share))


def preserve(
    original: Tensor,
    edited: Tensor,
    mask: Tensor | None = None,
    *,
    match: Collection[str] = MATCH,
    paste: bool = True,
    **finding,
) -> Preserved:
    """The edited picture with everything that did not change taken from the original, both (3, h, w).

    mask        (h, w), where the edit is; detected if absent
    match       what to match to the original, fitted where nothing changed: "geometry", "rotation" (of the
                geometry, too), "tone", "sharpness", "grain"
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
    moved, inside, found, change = edited, None, None, None
    aligned, rotation = "geometry" in match, "rotation" in match
    if mask is None:
        edges = {name: finding.pop(name) for name in ("grow", "feather") if name in finding}
        moved, inside, found, change = compare(original, edited, aligned=aligned, rotation=rotation, **finding)
        if change.is_global:
            return Preserved(edited, torch.ones_like(original[0]), found, False, change, None)
        mask = soft_mask(change.core, original.shape[1:], **edges)
    elif aligned:
        moved, inside, found = align(original, edited, 1 - mask, rotation=rotation)
    fits = found is None or found.accepted  # unaligned pictures cannot be compared in sharpness
    look = fit_look(moved, original, mask == 0, match if fits else {"tone"} & set(match))
    box = _bounds(mask > 0) if paste else (0, 0, mask.shape[0], mask.shape[1])
    part = (slice(None), slice(box[0], box[2]), slice(box[1], box[3]))
    new = look.over(moved, box)
    if paste:
        weight = mask[part[1:]]
        new = torch.where(weight >= 1, new, torch.lerp(original[part], new, weight))
        new = torch.where(weight > 0, new, original[part])
    picture = original.clone()
    picture[part] = new.to(picture)
    return Preserved(picture, mask, found, inside is not None, change, look)


# Detection


def _levelled(difference: Tensor) -> Tensor:
    """A difference (3, h, w) without its slowly varying part where it is small: drift that the fit left over."""
    size = difference.shape[1:]
    spread = SLOW * max(size)
    cell = max(1, int(spread // 4))
    for _ in range(2):
        weight = 1 / (1 + (difference.square().sum(0, keepdim=True).sqrt() / NO_CHANGE) ** 4)
        cells = [-(-side // cell) for side in size]
        sums = blur(interpolate(torch.cat((difference * weight, weight))[None], cells, mode="area")[0], spread / cell)
        slow = sums[:3] / sums[3:].clamp(min=0.25)  # where nearly everything changed, little is subtracted
        difference = difference - interpolate(slow[None], size, mode="bilinear")[0]
    return difference


def _activity(picture: Tensor) -> Tensor:
    """Local activity: how much neighbouring pixels differ, (h, w)."""
    seen = oklab(picture, REFLECTED)
    across, down = (seen.diff(dim=axis).square().sum(0) for axis in (2, 1))
    energy = torch.zeros_like(seen[0])
    energy[:, 1:] += across
    energy[:, :-1] += across
    energy[1:] += down
    energy[:-1] += down
    return blur(energy[None], 2.0)[0].clamp(min=0).sqrt()


def _floor(distance: Tensor, activity: Tensor, likely: Tensor, bins: int = 12) -> Tensor:
    """The noise floor of a distance map (h, w): its 40th percentile per bin of activity, made monotonic in activity.

    likely  (h, w) of bool: where both pictures likely show the same; the percentile is robust to changes of half of it
    """
    likely = likely if likely.float().mean() > 0.05 else torch.ones_like(likely)
    sample = slice(None, None, max(1, int(likely.sum()) // 60000))
    flat, level = distance[likely][sample], activity[likely][sample].contiguous()
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
    region = _filled(_closed(region, 1))
    inside = ndimage.maximum_filter(np.where(region, distance, 0), size=13)
    deep = ndimage.binary_erosion(region, iterations=4, border_value=1)
    region = deep | (region & (distance > EDGE * inside))
    region = _filled(_closed(region, max(2 * GAP, round(BRIDGE * max(region.shape)))))
    islands, count = ndimage.label(region)
    areas = ndimage.sum_labels(region, islands, range(1, count + 1))
    return np.isin(islands, 1 + np.flatnonzero(areas >= max(12, smallest * region.size)))


def _filled(region: np.ndarray) -> np.ndarray:
    """A region with its small holes filled."""
    holes, count = ndimage.label(~region)
    areas = ndimage.sum_labels(~region, holes, range(1, count + 1))
    return region | np.isin(holes, 1 + np.flatnonzero(areas < HOLE * region.size))


def _closed(region: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= radius * radius + 0.5
    margin = 2 * radius
    return ndimage.binary_closing(np.pad(region, margin), disc)[margin:-margin, margin:-margin] | region


def _resized(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A map (h, w) resized to (height, width): enlarged by linear interpolation, reduced by averaging."""
    if tuple(mask.shape) == tuple(size):
        return mask.float()
    larger = interpolate(mask[None, None].float(), list(size), mode="bilinear", antialias=True)[0, 0]
    return torch.where(larger > 1e-6, larger, 0.0)


def _bounds(region: Tensor) -> tuple[int, int, int, int]:
    """top, left, bottom, right of the true pixels; all 0 if there are none."""
    if not region.any():
        return 0, 0, 0, 0
    rows, columns = (region.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
