"""The look of an edited picture (tone, sharpness, grain): fitted where nothing changed, and matched everywhere.

Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .colour import ColourMap, delta_e_2000, fit_colours, lab, shrunk
from .edges import PADDING, Edges, fit_edges
from .grain import Grain, Noise, fit_grain, fit_noise
from .registration import blur
from .sharpness import FINEST, WIDEST, Sharpness, bands_of, fit_sharpness
from .tone import not_clipped, simplest

SMALL = 192  # px, the longer side of the copy on which colours are compared
WHOLE = 0.99  # fraction of a pixel of that copy that must be unchanged
SAMPLE = 500_000  # px: sharpness is fitted on a band of rows of this area
MARGIN = 3 * WIDEST  # of the longer side: pixels farther away do not affect the sharpness of a pixel
Box = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Look:
    """A map from one picture's look to another's; None marks a part of the look that is left alone."""

    colours: ColourMap | None
    noise: Noise | None
    sharpness: Sharpness | None
    edges: Edges | None
    grain: Grain | None
    colour_error: tuple[float, float] | None  # mean dE2000 of unchanged pixels, before and after
    detail: tuple[float, float] | None  # contrast of the finest details relative to the target's, before and after

    def over(self, picture: Tensor, box: Box) -> Tensor:
        """The part of a picture inside `box` with the other look, in 0..1."""
        reach = 0 if self.sharpness is self.noise is None else max(PADDING, round(MARGIN * max(picture.shape[1:])))
        wide, near = _grown(box, reach), _grown(box, min(reach, PADDING))
        cleaned = self.cleaned(self._coloured(picture, wide))
        part = _cut(self.sharpened(cleaned), wide, near)
        if self.edges is not None:
            part = self.edges.over(_cut(cleaned, wide, near), part)
        part = _cut(part, near, box)
        return (part if self.grain is None else self.grain.over(part)).clamp(0, 1)

    def cleaned(self, toned: Tensor) -> Tensor:
        """A picture in the other colours without its noise."""
        return toned if self.noise is None else self.noise.removed(toned)

    def sharpened(self, cleaned: Tensor) -> Tensor:
        """A picture without noise with the other sharpness, apart from edges."""
        return cleaned if self.sharpness is None else self.sharpness.over(cleaned)

    def _coloured(self, picture: Tensor, box: Box) -> Tensor:
        top, left, bottom, right = box
        part = picture[:, top:bottom, left:right]
        return (
            part if self.colours is None else self.colours.over(part, left, top, (picture.shape[1], picture.shape[2]))
        )


def fit_look(source: Tensor, target: Tensor, unchanged: Tensor, match: Collection[str]) -> Look:
    """The map from the look of `source` to that of `target`, fitted where both show the same.

    unchanged  (h, w) of bool
    match      which parts of the look: "tone", "sharpness", "grain"
    """
    goal, small, known = (shrunk(one, SMALL) for one in (target, source, unchanged[None].float()))
    known = known[0] > WHOLE
    colours = None
    if "tone" in match:
        usable = shrunk((unchanged & not_clipped(source)).float(), SMALL) > WHOLE
        colours = simplest(fit_colours(goal, small, known.float()), goal, small, usable)
    look = Look(colours, None, None, None, None, colour_error(goal, small, known, colours), None)
    if not {"sharpness", "grain"} & set(match):
        return look
    top, bottom = _sample(unchanged)
    seen, wanted = unchanged[top:bottom].float(), target[:, top:bottom]
    toned = look.over(source, (top, 0, bottom, source.shape[2]))
    if "grain" in match:
        look = replace(look, noise=fit_noise(toned, wanted, seen))
    result = cleaned = look.cleaned(toned)
    if "sharpness" in match:
        sharpness = fit_sharpness(cleaned, wanted, seen, bands_of(max(source.shape[1:])))
        edges = fit_edges(toned, wanted, seen)  # removing noise softens faint details, which edges do not share
        look = replace(look, sharpness=sharpness, edges=edges)
        result = look.sharpened(cleaned)
        result = result if edges is None else edges.over(cleaned, result)
    grain = fit_grain(result, wanted, seen) if "grain" in match else None
    return replace(look, grain=grain, detail=_detail(wanted, (source[:, top:bottom], result), seen > 0.5))


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


def _grown(box: Box, margin: int) -> Box:
    """A box with a margin, within the picture at its top and left."""
    top, left, bottom, right = box
    return max(0, top - margin), max(0, left - margin), bottom + margin, right + margin


def _cut(part: Tensor, outer: Box, inner: Box) -> Tensor:
    """What a part of a picture, cut out by the box `outer`, has inside the box `inner`."""
    top, left = outer[:2]
    return part[:, inner[0] - top : inner[2] - top, inner[1] - left : inner[3] - left]


def _sample(unchanged: Tensor) -> tuple[int, int]:
    """First and last row of the band with the most unchanged pixels, of the height that `SAMPLE` allows."""
    height, width = unchanged.shape
    count = min(height, max(1, SAMPLE // width))
    total = torch.cat((torch.zeros(1), unchanged.float().mean(1).cumsum(0)))
    top = int((total[count:] - total[:-count]).argmax())
    return top, top + count


def _detail(target: Tensor, pictures: tuple[Tensor, Tensor], known: Tensor) -> tuple[float, float] | None:
    if not known.any():
        return None
    wanted, before, after = (
        float((picture - blur(picture, 2 * FINEST)).square().mean(0)[known].mean().sqrt())
        for picture in (target, *pictures)
    )
    return (before / wanted, after / wanted) if wanted > 1e-4 else None
