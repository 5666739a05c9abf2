"""The look of an edited picture (tone, sharpness, grain): fitted where nothing changed, and matched everywhere.

Pictures are (3, h, w) in 0..1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from .colour import ColourMap, delta_e_2000, fit_colours, lab, shrunk
from .registration import blur
from .sharpness import FINEST, WIDEST, Grain, Sharpness, bands_of, fit_grain, fit_sharpness
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
    sharpness: Sharpness | None
    grain: Grain | None
    colour_error: tuple[float, float] | None  # mean dE2000 of unchanged pixels, before and after
    detail: tuple[float, float] | None  # contrast of the finest details relative to the target's, before and after

    def over(self, picture: Tensor, box: Box) -> Tensor:
        """The part of a picture inside `box` with the other look, in 0..1."""
        part = self._coloured(picture, box) if self.sharpness is None else self._sharpened(picture, box)
        return (part if self.grain is None else self.grain.over(part)).clamp(0, 1)

    def _sharpened(self, picture: Tensor, box: Box) -> Tensor:
        top, left, bottom, right = box
        assert self.sharpness is not None
        margin = round(MARGIN * max(picture.shape[1:]))
        wide = (max(0, top - margin), max(0, left - margin), bottom + margin, right + margin)
        part = self.sharpness.over(self._coloured(picture, wide))
        return part[:, top - wide[0] :, left - wide[1] :][:, : bottom - top, : right - left]

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
    look = Look(colours, None, None, colour_error(goal, small, known, colours), None)
    if not {"sharpness", "grain"} & set(match):
        return look
    top, bottom = _sample(unchanged)
    seen, wanted = unchanged[top:bottom].float(), target[:, top:bottom]
    box = (top, 0, bottom, source.shape[2])
    toned = look.over(source, box)
    sharpness = fit_sharpness(toned, wanted, seen, bands_of(max(source.shape[1:]))) if "sharpness" in match else None
    sharpened = toned if sharpness is None else sharpness.over(toned)
    grain = fit_grain(sharpened, wanted, seen) if "grain" in match else None
    detail = _detail(wanted, (source[:, top:bottom], sharpened), seen > 0.5)
    return Look(colours, sharpness, grain, look.colour_error, detail)


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
