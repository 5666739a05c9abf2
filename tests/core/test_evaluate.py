"""The strict rule: which outputs it accepts and rejects."""

import math
import random

import pytest
import torch

from training.evaluate import (
    WORLDS,
    as_tensor,
    counterfactuals,
    held_out_edits,
    judge,
    psnr,
    side_by_side,
    summary,
    wilson,
)
from training.instructions import TASKS, sample

SIDE = 128


def edits_of(task: str, count: int = 12, world: str = "grid"):
    rng = random.Random(task)
    return [sample(rng, task, width=SIDE, height=SIDE, held_out=True, **WORLDS[world]) for _ in range(count)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("task", TASKS)
def test_the_right_picture_passes_even_when_it_is_soft(task, world):
    for edit in edits_of(task, 6, world):
        right = as_tensor(edit.target, SIDE, SIDE)
        soft = torch.nn.functional.avg_pool2d(right[None], 3, 1, 1, count_include_pad=False)[0]
        assert judge(edit, right, right).success and judge(edit, soft, right).success


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("task", TASKS)
def test_counterfactuals_fail(task, world):
    for edit in edits_of(task, 3, world):
        right = as_tensor(edit.target, SIDE, SIDE)
        wrong = [as_tensor(picture, SIDE, SIDE) for picture in counterfactuals(edit, SIDE, SIDE)]
        wrong = [picture for picture in wrong if (picture - right).abs().max() > 0.02]
        assert wrong
        for picture in random.Random(0).sample(wrong, min(len(wrong), 25)):  # two references have hundreds
            assert not judge(edit, picture, right).success


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("text to image", "character", "style")])
def test_doing_nothing_fails(task):
    for edit in edits_of(task):
        assert not judge(edit, as_tensor(edit.sources[-1], SIDE, SIDE), as_tensor(edit.target, SIDE, SIDE)).success


def test_a_thing_drawn_in_its_new_place_and_left_in_the_old_one_has_not_moved():
    for edit in edits_of("move"):
        right, source = (as_tensor(picture, SIDE, SIDE) for picture in (edit.target, edit.sources[0]))
        gone = as_tensor(edit.sources[0].without(edit.index), SIDE, SIDE)
        both = torch.where((source - gone).abs() > 0.02, source, right)
        soft = torch.nn.functional.avg_pool2d(both[None], 3, 1, 1, count_include_pad=False)[0]
        assert not judge(edit, soft, right).success


def test_changed_and_unchanged_regions_are_told_apart():
    edit = edits_of("recolour", 1)[0]
    source, right = (as_tensor(picture, SIDE, SIDE) for picture in (edit.sources[0], edit.target))
    verdict = judge(edit, source, right)
    assert verdict.unchanged == pytest.approx(100) and verdict.changed < 30
    assert verdict.changed == verdict.changed_copy and verdict.unchanged_ceiling == pytest.approx(100)


def test_psnr():
    assert psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)) == pytest.approx(20, abs=1e-3)
    assert math.isnan(psnr(torch.zeros(4), torch.ones(4), torch.zeros(4, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"), [(0, 10, 0, 0.278), (5, 10, 0.237, 0.763), (60, 60, 0.940, 1)]
)
def test_wilson_interval(successes, count, low, high):
    assert wilson(successes, count) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_held_out_edits_are_reproducible_and_photographs_are_unseen():
    first, second = (held_out_edits(7, 2, SIDE, SIDE) for _ in range(2))
    assert [edit.instruction for edit in first] == [edit.instruction for edit in second]
    assert len(first) == 2 * len(TASKS)
    assert held_out_edits(8, 2, SIDE, SIDE)[0] != first[0]


def test_summary_counts():
    edits = edits_of("remove", 4)
    rights = [as_tensor(edit.target, SIDE, SIDE) for edit in edits]
    sources = [as_tensor(edit.sources[0], SIDE, SIDE) for edit in edits]
    verdicts = [judge(e, o, r) for e, o, r in zip(edits, rights[:3] + sources[3:], rights, strict=True)]
    result = summary(edits, verdicts)
    assert result["success"] == result["tasks"]["remove"]["success"] == 0.75
    assert side_by_side({"grid": result, "free": result}).splitlines()[2:] == [
        "| remove | 75 % (30-95, n=4) | 75 % (30-95, n=4) |"
    ]
