"""What the autoencoder alone keeps of scenes and photographs that it has not seen.

python -m training.evaluate_autoencoder --seed 5 --pictures 240
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path

import torch
from torch import Tensor

from kontext_core import embedded
from kontext_core.embedded.autoencoder import Autoencoder
from training.evaluate import as_tensor, psnr
from training.instructions import sample
from training.photographs import HELD_OUT, crop, photograph

SIDE = 128  # px


def held_out_pictures(kind: str, seed: int, count: int) -> list[Tensor]:
    """So many "scenes" or "photographs", (3, 128, 128) in 0..1 each."""
    rng = random.Random(seed)
    if kind == "scenes":
        return [as_tensor(sample(rng).target, SIDE, SIDE) for _ in range(count)]
    crops = (crop(rng, photograph(*rng.choice(HELD_OUT)), SIDE, SIDE) for _ in range(count))
    return [as_tensor(one, SIDE, SIDE) for one in crops]


@torch.inference_mode()
def decibels(model: Autoencoder, pictures: list[Tensor]) -> list[float]:
    """PSNR of each picture (3, h, w) after a pass through the autoencoder, whose output is clamped to 0..1."""
    passed = [((model.decode(model.encode(2 * x[None] - 1))[0] + 1) / 2).clamp(0, 1) for x in pictures]
    return [psnr(*pair) for pair in zip(passed, pictures, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of train_autoencoder (default: the shipped weights)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=240)
    options = parser.parse_args()
    model = Autoencoder().eval()
    model.load_state_dict(torch.load(options.checkpoint) if options.checkpoint else embedded.load_autoencoder()[0])
    for kind in ("scenes", "photographs"):
        found = decibels(model, held_out_pictures(kind, options.seed, options.pictures))
        print(f"{kind}: mean {statistics.mean(found):.2f} dB, worst {min(found):.2f} dB, {len(found)} pictures")


if __name__ == "__main__":
    main()
