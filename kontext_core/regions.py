"""Crop a part of a picture for editing at the model's full resolution, and stitch the result back.

Pictures are (b, h, w, c) in 0..1, masks (h, w), sizes are (width, height) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from .frames import GRID, Box, Frame, Size, frame_for, make_frame
from .resolutions import KONTEXT, Trained

ndimage: Any = scipy.ndimage  # its own annotations are vaguer than what its functions give

SMALLEST = 64  # px of the picture: a smaller crop lacks the context that the model needs
EMPTY = 1 / 255  # smaller mask values count as unmarked


@dataclass(frozen=True)
class Region:
    """Crops of one picture: a frame and the mask of each."""

    frames: tuple[Frame, ...]
    masks: Tensor  # (crops, h, w) in 0..1, over the whole picture

    def crop(self, picture: Tensor) -> Tensor:
        """The crops (crops * b, grid height, grid width, c) of a picture (b, h, w, c)."""
        return torch.cat([frame.fit(picture) for frame in self.frames])

    def crop_masks(self) -> Tensor:
        """The masks on the grid, (crops, grid height, grid width)."""
        fitted = [frame.fit(mask[None, :, :, None]) for frame, mask in zip(self.frames, self.masks, strict=True)]
        return torch.cat(fitted)[..., 0]

    def stitch(self, original: Tensor, edited: Tensor, feather: int = 0) -> tuple[Tensor, Tensor]:
        """Edited crops blended into the original, (b, h, w, c), and the blending mask, (h, w).

        Outside the feathered mask the result is the original, bit for bit. Raises ValueError when the number or the
        aspect ratio of the edited crops is wrong, or the original has another size than the picture they were cut from.
        """
        if original.shape[1:3] != self.masks.shape[1:]:
            raise ValueError(
                "original is {1}x{0} px; the region was cut from {3}x{2} px. Connect the picture that Kontext Crop "
                "Region was given.".format(*original.shape[1:3], *self.masks.shape[1:])
            )
        batch, count = len(original), len(self.frames)
        if len(edited) != count * batch and (batch > 1 or count > 1):
            raise ValueError(
                f"edited holds {len(edited)} pictures; {count * batch} crops were cut from {batch} in original. Sample "
                "with that batch size, or connect the original that edited was cut from."
            )
        result = original.expand(len(edited) // count, -1, -1, -1).clone()
        shown = torch.zeros_like(self.masks[0])
        for frame, mask, crop in zip(self.frames, self.masks, edited.chunk(count), strict=True):
            soft = feathered(mask, feather) * _inside(frame, mask)
            new = frame.restore(crop, original).to(result)
            weight = soft[..., None]
            mixed = torch.where(weight >= 1, new, torch.lerp(result, new, weight.to(result)))
            result = torch.where(weight > 0, mixed, result)
            shown = torch.maximum(shown, soft)
        return result, shown


def make_region(
    mask: Tensor,
    size: str,
    *,
    context: float = 0.5,
    islands: bool = False,
    megapixels: float = 0,
    trained: Trained = KONTEXT,
) -> Region:
    """A crop around the marked part of a mask (h, w), or one around each of its islands.

    size     size of the crop on the model's grid, see `frame_for`
    context  margin around the marked part, as a fraction of its longer side
    islands  one crop for each connected part; all get the size that suits the largest

    A crop is widened to the grid's aspect ratio as far as the picture reaches; the rest is mirrored. A mask of the
    whole picture gives the frame of the whole picture. Raises ValueError for an empty mask.
    """
    parts = _islands(mask) if islands else mask[None]
    marked = [box for box in map(_bounds, parts) if box is not None]
    if not marked:
        raise ValueError("mask is empty: it marks no part of the picture. Draw where the edit should happen.")
    source = mask.shape[1], mask.shape[0]
    boxes = [_with_context(box, source, context) for box in marked]
    largest = max(boxes, key=lambda box: box.width * box.height).size
    if size == "as is":  # nothing is resampled, so every crop has to fit
        largest = max(box.width for box in boxes), max(box.height for box in boxes)
    grid = frame_for(largest, size, megapixels=megapixels, trained=trained).grid
    widen = _around if size == "as is" else _widened
    frames = tuple(_frame(source, grid, widen(box, grid, source)) for box in boxes)
    return Region(frames, parts.float())


def feathered(mask: Tensor, feather: int) -> Tensor:
    """A mask (h, w) that falls to 0 within `feather` px outside the marked part, and is exactly 0 beyond."""
    if feather < 1:
        return mask
    away = torch.from_numpy(ndimage.distance_transform_edt(mask.numpy() < 0.5)).to(mask)
    ramp = (1 - away / (feather + 1)).clamp(0, 1)
    return torch.maximum(mask, ramp * ramp * (3 - 2 * ramp))


def _frame(source: Size, grid: Size, box: Box) -> Frame:
    spare = grid[0] - box.width, grid[1] - box.height
    if all(0 <= side < GRID for side in spare):  # fits on the grid without resampling
        return Frame(source, grid, box, Box(spare[0] // 2, spare[1] // 2, *box.size))
    return make_frame(source, grid, "pad", part=box)


def _islands(mask: Tensor) -> Tensor:
    """The connected parts of a mask, (n, h, w), largest first; faint borders belong to their island."""
    labels, count = ndimage.label((mask >= EMPTY).numpy(), np.ones((3, 3)))
    areas = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
    order = 1 + np.argsort(-areas, kind="stable")
    return torch.stack([mask * torch.from_numpy(labels == index) for index in order]) if count else mask[None]


def _bounds(mask: Tensor) -> Box | None:
    marked = mask >= EMPTY
    if not marked.any():
        return None
    rows, columns = (marked.any(axis).nonzero().flatten() for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return Box(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)


def _with_context(box: Box, source: Size, context: float) -> Box:
    margin = round(context * max(box.size))
    return _around(box, (max(SMALLEST, box.width + 2 * margin), max(SMALLEST, box.height + 2 * margin)), source)


def _widened(box: Box, grid: Size, source: Size) -> Box:
    """The box widened to the grid's aspect ratio, as far as the picture reaches."""
    width = max(box.width, round(box.height * grid[0] / grid[1]))
    height = max(box.height, round(box.width * grid[1] / grid[0]))
    return _around(box, (width, height), source)


def _around(box: Box, size: Size, source: Size) -> Box:
    """A box of `size` with the same centre, moved and then cropped to lie inside the picture."""
    sides = []
    for start, length, wanted, whole in zip(box[:2], box.size, size, source, strict=True):
        wanted = min(wanted, whole)
        sides.append((min(max(0, start + (length - wanted) // 2), whole - wanted), wanted))
    (left, width), (top, height) = sides
    return Box(left, top, width, height)


def _inside(frame: Frame, mask: Tensor) -> Tensor:
    """1 where the frame shows the picture."""
    inside = torch.zeros_like(mask)
    frame.part.of(inside[..., None]).fill_(1)
    return inside
