"""Fitting a picture (b, h, w, c) with values in 0..1 to a size in pixels."""

from torch import Tensor
from torch.nn.functional import interpolate, pad


def fit(picture: Tensor, size: tuple[int, int], mode: str = "pad") -> Tensor:
    """Make a picture (b, h, w, c) `size` = (width, height): the result is (b, height, width, c).

    pad      the whole picture in its own ratio, centred; its edges are repeated outwards
    crop     the largest centred part with the ratio of `size`
    stretch  the whole picture, its ratio changed

    Only a picture (or part) of another size is resampled; one that has the size comes back bit for bit. The
    kernel is Keys' bicubic (a = -0.5), widened when shrinking so that nothing aliases; what it overshoots is
    cut to 0..1. Raises ValueError for an unknown mode.
    """
    if mode not in FITS:
        raise ValueError(f"fit is {mode!r}; choose one of {', '.join(FITS)}.")
    width, height = size
    return FITS[mode](picture, width, height)


def _pad(picture: Tensor, width: int, height: int) -> Tensor:
    _, old_height, old_width, _ = picture.shape
    scale = min(width / old_width, height / old_height)
    inner = _stretch(picture, max(1, round(old_width * scale)), max(1, round(old_height * scale)))
    across, down = width - inner.shape[2], height - inner.shape[1]
    left, top = across // 2, down // 2
    margins = (left, across - left, top, down - top)
    return pad(inner.movedim(-1, 1), margins, mode="replicate").movedim(1, -1)  # BHWC -> BCHW -> BHWC


def _crop(picture: Tensor, width: int, height: int) -> Tensor:
    _, old_height, old_width, _ = picture.shape
    part_width = min(old_width, max(1, round(old_height * width / height)))
    part_height = min(old_height, max(1, round(old_width * height / width)))
    left, top = (old_width - part_width) // 2, (old_height - part_height) // 2
    return _stretch(picture[:, top : top + part_height, left : left + part_width], width, height)


def _stretch(picture: Tensor, width: int, height: int) -> Tensor:
    if picture.shape[1:3] == (height, width):
        return picture
    pixels = picture.movedim(-1, 1)  # BHWC -> BCHW
    pixels = interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return pixels.clamp(0, 1).movedim(1, -1)


FITS = {"pad": _pad, "crop": _crop, "stretch": _stretch}
