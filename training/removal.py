"""Compare removal from a photograph with inpainting: `python -m training.removal --seed 1 --cases 40`.

The pixels behind a thing are unknown, so in addition to the strict rule the result there is compared with biharmonic
inpainting (scikit-image), which gets the exact mask of the thing and its shadow: which one is nearer to the photograph?
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from training.editor import Editor
from training.evaluate import CHANGED_LEVEL, as_tensor, held_out_edits, outputs_of, psnr, wilson
from training.instructions import Edit


class Comparison(NamedTuple):
    model: float  # PSNR in dB behind the removed thing
    inpainted: float


def compare(edit: Edit, output: Tensor) -> Comparison:
    """PSNR of an output (3, h, w) in 0..1 and of the inpainted reference where the thing was."""
    height, width = output.shape[-2:]
    source, right = (as_tensor(picture, width, height) for picture in (edit.sources[0], edit.target))
    mask = F.max_pool2d(((source - right).abs().amax(0, keepdim=True) > CHANGED_LEVEL).float(), 3, 1, 1) > 0
    filled = inpaint_biharmonic(source.permute(1, 2, 0).numpy(), mask[0].numpy(), channel_axis=-1)
    inpainted = torch.from_numpy(filled).permute(2, 0, 1).float().clamp(0, 1)
    where = mask.expand(3, -1, -1)
    return Comparison(psnr(output, right, where), psnr(inpainted, right, where))


def measured(editor: Editor, seed: int, cases: int, side: int) -> list[Comparison]:
    """`cases` removals from held-out photographs."""
    edits = [edit for edit in held_out_edits(seed, cases, side, side, "photographs") if edit.task == "remove"]
    return [compare(*pair) for pair in zip(edits, outputs_of(editor, edits, side, side, seed=seed), strict=True)]


def summary(found: list[Comparison]) -> str:
    """How often the model was nearer, and the mean PSNR of both."""
    wins = sum(one.model > one.inpainted for one in found)
    low, high = (100 * bound for bound in wilson(wins, len(found)))
    means = [sum(column) / len(found) for column in zip(*found, strict=True)]
    return (
        f"nearer than inpainting in {100 * wins / len(found):.0f} % ({low:.0f}-{high:.0f}, n={len(found)}); "
        f"{means[0]:.1f} against {means[1]:.1f} dB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--side", type=int, default=128, help="px")
    parser.add_argument("--run", type=Path, help="a training run instead of the shipped weights")
    parser.add_argument("--autoencoder", type=Path, help="with --run: the autoencoder's checkpoint")
    options = parser.parse_args()
    editor = Editor.from_run(options.run, options.autoencoder) if options.run else Editor.shipped()
    print(summary(measured(editor, options.seed, options.cases, options.side)))


if __name__ == "__main__":
    main()
