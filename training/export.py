"""Export a run's averaged weights into the pack.

python -m training.export --run runs/1 --evaluation runs/1/evaluation.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from kontext_core.embedded import save
from training import recipe, world
from training.editor import Editor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, help="its checkpoint (default: keep the shipped one)")
    parser.add_argument("--evaluation", type=Path, required=True, help="output of training.evaluate --json for the run")
    options = parser.parse_args()

    editor = Editor.from_run(options.run, options.autoencoder)
    progress = torch.load(options.run / "checkpoint.pt", mmap=True)["progress"]
    evaluation = json.loads(options.evaluation.read_text("utf-8"))
    success = {task: round(row["success"], 3) for task, row in evaluation["free"]["tasks"].items()}
    metadata = {
        "geometry": json.dumps(asdict(recipe.GEOMETRY)),
        "world": world.VERSION,
        "samples": str(progress["samples"]),
        "evaluation": json.dumps(success),  # in the world off the grid
        "license": "GPL-3.0-or-later",
    }
    vocabulary = {"vocabulary": json.dumps(editor.vocabulary.words)}
    paths = save("transformer", editor.transformer.state_dict(), metadata)
    paths += save("text_encoder", editor.text_encoder.state_dict(), metadata | vocabulary)
    if options.autoencoder:
        paths += save("autoencoder", editor.autoencoder.state_dict(), metadata)
    for path in paths:
        print(f"{path.stat().st_size:>9,} bytes  {path.name}")


if __name__ == "__main__":
    main()
