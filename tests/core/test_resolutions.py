"""Sizes: the trained ones, the choice among them, and sizes that keep a ratio."""

import math
import random

import pytest

from kontext_core.resolutions import (
    EMBEDDED,
    KONTEXT,
    MEGAPIXEL,
    RATIOS,
    TRAINED_SIZES,
    keep_ratio,
    nearest_trained,
    trained_size,
    with_area,
)


def test_the_trained_sizes():
    assert len(set(TRAINED_SIZES)) == 17
    assert {(height, width) for width, height in TRAINED_SIZES} == set(TRAINED_SIZES)
    for width, height in TRAINED_SIZES:
        assert width % 16 == height % 16 == 0
        assert 1.034e6 < width * height < 1.063e6
        assert 3 / 7 <= width / height <= 7 / 3


NEAREST = {  # sizes that the hosted models return for these ratios
    "1:1": (1024, 1024),
    "5:4": (1104, 944),
    "4:3": (1184, 880),
    "3:2": (1248, 832),
    "16:9": (1392, 752),
    "2:1": (1456, 720),
    "21:9": (1568, 672),
    "9:16": (752, 1392),
    "2000:1": (1568, 672),
    "1:2000": (672, 1568),
}


@pytest.mark.parametrize(("ratio", "expected"), NEAREST.items(), ids=NEAREST)
def test_nearest_trained(ratio, expected):
    width, height = map(int, ratio.split(":"))
    assert nearest_trained(100 * width, 100 * height) == expected


@pytest.mark.parametrize("size", TRAINED_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_trained_size_is_nearest_to_itself(size):
    assert nearest_trained(*size) == size


def test_the_nearest_size_is_nearest_in_log_ratio_and_symmetric():
    draw = random.Random(2).randint
    sizes = [(draw(1, 4000), draw(1, 4000)) for _ in range(500)] + [(2258, 1000)]
    for width, height in sizes:
        chosen = nearest_trained(width, height)
        distances = [abs(math.log(w / h) - math.log(width / height)) for w, h in TRAINED_SIZES]
        assert TRAINED_SIZES[distances.index(min(distances))] == chosen
        assert nearest_trained(height, width) == chosen[::-1]


OWN = {  # a picture's size, and the embedded model's size for it
    "usual": ((128, 128), (128, 128)),
    "largest": ((256, 256), (256, 256)),
    "between": ((192, 160), (192, 160)),
    "off the grid": ((190, 157), (192, 160)),
    "small": ((64, 64), (128, 128)),
    "a photograph": ((2400, 1600), (160, 112)),
    "upright": ((1600, 2400), (112, 160)),
}


@pytest.mark.parametrize(("picture", "expected"), OWN.values(), ids=OWN)
def test_the_embedded_model_takes_what_it_can_as_it_is(picture, expected):
    assert trained_size(*picture, EMBEDDED) == expected


def test_kontext_has_seventeen_sizes():
    assert trained_size(2400, 1600) == nearest_trained(2400, 1600) == (1248, 832)


def test_the_named_ratios():
    assert {(height, width) for width, height in RATIOS.values()} == set(RATIOS.values())
    for name, (width, height) in RATIOS.items():
        assert name == f"{width}:{height}"
        assert 3 / 7 <= width / height <= 7 / 3


KEPT = {  # width, height, megapixels, multiple: expected
    "square": ((300, 300, 1.0, 16), (1024, 1024)),
    "16:9": ((1920, 1080, 1.0, 16), (1360, 768)),
    "9:16": ((1080, 1920, 1.0, 16), (768, 1360)),
    "3:2": ((3, 2, 1.0, 16), (1248, 832)),
    "4:3": ((4, 3, 1.0, 16), (1184, 880)),
    "two megapixels": ((1, 2, 2.0, 16), (1024, 2048)),
    "the embedded model's": ((640, 640, 1 / 64, 16), (128, 128)),
    "multiple of 64": ((1920, 1080, 1.0, 64), (1344, 768)),
    "a thread": ((20000, 1, 0.01, 16), (14480, 16)),
}


@pytest.mark.parametrize(("arguments", "expected"), KEPT.values(), ids=KEPT)
def test_keep_ratio(arguments, expected):
    assert keep_ratio(*arguments) == expected


@pytest.mark.parametrize("size", TRAINED_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_size_on_the_grid_is_kept_at_its_own_megapixels(size):
    assert keep_ratio(*size, size[0] * size[1] / MEGAPIXEL) == size


AREAS = {  # width, height, model: expected
    "both": ((0, 0, KONTEXT), (1024, 1024)),
    "both, embedded": ((0, 0, EMBEDDED), (128, 128)),
    "the height": ((1536, 0, KONTEXT), (1536, 688)),
    "the width, embedded": ((0, 96, EMBEDDED), (176, 96)),
    "not below the smallest": ((4096, 0, EMBEDDED), (4096, 64)),
    "none": ((640, 72, EMBEDDED), (640, 72)),
}


@pytest.mark.parametrize(("arguments", "expected"), AREAS.values(), ids=AREAS)
def test_a_side_of_0_gives_the_trained_area(arguments, expected):
    assert with_area(*arguments) == expected


@pytest.mark.parametrize("side", [(63, 0), (0, 1)], ids=str)
def test_a_side_below_the_smallest_is_refused(side):
    with pytest.raises(ValueError, match="64 or more"):
        with_area(*side, KONTEXT)


@pytest.mark.parametrize("arguments", [(0, 8, 1.0), (8, -1, 1.0), (8, 8, 0.0), (8, 8, math.nan)], ids=str)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="must be above 0"):
        keep_ratio(*arguments)


def test_an_empty_picture_has_no_nearest_size():
    with pytest.raises(ValueError, match="0 x 10"):
        nearest_trained(0, 10)
