"""Frames: the exact, invertible map between a user's picture and the pixel grid that the model works on.

Pictures are (b, h, w, c) with values in 0..1, sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .resolutions import KONTEXT, MEGAPIXEL, Trained, keep_ratio, trained_size

FITS = ("pad", "crop", "stretch")
MARGINS = ("reflect", "edge")
SIZES = ("nearest trained size", "keep ratio", "as is")
GRID = 16  # px per token, in each direction
SQUEEZE = 1.05  # a result whose aspect ratio differs by more than this factor does not belong to the frame

Size = tuple[int, int]
Edges = tuple[float, float, float, float]  # left, top, right, bottom


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return self.width, self.height

    def of(self, picture: Tensor) -> Tensor:
        """The view of a picture (..., h, w, c) inside the box."""
        return picture[..., self.top : self.top + self.height, self.left : self.left + self.width, :]

    def edges(self, across: float, down: float) -> Edges:
        """Left, top, right and bottom in a picture scaled by `across` and `down`."""
        right, bottom = self.left + self.width, self.top + self.height
        return self.left * across, self.top * down, right * across, bottom * down


@dataclass(frozen=True)
class Frame:
    """`part` of a picture of size `source` is shown in `window` of a picture of size `grid`.

    Where the two boxes have the same size, pixels are copied; else they are resampled, once in each direction, with
    Keys' bicubic kernel (a = -0.5), widened for antialiasing when shrinking; overshoot is clamped to 0..1. The rest of
    the grid outside the window continues the picture: mirrored ("reflect") or with its edge repeated ("edge").
    """

    source: Size
    grid: Size
    part: Box
    window: Box
    margin: str = "reflect"

    @property
    def resamples(self) -> bool:
        """Whether fitting changes pixel values."""
        return self.part.size != self.window.size

    @property
    def whole(self) -> bool:
        """Whether the grid shows all of the picture."""
        return self.part == Box(0, 0, *self.source)

    def fit(self, picture: Tensor) -> Tensor:
        """A picture of size `source` as one of size `grid`. Raises ValueError for another size."""
        self._require("picture", picture, self.source)
        inner = resample(self.part.of(picture), self.window.size)
        columns = _continued(self.window.left, self.window.width, self.grid[0], self.margin)
        rows = _continued(self.window.top, self.window.height, self.grid[1], self.margin)
        if len(columns) != self.window.width:
            inner = inner.index_select(2, columns.to(inner.device))
        return inner.index_select(1, rows.to(inner.device)) if len(rows) != self.window.height else inner

    def restore(self, picture: Tensor, original: Tensor | None = None) -> Tensor:
        """The inverse: a picture of size `grid` as one of size `source`.

        A picture of another size with (nearly) the grid's aspect ratio, such as from an upscaler or a hosted model, is
        taken to cover the whole grid. Where the frame shows only a part of the picture, the rest comes from `original`,
        of size `source`, with batch size 1 or that of `picture`. Raises ValueError for another aspect ratio or number
        of originals, and when `original` is needed and missing.
        """
        across, down = picture.shape[2] / self.grid[0], picture.shape[1] / self.grid[1]
        if max(across, down) > SQUEEZE * min(across, down):
            self._require("picture", picture, self.grid, ", or another size of that shape")
        inner = resample(picture, self.part.size, self.window.edges(across, down))
        if self.whole:
            return inner
        if original is None:
            raise ValueError(
                f"the frame shows {self.part.width}x{self.part.height} px of a picture of "
                f"{self.source[0]}x{self.source[1]} px; the rest is needed too. Connect the original picture."
            )
        self._require("original", original, self.source)
        if len(original) not in (1, len(inner)):
            raise ValueError(
                f"original holds {len(original)} pictures and image {len(inner)}; give one original, or as many."
            )
        restored = original.expand(len(inner), *original.shape[1:]).to(inner.dtype).clone()
        self.part.of(restored).copy_(inner)
        return restored

    def _require(self, what: str, picture: Tensor, size: Size, other: str = "") -> None:
        found = picture.shape[2], picture.shape[1]
        if found != size:
            raise ValueError(
                f"{what} is {found[0]}x{found[1]} px; this frame maps {self.source[0]}x{self.source[1]} px to "
                f"{self.grid[0]}x{self.grid[1]} px and needs {size[0]}x{size[1]} px here{other}. "
                "Use the frame that was made for this picture."
            )


def make_frame(source: Size, grid: Size, mode: str = "pad", margin: str = "reflect", part: Box | None = None) -> Frame:
    """The frame of a picture of size `source`, or of `part` of it, on `grid`.

    pad      the whole picture in its own ratio, centred; margins continue the picture
    crop     the largest centred part with the ratio of `grid`
    stretch  the whole picture, its ratio changed

    Raises ValueError for an unknown mode or margin.
    """
    if mode not in FITS:
        raise ValueError(f"fit is {mode!r}; choose one of {', '.join(FITS)}.")
    if margin not in MARGINS:
        raise ValueError(f"margin is {margin!r}; choose one of {', '.join(MARGINS)}.")
    part, window = part or Box(0, 0, *source), Box(0, 0, *grid)
    if mode == "pad":
        scale = min(grid[0] / part.width, grid[1] / part.height)
        window = _centred(window, max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    elif mode == "crop":
        width = min(part.width, max(1, round(part.height * grid[0] / grid[1])))
        part = _centred(part, width, min(part.height, max(1, round(part.width * grid[1] / grid[0]))))
    return Frame(source, grid, part, window, margin)


def frame_for(
    source: Size,
    size: str,
    mode: str = "pad",
    margin: str = "reflect",
    megapixels: float = 0,
    trained: Trained = KONTEXT,
    most: float = 0,
) -> Frame:
    """The frame of a picture of size `source` on a grid that suits the model: both sides are multiples of 16.

    nearest trained size  the size given by `trained_size`
    keep ratio            about `megapixels` (of 1024 x 1024 px); 0: the model's own
    as is                 the next larger multiples of 16, smaller ones for "crop"; "pad" and "crop" resample nothing

    A grid of more than `most` megapixels is made smaller in about its own ratio; 0: no limit.

    Raises ValueError for an unknown size, mode or margin.
    """
    frame = _unlimited(source, size, mode, margin, megapixels, trained)
    width, height = frame.grid
    scale = sqrt(most * MEGAPIXEL / (width * height))
    if not 0 < scale < 1:
        return frame
    return make_frame(source, _on_grid((width * scale, height * scale), floor), mode, margin)


def _unlimited(source: Size, size: str, mode: str, margin: str, megapixels: float, trained: Trained) -> Frame:
    if size == "nearest trained size":
        return make_frame(source, trained_size(*source, trained), mode, margin)
    if size == "keep ratio":
        return make_frame(source, keep_ratio(*source, megapixels or trained.usual, GRID), mode, margin)
    if size != "as is":
        raise ValueError(f"size is {size!r}; choose one of {', '.join(SIZES)}.")
    if mode == "crop":
        smaller = _on_grid(source, floor)
        return make_frame(source, smaller, "stretch", margin, part=_centred(Box(0, 0, *source), *smaller))
    larger = _on_grid(source, ceil)
    frame = make_frame(source, larger, mode, margin)
    return replace(frame, window=_centred(Box(0, 0, *larger), *source)) if mode == "pad" else frame


def resample(picture: Tensor, size: Size, edges: Edges | None = None) -> Tensor:
    """A picture (b, h, w, c), or the part of it inside `edges`, resized to `size` with the kernel of `Frame`.

    Bit-exact when it has that size already and the edges lie between pixels.
    """
    edges = edges or (0, 0, picture.shape[2], picture.shape[1])
    if not all(float(edge).is_integer() for edge in edges):
        return _resample_between(picture, size, edges)
    left, top, right, bottom = map(int, edges)
    picture = picture[:, top:bottom, left:right]
    if (picture.shape[2], picture.shape[1]) == size:
        return picture
    pixels = picture.movedim(-1, 1)  # BHWC -> BCHW
    pixels = interpolate(pixels, (size[1], size[0]), mode="bicubic", antialias=True)
    return pixels.clamp(0, 1).movedim(1, -1)


def _resample_between(picture: Tensor, size: Size, edges: Edges) -> Tensor:
    """The same for edges at fractional pixels, channel by channel: Pillow's bicubic uses the same kernel."""
    planes = picture.movedim(-1, 1).flatten(0, 1).float().cpu()
    resized = [
        np.asarray(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.BICUBIC, edges))
        for plane in planes.contiguous()
    ]
    pixels = torch.from_numpy(np.stack(resized)).unflatten(0, (len(picture), -1))
    return pixels.clamp(0, 1).movedim(1, -1).to(picture)


def _on_grid(size: tuple[float, float], rounding: Callable[[float], int]) -> Size:
    """A size rounded to multiples of the grid."""
    width, height = (GRID * max(1, rounding(side / GRID)) for side in size)
    return width, height


def _centred(box: Box, width: int, height: int) -> Box:
    return Box(box.left + (box.width - width) // 2, box.top + (box.height - height) // 2, width, height)


def _continued(start: int, length: int, total: int, margin: str) -> Tensor:
    """The source pixel, out of `length` pixels starting at `start`, that each of `total` pixels shows: (total,)."""
    index = torch.arange(total) - start
    if margin == "edge" or length == 1:
        return index.clamp(0, length - 1)
    period = 2 * (length - 1)  # the pixel at the edge is not repeated
    index = index.remainder(period)
    return torch.minimum(index, period - index)
