"""Latents to tokens and back, and the position ids of tokens.

Every token has a position (index, row, column). The target has index 0. References follow the target and differ from
it by index or by offset; the layout decides which.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

LAYOUTS = ("offset", "index", "uxo")


class Placement(NamedTuple):
    """The position of a reference."""

    index: int  # first position channel; the target has 0  # pyright: ignore[reportIncompatibleMethodOverride]
    y: int  # latent pixels down
    x: int  # latent pixels to the right


def pack(latent: Tensor) -> Tensor:
    """Cut a latent (b, c, h, w) into 2x2 patches: tokens (b, ceil(h/2) * ceil(w/2), 4c), row by row.

    An odd size is padded circularly, as in ComfyUI `comfy/ldm/common_dit.py: pad_to_patch_size`.
    """
    height, width = latent.shape[-2:]
    even = pad(latent, (0, width % 2, 0, height % 2), mode="circular")
    return rearrange(even, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: tokens (b, n, 4c) to the latent (b, c, height, width), without the padding."""
    latent = rearrange(tokens, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=_halved(height), ph=2, pw=2)
    return latent[:, :, :height, :width]


def position_ids(height: int, width: int, index: int = 0, y: int = 0, x: int = 0) -> Tensor:
    """Positions (n, 3) = (index, row, column) of a latent's tokens, float32.

    The latent is `height` x `width` at offset `y`, `x`, all in latent pixels; positions are in tokens, half of that,
    rounded up. float32, because bfloat16 cannot represent every integer above 256. Sources: `prepare_kontext` in
    black-forest-labs/flux `src/flux/sampling.py`; for offsets ComfyUI `comfy/ldm/flux/model.py: process_img`.
    """
    rows = torch.arange(_halved(height), dtype=torch.float32) + _halved(y)
    columns = torch.arange(_halved(width), dtype=torch.float32) + _halved(x)
    return torch.cartesian_prod(torch.tensor([float(index)]), rows, columns)


def place_references(
    sizes: Sequence[tuple[int, int]], target: tuple[int, int], layout: str = "offset"
) -> list[Placement]:
    """Place references of `sizes` (height, width) beside a `target` (height, width), all in latent pixels.

    offset  all at index 1, side by side on one canvas that grows right or down so that it stays nearly square
    index   the i-th at index i and offset 0: the formula of arXiv 2506.15742, section 3
    uxo     at index 0 like the target, along the diagonal from its lower right corner (arXiv 2504.02160)

    The rules are those of ComfyUI `comfy/ldm/flux/model.py: _forward`. One reference in `offset` or `index` has the
    positions of BFL's `prepare_kontext`. Raises ValueError for an unknown layout.
    """
    if layout == "offset":
        return _on_one_canvas(sizes)
    if layout == "index":
        return [Placement(index, 0, 0) for index in range(1, len(sizes) + 1)]
    if layout == "uxo":
        return _down_the_diagonal(sizes, target)
    raise ValueError(f"layout is {layout!r}; choose one of {', '.join(LAYOUTS)}.")


def _on_one_canvas(sizes: Sequence[tuple[int, int]]) -> list[Placement]:
    placements = []
    canvas_height = canvas_width = 0
    for height, width in sizes:
        beside = height + canvas_height > width + canvas_width
        place = Placement(1, 0, canvas_width) if beside else Placement(1, canvas_height, 0)
        canvas_height = max(canvas_height, place.y + height)
        canvas_width = max(canvas_width, place.x + width)
        placements.append(place)
    return placements


def _down_the_diagonal(sizes: Sequence[tuple[int, int]], target: tuple[int, int]) -> list[Placement]:
    placements = []
    y, x = (2 * _halved(side) for side in target)  # beyond the padded target
    for height, width in sizes:
        placements.append(Placement(0, y, x))
        y, x = y + height, x + width
    return placements


def _halved(latent_pixels: int) -> int:
    return (latent_pixels + 1) // 2
