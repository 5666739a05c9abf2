"""Speed where arithmetic dominates, in ComfyUI: a FLUX.1 of random weights and one reference of the target's size.

On the CPU 283 M weights and 384x384 px, 256x256 px in a quick run; on a GPU FLUX.1's 12 B weights in bfloat16 and
1024x1024 px. The host's own path (KSampler, euler, simple) against runs with fixed steps, interleaved in one process.
Random weights say nothing about quality; active tokens, which depend on the picture, are in none of these ways.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kontext_core.acceleration.settings import Settings
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer
from batch.comfyui import ARGUMENTS, device_arguments

if not device_arguments():
    os.environ.setdefault(ARGUMENTS, "[]")  # before ComfyUI starts: it uses the GPU; without it, it uses the CPU
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on
from benchmarks.quality import GUIDANCE, accelerated

import comfy.model_management
import comfy.sd
import comfy.utils
import nodes


class Size(NamedTuple):
    geometry: Geometry
    side: int  # px
    text: int  # tokens
    dtype: torch.dtype


STEPS = 28
MID = Geometry(hidden_size=1024, num_heads=8, depth=4, depth_single_blocks=8, context_in_dim=1024, vec_in_dim=768)
ON_CPU, QUICK = (Size(MID, side, 64, torch.float32) for side in (384, 256))
ON_GPU = Size(Geometry(), 1024, 512, torch.bfloat16)
WAYS = {  # random weights behave like no real model, so the steps are fixed
    "exact": Settings(),
    "10 of 28 steps": Settings(steps=(0, 1, 3, 5, 8, 11, 14, 18, 22, 26)),
    "6 of 28 steps": Settings(steps=(0, 2, 6, 12, 18, 24)),
    "3 of 28 steps": Settings(steps=(0, 2, 16)),
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per way: seconds of the complete sampling loop, without CFG."""
    gpu = comfy.model_management.get_torch_device().type == "cuda"
    return measured(ON_GPU if gpu else QUICK if quick else ON_CPU, 1 if quick else 2)


def measured(size: Size, turns: int) -> list[dict[str, Any]]:
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    torch.manual_seed(0)
    weights = random_weights(size)
    count = sum(weight.numel() for weight in weights.values())
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    models = {"host": model} | {name: accelerated(model, plan) for name, plan in WAYS.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        loop(models["3 of 28 steps"], size)  # warm-up
        for turn in range(turns):
            for name in models if turn % 2 == 0 else reversed(models):
                times[name].append(loop(models[name], size))
    base = times["host"]
    return [row(name, size, count, taken, base) for name, taken in times.items()]


def random_weights(size: Size) -> dict[str, Tensor]:
    """Made on the device, where normal numbers are quick."""
    device = comfy.model_management.get_torch_device()
    with torch.device("meta"):
        names = KontextTransformer(size.geometry).state_dict()
    return {
        name: torch.empty(one.shape, dtype=size.dtype, device=device).normal_(std=0.02) for name, one in names.items()
    }


def row(name: str, size: Size, count: int, taken: list[float], base: list[float]) -> dict[str, Any]:
    tokens = (size.side // 16) ** 2
    return {
        "preset": name,
        "geometry": f"{count / 1e6:.0f} M weights, {tokens} + {tokens} + {size.text} tokens",
        "seconds": statistics.median(taken),
        "ratio": statistics.median(b / a for a, b in zip(taken, base, strict=True)),
        "repeats": len(taken),
        "threads": torch.get_num_threads(),
        "device": comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device()),
    }


def loop(model: Any, size: Size) -> float:
    """Seconds of one run."""
    noise = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 1, 16, size.side // 8, size.side // 8, generator=noise)
    text = torch.randn(1, size.text, size.geometry.context_in_dim, generator=noise)
    pooled = torch.randn(1, size.geometry.vec_in_dim, generator=noise)
    positive = [[text, {"pooled_output": pooled, "guidance": GUIDANCE, "reference_latents": [latents[1]]}]]
    started = time.perf_counter()  # the result is on the CPU, so the device has finished
    target = {"samples": torch.zeros_like(latents[0])}
    nodes.common_ksampler(model, 1, STEPS, 1.0, "euler", "simple", positive, positive, target)
    return time.perf_counter() - started


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a ratio above 1 is faster than the host's own path."""
    lines = [
        f"{rows[0]['device']}, {rows[0]['geometry']}, {STEPS} steps, {rows[0]['repeats']} repeat(s), "
        f"{rows[0]['threads']} thread(s), PyTorch's attention.",
        "",
        "| way | seconds a run | times faster |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {one['preset']} | {one['seconds']:.1f} | {one['ratio']:.2f} |" for one in rows]
    return "\n".join(lines)
