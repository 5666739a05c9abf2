"""Seconds and memory of our path against ComfyUI's own, on the same weights, interleaved in one process.

Three comparisons. "sampler": the complete KontextSampler node against KSampler (euler, simple) on ModelSamplingFlux
with the same conditioning, per step. "forward": kontext_core's forward over ComfyUI's loaded tree against that tree's
own, from latents to latents. "forward, constants kept": the same, with our constants of a run (rotary table, embedded
text and references) computed in advance.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kontext_core.embedded import load_transformer
from kontext_core.geometry import Geometry, read_geometry
from kontext_core.tokens import pack, place_references, position_ids, unpack
from kontext_core.transformer import KontextTransformer, forward, precompute
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.sd
import comfy.utils
import nodes

TEXT_TOKENS, GUIDANCE = 20, 2.5
COLUMNS = ("ours ms", "host ms", "ratio", "ours MB", "host MB")


@dataclass(frozen=True)
class Preset:
    """The subject of a measurement: a model (None: the embedded weights; else random ones), a size and references."""

    name: str
    geometry: Geometry | None
    side: int  # px, of the target and of every reference
    references: int
    steps: int
    quick: bool = False  # part of a --quick run too


WIDE = Geometry(hidden_size=768, num_heads=6, depth=2, depth_single_blocks=4, context_in_dim=512, vec_in_dim=256)
PRESETS = (
    Preset("embedded, one reference", None, side=128, references=1, steps=8, quick=True),
    Preset("embedded, text only", None, side=128, references=0, steps=8),
    Preset("embedded, 256x256", None, side=256, references=1, steps=8),
    Preset("wide, one reference", WIDE, side=384, references=1, steps=2),
)


class Inputs(NamedTuple):
    """One model and one run's inputs, shared by both sides."""

    model: Any  # ComfyUI's MODEL
    latent: Tensor  # (1, 16, side / 8, side / 8)
    references: list[Tensor]
    context: Tensor  # (1, TEXT_TOKENS, context_in_dim)
    pooled: Tensor


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per preset and comparison: seconds (per step or evaluation) and peak memory of both sides."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    rows = []
    with torch.inference_mode():
        for preset in PRESETS:
            if preset.quick or not quick:
                rows += measure_preset(preset, repeats=3 if quick else 9)
    return rows


def measure_preset(preset: Preset, repeats: int) -> list[dict[str, Any]]:
    if preset.geometry:
        torch.manual_seed(0)
        weights = KontextTransformer(preset.geometry).state_dict()
    else:
        weights, _ = load_transformer()
    geometry = read_geometry({name: tuple(tensor.shape) for name, tensor in weights.items()})
    inputs = make_inputs(weights, geometry, preset)
    comfy.model_management.load_models_gpu([inputs.model])
    sides = {
        "sampler": (*samplers(inputs, preset), preset.steps),
        "forward": (our_forward(inputs, keep=False), host_forward(inputs), 1),
        "forward, constants kept": (our_forward(inputs, keep=True), host_forward(inputs), 1),
    }
    rows = []
    for what, (ours, theirs, steps) in sides.items():
        timing = take_turns(ours, theirs, repeats)
        rows.append(
            {
                "name": preset.name,
                "what": what,
                "seconds": timing.seconds / steps,
                "host_seconds": timing.host_seconds / steps,
                "ratio": timing.ratio,
                "peak_mb": peak_megabytes(ours),
                "host_peak_mb": peak_megabytes(theirs),
                "geometry": vars(geometry),
                "side": preset.side,
                "references": preset.references,
                "steps": steps,
                "repeats": repeats,
                **settings(inputs),
            }
        )
    return rows


def settings(inputs: Inputs) -> dict[str, Any]:
    return {
        "device": str(comfy.model_management.get_torch_device()),
        "threads": torch.get_num_threads(),
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "dtype": str(inputs.model.model_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
    }


def make_inputs(weights: dict[str, Tensor], geometry: Geometry, preset: Preset) -> Inputs:
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights))
    noise = torch.Generator().manual_seed(1)
    latents = torch.randn(1 + preset.references, 1, 16, preset.side // 8, preset.side // 8, generator=noise)
    context = torch.randn(1, TEXT_TOKENS, geometry.context_in_dim, generator=noise)
    pooled = torch.randn(1, geometry.vec_in_dim, generator=noise)
    return Inputs(model, latents[0], list(latents[1:]), context, pooled)


def samplers(inputs: Inputs, preset: Preset) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Our node, and ComfyUI's own nodes connected as in its Kontext template."""
    values = {"pooled_output": inputs.pooled, "reference_latents": inputs.references}
    positive = [[inputs.context, values]]
    guided = [[inputs.context, values | {"guidance": GUIDANCE}]]
    latent = {"samples": torch.zeros_like(inputs.latent)}
    shifts = {"max_shift": 1.15, "base_shift": 0.5, "width": preset.side, "height": preset.side}
    (shifted,) = nodes.NODE_CLASS_MAPPINGS["ModelSamplingFlux"]().patch(inputs.model, **shifts)

    def ours() -> Any:
        return nodes.NODE_CLASS_MAPPINGS["KontextSampler"].execute(
            inputs.model, positive, latent, seed=1, steps=preset.steps, guidance=GUIDANCE, cfg=1.0,
            solver="euler", denoise=1.0,
        )  # fmt: skip

    def theirs() -> Any:
        return nodes.common_ksampler(
            shifted, 1, preset.steps, 1.0, "euler", "simple", guided, guided, latent
        )  # fmt: skip

    return ours, theirs


def on_device(inputs: Inputs) -> tuple[Any, list[Tensor], dict[str, Tensor]]:
    """The loaded tree, [target, *references] and the other inputs, on its device and in its dtype."""
    device, dtype = comfy.model_management.get_torch_device(), inputs.model.model.get_dtype_inference()
    latents = [latent.to(device, dtype) for latent in (inputs.latent, *inputs.references)]
    time_and_guidance = torch.tensor([[0.7], [GUIDANCE]], device=device, dtype=dtype)
    others = {"context": inputs.context.to(device, dtype), "y": inputs.pooled.to(device, dtype)}
    others["timestep"], others["guidance"] = time_and_guidance
    return inputs.model.model.diffusion_model, latents, others


def host_forward(inputs: Inputs) -> Callable[[], Tensor]:
    tree, (target, *references), others = on_device(inputs)
    arguments = (target, others["timestep"], others["context"], others["y"], others["guidance"])
    return lambda: tree(*arguments, ref_latents=references or None, transformer_options={})


def our_forward(inputs: Inputs, keep: bool) -> Callable[[], Tensor]:
    """kontext_core's forward over the same tree; with `keep`, the constants of a run are computed in advance."""
    tree, (target, *references), others = on_device(inputs)
    height, width = target.shape[-2:]
    txt_ids = torch.zeros(1, TEXT_TOKENS, 3, device=target.device)
    optimized = comfy.ldm.modules.attention.optimized_attention

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized(q, k, v, q.shape[1], skip_reshape=True, transformer_options={})

    def ids() -> Tensor:
        placed = place_references([reference.shape[-2:] for reference in references], (height, width))
        parts = [position_ids(height, width)]
        parts += [position_ids(*r.shape[-2:], *place) for r, place in zip(references, placed, strict=True)]
        return torch.cat(parts)[None].to(target.device)

    def packed() -> Tensor | None:
        return torch.cat([pack(reference) for reference in references], dim=1) if references else None

    constants = precompute(tree, others["context"], txt_ids, ids(), packed()) if keep else None

    def run() -> Tensor:
        img = pack(target)
        count = img.shape[1]
        if constants is None and references:
            img = torch.cat((img, packed()), dim=1)
        rest = (others["context"], txt_ids, others["timestep"], others["y"], others["guidance"])
        img_ids = ids() if constants is None else txt_ids  # not read with constants
        velocity = forward(tree, img, img_ids, *rest, attention=attention, constants=constants)
        return unpack(velocity[:, :count], height, width)

    return run


class Timing(NamedTuple):
    seconds: float  # median of ours
    host_seconds: float
    ratio: float  # median over adjacent runs, so that machine load affects both sides alike


def take_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> Timing:
    """Both sides `repeats` times, after one warm-up round: A B, B A, A B, ..."""
    times: dict[Callable, list[float]] = {ours: [], theirs: []}
    for round_ in range(repeats + 1):
        for side in (ours, theirs) if round_ % 2 else (theirs, ours):
            started = now()
            side()
            times[side].append(now() - started)
    mine, host = (times[side][1:] for side in (ours, theirs))
    ratio = statistics.median(a / b for a, b in zip(mine, host, strict=True))
    return Timing(statistics.median(mine), statistics.median(host), ratio)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_megabytes(run: Callable[[], Any]) -> float:
    """The peak memory of tensors during a run, in excess of the memory before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events)) / 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, ours / ComfyUI's; a ratio below 1 means that ours is faster."""
    shown = ("device", "threads", "attention", "dtype", "torch")
    lines = [
        "Speed against ComfyUI's own nodes: " + ", ".join(f"{name} {rows[0][name]}" for name in shown),
        f"{'model':<24}{'px':>5}  {'what':<24}" + "".join(f"{title:>9}" for title in COLUMNS),
    ]
    for row in rows:
        times = f"{row['seconds'] * 1e3:>9.1f}{row['host_seconds'] * 1e3:>9.1f}{row['ratio']:>9.3f}"
        memory = f"{row['peak_mb']:>9.1f}{row['host_peak_mb']:>9.1f}"
        lines.append(f"{row['name']:<24}{row['side']:>5}  {row['what']:<24}{times}{memory}")
    return "\n".join(lines)
