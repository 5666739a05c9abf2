"""Several instructions in a row on one scene: `python -m training.turns --seed 1 --scenes 60 --json out.json`.

Each turn edits the result of the previous turn, or with `--from-right` the right picture of it. A turn is right by
the strict rule of `training.evaluate`; a scene is "still right" while all its turns were right. The part that no
instruction touched is compared with the first picture; its loss from turn to turn is the drift.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

from training.editor import Editor
from training.evaluate import CHANGED_LEVEL, WORLDS, as_tensor, judge, psnr, wilson
from training.instructions import Edit, NoRoom, sample
from training.world import Scene

SIZE = 128
MOST_THINGS = 4


def conversation(rng: random.Random, turns: int, world: str = "grid") -> list[Edit]:
    """`turns` local edits in one of `WORLDS`, each of the scene that the previous one produces."""
    edits: list[Edit] = []
    scene = None
    while len(edits) < turns:
        task = rng.choice(possible(scene))
        try:
            edit = sample(rng, task, width=SIZE, height=SIZE, held_out=True, scene=scene, **WORLDS[world])
        except NoRoom:
            continue
        if no_twins(edit.target):
            edits.append(edit)
            scene = edit.target
    return edits


def no_twins(scene: Scene) -> bool:
    """Whether colour and shape identify every thing, as the next instruction needs."""
    return len({(thing.shape, thing.colour) for thing in scene.things}) == len(scene.things)


def possible(scene: Scene | None) -> tuple[str, ...]:
    """The local tasks that a scene allows; the first scene is drawn for its task, which may remove its only thing."""
    count = 2 if scene is None else len(scene.things)
    if count == 0:
        return ("add",)
    tasks = ("recolour", "replace", "move", "resize")
    return tasks + ("add",) * (count < MOST_THINGS) + ("remove",) * (count > 1)


def converse(
    editor: Editor, conversations: list[list[Edit]], *, from_right: bool = False, **options: object
) -> list[dict]:
    """One row per turn: the fractions of scenes right in this turn, and right in all turns so far; the part that no
    turn touched against the first picture, in dB and as the fraction of equal 8-bit pixels; dB of the part this turn
    leaves; and for each task how many scenes that were right until then were tried, and how many failed.

    from_right  each turn edits the right picture of the turn before instead of its result, so that drift plays no part
    """
    first = torch.stack([as_tensor(edits[0].sources[0], SIZE, SIZE) for edits in conversations])
    pictures, untouched = first, torch.ones(len(first), 1, SIZE, SIZE, dtype=torch.bool)
    still = [True] * len(conversations)
    rows = []
    for turn, edits in enumerate(zip(*conversations, strict=True), 1):
        before = torch.stack([as_tensor(edit.sources[0], SIZE, SIZE) for edit in edits]) if from_right else pictures
        pictures = editor.edit([before], [edit.instruction for edit in edits], (SIZE, SIZE), **options)
        rights = torch.stack([as_tensor(edit.target, SIZE, SIZE) for edit in edits])
        change = (rights - first).abs().amax(1, keepdim=True)
        untouched &= F.max_pool2d(change, 5, 1, 2) <= CHANGED_LEVEL
        verdicts = [judge(edit, picture, picture).success for edit, picture in zip(edits, pictures, strict=True)]
        failed = Counter(edit.task for edit, was, now in zip(edits, still, verdicts, strict=True) if was and not now)
        tried = Counter(edit.task for edit, was in zip(edits, still, strict=True) if was)
        still = [was and now for was, now in zip(still, verdicts, strict=True)]
        same = ((pictures * 255).round() == (first * 255).round()).all(1, keepdim=True)
        identical = [float(s[u].float().mean()) for s, u in zip(same, untouched, strict=True)]
        own = [psnr(p, b, left_alone(edit)) for p, b, edit in zip(pictures, before, edits, strict=True)]
        drift = [psnr(p, f, u.expand(3, -1, -1)) for p, f, u in zip(pictures, first, untouched, strict=True)]
        count = len(verdicts)
        rows.append({"turn": turn, "right": sum(verdicts) / count, "still": sum(still) / count, "count": count})
        rows[-1] |= {"interval": wilson(sum(still), count), "untouched": sum(drift) / count}
        rows[-1] |= {"identical": sum(identical) / count, "own": sum(own) / count}
        rows[-1] |= {"tried": tried, "failed": failed}
    return rows


def left_alone(edit: Edit) -> torch.Tensor:
    """Where an edit changes nothing, (3, h, w) of bool."""
    change = (as_tensor(edit.target, SIZE, SIZE) - as_tensor(edit.sources[-1], SIZE, SIZE)).abs().amax(0, keepdim=True)
    return (F.max_pool2d(change[None], 5, 1, 2)[0] <= CHANGED_LEVEL).expand(3, -1, -1)


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    head = "| turn | right in this turn | still right (95 % interval) | never touched, dB |\n| --- | --- | --- | --- |"
    lines = [
        f"| {row['turn']} | {100 * row['right']:.0f} % | {100 * row['still']:.0f} % "
        f"({100 * row['interval'][0]:.0f}-{100 * row['interval'][1]:.0f}, n={row['count']}) | {row['untouched']:.1f} |"
        for row in rows
    ]
    tried, failed = (sum((row[name] for row in rows), Counter()) for name in ("tried", "failed"))
    first = ", ".join(f"{task} {failed[task]} of {count}" for task, count in sorted(tried.items()))
    return "\n".join(
        (head, *lines, "", f"First wrong turns, of the turns of scenes that were right until then: {first}.")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--world", default="grid", choices=list(WORLDS))
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--from-right", action="store_true", help="edit the right picture of the turn before")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rng = random.Random(options.seed)
    conversations = [conversation(rng, options.turns, options.world) for _ in range(options.scenes)]
    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    given = {"seed": options.seed, "steps": options.steps, "cfg": options.cfg}
    rows = converse(editor, conversations, from_right=options.from_right, **given)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
