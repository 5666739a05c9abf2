"""Edits in the synthetic world: what was there, what was asked in words, and what is right.

Each task is one function from a random generator to an `Edit`, worded as `training/wordings.py` has it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kontext_core.embedded.text_encoder import FILLERS
from training.photographs import training_picture
from training.wordings import WORDINGS, draw_wording
from training.world import (
    CELLS,
    COLOURS,
    EFFECTS,
    LETTERS,
    PATTERNS,
    SHAPES,
    Background,
    Scene,
    Thing,
    apply_effect,
    cells_of,
    render,
)

Picture = Scene | np.ndarray  # a scene, or a photograph-like picture (h, w, 3) in 0..1


@dataclass(frozen=True)
class Edit:
    task: str
    sources: tuple[Picture, ...]  # the references: none for text to image, two for `two references`
    target: Picture
    instruction: str
    index: int | None = None  # which thing of the target (or of the source, for `remove`) the edit is about
    effect: str | None = None  # which effect, for `global`


@dataclass(frozen=True)
class Draw:
    """What a task draws from: a generator, the canvas, which wordings may be used, and perhaps the scene to edit."""

    rng: random.Random
    width: int
    height: int
    held_out: bool
    scene: Scene | None = None

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
) -> Edit:
    """One edit of a task (of a random one if None), drawn for a canvas of width x height pixels.

    A task that edits a scene takes `scene` where it is given.
    """
    task = task or rng.choice(tuple(TASKS))
    return TASKS[task](Draw(rng, width, height, held_out, scene))


def picture_of(picture: Picture, width: int, height: int) -> np.ndarray:
    """The pixels of a scene or of a photograph-like picture, (height, width, 3) float32 in 0..1."""
    return render(picture, width, height) if isinstance(picture, Scene) else picture


# Phrases


def background_name(background: Background) -> str:
    """How an instruction calls a background."""
    if background.pattern == "plain":
        return background.first
    link = "to" if background.pattern == "gradient" else "and"
    return f"{background.first} {link} {background.second} {background.pattern}"


def shape_name(shape: str) -> str:
    """How an instruction calls a shape or a letter."""
    return f"letter {shape}" if shape in LETTERS else shape


def thing_name(thing: Thing) -> str:
    """How an instruction describes a thing that is not there yet."""
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{size}{thing.colour} {shape_name(thing.shape)}"


def reference_to(rng: random.Random, scene: Scene, index: int) -> str:
    """How an instruction points at a thing in a scene: by colour and shape, or by shape where that is enough."""
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
    """A background without the colours to avoid."""
    first, second = rng.sample([colour for colour in COLOURS if colour not in avoid], 2)
    pattern = rng.choice(PATTERNS)
    return Background(pattern, first, first if pattern == "plain" else second)


def random_thing(rng: random.Random, scene: Scene, cell: str, *, letters: float = 0.12) -> Thing:
    """A thing that can be seen on the scene's background and is no twin (same shape and colour) of another one."""
    taken = {(thing.shape, thing.colour) for thing in scene.things}
    colours = [colour for colour in COLOURS if colour not in (scene.background.first, scene.background.second)]
    while True:
        shape = rng.choice(LETTERS) if rng.random() < letters else rng.choice(SHAPES)
        colour, size = rng.choice(colours), rng.choice(("small", "medium", "large"))
        if (shape, colour) not in taken:
            return Thing(shape, colour, size, cell)


def random_scene(draw: Draw, count: int | None = None, *, letters: float = 0.12) -> Scene:
    """A background with one to three things; half of the fuller scenes repeat a shape or a colour."""
    if draw.scene is not None:
        return draw.scene
    rng = draw.rng
    scene = Scene(random_background(rng), ())
    for cell in rng.sample(draw.cells, count or rng.choice((1, 2, 2, 3, 3))):
        thing = random_thing(rng, scene, cell, letters=letters)
        if scene.things and rng.random() < 0.25:
            twin = replace(thing, **rng.choice(({"shape": scene.things[0].shape}, {"colour": scene.things[0].colour})))
            if all((twin.shape, twin.colour) != (other.shape, other.colour) for other in scene.things):
                thing = twin
        scene = replace(scene, things=(*scene.things, thing))
    return scene


def free_cell(draw: Draw, scene: Scene) -> str:
    """A cell with nothing in it."""
    return draw.rng.choice([cell for cell in draw.cells if all(thing.cell != cell for thing in scene.things)])


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
    index = draw.rng.randrange(len(scene.things))
    taken = {scene.things[index].colour, scene.background.first, scene.background.second}
    colour = draw.rng.choice([c for c in COLOURS if c not in taken])
    text = draw.wording("recolour", thing=reference_to(draw.rng, scene, index), colour=colour)
    return Edit("recolour", (scene,), scene.with_thing(index, colour=colour), text, index)


def _remove(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = draw.rng.randrange(len(scene.things))
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
    index = draw.rng.randrange(len(scene.things))
    shape = draw.rng.choice([s for s in SHAPES if s != scene.things[index].shape])
    text = draw.wording("replace", thing=reference_to(draw.rng, scene, index), shape=shape)
    return Edit("replace", (scene,), scene.with_thing(index, shape=shape), text, index)


def _move(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index, cell = draw.rng.randrange(len(scene.things)), free_cell(draw, scene)
    thing = reference_to(draw.rng, scene, index)
    text = draw.wording("move", thing=thing, at=preposition(draw.rng), cell=cell)
    return Edit("move", (scene,), scene.with_thing(index, cell=cell), text, index)


def _resize(draw: Draw) -> Edit:
    scene = random_scene(draw)
    index = draw.rng.randrange(len(scene.things))
    sizes = ("small", "medium", "large")
    old = sizes.index(scene.things[index].size)
    new = draw.rng.choice([step for step in (old - 1, old + 1) if 0 <= step <= 2])
    way = "bigger" if new > old else "smaller"
    text = draw.wording("resize", thing=reference_to(draw.rng, scene, index), way=way)
    return Edit("resize", (scene,), scene.with_thing(index, size=sizes[new]), text, index)


def _letter(draw: Draw) -> Edit:
    scene = random_scene(draw, letters=0)
    index = draw.rng.randrange(len(scene.things))
    old, new = draw.rng.sample(LETTERS, 2)
    text = draw.wording("letter", old=old, new=new)
    return Edit("letter", (scene.with_thing(index, shape=old),), scene.with_thing(index, shape=new), text, index)


def _character(draw: Draw) -> Edit:
    scene, cell = random_scene(draw, 1), draw.rng.choice(draw.cells)
    background = random_background(draw.rng, (scene.things[0].colour,))
    target = replace(scene, background=background).with_thing(0, cell=cell)
    text = draw.wording("character", at=preposition(draw.rng), cell=cell, to=background_name(background))
    return Edit("character", (scene,), target, text, 0)


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
    target = replace(scene, things=(*scene.things, replace(thing, cell=cell)))
    text = draw.wording("two references", at=preposition(draw.rng), cell=cell)
    return Edit("two references", (alone, scene), target, text, len(scene.things))


def _text_to_image(draw: Draw) -> Edit:
    scene = random_scene(draw, draw.rng.choice((1, 1, 2) if draw.held_out else (1, 2, 2)))  # two are harder to learn
    things = [f"a {thing_name(thing)} {preposition(draw.rng)} {thing.cell}" for thing in scene.things]
    text = draw.wording("text to image", things=" and ".join(things), to=background_name(scene.background))
    return Edit("text to image", (), scene, text, 0)


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


def all_words() -> list[str]:
    """The vocabulary: every word that an instruction can contain, in a fixed order."""
    names = (*COLOURS, *SHAPES, *LETTERS, *CELLS, *PATTERNS[1:], "letter", "small", "large", "bigger", "smaller", "and")
    texts = [wording for groups in WORDINGS.values() for group in groups for wording in group]
    words = {word for text in (*texts, *names) for word in text.lower().split() if "{" not in word}
    return sorted(words - FILLERS)
