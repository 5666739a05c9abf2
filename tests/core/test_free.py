"""The off-grid part of the world."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from kontext_core.embedded.text_encoder import Vocabulary
from training.evaluate import counterfactuals
from training.free import GAP, RADII, SMALLEST, shade_of
from training.instructions import OPEN_TASKS, TASKS, NoRoom, all_words, picture_of, sample
from training.world import (
    COLOURS,
    RESIZE,
    SHAPES,
    Background,
    Place,
    Scene,
    Thing,
    Weave,
    centre_of,
    changed,
    radius_of,
    render,
)

SIDE = 128
WHITE = Background("plain", "white", "white")


def edits_of(task: str, count: int, side: int = SIDE) -> list:
    rng = random.Random(f"free {task}")
    return [sample(rng, task, width=side, height=side, free=True) for _ in range(count)]


def coverage(thing: Thing) -> np.ndarray:
    """The coverage of each pixel by a black thing on white, computed from its place."""
    picture = render(Scene(WHITE, (replace(thing, shade=(0, 0, 0)),)), SIDE)[..., 0]
    white = render(Scene(WHITE, ()), SIDE)[..., 0]
    return 1 - picture / white


@pytest.mark.parametrize("shape", [*SHAPES, "K"])
def test_a_free_thing_is_drawn_where_its_place_says_and_moves_by_parts_of_a_pixel(shape):
    here, there = Place(50.3, 61.8, 17.4, 10.0), Place(50.8, 61.8, 17.4, 10.0)
    areas, middles = [], []
    for place in (here, there):
        covered = coverage(Thing(shape, "black", place=place))
        y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        areas.append(covered.sum())
        middles.append(np.array([(covered * x).sum(), (covered * y).sum()]) / covered.sum())
        reach = np.hypot(x - place.x, y - place.y)[covered > 0.05].max()
        assert 0.75 * place.radius < reach < 1.3 * place.radius
    assert areas[0] == pytest.approx(areas[1], rel=0.02)
    np.testing.assert_allclose(middles[1] - middles[0], (0.5, 0), atol=0.13)


def test_a_free_thing_on_the_grid_looks_as_the_grid_draws_it():
    on_grid = Thing("star", "black", "large", "centre")
    free = replace(on_grid, place=Place(64, 64, 16))
    np.testing.assert_allclose(coverage(free), coverage(on_grid), atol=0.13)


def test_a_turn_by_its_own_symmetry_changes_nothing():
    for shape, turn in (("triangle", 120), ("star", 72)):
        place = Place(60, 60, 20)
        turned = replace(place, turn=float(turn))
        upright, other = (coverage(Thing(shape, "black", place=at)) for at in (place, turned))
        assert abs(upright - other).sum() < 0.03 * upright.sum()


def test_things_stand_anywhere_at_sizes_of_6_to_45_percent_and_do_not_touch():
    xs, radii = [], []
    for side in (96, 128, 256):
        for edit in edits_of("recolour", 60, side):
            things = edit.sources[0].things
            places = [thing.place for thing in things]
            for place in places:
                assert max(RADII[0] * side, SMALLEST) <= place.radius <= RADII[1] * side
                assert all(0.4 * place.radius <= at <= side - 0.4 * place.radius for at in (place.x, place.y))
            for index, one in enumerate(places):
                for other in places[:index]:
                    assert math.dist((one.x, one.y), (other.x, other.y)) >= one.radius + other.radius + GAP - 1e-6
            xs += [place.x % 16 for place in places]
            radii += [place.radius / side for place in places]
    assert np.histogram(xs, bins=8, range=(0, 16))[0].min() > len(xs) / 24  # no phase of the grid is preferred
    assert min(radii) < 0.05 and max(radii) > 0.2


@pytest.mark.parametrize("colour", COLOURS)
def test_a_shade_is_nearest_to_its_own_colour(colour):
    rng = random.Random(colour)
    shades = [shade_of(rng, colour) for _ in range(60)]
    assert None in shades and len(set(shades)) > 20
    for shade in filter(None, shades):
        assert min(COLOURS, key=lambda name: math.dist(COLOURS[name], shade)) == colour


@pytest.mark.parametrize("pattern", ["striped", "checkered", "gradient"])
def test_a_weave_has_both_colours_and_its_own_period(pattern):
    background = Background(pattern, "black", "white", weave=Weave(20, 90, 0))
    picture = render(Scene(background, ()), SIDE)[..., 0]
    assert picture.min() < 0.15 and picture.max() > 0.9
    if pattern == "striped":
        assert np.ptp(picture, axis=0).max() < 1e-6  # rotated by 90 degrees, every column has one colour
        assert np.count_nonzero(np.diff(picture[0] > 0.5)) in (6, 7)  # 128 px of 20


@pytest.mark.parametrize("task", [*TASKS, *OPEN_TASKS])
def test_a_free_edit_asks_for_something_and_what_it_asks_for_is_known(task):
    vocabulary = Vocabulary(all_words())
    for edit in edits_of(task, 12):
        assert vocabulary.encode(edit.instruction)[1:] == ([], 0)
        if edit.sources and isinstance(edit.target, Scene):
            source, target = (picture_of(picture, SIDE, SIDE) for picture in (edit.sources[-1], edit.target))
            assert abs(source - target).max() > 0.02
            assert all(thing.place for thing in edit.sources[0].things)


def test_nothing_changes_where_nothing_is_asked_for():
    vocabulary = Vocabulary(all_words())
    for edit in edits_of("unchanged", 12):
        assert vocabulary.encode(edit.instruction)[1:] == ([], 0)
        assert edit.sources == (edit.target,) and edit.target.things


@pytest.mark.parametrize("task", ["recolour", "remove", "replace", "move", "resize", "letter"])
def test_an_edit_of_a_thing_leaves_the_others_and_the_background_alone(task):
    for edit in edits_of(task, 12):
        source, target = edit.sources[0], edit.target
        assert source.background == target.background
        if task == "remove":
            assert target == source.without(edit.index)
        else:
            assert target.without(edit.index) == source.without(edit.index)


def test_what_is_changed_keeps_the_rest():
    thing = Thing("star", "red", place=Place(30.0, 40.0, 20.0, 15.0), shade=(250, 10, 10))
    canvas = SIDE, SIDE
    assert changed(thing, "colour", "blue", *canvas) == replace(thing, colour="blue", shade=None)
    assert changed(thing, "shape", "circle", *canvas).place == replace(thing.place, turn=0.0)
    assert changed(thing, "size", 1, *canvas).place.radius == pytest.approx(20 * RESIZE)
    moved = changed(thing, "cell", "bottom right", *canvas)
    assert (moved.place.radius, moved.place.turn) == (20.0, 15.0)
    assert centre_of(moved, *canvas) == (108, 108)  # the cell's middle is 112; 20 px from the edge it fits completely
    on_grid = Thing("star", "red", "small", "left")
    assert changed(on_grid, "size", "large", *canvas) == replace(on_grid, size="large")
    assert changed(on_grid, "size", 1, *canvas) == replace(on_grid, size="medium")  # in an off-grid scene, added before
    assert changed(thing, "size", "large", *canvas).place.radius == 16


def test_a_thing_moves_off_its_place_and_into_room():
    for edit in edits_of("move", 30):
        before, after = (scene.things[edit.index] for scene in (edit.sources[0], edit.target))
        here, there = centre_of(before, SIDE, SIDE), centre_of(after, SIDE, SIDE)
        assert math.dist(here, there) > radius_of(after)
        for other in edit.target.without(edit.index).things:
            assert math.dist(there, centre_of(other, SIDE, SIDE)) > radius_of(after) + radius_of(other)


def test_a_given_scene_without_a_thing_allows_no_edit_of_one():
    empty = Scene(WHITE, ())
    with pytest.raises(NoRoom, match="no thing to edit"):
        sample(random.Random(0), "recolour", scene=empty)
    assert sample(random.Random(0), "add", scene=empty).target.things


def test_counterfactuals_of_a_free_edit_are_free_of_the_grid_too():
    for task in ("recolour", "move", "resize", "replace"):
        for edit in edits_of(task, 6):
            for wrong in counterfactuals(edit, SIDE, SIDE):
                assert all(thing.place for thing in wrong.things)
