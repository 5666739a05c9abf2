"""Evaluate the model on held-out edits: `python -m training.evaluate --seed 1 --scenes 60 --json out.json`.

The strict rule: an output is right if it is nearer to the right picture than to every counterfactual. Counterfactuals
differ from the right picture in one attribute (colour, shape, size, place, background, another object, no edit at all).
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from training.editor import Editor
from training.instructions import TASKS, Edit, Picture, picture_of, sample
from training.photographs import HELD_OUT, crop, photograph
from training.world import (
    COLOURS,
    EFFECTS,
    LETTERS,
    PATTERNS,
    RADIUS,
    SHAPES,
    Background,
    Scene,
    apply_effect,
    cells_of,
    changed,
)

MEAN_GREY = 0.5
CHANGED_LEVEL = 0.04
WORLDS: dict[str, dict[str, bool]] = {  # the scene before the edit
    "grid": {},  # the first world of the training
    "free": {"free": True},
    "photographs": {"photograph": True},  # held-out photographs with things pasted into them
}


@dataclass(frozen=True)
class Verdict:
    """Judgement of one output; PSNR in dB, nan if the region is empty."""

    success: bool
    changed: float  # PSNR where the right picture differs from the (last) reference
    changed_copy: float  # the same for the unedited reference
    unchanged: float
    unchanged_ceiling: float  # the same for the right picture after the autoencoder
    whole: float
    whole_copy: float
    whole_mean: float  # for a uniform picture of the mean grey


# Counterfactuals


def counterfactuals(edit: Edit, width: int, height: int) -> list[Picture]:
    """Pictures that a wrong edit could have made, each one attribute away from the right one."""
    if edit.effect is not None:
        plain = edit.target if edit.effect == "day" else edit.sources[0]
        apply = (lambda p, effect: replace(p, effect=effect)) if isinstance(plain, Scene) else apply_effect
        return [
            apply(plain, effect)
            for effect in (None, *EFFECTS)
            if effect != (None if edit.effect == "day" else edit.effect)
        ]
    attributes: dict[str, tuple[str, ...]] = {  # task -> attributes of the edited thing that could be wrong
        "recolour": ("colour",),
        "add": ("colour", "shape", "size", "cell", "gone"),
        "replace": ("shape",),
        "move": ("cell", "gone"),
        "resize": ("size",),
        "letter": ("shape",),
        "background": (),
        "remove": (),
    }
    canvas = width, height
    wrong: list[Picture] = [source for source in edit.sources[-1:] if edit.task in (*attributes, "two references")]
    if edit.task == "remove":
        source = edit.sources[0]
        wrong += [edit.target.without(index) for index in range(len(edit.target.things))]
        wrong += [source.without(index) for index in range(len(source.things)) if index != edit.index]
    elif edit.task == "background":
        wrong += other_backgrounds(edit.target)
    elif edit.task in attributes:
        wrong += other_things(edit.target, edit.index, attributes[edit.task], canvas)
        if edit.task in ("recolour", "replace", "resize", "move"):
            wrong += same_edit_elsewhere(edit, canvas)
        if edit.task == "move":  # drawn at the new place, but not removed from the old one
            wrong.append(replace(edit.target, things=(*edit.target.things, edit.sources[0].things[edit.index])))
    else:
        every = ("colour", "shape", "size", "cell", "gone")
        wrong += [
            picture
            for index in range(len(edit.target.things))
            for picture in other_things(edit.target, index, every, canvas)
        ]
        wrong += other_backgrounds(edit.target)
    return wrong


def other_things(scene: Scene, index: int, attributes: tuple[str, ...], canvas: tuple[int, int]) -> list[Scene]:
    """The scene with one attribute of one thing replaced by each of its other values; "gone" removes the thing."""
    thing = scene.things[index]
    values = {
        "colour": tuple(COLOURS),
        "shape": LETTERS if thing.shape in LETTERS else SHAPES,
        "size": tuple(RADIUS) if thing.place is None else (-2, -1, 1, 2),  # names, or steps
        "cell": cells_of(*canvas),
    }
    now = {name: getattr(thing, name) for name in values}
    wrong = [
        scene.put(index, changed(thing, name, value, *canvas))
        for name in attributes
        if name in values
        for value in values[name]
        if value != now[name]
    ]
    return wrong + [scene.without(index)] * ("gone" in attributes)


def same_edit_elsewhere(edit: Edit, canvas: tuple[int, int]) -> list[Scene]:
    """The edit applied to a thing other than the named one."""
    source = edit.sources[0]
    return [
        source.put(index, changed(thing, *edit.change, *canvas))
        for index, thing in enumerate(source.things)
        if index != edit.index
    ]


def other_backgrounds(scene: Scene) -> list[Scene]:
    """The scene on backgrounds with another pattern or one other colour."""
    now = scene.background
    if now.crop is not None:
        return [replace(scene, background=Background("plain", colour, colour)) for colour in COLOURS]
    pattern, first, second = now.pattern, now.first, now.second
    spare = second if second != first else "black" if first == "white" else "white"
    found = {replace(now, pattern=p, second=first if p == "plain" else spare) for p in PATTERNS}
    for colour in COLOURS:
        shades = now.shades
        if pattern == "plain":
            found.add(Background("plain", colour, colour))
        else:
            found.add(replace(now, first=colour, shades=(None, shades[1])))
            found.add(replace(now, second=colour, shades=(shades[0], None)))
    odd = {b for b in found if b.pattern != "plain" and b.first == b.second}
    return [replace(scene, background=b) for b in sorted(found - odd - {now}, key=str)]


# Judging


def judge(edit: Edit, output: Tensor, ceiling: Tensor) -> Verdict:
    """Judge an output (3, h, w) in 0..1; `ceiling` is the right picture after a pass through the autoencoder."""
    height, width = output.shape[-2:]
    right = as_tensor(edit.target, width, height)
    wrong = [as_tensor(picture, width, height) for picture in counterfactuals(edit, width, height)]
    wrong = [picture for picture in wrong if (picture - right).abs().max() > 0.02]  # identical pixels are not wrong
    nearest = min((output - picture).square().sum() for picture in wrong)
    success = bool((output - right).square().sum() < nearest)
    copy = as_tensor(edit.sources[-1], width, height) if edit.sources else torch.full_like(right, MEAN_GREY)
    change = (copy - right).abs().amax(0, keepdim=True)
    mask = (F.max_pool2d(change[None], 5, 1, 2)[0] > CHANGED_LEVEL).expand(3, -1, -1)
    mean = right.mean((1, 2), keepdim=True).expand_as(right)
    return Verdict(
        success,
        psnr(output, right, mask),
        psnr(copy, right, mask),
        psnr(output, right, ~mask),
        psnr(ceiling, right, ~mask),
        psnr(output, right),
        psnr(copy, right),
        psnr(mean, right),
    )


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of the masked pixels; nan for an empty mask."""
    error = (a - b).square() if mask is None else (a - b).square()[mask]
    return -10 * math.log10(error.mean().item() + 1e-10) if error.numel() else math.nan


def as_tensor(picture: Picture, width: int, height: int) -> Tensor:
    """A scene or photograph as (3, h, w) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(picture_of(picture, width, height))).permute(2, 0, 1)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a fraction (Wilson 1927)."""
    z, share = 1.96, successes / count
    centre, spread = (
        share + z * z / (2 * count),
        z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)),
    )
    low, high = (bound / (1 + z * z / count) for bound in (centre - spread, centre + spread))
    return max(low, 0.0), min(high, 1.0)


# Running


def held_out_edits(seed: int, scenes: int, width: int, height: int, world: str = "grid") -> list[Edit]:
    """`scenes` edits of each task in one of `WORLDS`, with held-out wordings and held-out photographs."""
    edits = []
    for task in TASKS:
        rng = random.Random(f"{seed} {task}")
        for _ in range(scenes):
            edit = sample(rng, task, width=width, height=height, held_out=True, **WORLDS[world])
            edits.append(on_photograph(rng, edit, width, height) if task == "photograph" else edit)
    return edits


def on_photograph(rng: random.Random, edit: Edit, width: int, height: int) -> Edit:
    """The same global instruction for a held-out photograph."""
    plain = crop(rng, photograph(*rng.choice(HELD_OUT)), width, height)
    if edit.effect == "day":
        return replace(edit, sources=(apply_effect(plain, "night"),), target=plain)
    return replace(edit, sources=(plain,), target=apply_effect(plain, edit.effect))


def outputs_of(
    editor: Editor, edits: list[Edit], width: int, height: int, *, batch: int = 32, **options: object
) -> list[Tensor]:
    """The model's outputs, (3, h, w) each, in the order of the edits."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, edit in enumerate(edits):
        groups[len(edit.sources)].append(position)
    answers: dict[int, Tensor] = {}
    for positions in groups.values():
        for start in range(0, len(positions), batch):
            part = positions[start : start + batch]
            columns = zip(*(edits[i].sources for i in part), strict=True)
            references = [torch.stack([as_tensor(p, width, height) for p in column]) for column in columns]
            pictures = editor.edit(references, [edits[i].instruction for i in part], (width, height), **options)
            answers.update(zip(part, pictures, strict=True))
    return [answers[position] for position in range(len(edits))]


def summary(edits: list[Edit], verdicts: list[Verdict]) -> dict:
    """Success rate and mean PSNR per task and overall, JSON-serialisable."""
    by_task: dict[str, list[Verdict]] = defaultdict(list)
    for edit, verdict in zip(edits, verdicts, strict=True):
        by_task[edit.task].append(verdict)
    tasks = {}
    for task, rows in by_task.items():
        wins = sum(row.success for row in rows)
        means = {
            name: _mean([getattr(row, name) for row in rows])
            for name in Verdict.__dataclass_fields__
            if name != "success"
        }
        low, high = wilson(wins, len(rows))
        tasks[task] = {"success": wins / len(rows), "low": low, "high": high, "count": len(rows), **means}
    return {"success": sum(v.success for v in verdicts) / len(verdicts), "tasks": tasks}


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return round(sum(known) / len(known), 2) if known else None


def table(result: dict) -> str:
    """The summary as a Markdown table."""
    head = (
        "| task | success (95 % interval) | changed: model (copy) dB | unchanged: model (ceiling) dB | "
        "whole: model (copy, mean) dB |\n| --- | --- | --- | --- | --- |"
    )
    rows = [
        f"| {task} | {interval(r)} | "
        f"{r['changed']} ({r['changed_copy']}) | {r['unchanged'] or '-'} ({r['unchanged_ceiling'] or '-'}) | "
        f"{r['whole']} ({r['whole_copy']}, {r['whole_mean']}) |"
        for task, r in result["tasks"].items()
    ]
    return "\n".join((head, *rows, f"| all | {100 * result['success']:.1f} % | | | |"))


def side_by_side(results: dict[str, dict]) -> str:
    """The success rate of each task in each world, as a Markdown table."""
    lines = [f"| task | {' | '.join(results)} |", "| --- |" + " --- |" * len(results)]
    for task in next(iter(results.values()))["tasks"]:
        cells = [interval(result["tasks"][task]) for result in results.values()]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(row: dict) -> str:
    """A fraction with its 95 % interval."""
    low, high = (100 * row[bound] for bound in ("low", "high"))
    return f"{100 * row['success']:.0f} % ({low:.0f}-{high:.0f}, n={row['count']})"


def contact_sheet(edits: list[Edit], outputs: list[Tensor], path: Path, per_task: int, width: int, height: int) -> None:
    """References | output | right picture, for the first edits of each task (no selection)."""
    tasks = list(dict.fromkeys(edit.task for edit in edits))
    column, row = 4 * (width + 4) + 12, height + 20
    sheet = Image.new("RGB", (per_task * column, len(tasks) * row), "white")
    draw = ImageDraw.Draw(sheet)
    for line, task in enumerate(tasks):
        chosen = [i for i, edit in enumerate(edits) if edit.task == task][:per_task]
        for place, index in enumerate(chosen):
            pictures = [as_tensor(p, width, height) for p in edits[index].sources] + [
                outputs[index],
                as_tensor(edits[index].target, width, height),
            ]
            for offset, picture in enumerate(pictures):
                pixels = (255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
                sheet.paste(Image.fromarray(pixels), (place * column + offset * (width + 4), line * row))
            draw.text((place * column, line * row + height + 3), edits[index].instruction[:88], fill="black")
    sheet.save(path)


def measured(
    editor: Editor, world: str, tasks: list[str], seed: int, scenes: int, size: tuple[int, int], **options: object
) -> tuple[dict, list[Edit], list[Tensor]]:
    """The summary of `scenes` edits of each task in a world, the edits, and their outputs."""
    edits = [edit for edit in held_out_edits(seed, scenes, *size, world) if edit.task in tasks]
    outputs = outputs_of(editor, edits, *size, seed=seed, **options)
    rights = torch.stack([as_tensor(edit.target, *size) for edit in edits])
    ceilings = torch.cat([editor.decode(editor.encode(part)) for part in rights.split(64)])
    return summary(edits, [judge(*row) for row in zip(edits, outputs, ceilings, strict=True)]), edits, outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=60, help="per task")
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="contact sheet PNG of the last world")
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--cfg", type=float, default=1.0, help="other than 1: with a second pass, without text")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    options = parser.parse_args()

    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    size, results = (options.width, options.height), {}
    for world in options.worlds:
        results[world], edits, outputs = measured(
            editor, world, options.tasks, options.seed, options.scenes, size, steps=options.steps, cfg=options.cfg
        )
        print(f"{world}\n\n{table(results[world])}\n", flush=True)
    print(side_by_side(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.sheet:
        contact_sheet(edits, outputs, options.sheet, 4, *size)


if __name__ == "__main__":
    main()
