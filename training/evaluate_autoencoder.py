"""Reconstruction quality of the autoencoder on held-out scenes and photographs.

python -m training.evaluate_autoencoder --seed 5 --pictures 240
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core import embedded
from kontext_core.embedded.autoencoder import Autoencoder
from training.evaluate import as_tensor, psnr
from training.instructions import DRAWN, sample
from training.photographs import HELD_OUT, crop, photograph

SIDE = 128  # px
MOVES = (1, 2, 4, 8)  # px by which latents are shifted


def held_out_pictures(kind: str, seed: int, count: int) -> list[Tensor]:
    """`count` "scenes" or "photographs", (3, 128, 128) in 0..1 each."""
    rng = random.Random(seed)
    if kind == "scenes":
        return [as_tensor(sample(rng, rng.choice(DRAWN)).target, SIDE, SIDE) for _ in range(count)]
    crops = (crop(rng, photograph(*rng.choice(HELD_OUT)), SIDE, SIDE) for _ in range(count))
    return [as_tensor(one, SIDE, SIDE) for one in crops]


@torch.inference_mode()
def decibels(model: Autoencoder, pictures: list[Tensor]) -> list[float]:
    """PSNR of each picture (3, h, w) after encoding and decoding, clamped to 0..1."""
    passed = [((model.decode(model.encode(2 * x[None] - 1))[0] + 1) / 2).clamp(0, 1) for x in pictures]
    return [psnr(*pair) for pair in zip(passed, pictures, strict=True)]


@torch.inference_mode()
def moved_decibels(model: Autoencoder, pictures: list[Tensor], pixels: float) -> list[float]:
    """How well latents shifted to the right by `pixels` decode to the shifted picture, in dB.

    Both are shifted by cubic interpolation, the picture from the autoencoder's own output, so that only the loss due to
    the shift counts. The outermost 40 px, where the convolutions see the border, are left out.
    """
    found = []
    for x in pictures:
        latent = model.encode(2 * x[None] - 1)
        right = _moved((model.decode(latent) + 1) / 2, pixels)
        moved = (model.decode(_moved(latent, pixels / 8)) + 1) / 2
        inner = slice(40, -40)
        found.append(psnr(moved[0, :, inner, inner].clamp(0, 1), right[0, :, inner, inner].clamp(0, 1)))
    return found


def _moved(x: Tensor, distance: float) -> Tensor:
    """A picture or latent (b, c, h, w) shifted to the right by a distance in its own pixels."""
    height, width = x.shape[-2:]
    places = torch.eye(2, 3)[None].repeat(len(x), 1, 1)
    places[:, 0, 2] = -2 * distance / width
    grid = F.affine_grid(places, [len(x), 1, height, width], align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of train_autoencoder (default: the shipped weights)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=240)
    options = parser.parse_args()
    model = Autoencoder().eval()
    model.load_state_dict(torch.load(options.checkpoint) if options.checkpoint else embedded.load_autoencoder()[0])
    for kind in ("scenes", "photographs"):
        pictures = held_out_pictures(kind, options.seed, options.pictures)
        found = decibels(model, pictures)
        moved = [statistics.mean(moved_decibels(model, pictures, pixels)) for pixels in MOVES]
        print(f"{kind}: latents moved by {MOVES} px, mean dB:", [round(one, 2) for one in moved])
        print(f"{kind}: mean {statistics.mean(found):.2f} dB, worst {min(found):.2f} dB, {len(found)} pictures")


if __name__ == "__main__":
    main()
