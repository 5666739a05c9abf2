"""Training batches."""

import random

import pytest
import torch

from kontext_core.embedded.text_encoder import Vocabulary
from training import recipe
from training.data import Batches, draw_batch, draw_task, edit_batch, loader, make_batch, samples_of
from training.instructions import EVERY_TASK, TASKS, all_words

VOCABULARY = Vocabulary(all_words())
SIZE = (96, 64)


def first(rank: int = 0, start: int = 0, count: int = 6) -> list:
    batches = iter(Batches(VOCABULARY, 2, rank, start))
    return [next(batches) for _ in range(count)]


def test_changed_tokens_weigh_more():
    rng = random.Random(2)
    batch = make_batch(rng, VOCABULARY, edit_batch(rng, 6, (160, 96), 1), (160, 96))
    assert batch.target.shape == batch.references[0].shape == (6, 3, 96, 160) and batch.weight.shape == (6, 60)
    torch.testing.assert_close(batch.weight.mean(1), torch.ones(6))
    ratios = batch.weight.amax(1) / batch.weight.amin(1)
    assert set(ratios.round(decimals=4).tolist()) <= {1.0, 1 + recipe.CHANGED_WEIGHT} and ratios.max() > 1


def test_tasks_are_drawn_as_often_as_the_recipe_says():
    rng = random.Random(0)
    drawn = [draw_task(rng) for _ in range(6000)]
    assert sum(free for _, free in drawn) / 6000 == pytest.approx(recipe.FREE, abs=0.02)
    for weights, kind in ((recipe.TASK_WEIGHTS, False), (recipe.FREE_WEIGHTS, True)):
        tasks = [task for task, free in drawn if free is kind]
        share = weights["background"] / sum(weights.values())
        assert tasks.count("background") / len(tasks) == pytest.approx(share, abs=0.025)


def test_every_task_is_taught():
    assert set(recipe.TASK_WEIGHTS) == set(TASKS)
    assert set(recipe.TASK_WEIGHTS | recipe.FREE_WEIGHTS) == set(EVERY_TASK)


def test_batches_of_all_canvases_cost_about_as_much():
    costs = []
    for size in recipe.CANVASES:
        tokens = 20 + 2 * size[0] * size[1] // 256
        costs.append(samples_of(16, size, 1) * tokens)
    assert samples_of(16, (128, 128), 1) == 16
    assert max(costs) < 1.2 * min(costs)


def test_processes_draw_other_edits_of_the_same_canvases_and_a_later_call_draws_anew():
    mine, again, other, later = first(), first(), first(rank=1), first(start=7)
    assert [(b.size, len(b.references)) for b in mine] == [(b.size, len(b.references)) for b in other]
    for one, same, another in zip(mine, again, other, strict=True):
        assert torch.equal(one.target, same.target) and torch.equal(one.text, same.text)
        assert not torch.equal(one.target, another.target)
    assert any(a.size != b.size or not torch.equal(a.target, b.target) for a, b in zip(mine, later, strict=True))


def test_a_process_that_makes_batches_ahead_makes_the_same_ones():
    ahead = loader(VOCABULARY, 2, 0, 0, workers=1)
    for one in first(count=3):
        other = next(ahead)
        assert one.size == other.size and torch.equal(one.target, other.target)
        assert all(torch.equal(*pair) for pair in zip(one.nouns, other.nouns, strict=True))


def test_the_number_of_references_follows_the_tasks_weights():
    shared = random.Random(0)
    drawn = [draw_batch(shared)[0] for _ in range(4000)]
    two = [
        share * weights["two references"] / sum(weights.values())
        for share, weights in ((recipe.FREE, recipe.FREE_WEIGHTS), (1 - recipe.FREE, recipe.TASK_WEIGHTS))
    ]
    assert drawn.count(2) / 4000 == pytest.approx(sum(two), abs=0.015)


def test_a_batch_is_told_what_its_texts_say():
    rng = random.Random(4)
    batch = make_batch(rng, VOCABULARY, edit_batch(rng, 40, SIZE, 1), SIZE)
    nothing = VOCABULARY.encode("")[0]
    assert [bool(has_text) for has_text in batch.has_text] == [text != nothing for text in batch.text.tolist()]
    assert batch.truth.shape == (40, 2 * 24, 11)


@pytest.mark.parametrize("references", [0, 1, 2])
def test_a_batch_goes_to_a_device_whole(references):
    rng = random.Random(5)
    batch = make_batch(rng, VOCABULARY, edit_batch(rng, 2, SIZE, references), SIZE)
    there = batch.to(torch.device("meta"))
    assert len(there.references) == references and there.size == SIZE
    assert {part.device.type for part in (*there.references, there.target, there.weight, *there.nouns)} == {"meta"}
