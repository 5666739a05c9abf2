"""Compare presets of Kontext Accelerate with the full run on the user's own model: time and fidelity."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..kontext_core.acceleration.run import Run
from ..kontext_core.acceleration.settings import PRESETS
from . import acceleration, sampling
from .images import given
from .latents import Latent


class Measured(NamedTuple):
    """The result of one way."""

    name: str
    pictures: Tensor  # (b, h, w, 3) in 0..1
    seconds: float  # of sampling
    run: Run | None  # None: the full run


def measure(
    model: Any, vae: Any, latent: Latent, presets: Iterable[str], *, steps: int, **options: Any
) -> list[Measured]:
    """The full run first, then one of each of `presets`; `options` are those of `sampling.sample` without a solver.

    Raises what `sampling.sample` raises. An interrupt ends all runs.
    """
    model, ways = without_acceleration(model), ["full", *presets]
    report = latent_preview.prepare_callback(model, steps * len(ways))
    sampling.sample(model, latent=latent, steps=1, solver="euler", callback=_silent, **options)  # loads the model
    ended = []
    for turn, name in enumerate(ways):
        runs: list[Run] = []
        way = model if name == "full" else acceleration.accelerate(model, PRESETS[name], runs.append)
        started = time.perf_counter()
        result, _ = sampling.sample(
            way, latent=latent, steps=steps, solver="euler", callback=_after(report, turn * steps), **options
        )
        ended.append((name, result["samples"], time.perf_counter() - started, runs[0] if runs else None))
    # after all runs: on a small card decoding unloads the model
    return [Measured(name, given(vae.decode(samples)), *rest) for name, samples, *rest in ended]


def without_acceleration(model: Any) -> Any:
    """The MODEL without Kontext Accelerate."""
    plain = model.clone()
    for kind in (
        WrappersMP.OUTER_SAMPLE,
        WrappersMP.PREPARE_SAMPLING,
        WrappersMP.PREDICT_NOISE,
        WrappersMP.DIFFUSION_MODEL,
    ):
        plain.remove_wrappers_with_key(kind, acceleration.KEY)
    return plain


def _silent(*_: Any) -> None:
    """Replaces a preview."""


def _after(report: Callable, before: int) -> Callable:
    """A sampler callback that continues the step count of earlier runs."""
    return lambda step, x0, x, _: report(step + before, x0, x, None)


def table(found: list[Measured], steps: int, seed: int) -> str:
    """Lines for the user: the seed, then one per way; PSNR is that of the worst picture."""
    full = found[0]
    lines = [f"seed {seed}", f"full: {steps} steps, {full.seconds:.1f} s"]
    for one in found[1:]:
        assert one.run is not None
        expected = None if one.run.elsewhere else one.run.control.expected()
        told = (
            ""
            if expected is None
            else f" (expected {expected.decibels:.0f}, {expected.low:.0f} to {expected.high:.0f})"
        )
        lines.append(
            f"{one.name}: {one.run.asked} steps computed, {one.seconds:.1f} s, {full.seconds / one.seconds:.1f} times "
            f"faster, {psnr(one.pictures, full.pictures)}{told}"
        )
        lines += [f"  {note}" for note in one.run.notes]
    return "\n".join(lines)


def psnr(a: Tensor, b: Tensor) -> str:
    """The PSNR of the worst picture of a batch, in words."""
    errors = (a - b).float().square().flatten(1).mean(1)
    worst = errors.max()
    return "the same picture" if worst < 1e-10 else f"{-10 * torch.log10(worst).item():.1f} dB"
