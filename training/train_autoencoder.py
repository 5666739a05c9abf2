"""Train the autoencoder: `python -m training.train_autoencoder --minutes 12 --out runs/autoencoder.pt`.

First the complete autoencoder. Then, from its checkpoint (`--init`), either `--keep-scenes`: training continues, but
the latents of scenes, which the transformer knows, hardly move; or `--decoder-only`: the encoder is frozen.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core.embedded.autoencoder import Autoencoder
from training.instructions import DRAWN, picture_of, sample
from training.muon import muon_update
from training.photographs import pixels_of, random_crop, training_picture
from training.world import EFFECTS, apply_effect

LEARNING_RATE = 2e-3  # Adam: biases and the first and last layers
MUON_RATE = 6e-3
BATCH = 8
PHOTOGRAPHS = 0.4  # fraction of the pictures
WALLPAPERS = 0.7  # fraction of the photographs that are crops of the backgrounds of scenes
LATER_PHOTOGRAPHS = 0.9  # fraction with --init: photographs are learned last
KEEP_SCENES, KEEP_PHOTOGRAPHS = 0.3, 0.02  # weights of the squared distance that latents move
KEEPING_RATE = 0.7  # factor on the learning rates
LATENT_NOISE = 0.15  # in standard deviations: the decoder must tolerate the transformer's errors


def picture_batch(rng: random.Random, count: int, side: int, photographs: float) -> tuple[Tensor, Tensor]:
    """Scenes and a fraction of `photographs`, some with an effect, (count, 3, side, side) in -1..1; flags of scenes."""
    pictures, scenes = [], []
    for _ in range(count):
        scenes.append(rng.random() >= photographs)
        if scenes[-1]:
            picture = picture_of(sample(rng, rng.choice(DRAWN), width=side, height=side).target, side, side)
        else:
            wallpaper = rng.random() < WALLPAPERS
            crop = random_crop(rng, False, side, side) if wallpaper else None
            picture = pixels_of(crop, side, side) if crop else training_picture(rng, side, side)
        if rng.random() < 0.15:
            picture = apply_effect(picture, rng.choice(tuple(EFFECTS)))
        pictures.append(torch.from_numpy(picture))
    return torch.stack(pictures).permute(0, 3, 1, 2) * 2 - 1, torch.tensor(scenes)


class Trainee(nn.Module):
    """The autoencoder with latents normalised to zero mean and unit variance during training."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.model = model
        self.norm = nn.BatchNorm2d(16, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures -> latents, and the pictures decoded from them with a little noise."""
        z = self.norm(self.model.encoder(x))
        noise = torch.rand(len(x), 1, 1, 1) * LATENT_NOISE
        return z, self.model.decoder(z + noise * torch.randn_like(z))

    def go_on(self) -> None:
        """Continue from a checkpoint: its latents are normalised already, so the normalisation becomes the identity."""
        self.norm.running_var -= self.norm.eps
        self.norm.eval()

    def fold(self) -> None:
        """Fold the normalisation into the encoder's last layer; afterwards the model works without it."""
        last, norm = self.model.encoder[-1], self.norm
        gain = (norm.running_var + norm.eps).rsqrt()
        last.weight.data *= gain[:, None, None, None]
        last.bias.data = (last.bias.data - norm.running_mean) * gain
        norm.reset_running_stats()
        norm.running_var -= norm.eps


def moved(z: Tensor, before: Tensor, scenes: Tensor) -> Tensor:
    """The weighted squared distance of latents from their previous values; `scenes` (b,) marks those of scenes."""
    weight = torch.where(scenes, KEEP_SCENES, KEEP_PHOTOGRAPHS)
    return ((z - before).square().mean((1, 2, 3)) * weight).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint to continue from")
    parser.add_argument("--keep-scenes", action="store_true", help="hardly move the latents of scenes")
    parser.add_argument("--decoder-only", action="store_true", help="freeze the encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if (options.keep_scenes or options.decoder_only) and not options.init:
        parser.error("--keep-scenes and --decoder-only need a checkpoint: name it with --init")

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    model = Autoencoder()
    trainee = Trainee(model).to(memory_format=torch.channels_last)
    if options.init:
        model.load_state_dict(torch.load(options.init))
        trainee.go_on()
    model.encoder.requires_grad_(not options.decoder_only)
    train(trainee, rng, options)
    if not options.init:
        trainee.fold()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.out)


def train(trainee: Trainee, rng: random.Random, options: argparse.Namespace) -> None:
    """Minimise absolute and squared error until the time is over; the learning rate falls over the last 60 %."""
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 4 and min(p.shape[0], p.shape[1]) >= 32]
    others = [p for p in parameters if not any(p is m for m in matrices)]
    adam = torch.optim.Adam(others, LEARNING_RATE, betas=(0.9, 0.98))
    momenta = [torch.zeros_like(p) for p in matrices]
    before = copy.deepcopy(trainee.model.encoder).requires_grad_(False)
    photographs = LATER_PHOTOGRAPHS if options.init else PHOTOGRAPHS
    highest = KEEPING_RATE if options.keep_scenes else 1.0
    start, step, seconds = time.monotonic(), 0, options.minutes * 60
    while (elapsed := time.monotonic() - start) < seconds:
        share = elapsed / seconds
        rate = highest * min(1.0, (step + 1) / 50, max(0.02, (1 - share) / 0.6))
        side, count = (128, BATCH) if step % 3 == 0 else (64, 4 * BATCH)
        x, scenes = picture_batch(rng, count, side, photographs)
        x = x.contiguous(memory_format=torch.channels_last)
        z, y = trainee(x)
        loss = (y - x).abs().mean() + 2 * F.mse_loss(y, x)
        if options.keep_scenes:
            loss = loss + moved(z, before(x), scenes)
        trainee.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        adam.param_groups[0]["lr"] = LEARNING_RATE * rate
        adam.step()
        with torch.no_grad():
            for parameter, momentum in zip(matrices, momenta, strict=True):
                parameter -= MUON_RATE * rate * muon_update(parameter.grad, momentum)
        step += 1
        if step % 51 == 0:
            psnr = -10 * torch.log10(F.mse_loss(y.detach(), x) / 4)
            print(f"{elapsed:6.0f} s  step {step:5d}  side {side}  loss {loss.item():.4f}  psnr {psnr:.2f}", flush=True)


if __name__ == "__main__":
    main()
