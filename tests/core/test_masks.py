"""The soft edge of a mask, and masks that are joined."""

import pytest
import torch

from kontext_core.preservation import join, soft_mask


def test_the_edge_of_a_mask_falls_over_its_feather_and_ends():
    core = torch.zeros(100, 200, dtype=torch.bool)
    core[:, :100] = True
    mask = soft_mask(core, (100, 200), grow=0.02, feather=0.05)
    assert torch.equal(mask[:, :104], torch.ones(100, 104))
    assert (mask[0, 103:115].diff() < 0).sum() >= 9
    assert torch.equal(mask[:, 114:], torch.zeros(100, 86))


JOINED = {  # mode, the columns 0-9 in the result: 1-3 and 6-7 are detected, 3-4 are drawn
    "union": [1, 2, 3, 4, 6, 7],
    "intersection": [3],
    "limit": [1, 2, 3],
}


@pytest.mark.parametrize(("how", "columns"), JOINED.items(), ids=JOINED)
def test_a_drawn_mask_is_joined_with_what_was_found(how, columns):
    core, drawn = torch.zeros(4, 10, dtype=torch.bool), torch.zeros(4, 10)
    core[:, [1, 2, 3, 6, 7]], drawn[:, [3, 4]] = True, 1
    assert join(core, drawn, how)[0].nonzero().flatten().tolist() == columns
