"""Tokens and positions: the host's rules, with numbers computed by hand."""

from itertools import product

import pytest
import torch

from kontext_core.tokens import LAYOUTS, Placement, pack, place_references, position_ids, unpack

SIZES = [(1, 1), (2, 2), (1, 6), (5, 8), (8, 5), (7, 9), (16, 16)]


@pytest.mark.parametrize(("height", "width"), SIZES, ids=lambda side: str(side))
def test_unpack_is_the_inverse_of_pack(height, width):
    latent = torch.randn(2, 16, height, width)
    tokens = pack(latent)
    assert tokens.shape == (2, -(-height // 2) * -(-width // 2), 64)
    assert torch.equal(unpack(tokens, height, width), latent)


def test_a_token_is_a_2x2_patch_channel_by_channel():
    latent = torch.randn(1, 3, 4, 6)
    tokens = pack(latent)
    for row, column in product(range(2), range(3)):
        patch = latent[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(tokens[0, 3 * row + column], patch.flatten())


def test_odd_sizes_are_padded_circularly():
    latent = torch.arange(9.0).view(1, 1, 3, 3)
    assert pack(latent)[0].tolist() == [[0, 1, 3, 4], [2, 0, 5, 3], [6, 7, 0, 1], [8, 6, 2, 0]]


POSITIONS = {
    "target": ((4, 6), [(0, row, column) for row in range(2) for column in range(3)]),
    "odd size": ((3, 3), [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]),
    "reference": ((2, 4, 1), [(1, 0, 0), (1, 0, 1)]),
    "placed": ((4, 2, 1, 6, 8), [(1, 3, 4), (1, 4, 4)]),
    "odd place rounded up": ((2, 2, 0, 5, 7), [(0, 3, 4)]),
}


@pytest.mark.parametrize(("arguments", "expected"), POSITIONS.values(), ids=POSITIONS)
def test_position_ids(arguments, expected):
    ids = position_ids(*arguments)
    assert [tuple(row) for row in ids.tolist()] == expected


def test_positions_stay_exact_on_a_long_canvas():
    assert torch.equal(position_ids(2, 1000)[:, 2], torch.arange(500, dtype=torch.float32))


PLACES = {  # name: layout, target, reference sizes, expected; sizes are (height, width)
    "offset: one": ("offset", (128, 128), [(94, 174)], [(1, 0, 0)]),
    "offset: equal squares go below": ("offset", (128, 128), [(128, 128)] * 2, [(1, 0, 0), (1, 128, 0)]),
    "offset: tall ones go beside": ("offset", (128, 128), [(196, 84)] * 2, [(1, 0, 0), (1, 0, 84)]),
    "offset: the canvas grows": (
        "offset",
        (8, 8),
        [(128, 128), (128, 128), (64, 64), (64, 200), (10, 10)],
        [(1, 0, 0), (1, 128, 0), (1, 0, 128), (1, 256, 0), (1, 0, 200)],
    ),
    "offset: odd sizes": ("offset", (8, 8), [(7, 5), (3, 9), (9, 3)], [(1, 0, 0), (1, 7, 0), (1, 0, 9)]),
    "index": ("index", (128, 128), [(128, 128), (7, 5), (64, 200)], [(1, 0, 0), (2, 0, 0), (3, 0, 0)]),
    "uxo": ("uxo", (64, 96), [(128, 128), (32, 16), (8, 8)], [(0, 64, 96), (0, 192, 224), (0, 224, 240)]),
    "uxo: odd sizes": ("uxo", (9, 16), [(7, 5), (4, 4), (2, 2)], [(0, 10, 16), (0, 17, 21), (0, 21, 25)]),
    "none": ("offset", (64, 64), [], []),
}


@pytest.mark.parametrize(("layout", "target", "sizes", "expected"), PLACES.values(), ids=PLACES)
def test_place_references(layout, target, sizes, expected):
    assert place_references(sizes, target, layout) == [Placement(*place) for place in expected]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_two_tokens_share_a_position(layout):
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        sizes = (2 * torch.randint(1, 20, (4, 2), generator=generator)).tolist()
        target, *references = sizes
        ids = [position_ids(*target)]
        for size, place in zip(references, place_references(references, target, layout), strict=True):
            ids.append(position_ids(*size, *place))
        assert len(torch.cat(ids).unique(dim=0)) == sum(len(some) for some in ids)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'grid'.*offset, index, uxo"):
        place_references([(8, 8)], (8, 8), "grid")
