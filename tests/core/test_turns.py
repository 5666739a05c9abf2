"""Conversations: each turn edits the previous result, and is compared with the first picture."""

import random
from collections import Counter

import pytest
import torch

from training.evaluate import CHANGED_LEVEL, WORLDS, as_tensor
from training.turns import SIZE, conversation, converse, no_twins, table


class Perfect:
    """Paints the right picture of every turn, with a small error everywhere."""

    def __init__(self, conversations, error):
        self.turns, self.error = iter(zip(*conversations, strict=True)), error

    def edit(self, references, instructions, size):
        edits = next(self.turns)
        assert instructions == [edit.instruction for edit in edits]
        return torch.stack([as_tensor(edit.target, *size) for edit in edits]) + self.error


@pytest.fixture(scope="module", params=WORLDS)
def conversations(request):
    return [conversation(random.Random(seed), 8, request.param) for seed in range(6)]


def test_each_turn_edits_what_the_turn_before_leaves(conversations):
    for edits in conversations:
        assert len(edits) == 8
        for before, after in zip(edits, edits[1:], strict=False):
            assert after.sources == (before.target,)
        assert all(no_twins(edit.target) and edit.target.things for edit in edits)


def test_after_the_only_thing_is_taken_away_something_is_added():
    edits = conversation(random.Random(38), 8)
    empty = [turn for turn, edit in enumerate(edits) if not edit.target.things]
    assert empty == [0] and edits[0].task == "remove" and edits[1].task == "add"
    assert len(edits) == 8 and all(edit.target.things for edit in edits[1:])


def test_a_perfect_editor_stays_right_and_its_error_is_the_drift(conversations):
    rows = converse(Perfect(conversations, 0.01), conversations)
    assert [row["still"] for row in rows] == [1.0] * 8
    assert all(row["untouched"] == pytest.approx(40, abs=0.1) for row in rows)
    assert table(rows).count("100 %") == 16


def test_one_wrong_turn_is_never_still_right(conversations):
    class Stubborn(Perfect):
        def edit(self, references, instructions, size):
            right = super().edit(references, instructions, size)
            return references[0] if instructions == second else right

    second = [edits[1].instruction for edits in conversations]
    rows = converse(Stubborn(conversations, 0.0), conversations)
    assert [row["right"] for row in rows[:3]] == [1.0, 0.0, 1.0]
    assert [row["still"] for row in rows] == [1.0] + 7 * [0.0]
    tasks = Counter(edits[1].task for edits in conversations)
    assert [row["failed"] for row in rows] == [{}, tasks] + 6 * [{}]
    assert [row["tried"].total() for row in rows] == [6, 6] + 6 * [0]
    assert all(f"{task} {count} of " in table(rows) for task, count in tasks.items())


@pytest.mark.parametrize("from_right", [False, True])
def test_a_turn_edits_the_result_before_or_the_right_picture(conversations, from_right):
    class Watched(Perfect):
        def edit(self, references, instructions, size):
            seen.extend(references)
            return super().edit(references, instructions, size)

    seen: list[torch.Tensor] = []
    two = conversations[:2]
    converse(Watched(two, 0.01), two, from_right=from_right)
    turns = zip(*two, strict=True)
    rights = [torch.stack([as_tensor(edit.sources[0], SIZE, SIZE) for edit in edits]) for edits in turns]
    for turn, (given, right) in enumerate(zip(seen, rights, strict=True)):
        torch.testing.assert_close(given, right if from_right or turn == 0 else right + 0.01)


def test_the_untouched_region_shrinks(conversations):
    """A picture with an error where the edits went, and only there, has no drift."""

    class Elsewhere(Perfect):
        def edit(self, references, instructions, size):
            right = super().edit(references, instructions, size)
            edited = (right - first).abs().amax(1, keepdim=True) > CHANGED_LEVEL
            return torch.where(edited, right + 0.2, first)

    first = torch.stack([as_tensor(edits[0].sources[0], SIZE, SIZE) for edits in conversations])
    assert all(row["untouched"] > 99 for row in converse(Elsewhere(conversations, 0.0), conversations))
