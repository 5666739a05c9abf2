"""Edits in the synthetic world: a source scene, an instruction, and the right result.

Each task is one function from a random generator to an `Edit`; `training/wordings.py` has the wordings.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kontext_core.embedded.text_encoder import FILLERS
from training.free import RADII, SMALLEST, on_photograph, overlap, set_free, turn_of
from training.photographs import training_picture
from training.wordings import WORDINGS, draw_wording
from training.world import (
    CELLS,
    COLOURS,
    EFFECTS,
    LETTERS,
    PATTERNS,
    RADIUS,
    RESIZE,
    SHAPES,
    Background,
    Place,
    Scene,
    Thing,
    apply_effect,
    cells_of,
    centre_of,
    changed,
    radius_of,
    render,
)

SIZES = tuple(RADIUS)
PLAIN = 0.3  # fraction of off-grid scenes that get a plain background, besides those that draw one anyway

Picture = Scene | np.ndarray  # a scene, or a photograph-like picture (h, w, 3) in 0..1


@dataclass(frozen=True)
class Edit:
    task: str
    sources: tuple[Picture, ...]  # the references: none for text to image, two for `two references`
    target: Picture
    instruction: str
    index: int | None = None  # the edited thing: its index in the target (for `remove`: in the source)
    effect: str | None = None  # the effect, for `global`
    change: tuple[str, Any] | None = None  # attribute and new value, for edits that change one attribute


@dataclass(frozen=True)
class Draw:
    """The inputs of a task: a generator, the canvas, the set of wordings, and optionally the scene to edit.

    With `free` the source scene is off the grid.
    """

    rng: random.Random
    width: int
    height: int
    held_out: bool
    scene: Scene | None = None
    free: bool = False
    photograph: bool = False  # as the background of a free scene

    @property
    def cells(self) -> tuple[str, ...]:
        return cells_of(self.width, self.height)

    def wording(self, task: str, **fields: str) -> str:
        return draw_wording(self.rng, task, self.held_out).format(**fields)


def sample(
    rng: random.Random,
    task: str | None = None,
    *,
    width: int = 128,
    height: int = 128,
    held_out: bool = False,
    scene: Scene | None = None,
    free: bool = False,
    photograph: bool = False,
) -> Edit:
    """One edit of a task (of a random task if None), drawn for a canvas of width x height pixels.

    A task that edits a scene uses `scene` if given. With `free` the source scene is off the grid, with `photograph`
    also on a photograph.
    Raises ValueError if the given scene does not allow the task (nothing to edit, no free cell).
    """
    task = task or rng.choice(tuple(TASKS))
    draw = Draw(rng, width, height, held_out, scene, free or photograph, photograph)
    while True:
        try:
            return EVERY_TASK[task](draw)
        except NoRoom:
            if scene is not None:
                raise


class NoRoom(ValueError):
    """The scene has no thing to edit, or no free cell."""


def picture_of(picture: Picture, width: int, height: int) -> np.ndarray:
    """The pixels of a scene or of a photograph-like picture, (height, width, 3) float32 in 0..1."""
    return render(picture, width, height) if isinstance(picture, Scene) else picture


# Phrases


def background_name(background: Background) -> str:
    """The name of a background in instructions."""
    if background.pattern == "plain":
        return background.first
    link = "to" if background.pattern == "gradient" else "and"
    return f"{background.first} {link} {background.second} {background.pattern}"


def shape_name(shape: str) -> str:
    """The name of a shape or a letter in instructions."""
    return f"letter {shape}" if shape in LETTERS else shape


def thing_name(thing: Thing) -> str:
    """The description of a thing that is not in the picture yet."""
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{size}{thing.colour} {shape_name(thing.shape)}"


def reference_to(rng: random.Random, scene: Scene, index: int) -> str:
    """How an instruction refers to a thing in a scene: by colour and shape, or by shape if that is unambiguous."""
    thing = scene.things[index]
    alone = sum(other.shape == thing.shape for other in scene.things) == 1
    return (
        f"the {shape_name(thing.shape)}"
        if alone and rng.random() < 0.3
        else f"the {thing.colour} {shape_name(thing.shape)}"
    )


def preposition(rng: random.Random) -> str:
    """The words between a thing and its cell."""
    return rng.choice(("at the", "in the"))


# Scenes


def random_background(rng: random.Random, avoid: tuple[str, ...] = ()) -> Background:
    """A background without the colours in `avoid`."""
    first, second = rng.sample([colour for colour in COLOURS if colour not in avoid], 2)
    pattern = rng.choice(PATTERNS)
    return Background(pattern, first, first if pattern == "plain" else second)


def random_thing(rng: random.Random, scene: Scene, cell: str, *, letters: float = 0.12) -> Thing:
    """A thing that is visible on the scene's background and has no twin (same shape and colour) in the scene."""
    taken = {(thing.shape, thing.colour) for thing in scene.things}
    colours = [colour for colour in COLOURS if colour not in (scene.background.first, scene.background.second)]
    while True:
        shape = rng.choice(LETTERS) if rng.random() < letters else rng.choice(SHAPES)
        colour, size = rng.choice(colours), rng.choice(("small", "medium", "large"))
        if (shape, colour) not in taken:
            return Thing(shape, colour, size, cell)


def random_scene(draw: Draw, count: int | None = None, *, letters: float = 0.12) -> Scene:
    """A background with one to three things; half of the scenes with several things repeat a shape or a colour."""
    if draw.scene is not None:
        return draw.scene
    while True:
        scene = _grid_scene(draw, count, letters)
        if draw.free:
            scene = set_free(draw.rng, scene, draw.width, draw.height)
        if scene is not None and draw.free and draw.photograph:
            scene = on_photograph(draw.rng, scene, draw.held_out, draw.width, draw.height)
        if scene is not None:
            return scene


def _grid_scene(draw: Draw, count: int | None, letters: float) -> Scene:
    rng = draw.rng
    scene = Scene(random_background(rng), ())
    if draw.free and rng.random() < PLAIN:
        scene = Scene(Background("plain", scene.background.first, scene.background.first), ())
    for cell in rng.sample(draw.cells, count or rng.choice((1, 1, 2, 3) if draw.free else (1, 2, 2, 3, 3))):
        thing = random_thing(rng, scene, cell, letters=letters)
        if scene.things and rng.random() < 0.25:
            twin = replace(thing, **rng.choice(({"shape": scene.things[0].shape}, {"colour": scene.things[0].colour})))
            if all((twin.shape, twin.colour) != (other.shape, other.colour) for other in scene.things):
                thing = twin
        scene = replace(scene, things=(*scene.things, thing))
    return scene


def free_cell(draw: Draw, scene: Scene) -> str:
    """A cell with room for a new thing of any size. Raises NoRoom."""
    taken = tuple(Place(*centre_of(thing, draw.width, draw.height), radius_of(thing)) for thing in scene.things)

    def free(cell: str) -> bool:
        if not draw.free:
            return all(thing.cell != cell for thing in scene.things)
        new = Thing("circle", "red", "large", cell)
        return not overlap(Place(*centre_of(new, draw.width, draw.height), radius_of(new)), taken)

    return _one_of(draw.rng, [cell for cell in draw.cells if free(cell)])


def cell_to_move_to(draw: Draw, scene: Scene, index: int) -> str:
    """A cell with room for a thing of the scene, away from where it is now. Raises NoRoom."""
    if not draw.free:
        return free_cell(draw, scene)
    thing, others = scene.things[index], scene.without(index).things
    here = centre_of(thing, draw.width, draw.height)
    taken = tuple(Place(*centre_of(other, draw.width, draw.height), radius_of(other)) for other in others)
    taken = (*taken, Place(*here, 0.0))  # at least the old centre must be cleared

    def free(cell: str) -> bool:
        moved = changed(thing, "cell", cell, draw.width, draw.height)
        return not overlap(Place(*centre_of(moved, draw.width, draw.height), radius_of(moved)), taken)

    return _one_of(draw.rng, [cell for cell in draw.cells if free(cell)])


def _one_of(rng: random.Random, choices: list[str]) -> str:
    if not choices:
        raise NoRoom("the scene has no free cell for this edit. Give a scene with more room or other things.")
    return rng.choice(choices)


def some_thing(draw: Draw, scene: Scene) -> int:
    """The index of a thing to edit. Raises NoRoom for an empty scene."""
    if not scene.things:
        raise NoRoom("the scene has no thing to edit. Give a scene with a thing, or a task that adds one.")
    return draw.rng.randrange(len(scene.things))


def changing(draw: Draw, task: str, scene: Scene, index: int, attribute: str, value: Any, text: str) -> Edit:
    """The edit that changes one attribute of one thing in the scene."""
    thing = changed(scene.things[index], attribute, value, draw.width, draw.height)
    return Edit(task, (scene,), scene.put(index, thing), text, index, change=(attribute, value))


# Tasks


def _background(draw: Draw) -> Edit:
    scene = random_scene(draw)
    new = scene.background
    while new == scene.background:
        new = random_background(draw.rng, tuple(thing.colour for thing in scene.things))
    text = draw.wording("background", to=background_name(new))
    return Edit("background", (scene,), replace(scene, background=new), text)


def _global(draw: Draw) -> Edit:
    return _effect(draw, random_scene(draw), "global", lambda scene, effect: replace(scene, effect=effect))


def _photograph(draw: Draw) -> Edit:
    return _effect(draw, training_picture(draw.rng, draw.width, draw.height), "photograph", apply_effect)


def _effect(draw: Draw, plain: Picture, task: str, apply: Callable[[Picture, str], Picture]) -> Edit:
    effect = draw.rng.choice((*EFFECTS, "day"))
    text = draw.wording(effect)
    if effect == "day":
        return Edit(task, (apply(plain, "night"),), plain, text, effect="day")
    return Edit(task, (plain,), apply(plain, effect), text, effect=effect)


def _recolour(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = some_thing(draw, scene)
    taken = {scene.things[index].colour, scene.background.first, scene.background.second}
    colour = draw.rng.choice([c for c in COLOURS if c not in taken])
    text = draw.wording("recolour", thing=reference_to(draw.rng, scene, index), colour=colour)
    return changing(draw, "recolour", scene, index, "colour", colour, text)


def _remove(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = some_thing(draw, scene)
    text = draw.wording("remove", thing=reference_to(draw.rng, scene, index))
    return Edit("remove", (scene,), scene.without(index), text, index)


def _add(draw: Draw) -> Edit:
    scene = random_scene(draw)
    cell = free_cell(draw, scene)
    thing = random_thing(draw.rng, scene, cell)
    target = replace(scene, things=(*scene.things, thing))
    text = draw.wording("add", thing=thing_name(thing), at=preposition(draw.rng), cell=cell)
    return Edit("add", (scene,), target, text, len(scene.things))


def _replace(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = some_thing(draw, scene)
    shape = draw.rng.choice([s for s in SHAPES if s != scene.things[index].shape])
    text = draw.wording("replace", thing=reference_to(draw.rng, scene, index), shape=shape)
    return changing(draw, "replace", scene, index, "shape", shape, text)


def _move(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = some_thing(draw, scene)
    cell = cell_to_move_to(draw, scene, index)
    thing = reference_to(draw.rng, scene, index)
    text = draw.wording("move", thing=thing, at=preposition(draw.rng), cell=cell)
    return changing(draw, "move", scene, index, "cell", cell, text)


def _resize(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = some_thing(draw, scene)
    step = draw.rng.choice(steps_of_size(draw, scene.things[index]))
    way = "bigger" if step > 0 else "smaller"
    text = draw.wording("resize", thing=reference_to(draw.rng, scene, index), way=way)
    size = step if scene.things[index].place else SIZES[SIZES.index(scene.things[index].size) + step]
    return changing(draw, "resize", scene, index, "size", size, text)


def steps_of_size(draw: Draw, thing: Thing) -> list[int]:
    """Whether a thing can become smaller (-1), bigger (1) or both."""
    if thing.place is None:
        return [step for step in (-1, 1) if 0 <= SIZES.index(thing.size) + step < len(SIZES)]
    smaller, bigger = thing.place.radius / RESIZE, thing.place.radius * RESIZE
    most = RADII[1] * RESIZE * min(draw.width, draw.height)
    return [step for step, fits in ((-1, smaller >= SMALLEST), (1, bigger <= most)) if fits]


def _letter(draw: Draw) -> Edit:
    scene = random_scene(draw, letters=0)
    index = some_thing(draw, scene)
    old, new = draw.rng.sample(LETTERS, 2)
    text = draw.wording("letter", old=old, new=new)
    thing = replace(scene.things[index], shape=old)
    if thing.place is not None:
        thing = replace(thing, place=replace(thing.place, turn=turn_of(draw.rng, old)))
    scene = scene.put(index, thing)
    return changing(draw, "letter", scene, index, "shape", new, text)


def _character(draw: Draw) -> Edit:
    scene, cell = random_scene(draw, 1), draw.rng.choice(draw.cells)
    background = random_background(draw.rng, (scene.things[0].colour,))
    thing = changed(scene.things[0], "cell", cell, draw.width, draw.height)
    text = draw.wording("character", at=preposition(draw.rng), cell=cell, to=background_name(background))
    return Edit("character", (scene,), replace(scene, background=background, things=(thing,)), text, 0)


def _style(draw: Draw) -> Edit:
    scene, cell = random_scene(draw), draw.rng.choice(draw.cells)
    thing = random_thing(draw.rng, replace(scene, things=()), cell)
    text = draw.wording("style", thing=thing_name(thing), at=preposition(draw.rng), cell=cell)
    return Edit("style", (scene,), replace(scene, things=(thing,)), text, 0)


def _two_references(draw: Draw) -> Edit:
    scene = random_scene(draw, draw.rng.choice((1, 2)))
    cell = free_cell(draw, scene)
    thing = random_thing(draw.rng, scene, draw.rng.choice(draw.cells))
    alone = Scene(random_background(draw.rng, (thing.colour,)), (thing,))
    if draw.free:
        alone = set_free(draw.rng, alone, draw.width, draw.height) or alone
        thing = alone.things[0]
        cell = cell_to_move_to(draw, replace(scene, things=(*scene.things, thing)), len(scene.things))
    placed = changed(thing, "cell", cell, draw.width, draw.height)
    target = replace(scene, things=(*scene.things, placed))
    text = draw.wording("two references", at=preposition(draw.rng), cell=cell)
    return Edit("two references", (alone, scene), target, text, len(scene.things))


def _text_to_image(draw: Draw) -> Edit:
    count = draw.rng.choice((1, 1, 2) if draw.held_out else (1, 2, 2))  # two are harder to learn
    scene = random_scene(replace(draw, free=False), count)  # there is no source scene
    things = [f"a {thing_name(thing)} {preposition(draw.rng)} {thing.cell}" for thing in scene.things]
    text = draw.wording("text to image", things=" and ".join(things), to=background_name(scene.background))
    return Edit("text to image", (), scene, text, 0)


def _open_add(draw: Draw) -> Edit:
    """Add something; the text gives at most its colour, its shape or its cell."""
    scene = random_scene(draw)
    cell = free_cell(draw, scene)
    thing = random_thing(draw.rng, scene, cell, letters=0)
    text = draw.wording("open add", colour=thing.colour, shape=thing.shape, at=preposition(draw.rng), cell=cell)
    return Edit("open add", (scene,), replace(scene, things=(*scene.things, thing)), text, len(scene.things))


def _open_background(draw: Draw) -> Edit:
    """Another background; the text gives at most one of its colours."""
    edit = _background(draw)
    text = draw.wording("open background", colour=edit.target.background.first)
    return replace(edit, task="open background", instruction=text)


def _open_recolour(draw: Draw) -> Edit:
    """Another colour for a thing; the text does not say which."""
    edit = _recolour(draw)
    text = draw.wording("open recolour", thing=reference_to(draw.rng, edit.sources[0], edit.index))
    return replace(edit, task="open recolour", instruction=text)


def _unchanged(draw: Draw) -> Edit:
    """No change requested; `training.drift` uses it to measure the drift of repeated passes."""
    scene = random_scene(draw)
    return Edit("unchanged", (scene,), scene, draw.wording("unchanged"))


OPEN_TASKS: dict[str, Callable[[Draw], Edit]] = {  # underspecified tasks, excluded from the strict rule
    "open add": _open_add,
    "open background": _open_background,
    "open recolour": _open_recolour,
}
TASKS: dict[str, Callable[[Draw], Edit]] = {
    "background": _background,
    "global": _global,
    "photograph": _photograph,
    "recolour": _recolour,
    "remove": _remove,
    "add": _add,
    "replace": _replace,
    "move": _move,
    "resize": _resize,
    "letter": _letter,
    "character": _character,
    "style": _style,
    "two references": _two_references,
    "text to image": _text_to_image,
}
DRAWN = tuple(task for task in TASKS if task != "photograph")  # whose pictures are scenes
EVERY_TASK = TASKS | OPEN_TASKS | {"unchanged": _unchanged}


def all_words() -> list[str]:
    """The vocabulary: every word that an instruction can contain, in a fixed order."""
    names = (*COLOURS, *SHAPES, *LETTERS, *CELLS, *PATTERNS[1:], "letter", "small", "large", "bigger", "smaller", "and")
    texts = [wording for groups in WORDINGS.values() for group in groups for wording in group]
    words = {word for text in (*texts, *names) for word in text.lower().split() if "{" not in word}
    return sorted(words - FILLERS)
