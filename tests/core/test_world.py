"""The synthetic world and its instructions."""

import random
from dataclasses import replace

import numpy as np
import pytest

from kontext_core.embedded.text_encoder import FILLERS, Vocabulary
from training.instructions import TASKS, all_words, picture_of, sample
from training.photographs import texture
from training.wordings import WORDINGS, draw_wording
from training.world import COLOURS, EFFECTS, Background, Scene, Thing, apply_effect, cells_of, centre_of, render

SCENE = Scene(Background("plain", "white", "white"), (Thing("circle", "red", "large", "left"),))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).max(axis=-1)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (160, 96), (192, 192)], ids=str)
def test_a_scene_is_drawn_at_every_size_in_its_colours(size):
    picture = render(SCENE, *size) if size[0] > 64 else render(replace(SCENE).with_thing(0, cell="top left"), *size)
    thing = SCENE.things[0] if size[0] > 64 else replace(SCENE.things[0], cell="top left")
    x, y = centre_of(thing, *size)
    assert picture.shape == (size[1], size[0], 3) and picture.dtype == np.float32
    np.testing.assert_allclose(picture[y, x] * 255, COLOURS["red"], atol=0.01)
    np.testing.assert_allclose(picture[-1, -1] * 255, COLOURS["white"], atol=0.01)


def test_drawing_twice_gives_the_same_and_does_not_touch_the_cache():
    first = render(SCENE)
    first[:] = 0
    assert np.array_equal(render(SCENE), render(SCENE)) and render(SCENE).max() > 0.9


@pytest.mark.parametrize(
    "change",
    [{"colour": "blue"}, {"shape": "square"}, {"size": "small"}, {"cell": "right"}],
    ids=lambda c: next(iter(c)),
)
def test_a_change_of_one_thing_stays_in_its_surroundings(change):
    changed = difference(render(SCENE), render(SCENE.with_thing(0, **change))) > 0
    assert changed.any() and not changed[:20].any() and not changed[-20:].any()


@pytest.mark.parametrize("effect", EFFECTS)
def test_effects_stay_in_range_and_change_the_picture(effect):
    picture = texture(random.Random(0), 64, 64)
    out = apply_effect(picture, effect)
    assert out.min() >= 0 and out.max() <= 1 and difference(out, picture).mean() > 0.03
    assert np.array_equal(apply_effect(picture, None), picture)


def test_negative_is_its_own_inverse():
    picture = texture(random.Random(0), 64, 64)
    np.testing.assert_allclose(apply_effect(apply_effect(picture, "negative"), "negative"), picture, atol=1e-6)


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("task", TASKS)
def test_an_edit_asks_for_something(task, side):
    rng = random.Random(3)
    for _ in range(20):
        edit = sample(rng, task, width=side, height=side)
        target = picture_of(edit.target, side, side)
        assert target.shape == (side, side, 3)
        assert len(edit.sources) == {"text to image": 0, "two references": 2}.get(task, 1)
        if edit.sources:
            assert difference(picture_of(edit.sources[-1], side, side), target).max() > 0.02
        if isinstance(edit.target, Scene):
            assert all(thing.cell in cells_of(side, side) for thing in edit.target.things)
            places = [thing.cell for thing in edit.target.things]
            assert len(set(places)) == len(places)


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held out"])
def test_every_wording_fits_the_vocabulary(held_out):
    vocabulary, rng = Vocabulary(all_words()), random.Random(5)
    for _ in range(1500):
        edit = sample(rng, held_out=held_out)
        _, unknown, dropped = vocabulary.encode(edit.instruction)
        assert (unknown, dropped) == ([], 0), edit.instruction


def test_held_out_wordings_are_never_drawn_for_training():
    """In no task, as the text encoder reads them: without fillers, and without dropped words."""

    def read(wording):
        return tuple(word for word in wording.replace("{at}", "").split() if word not in FILLERS)

    rng = random.Random(9)
    trained = {read(draw_wording(rng, task, False)) for task in WORDINGS for _ in range(3000)}
    assert all(trained) and len(trained) > 3 * len(WORDINGS)
    for training, held_out in WORDINGS.values():
        assert training and held_out and not {read(wording) for wording in held_out} & trained


def test_training_leaves_words_out_where_the_meaning_stays():
    rng = random.Random(10)
    drawn = {draw_wording(rng, "night", False) for _ in range(2000)}
    assert {"make the scene night", "make the night", "the scene night", "the night"} <= drawn
    assert all("night" in wording for wording in drawn)
    assert {draw_wording(rng, "night", True) for _ in range(50)} == set(WORDINGS["night"][1])


def test_the_model_has_seen_every_word_of_a_held_out_wording():
    rng, seen, asked = random.Random(6), set(), set()
    for words, held_out in ((seen, False), (asked, True)):
        for _ in range(4000):
            words |= set(sample(rng, held_out=held_out).instruction.replace("'", "").split())
    assert asked - seen == set()


def test_the_same_generator_gives_the_same_edit():
    assert sample(random.Random(8), "move") == sample(random.Random(8), "move")
