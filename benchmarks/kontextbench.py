"""Write a folder in KontextBench's layout from the synthetic world, where the right result of each row is known.

    python3 manage.py exec -- python -m benchmarks.kontextbench FOLDER --rows 6

writes FOLDER/test with that many rows of each of twelve tasks, in all five categories, for `manage.py kontextbench`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from training.evaluate import counterfactuals, held_out_edits
from training.instructions import picture_of

SIDE = 128  # px, the size of the embedded model
CATEGORY = {  # task -> KontextBench category
    "background": "Instruction Editing - Local",
    "recolour": "Instruction Editing - Local",
    "add": "Instruction Editing - Local",
    "remove": "Instruction Editing - Local",
    "replace": "Instruction Editing - Local",
    "move": "Instruction Editing - Local",
    "resize": "Instruction Editing - Local",
    "global": "Instruction Editing - Global",
    "photograph": "Instruction Editing - Global",
    "character": "Character Reference",
    "letter": "Text Editing",
    "style": "Style Reference",
}


def write_folder(folder: Path, rows: int, seed: int = 1) -> None:
    """A folder in KontextBench's layout with `rows` held-out edits of each task, and the answers of each."""
    test = folder / "test"
    (test / "answers").mkdir(parents=True, exist_ok=True)
    lines = []
    for number, edit in enumerate(held_out_edits(seed, rows, SIDE, SIDE)):
        if edit.task not in CATEGORY:  # text to image and two references, which KontextBench lacks
            continue
        key = f"{edit.task}_{number}"
        right = picture_of(edit.target, SIDE, SIDE)
        wrong = [picture_of(picture, SIDE, SIDE) for picture in counterfactuals(edit, SIDE, SIDE)]
        wrong = [picture for picture in wrong if np.abs(picture - right).max() > 0.02]  # identical pixels are not wrong
        lines.append(
            {
                "file_name": save(test, f"{key}.png", picture_of(edit.sources[0], SIDE, SIDE)),
                "key": key,
                "category": CATEGORY[edit.task],
                "instruction": edit.instruction,
                "right": save(test, f"answers/{key}.png", right),
                "wrong": [save(test, f"answers/{key}_{i}.png", picture) for i, picture in enumerate(wrong)],
                **({"text": edit.target.things[edit.index].shape} if edit.task == "letter" else {}),
            }
        )
    (test / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def save(folder: Path, name: str, picture: np.ndarray) -> str:
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(folder / name)
    return name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=6, help="of each of the twelve tasks")
    options = parser.parse_args()
    write_folder(options.folder, options.rows)
