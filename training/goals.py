"""Goals for the model and the values reached, in one table: `python -m training.goals --seed 1 --cases 40`.

Rows can be measured one by one (`--rows`) over several calls: rows that the `--json` file has already are kept.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training import evaluate, evaluate_autoencoder, plain, removal, turns, unsaid
from training.editor import Editor
from training.instructions import TASKS

SIDES = (128, 256)  # px
EDITING = tuple(task for task in TASKS if task not in ("text to image", "photograph"))
LOCAL = ("recolour", "remove", "add", "replace", "move", "resize")
OTHERS = ("character", "style", "two references")
SIZES = ((128, 128), (192, 192), (256, 256), (160, 96), (128, 256))  # canvases of text to image
TURNS = 8


@dataclass(frozen=True)
class Asked:
    """What to measure, and on how many cases."""

    editor: Editor
    seed: int
    cases: int  # per task


def share(wins: int, count: int) -> str:
    """A fraction with its 95 % interval."""
    low, high = evaluate.wilson(wins, count)
    return evaluate.interval({"success": wins / count, "low": low, "high": high, "count": count})


def plain_drawings(asked: Asked, side: int) -> str:
    drawn = plain.cases(asked.seed, asked.cases)
    pictures = plain.answers(asked.editor, drawn, side, seed=asked.seed)
    return share(sum(plain.is_right(*pair) for pair in zip(drawn, pictures, strict=True)), len(drawn))


def in_world(asked: Asked, world: str, tasks: tuple[str, ...], size: tuple[int, int]) -> tuple[str, dict]:
    """The success rate over all edits of some tasks, and the summary by task."""
    result, _, _ = evaluate.measured(asked.editor, world, list(tasks), asked.seed, asked.cases, size)
    rows = result["tasks"].values()
    return share(sum(round(row["success"] * row["count"]) for row in rows), sum(row["count"] for row in rows)), result


def below_the_ceiling(asked: Asked) -> str:
    """The largest PSNR loss of a local task's unchanged part against the autoencoder's ceiling."""
    _, result = in_world(asked, "free", LOCAL, (128, 128))
    losses = {task: row["unchanged_ceiling"] - row["unchanged"] for task, row in result["tasks"].items()}
    worst = max(losses, key=losses.__getitem__)
    return f"{min(losses.values()):.1f} to {losses[worst]:.1f} dB ({worst}), n={asked.cases} a task"


def after_turns(asked: Asked, world: str) -> str:
    rng = random.Random(asked.seed)
    conversations = [turns.conversation(rng, TURNS, world) for _ in range(asked.cases)]
    last = turns.converse(asked.editor, conversations, seed=asked.seed)[-1]
    return share(round(last["still"] * last["count"]), last["count"])


def unseen_photographs(asked: Asked) -> str:
    pictures = evaluate_autoencoder.held_out_pictures("photographs", asked.seed, 6 * asked.cases)
    found = evaluate_autoencoder.decibels(asked.editor.autoencoder, pictures)
    return f"{statistics.mean(found):.1f} dB, n={len(found)}"


ROWS: dict[str, tuple[str, str, Callable[[Asked], str]]] = {  # name -> (description, goal, measurement)
    **{
        f"plain {side}": (
            f"plain drawings, {side} px",
            ">= 85 %",
            lambda asked, side=side: plain_drawings(asked, side),
        )
        for side in SIDES
    },
    **{
        f"{world} {side}": (
            f"all editing tasks, {'off' if world == 'free' else 'on'} the grid, {side} px",
            goal,
            lambda asked, world=world, side=side: in_world(asked, world, EDITING, (side, side))[0],
        )
        for world, goal in (("free", ">= 90 %"), ("grid", ">= 95 %"))
        for side in SIDES
    },
    **{
        name: (what, goal, lambda asked, tasks=tasks: in_world(asked, "photographs", tasks, (256, 256))[0])
        for name, (what, goal, tasks) in {
            "photographs": ("recolour, remove, add, replace, move, resize on a photograph, 256 px", ">= 80 %", LOCAL),
            "behind": ("background or light of a photograph, things kept, 256 px", ">= 90 %", ("background", "global")),
            "others": ("character, style, two references with photographs, 256 px", ">= 70 %", OTHERS),
        }.items()
    },
    "open": (
        "open instructions by what they say, off the grid, 128 px",
        "-",
        lambda asked: share(*unsaid.measured(asked.editor, asked.seed, asked.cases, "free", 128)),
    ),
    "removal": (
        "removal from a photograph, 128 px",
        "nearer than inpainting",
        lambda asked: removal.summary(removal.measured(asked.editor, asked.seed, asked.cases, 128)),
    ),
    "light": (
        "light of a photograph, 128 px",
        ">= 90 %",
        lambda asked: in_world(asked, "grid", ("photograph",), (128, 128))[0],
    ),
    **{
        f"text {width}x{height}": (
            f"text to image, {width}x{height} px",
            ">= 80 %",
            lambda asked, size=(width, height): in_world(asked, "grid", ("text to image",), size)[0],
        )
        for width, height in SIZES
    },
    **{
        f"turns {world}": (
            f"still right after {TURNS} turns, {where}, 128 px",
            goal,
            lambda asked, world=world: after_turns(asked, world),
        )
        for world, where, goal in (
            ("free", "off the grid", ">= 85 %"),
            ("grid", "on the grid", ">= 85 %"),
            ("photographs", "on photographs", ">= 65 %"),
        )
    },
    "unchanged": ("unchanged part below the autoencoder's ceiling, off the grid", "<= 1.5 dB", below_the_ceiling),
    "autoencoder": ("unseen photographs through the autoencoder", ">= 31 dB", unseen_photographs),
}


def table(found: dict[str, str]) -> str:
    """The measured rows, in Markdown."""
    head = "| tasks | goal | reached (95 % interval) |\n| --- | --- | --- |"
    lines = [f"| {what} | {goal} | {found[name]} |" for name, (what, goal, _) in ROWS.items() if name in found]
    return "\n".join((head, *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=40, help="of a task")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    parser.add_argument("--json", type=Path, help="results so far; new rows are added to it")
    options = parser.parse_args()

    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    asked = Asked(editor, options.seed, options.cases)
    found = json.loads(options.json.read_text("utf-8")) if options.json and options.json.is_file() else {}
    for name in options.rows:
        found[name] = ROWS[name][2](asked)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
