"""The evaluation on plain drawings: what it accepts and rejects, and its independence from the world."""

import ast
import random
from pathlib import Path

import pytest
import torch

from kontext_core.embedded.text_encoder import Vocabulary
from training import plain
from training.instructions import all_words
from training.plain import COLOURS, SENTENCES, WORDINGS, _tensor, answers, cases, is_right, summary, table
from training.wordings import HELD_OUT, draw_wording, read

SIDE = 64
DRAWN = cases(901, 12)


@pytest.mark.parametrize("task", WORDINGS)
def test_the_right_picture_passes_also_when_it_is_soft(task):
    for case in (case for case in DRAWN if case.task == task):
        right = _tensor(case.right, SIDE)
        soft = torch.nn.functional.avg_pool2d(right[None], 3, 1, 1, count_include_pad=False)[0]
        assert is_right(case, right) and is_right(case, soft)


@pytest.mark.parametrize("task", WORDINGS)
def test_every_wrong_picture_fails_and_so_does_doing_nothing(task):
    for case in (case for case in DRAWN if case.task == task):
        assert case.source in case.wrong and case.right not in case.wrong
        assert not any(is_right(case, _tensor(wrong, SIDE)) for wrong in case.wrong)


def test_half_of_a_thing_in_its_old_colour_fails():
    for case in (case for case in DRAWN if case.task == "recolour"):
        source, right = (_tensor(drawing, SIDE) for drawing in (case.source, case.right))
        half = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < 0.6
        assert not is_right(case, torch.where(half, source, right))


def test_shapes_have_10_to_20_percent_of_the_side_as_radius_and_stand_anywhere_in_the_middle():
    many = cases(902, 200)
    radii, xs = [case.source.radius for case in many], [case.source.x for case in many]
    assert 0.1 <= min(radii) < 0.11 and 0.19 < max(radii) <= 0.2
    assert min(xs) < 0.25 and max(xs) > 0.75
    assert {case.source.shape for case in many} == {"circle", "square"}
    assert {case.source.colour for case in many} == set(COLOURS)
    assert 0.2 < sum(case.source.triangle is not None for case in many) / len(many) < 0.45


def test_the_model_knows_every_word_and_half_of_the_sentences_are_held_out_from_training():
    vocabulary, rng = Vocabulary(all_words()), random.Random(0)
    assert all(vocabulary.encode(case.instruction)[1:] == ([], 0) for case in DRAWN)
    for task, (_, held_out) in WORDINGS.items():
        unseen = read(held_out.replace("the {shape}", "{thing}").replace(" {colour}", " {to}"))
        unseen_too = read(held_out.replace("the {shape}", "{thing}"))
        assert HELD_OUT & {unseen, unseen_too}
        assert not {read(draw_wording(rng, task, False)) for _ in range(500)} & {unseen, unseen_too}


def test_it_draws_by_itself():
    """It imports nothing from the world or from code that draws it."""
    tree = ast.parse(Path(plain.__file__).read_text("utf-8"))
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not used & {"training.world", "training.free", "training.instructions", "training.wordings"}


def test_answers_come_in_order_and_are_counted():
    class Painter:
        """Paints the right picture of every second case, and returns the source of the others."""

        def edit(self, references, instructions, size):
            known = {case.instruction: case for case in drawn}
            right = [_tensor(known[text].right, size[0]) for text in instructions]
            turn = [drawn.index(known[text]) % 2 for text in instructions]
            return torch.stack([old if odd else new for odd, new, old in zip(turn, right, references[0], strict=True)])

    drawn = list({case.instruction: case for case in cases(903, 8)}.values())
    verdicts = [is_right(*pair) for pair in zip(drawn, answers(Painter(), drawn, SIDE, batch=3), strict=True)]
    assert verdicts == [index % 2 == 0 for index in range(len(drawn))]
    rows = summary(drawn, verdicts, SIDE)
    for names in (WORDINGS, SENTENCES):
        assert sum(row["count"] for row in rows if row["task"] in names) == len(drawn)
    assert rows[-1]["success"] == sum(verdicts) / len(drawn) and table(rows).count("\n") == 1 + len(rows)
