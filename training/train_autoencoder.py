"""Train the autoencoder: `python -m training.train_autoencoder --minutes 12 --out runs/autoencoder.pt`.

The whole autoencoder first; with `--decoder-only` the encoder stays as it is (the transformer depends on it) and the
decoder goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core.embedded.autoencoder import Autoencoder
from training.instructions import picture_of, sample
from training.muon import muon_update
from training.photographs import training_picture
from training.world import EFFECTS, apply_effect

LEARNING_RATE = 2e-3  # Adam: biases and the first and last layers
MUON_RATE = 6e-3
BATCH = 8
PHOTOGRAPHS = 0.4  # share of the pictures
LATENT_NOISE = 0.15  # the decoder must bear what the transformer leaves over, in standard deviations


def picture_batch(rng: random.Random, count: int, side: int) -> Tensor:
    """Scenes and photographs, some under a global effect, (count, 3, side, side) in -1..1."""
    pictures = []
    for _ in range(count):
        if rng.random() < PHOTOGRAPHS:
            picture = training_picture(rng, side, side)
        else:
            picture = picture_of(sample(rng, width=side, height=side).target, side, side)
        if rng.random() < 0.15:
            picture = apply_effect(picture, rng.choice(tuple(EFFECTS)))
        pictures.append(torch.from_numpy(picture))
    return torch.stack(pictures).permute(0, 3, 1, 2) * 2 - 1


class Trainee(nn.Module):
    """The autoencoder with its latents brought to zero mean and unit variance while it learns."""

    def __init__(self, model: Autoencoder):
        super().__init__()
        self.model = model
        self.norm = nn.BatchNorm2d(16, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.model.encoder(x))
        noise = torch.rand(len(x), 1, 1, 1) * LATENT_NOISE
        return self.model.decoder(z + noise * torch.randn_like(z))

    def fold(self) -> None:
        """Move the normalisation into the encoder's last layer; afterwards the model stands alone."""
        last, norm = self.model.encoder[-1], self.norm
        gain = (norm.running_var + norm.eps).rsqrt()
        last.weight.data *= gain[:, None, None, None]
        last.bias.data = (last.bias.data - norm.running_mean) * gain
        norm.reset_running_stats()
        norm.running_var -= norm.eps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint to go on from")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    model = Autoencoder()
    if options.init:
        model.load_state_dict(torch.load(options.init))
    trainee = Trainee(model).to(memory_format=torch.channels_last)
    if options.decoder_only:
        model.encoder.requires_grad_(False)
        trainee.norm.running_var -= trainee.norm.eps
        trainee.norm.eval()
    train(trainee, rng, options)
    if not options.decoder_only:
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
    start, step, seconds = time.monotonic(), 0, options.minutes * 60
    while (elapsed := time.monotonic() - start) < seconds:
        share = elapsed / seconds
        rate = min(1.0, (step + 1) / 50, max(0.02, (1 - share) / 0.6))
        side, count = (128, BATCH) if step % 3 == 0 else (64, 4 * BATCH)
        x = picture_batch(rng, count, side).contiguous(memory_format=torch.channels_last)
        y = trainee(x)
        loss = (y - x).abs().mean() + 2 * F.mse_loss(y, x)
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
