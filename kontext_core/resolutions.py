"""Picture sizes (width, height) in pixels: those that a model was trained on, and sizes for a given ratio."""

import math
from typing import NamedTuple

TRAINED_SIZES = (  # PREFERED_KONTEXT_RESOLUTIONS in black-forest-labs/flux `src/flux/util.py`
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
)

RATIOS = {  # width : height, from the tallest to the widest the model was trained on
    "9:21": (9, 21),
    "1:2": (1, 2),
    "9:16": (9, 16),
    "2:3": (2, 3),
    "3:4": (3, 4),
    "4:5": (4, 5),
    "1:1": (1, 1),
    "5:4": (5, 4),
    "4:3": (4, 3),
    "3:2": (3, 2),
    "16:9": (16, 9),
    "2:1": (2, 1),
    "21:9": (21, 9),
}

MEGAPIXEL = 1024 * 1024
SMALLEST = 64  # px; below, a side has fewer than 4 tokens and nothing to edit


class Trained(NamedTuple):
    """The sizes that a model was trained for. Areas are in units of 1024 x 1024 px."""

    name: str
    usual: float  # the area at which it works best
    largest: float  # pictures break above this area
    sizes: tuple[tuple[int, int], ...] = ()  # the only trained sizes; empty: every multiple of 16 from usual to largest


KONTEXT = Trained("FLUX.1 Kontext", 1.0, 2.0, TRAINED_SIZES)
EMBEDDED = Trained("the embedded model", 128 * 128 / MEGAPIXEL, 256 * 256 / MEGAPIXEL)


def trained_size(width: int, height: int, trained: Trained = KONTEXT) -> tuple[int, int]:
    """The size that suits a picture of `width` x `height` and a model.

    If the model has fixed sizes, the one with the nearest ratio. Else the picture's own size, rounded to the grid, if
    its area is between usual and largest; else the usual area at the picture's ratio. Raises ValueError unless both
    are positive.
    """
    if trained.sizes:
        return nearest_trained(width, height)
    area = width * height / MEGAPIXEL
    return keep_ratio(width, height, area if trained.usual <= area <= trained.largest else trained.usual)


def nearest_trained(width: int, height: int) -> tuple[int, int]:
    """The one of TRAINED_SIZES whose ratio is nearest to `width` : `height`.

    The distance is |log ratio|, so that a picture and its transpose get transposed sizes; BFL and ComfyUI compare
    w/h, which is not symmetric. Raises ValueError unless both are positive.
    """
    _require_positive(width, height)

    def distance(size: tuple[int, int]) -> float:
        ours, theirs = size[0] * height, size[1] * width
        return max(ours, theirs) / min(ours, theirs)  # e^|log ratio|, and exactly the same for the transpose

    return min(TRAINED_SIZES, key=distance)


def keep_ratio(width: int, height: int, megapixels: float, multiple: int = 16) -> tuple[int, int]:
    """The size of about `megapixels` (of 1024 x 1024 px) with the ratio `width` : `height`.

    Each side is rounded to the nearest positive `multiple`. Raises ValueError unless all are positive.
    """
    _require_positive(width, height, megapixels)
    scale = math.sqrt(megapixels * MEGAPIXEL / (width * height))
    return _rounded(width * scale, multiple), _rounded(height * scale, multiple)


def with_area(width: int, height: int, trained: Trained) -> tuple[int, int]:
    """The size in px where a side that is 0 is chosen so that the area is the usual one of the model.

    Both 0: a square. Raises ValueError for a side from 1 to 63.
    """
    for name, side in (("width", width), ("height", height)):
        if 0 < side < SMALLEST:
            raise ValueError(f"{name} is {side}; give {SMALLEST} or more, or 0 for what the model was trained for.")
    area = trained.usual * MEGAPIXEL
    square = math.sqrt(area)
    return (
        width or max(_rounded(area / height if height else square, 16), SMALLEST),
        height or max(_rounded(area / width if width else square, 16), SMALLEST),
    )


def _rounded(side: float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _require_positive(width: int, height: int, megapixels: float = 1) -> None:
    if not (width > 0 and height > 0 and megapixels > 0):
        raise ValueError(f"the size is {width} x {height} at {megapixels} megapixels; all must be above 0.")
