"""Evaluate on plain drawings, as a newcomer makes them: `python -m training.plain --seed 1 --cases 30`.

The test pictures share nothing with the training world: a circle or a square with a radius of 10 to 20 % of the side,
anywhere in the middle, in one of CSS's named colours on another, sometimes with a small triangle in a corner. The edits
are another colour, another background, or removal, each in a natural wording and in a held-out wording. An output is
right if it is nearer to the right picture than to every wrong one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from training.editor import Editor
from training.evaluate import interval, wilson

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan", "white", "black")  # CSS values
WORDINGS = {  # task -> natural wording, held-out wording
    "recolour": ("make the {shape} {colour}", "paint only the {shape} {colour}"),
    "remove": ("remove the {shape}", "remove only the {shape}"),
    "background": ("make the background {colour}", "paint the background {colour}"),
}
SENTENCES = ("natural wording", "held-out wording")  # training has the natural ones too
TRIANGLE = 0.4  # probability of a triangle
OVER = 4  # supersampling factor


@dataclass(frozen=True)
class Drawing:
    """A shape on a background; lengths are fractions of the side."""

    ground: str
    shape: str
    colour: str | None  # None: no shape
    x: float
    y: float
    radius: float
    corner: tuple[int, int]
    triangle: str | None  # its colour; None: no triangle

    def pixels(self, side: int) -> np.ndarray:
        """The drawing, (side, side, 3) float32 in 0..1."""
        large = OVER * side
        image = Image.new("RGB", (large, large), ImageColor.getrgb(self.ground))
        draw = ImageDraw.Draw(image)
        if self.colour is not None:
            box = [large * at for at in (self.x - self.radius, self.y - self.radius)]
            box += [large * at for at in (self.x + self.radius, self.y + self.radius)]
            {"circle": draw.ellipse, "square": draw.rectangle}[self.shape](box, fill=ImageColor.getrgb(self.colour))
        if self.triangle is not None:
            left, top = (large * (0.03 + 0.82 * at) for at in self.corner)
            size = 0.12 * large
            points = [(left, top + size), (left + size, top + size), (left + size / 2, top)]
            draw.polygon(points, fill=ImageColor.getrgb(self.triangle))
        return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32) / 255


@dataclass(frozen=True)
class Case:
    task: str
    wording: str  # one of SENTENCES
    instruction: str
    source: Drawing
    right: Drawing
    wrong: tuple[Drawing, ...]


def cases(seed: int, count: int) -> list[Case]:
    """`count` cases of each task."""
    rng = random.Random(f"plain {seed}")
    return [_case(rng, task, number % 2) for task in WORDINGS for number in range(count)]


def _case(rng: random.Random, task: str, wording: int) -> Case:
    ground, colour, corner_colour, new = rng.sample(COLOURS, 4)
    radius = rng.uniform(0.1, 0.2)
    x, y = (rng.uniform(0.05 + radius, 0.95 - radius) for _ in range(2))
    corners = [(a, b) for a, b in itertools.product((0, 1), (0, 1)) if _far(x, y, radius, a, b)]
    triangle = corner_colour if corners and rng.random() < TRIANGLE else None
    corner = rng.choice(corners) if corners else (0, 0)
    source = Drawing(ground, rng.choice(("circle", "square")), colour, x, y, radius, corner, triangle)
    right, wrong = {"recolour": _recoloured, "remove": _removed, "background": _on_another}[task](source, new)
    text = WORDINGS[task][wording].format(shape=source.shape, colour=new)
    return Case(task, SENTENCES[wording], text, source, right, (source, *wrong))


def _far(x: float, y: float, radius: float, a: int, b: int) -> bool:
    """Whether the triangle in a corner stays clear of the shape."""
    return max(abs(x - (0.09 + 0.82 * a)), abs(y - (0.09 + 0.82 * b))) > radius + 0.1


def _recoloured(source: Drawing, new: str) -> tuple[Drawing, list[Drawing]]:
    wrong = [replace(source, colour=colour) for colour in (*COLOURS, None) if colour not in (new, source.colour)]
    wrong.append(replace(source, ground=new))
    if source.triangle:
        wrong += [replace(source, triangle=new), replace(source, colour=new, triangle=new)]
        wrong.append(replace(source, colour=new, triangle=None))
    return replace(source, colour=new), wrong


def _removed(source: Drawing, new: str) -> tuple[Drawing, list[Drawing]]:
    wrong = [replace(source, colour=new)]
    if source.triangle:
        wrong += [replace(source, triangle=None), replace(source, colour=None, triangle=None)]
    return replace(source, colour=None), wrong


def _on_another(source: Drawing, new: str) -> tuple[Drawing, list[Drawing]]:
    wrong = [replace(source, ground=colour) for colour in COLOURS if colour not in (new, source.ground)]
    wrong += [replace(source, colour=new), replace(source, ground=new, colour=None)]
    if source.triangle:
        wrong.append(replace(source, ground=new, triangle=None))
    return replace(source, ground=new), wrong


def is_right(case: Case, output: Tensor) -> bool:
    """Whether an output (3, side, side) in 0..1 is nearer to the right picture than to every wrong one."""
    side = output.shape[-1]
    right = (output - _tensor(case.right, side)).square().sum()
    return all(right < (output - _tensor(wrong, side)).square().sum() for wrong in case.wrong)


def _tensor(drawing: Drawing, side: int) -> Tensor:
    return torch.from_numpy(drawing.pixels(side)).permute(2, 0, 1)


def answers(editor: Editor, drawn: list[Case], side: int, *, batch: int = 16, **options: object) -> Iterator[Tensor]:
    """The model's outputs, (3, side, side) each."""
    for part in (drawn[start : start + batch] for start in range(0, len(drawn), batch)):
        sources = torch.stack([_tensor(case.source, side) for case in part])
        yield from editor.edit([sources], [case.instruction for case in part], (side, side), **options)


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    head = "| side | task | right (95 % interval) |\n| --- | --- | --- |"
    lines = [f"| {row['side']} px | {row['task']} | {interval(row)} |" for row in rows]
    return "\n".join((head, *lines))


def summary(drawn: list[Case], verdicts: list[bool], side: int) -> list[dict]:
    """One row per task and per kind of wording, and one over all."""
    rows = []
    for task in (*WORDINGS, *SENTENCES, "all"):
        which = [task in (case.task, case.wording, "all") for case in drawn]
        part = [verdict for verdict, chosen in zip(verdicts, which, strict=True) if chosen]
        low, high = wilson(sum(part), len(part))
        row = {"side": side, "task": task, "success": sum(part) / len(part), "count": len(part)}
        rows.append(row | {"low": low, "high": high})
    return rows


def sheet(drawn: list[Case], pictures: list[Tensor], path: Path) -> None:
    """Source | output | right picture of every case, ten cases per row."""
    strips = []
    for case, picture in zip(drawn, pictures, strict=True):
        side = picture.shape[-1]
        parts = _tensor(case.source, side), picture, _tensor(case.right, side)
        strips.append(torch.nn.functional.pad(torch.cat(parts, dim=1), (0, 4, 0, 8), value=0.5))
    strips += [torch.zeros_like(strips[0])] * (-len(strips) % 10)
    rows = torch.cat([torch.cat(strips[start : start + 10], dim=2) for start in range(0, len(strips), 10)], dim=1)
    Image.fromarray((255 * rows).round().byte().permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=20, help="per task")
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 256], help="px")
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of every case, for the first side")
    options = parser.parse_args()

    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    drawn, rows = cases(options.seed, options.cases), []
    for side in options.sides:
        pictures = list(answers(editor, drawn, side, seed=options.seed, steps=options.steps))
        rows += summary(drawn, [is_right(*pair) for pair in zip(drawn, pictures, strict=True)], side)
        if options.sheet and side == options.sides[0]:
            sheet(drawn, pictures, options.sheet)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
