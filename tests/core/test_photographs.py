"""Photographs as backgrounds: training and held-out ones, and the things pasted into them."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training import photographs
from training.free import CONTRAST
from training.instructions import TASKS, picture_of, sample
from training.photographs import HELD_OUT, TRAINING, backgrounds, family, pixels_of, random_crop
from training.wallpapers import gather
from training.world import COLOURS, Background, Finish, Place, Scene, Thing, render

SIDE = 96


def edits_of(task: str, count: int, held_out: bool = False) -> list:
    rng = random.Random(f"photograph {task}")
    return [sample(rng, task, width=SIDE, height=SIDE, photograph=True, held_out=held_out) for _ in range(count)]


def test_whole_photographs_are_held_out_and_not_crops(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "FOLDER", tmp_path)
    for number in range(40):
        (tmp_path / f"{number}.jpg").touch()
    backgrounds.cache_clear()
    seen, unseen = (set(backgrounds(held_out)) for held_out in (False, True))
    backgrounds.cache_clear()
    assert not seen & unseen and set(TRAINING) <= seen and set(HELD_OUT) <= unseen
    wallpapers = [source for source in seen | unseen if source[0] == tmp_path.name]
    assert len(wallpapers) == 40 and 2 <= len(unseen) - len(HELD_OUT) <= 16


def test_versions_of_one_wallpaper_are_on_one_side():
    one = "plasma_Kay_5120x2880.jpg", "plasma_Kay-images_dark_5120x2880.jpg", "plasma_Kay_720x1440.jpg"
    assert len({family(name) for name in one}) == 1
    assert family("gnome_wood-d.jpg") == family("gnome_wood-l.jpg") != family("gnome_pixels-l.jpg")


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held out"])
def test_an_edit_shows_a_photograph_of_its_own_side(held_out):
    for edit in edits_of("recolour", 6, held_out):
        for scene in (edit.sources[0], edit.target):
            assert scene.background.crop.source in backgrounds(held_out)


def test_a_crop_is_the_same_pixels_always_and_mirrors():
    crop = random_crop(random.Random(2), False, SIDE, SIDE)
    first = pixels_of(crop, SIDE, SIDE)
    assert first.shape == (SIDE, SIDE, 3) and 0 <= first.min() < first.max() <= 1
    mirrored = pixels_of(replace(crop, mirrored=not crop.mirrored), SIDE, SIDE)
    np.testing.assert_array_equal(mirrored, first[:, ::-1])


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("photograph", "text to image")])
def test_what_an_edit_on_a_photograph_does_not_name_stays(task):
    for edit in edits_of(task, 5):
        source, target = (picture_of(picture, SIDE, SIDE) for picture in (edit.sources[-1], edit.target))
        change = abs(source - target).max(-1)
        assert change.max() > 0.02
        if task not in ("background", "global", "character"):
            assert edit.target.background == edit.sources[-1].background
            assert (change == 0).mean() > 0.4


def test_things_can_be_seen_on_their_photograph():
    for edit in edits_of("recolour", 10):
        scene = edit.sources[0]
        bare = render(replace(scene, things=()), SIDE)
        for thing in scene.things:
            changed = abs(render(replace(scene, things=(thing,)), SIDE) - bare).max(-1)
            assert changed.max() > CONTRAST / 2


def test_a_finish_lights_one_side_softens_the_edge_and_casts_a_shadow():
    white = Background("plain", "white", "white")
    flat = Thing("square", "red", place=Place(48, 48, 20))
    lit = replace(flat, finish=Finish(light=0.25, angle=0.0, soft=1.0, shadow=0.5))
    before, after = (render(Scene(white, (thing,)), SIDE) for thing in (flat, lit))
    assert after[48, 60, 0] > after[48, 48, 0] > after[48, 36, 0]  # the light comes from the right
    np.testing.assert_allclose(after[48, 48], np.array(COLOURS["red"]) / 255, atol=0.02)
    edges = [abs(np.diff(picture[48, :, 1])).max() for picture in (before, after)]
    assert edges[1] < 0.7 * edges[0]
    outside_left, outside_right = after[48, 26, 1], after[48, 70, 1]
    assert outside_left < outside_right and outside_left < 0.95 * before[48, 26, 1]


def test_each_wallpaper_is_gathered_once_and_at_a_moderate_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    large = Image.fromarray(noise).resize((1800, 1200), Image.Resampling.BICUBIC)
    other = Image.fromarray(255 - noise).resize((1800, 1200), Image.Resampling.BICUBIC)
    files = {"large.png": large, "again.png": large.resize((1200, 800)), "icon.png": large.resize((90, 60))}
    for name, image in (files | {"other.png": other}).items():
        image.save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    assert gather([("some", tmp_path / name) for name in (*files, "other.png")], out) == 2
    sizes = {Image.open(path).size for path in out.iterdir()}
    assert sizes == {(1080, 720)} and all(path.name.startswith("some_") for path in out.iterdir())
