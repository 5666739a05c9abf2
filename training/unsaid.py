"""Evaluate underspecified instructions: `python -m training.unsaid --seed 1 --cases 40`.

An output is right if some picture that fits the words is nearer to it than every picture that does not. "Add something
red" fits any red shape in any free cell; it does not fit another colour, no change, or a removed thing.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from training.editor import Editor
from training.evaluate import WORLDS, as_tensor, outputs_of, wilson
from training.instructions import OPEN_TASKS, Edit, sample
from training.world import (
    CELLS,
    COLOURS,
    PATTERNS,
    RADIUS,
    SHAPES,
    Background,
    Scene,
    Thing,
    cells_of,
    centre_of,
    changed,
    radius_of,
)


def said(instruction: str, names: tuple[str, ...]) -> str | None:
    """The name that an instruction contains, the longest first ("top left" before "top"); None if there is none."""
    text = f" {instruction} "
    return next((name for name in sorted(names, key=len, reverse=True) if f" {name} " in text), None)


def outcomes(edit: Edit, width: int, height: int) -> Iterator[tuple[Scene, bool]]:
    """Possible results of an edit of `OPEN_TASKS`, and whether each fits its words."""
    scene = edit.sources[0]
    yield scene, False
    yield from ((scene.without(index), False) for index in range(len(scene.things)))
    yield from {"open add": _added, "open background": _on_others, "open recolour": _recoloured}[edit.task](
        edit, width, height
    )


def _added(edit: Edit, width: int, height: int) -> Iterator[tuple[Scene, bool]]:
    scene = edit.sources[0]
    wanted = [said(edit.instruction, tuple(names)) for names in (COLOURS, SHAPES, CELLS)]
    for colour, shape, cell, size in itertools.product(COLOURS, SHAPES, cells_of(width, height), RADIUS):
        thing = Thing(shape, colour, size, cell)
        if all(_apart(thing, other, width, height) for other in scene.things):
            fits = all(want in (None, have) for want, have in zip(wanted, (colour, shape, cell), strict=True))
            yield replace(scene, things=(*scene.things, thing)), fits


def _apart(thing: Thing, other: Thing, width: int, height: int) -> bool:
    (x, y), (u, v) = (centre_of(one, width, height) for one in (thing, other))
    return max(abs(x - u), abs(y - v)) >= radius_of(thing) + radius_of(other)


def _on_others(edit: Edit, width: int, height: int) -> Iterator[tuple[Scene, bool]]:
    scene, colour = edit.sources[0], said(edit.instruction, tuple(COLOURS))
    for first, second, pattern in itertools.product(COLOURS, COLOURS, PATTERNS):
        if (first == second) is (pattern == "plain"):
            background = Background(pattern, first, second)
            same = replace(scene.background, shades=(None, None), weave=None) == background
            fits = not same and colour in (None, first, second)
            yield replace(scene, background=background), fits
            yield replace(scene, background=background, things=()), False


def _recoloured(edit: Edit, width: int, height: int) -> Iterator[tuple[Scene, bool]]:
    scene = edit.sources[0]
    for index, thing in enumerate(scene.things):
        for colour in COLOURS:
            if colour != thing.colour:
                yield scene.put(index, changed(thing, "colour", colour, width, height)), index == edit.index


def fits(edit: Edit, output: Tensor) -> bool:
    """Whether an output (3, h, w) in 0..1 is nearest to a picture that fits the words."""
    height, width = output.shape[-2:]
    nearest = {True: float("inf"), False: float("inf")}
    for picture, right in outcomes(edit, width, height):
        distance = (output - as_tensor(picture, width, height)).square().sum().item()
        nearest[right] = min(nearest[right], distance)
    return nearest[True] < nearest[False]


def cases(seed: int, count: int, world: str, side: int) -> list[Edit]:
    """`count` underspecified edits of each task, in held-out wordings."""
    rng = random.Random(f"{seed} open")
    return [
        sample(rng, task, width=side, height=side, held_out=True, **WORLDS[world])
        for task in OPEN_TASKS
        for _ in range(count)
    ]


def measured(editor: Editor, seed: int, count: int, world: str, side: int) -> tuple[int, int]:
    """The number of outputs that fit their words, and the number of edits."""
    edits = cases(seed, count, world, side)
    return sum(fits(*pair) for pair in zip(edits, outputs_of(editor, edits, side, side, seed=seed), strict=True)), len(
        edits
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=40, help="per task")
    parser.add_argument("--world", default="free", choices=("grid", "free"))
    parser.add_argument("--side", type=int, default=128, help="px")
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    options = parser.parse_args()
    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    right, count = measured(editor, options.seed, options.cases, options.world, options.side)
    low, high = (100 * bound for bound in wilson(right, count))
    print(f"fit their words: {100 * right / count:.0f} % ({low:.0f}-{high:.0f}, n={count})")


if __name__ == "__main__":
    main()
