"""The labels that training derives from its world, and the hooks that read the features."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kontext_core import transformer
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer
from training.instructions import TASKS, Edit, picture_of, sample
from training.semantics import (
    CLASSES,
    COLUMNS,
    DEPTHS,
    REACH,
    STEP,
    UNKNOWN,
    VALUES,
    Heads,
    block_inputs,
    labels,
    labels_of,
    semantic_loss,
)
from training.world import Background, Scene, Thing, centre_of

SIZE = (160, 96)  # width, height: 10 x 6 tokens
SCENE = Scene(
    Background("striped", "red", "white"),
    (Thing("star", "blue", "small", "top left"), Thing("K", "black", "large", "centre")),
    effect="night",
)


def read(found: np.ndarray, label: str, width: int) -> np.ndarray:
    """The values of a label, (rows, columns) of objects; None where it is undefined."""
    values = [*VALUES[label], None]
    codes = found[:, COLUMNS[label]].reshape(-1, width // 16)
    return np.array([[values[-1 if code == UNKNOWN else code] for code in row] for row in codes], object)


def test_background_and_effect_are_known_everywhere_and_a_thing_where_it_stands():
    found = labels_of(SCENE, 1, None, *SIZE)
    for label, value in (("pattern", "striped"), ("first", "red"), ("second", "white"), ("effect", "night")):
        assert (read(found, label, SIZE[0]) == value).all()
    shapes, there = read(found, "shape", SIZE[0]), read(found, "thing", SIZE[0])
    assert ((shapes != None) == (there == True)).all()  # noqa: E711, E712
    for thing in SCENE.things:
        here = shapes == thing.shape
        assert here.any()
        assert (read(found, "colour", SIZE[0])[here] == thing.colour).all()
        assert (read(found, "size", SIZE[0])[here] == {"small": 1, "large": 3}[thing.size]).all()
        assert (read(found, "meant", SIZE[0])[here] == (thing.shape == "K")).all()


def test_every_token_that_a_thing_changes_is_labelled_and_points_at_its_centre():
    for seed in range(40):
        scene = sample(random.Random(seed), "recolour", width=SIZE[0], height=SIZE[1]).target
        for thing in scene.things:
            alone = replace(scene, things=(thing,))
            found = labels_of(alone, None, None, *SIZE)
            pixels = np.abs(picture_of(alone, *SIZE) - picture_of(replace(scene, things=()), *SIZE)).max(-1) > 0.02
            touched = pixels.reshape(6, 16, 10, 16).any((1, 3))
            there = read(found, "thing", SIZE[0]) == True  # noqa: E712
            assert not (touched & ~there).any()
            x, y = centre_of(thing, *SIZE)
            for row, column in np.argwhere(there):
                right, down = (read(found, label, SIZE[0])[row, column] for label in ("right", "down"))
                assert (16 * column + 8 + 8 * right, 16 * row + 8 + 8 * down) == (x, y)


def test_every_token_that_a_free_thing_fills_is_labelled_and_points_at_its_centre():
    for seed in range(30):
        scene = sample(random.Random(seed), "recolour", width=SIZE[0], height=SIZE[1], free=True).target
        for thing in scene.things:
            alone = replace(scene, things=(thing,))
            found = labels_of(alone, 0, None, *SIZE)
            pixels = np.abs(picture_of(alone, *SIZE) - picture_of(replace(scene, things=()), *SIZE)).max(-1) > 0.02
            touched = pixels.reshape(6, 16, 10, 16).mean((1, 3)) > 0.1
            there = read(found, "meant", SIZE[0]) == True  # noqa: E712
            assert not (touched & ~there).any()
            x, y = centre_of(thing, *SIZE)
            for row, column in np.argwhere(there):
                right, down = (read(found, label, SIZE[0])[row, column] for label in ("right", "down"))
                for step, exact in ((right, x - 16 * column - 8), (down, y - 16 * row - 8)):
                    assert step == max(-REACH, min(REACH, exact // STEP))


def test_a_token_between_two_things_shows_the_nearer_one_whichever_was_drawn_first():
    things = Thing("star", "blue", "large", "top left"), Thing("ring", "black", "large", "left")
    for drawn in (things, things[::-1]):
        shapes = read(labels_of(replace(SCENE, things=drawn), None, None, *SIZE), "shape", SIZE[0])
        assert shapes[:4, 1].tolist() == ["star", "star", "ring", "ring"]


@pytest.mark.parametrize(("effect", "before", "after"), [("day", "night", None), ("grey", None, "grey")], ids=str)
def test_an_effect_over_a_photograph_is_known_before_and_after(effect, before, after):
    plain = np.zeros((96, 160, 3), np.float32)
    found = labels([Edit("photograph", (plain,), plain, "", effect=effect)], SIZE)[0, :, COLUMNS["effect"]]
    assert [set(part.tolist()) for part in found.split(60)] == [{VALUES["effect"].index(e)} for e in (after, before)]


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_has_labels_of_target_and_references_in_the_order_of_the_tokens(task):
    edit = sample(random.Random(3), task, width=SIZE[0], height=SIZE[1])
    found = labels([edit, edit], SIZE)
    tokens = 60 * (1 + len(edit.sources))
    assert found.shape == (2, tokens, len(VALUES)) and torch.equal(found[0], found[1])
    for part, picture in zip(found[0].split(60), (edit.target, *edit.sources), strict=True):
        if isinstance(picture, Scene):
            things = {picture.things.index(thing) for thing in picture.things}
            assert len(part[:, COLUMNS["shape"]].unique()) - 1 <= len(things)
            assert (part[:, COLUMNS["first"]] == list(VALUES["first"]).index(picture.background.first)).all()
        else:
            assert set(part.flatten().tolist()) == {UNKNOWN, int(part[0, COLUMNS["effect"]])}


def test_the_thing_that_an_instruction_names_is_meant_in_both_pictures_and_what_is_gone_in_one():
    meant = {}
    for task in ("recolour", "remove", "add", "style", "two references", "day"):
        if task == "day":
            edit = Edit("global", (replace(SCENE, effect="night"),), replace(SCENE, effect=None), "", effect="day")
        else:
            edit = sample(random.Random(19), task, width=SIZE[0], height=SIZE[1])
        parts = labels([edit], SIZE)[0].split(60)
        meant[task] = [bool((part[:, COLUMNS["meant"]] == 1).any()) for part in parts]
    assert meant == {
        "recolour": [True, True],
        "remove": [False, True],
        "add": [True, False],
        "style": [True, False],
        "two references": [True, True, False],
        "day": [False, False],
    }


def test_the_loss_is_that_of_the_known_labels_alone():
    torch.manual_seed(0)
    heads, features = Heads(32), [torch.randn(2, 4, 32) for _ in DEPTHS]
    truth = torch.full((2, 4, len(CLASSES)), UNKNOWN)
    truth[0, 1, 0] = 2
    expected = [F.cross_entropy(logits[0][0, 1], torch.tensor(2)) for logits in heads(features)]
    loss = semantic_loss(heads, features, truth, torch.ones(2, 4))
    torch.testing.assert_close(loss, sum(expected) / (len(DEPTHS) * len(CLASSES)))
    weight = torch.ones(2, 4)
    weight[0, 1] = 0
    assert semantic_loss(heads, features, truth, weight) == 0


def test_watching_sees_what_the_blocks_are_given_and_leaves_the_forward_alone():
    torch.manual_seed(0)
    sizes = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=4, context_in_dim=32, vec_in_dim=32)
    tree, before = KontextTransformer(sizes), transformer.single_block
    inputs = torch.randn(1, 8, 64), torch.zeros(1, 8, 3), torch.randn(1, 5, 32), torch.zeros(1, 5, 3)
    arguments = (*inputs, torch.ones(1), torch.randn(1, 32), torch.ones(1))
    plain = tree(*arguments)
    with block_inputs(tree) as streams:
        seen = tree(*arguments)
    assert torch.equal(plain, seen) and transformer.single_block is before
    assert [stream.shape for stream in streams] == [(1, 13, 128)] * len(DEPTHS)
    last = [tree.single_blocks[depth].pre_norm(stream).norm() for depth, stream in zip(DEPTHS, streams, strict=True)]
    assert last[0] != last[1]
