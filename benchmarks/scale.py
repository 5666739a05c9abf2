"""Speed where arithmetic dominates: a FLUX.1 with 283 M random weights, 384x384 px and one reference of that size.

A quick run uses 256x256 px. The host's own path (KSampler, euler, simple) against every preset, interleaved in one
process. Random weights say nothing about quality; active tokens, which depend on the picture, are in no preset.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.quality import GUIDANCE, accelerated
from kontext_core.acceleration.settings import Settings
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on

import comfy.sd
import comfy.utils
import nodes

MID = Geometry(hidden_size=1024, num_heads=8, depth=4, depth_single_blocks=8, context_in_dim=1024, vec_in_dim=768)
STEPS, TEXT = 28, 64
SIDE, QUICK_SIDE = 384, 256  # px
WAYS = {  # random weights behave like no real model, so the steps are fixed
    "exact": Settings(),
    "10 of 28 steps": Settings(steps=(0, 1, 3, 5, 8, 11, 14, 18, 22, 26)),
    "6 of 28 steps": Settings(steps=(0, 2, 6, 12, 18, 24)),
    "3 of 28 steps": Settings(steps=(0, 2, 16)),
}


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per way: seconds of the complete sampling loop, without CFG."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    torch.manual_seed(0)
    weights = {name: torch.randn_like(w) * 0.02 for name, w in KontextTransformer(MID).state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    models = {"host": model} | {name: accelerated(model, plan) for name, plan in WAYS.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    side = QUICK_SIDE if quick else SIDE
    with torch.inference_mode():
        loop(models["3 of 28 steps"], side)  # warm-up
        for turn in range(1 if quick else 2):
            for name in models if turn % 2 == 0 else reversed(models):
                times[name].append(loop(models[name], side))
    base = times["host"]
    return [row(name, side, taken, base) for name, taken in times.items()]


def row(name: str, side: int, taken: list[float], base: list[float]) -> dict[str, Any]:
    tokens = (side // 16) ** 2
    return {
        "preset": name,
        "geometry": f"283 M, {tokens} + {tokens} + {TEXT} tokens",
        "seconds": statistics.median(taken),
        "ratio": statistics.median(b / a for a, b in zip(taken, base, strict=True)),
        "repeats": len(taken),
        "threads": torch.get_num_threads(),
    }


def loop(model: Any, side: int) -> float:
    """Seconds of one run."""
    noise = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 1, 16, side // 8, side // 8, generator=noise)
    text, pooled = torch.randn(1, TEXT, 1024, generator=noise), torch.randn(1, 768, generator=noise)
    positive = [[text, {"pooled_output": pooled, "guidance": GUIDANCE, "reference_latents": [latents[1]]}]]
    started = time.perf_counter()
    target = {"samples": torch.zeros_like(latents[0])}
    nodes.common_ksampler(model, 1, STEPS, 1.0, "euler", "simple", positive, positive, target)
    return time.perf_counter() - started


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a ratio above 1 is faster than the host's own path."""
    lines = [
        f"{rows[0]['geometry']}, {STEPS} steps, {rows[0]['repeats']} repeat(s), {rows[0]['threads']} thread(s), "
        "ComfyUI with --use-pytorch-cross-attention.",
        "",
        "| way | seconds a run | times faster |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {one['preset']} | {one['seconds']:.1f} | {one['ratio']:.2f} |" for one in rows]
    return "\n".join(lines)
