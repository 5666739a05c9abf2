"""Underspecified instructions, judged by what they do say."""

from dataclasses import replace

import pytest

from training.evaluate import as_tensor
from training.instructions import OPEN_TASKS
from training.unsaid import cases, fits, outcomes, said
from training.world import CELLS, COLOURS, SHAPES, changed

SIDE = 96


@pytest.mark.parametrize("task", OPEN_TASKS)
def test_what_was_drawn_fits_and_so_does_another_way_to_do_it_but_doing_nothing_does_not(task):
    for edit in (edit for edit in cases(3, 2, "free", SIDE) if edit.task == task):
        assert fits(edit, as_tensor(edit.target, SIDE, SIDE))
        assert not fits(edit, as_tensor(edit.sources[0], SIDE, SIDE))
        ways = [scene for scene, right in outcomes(edit, SIDE, SIDE) if right]
        assert len(ways) > 5 and fits(edit, as_tensor(ways[-1], SIDE, SIDE))


def test_what_is_said_counts():
    edit = next(edit for edit in cases(4, 4, "free", SIDE) if edit.task == "open add")
    drawn = edit.target.things[-1]
    edit = replace(edit, instruction=f"add something {drawn.colour}")
    for colour in {drawn.colour, "red", "green"}:
        other = changed(drawn, "colour", colour, SIDE, SIDE)
        picture = as_tensor(edit.target.put(len(edit.target.things) - 1, other), SIDE, SIDE)
        assert fits(edit, picture) is (colour == drawn.colour)


def test_the_names_in_a_text():
    assert said("add something red at the top left", tuple(COLOURS)) == "red"
    assert said("add something red at the top left", tuple(CELLS)) == "top left"
    assert said("add something red at the top left", SHAPES) is None
