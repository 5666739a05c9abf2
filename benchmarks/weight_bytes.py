"""Bytes of weights that one run requests from ComfyUI, counted where its layers fetch a weight.

ComfyUI's layers call `comfy.ops.cast_bias_weight` for weights that are not on the device in the compute dtype:
streamed, of another dtype, patched. That holds for 16-bit weights on a CPU, so each call's bytes are those that would
be sent to a GPU that streams. They do not depend on the picture's size; a small one is used. The embedded model has
other proportions than FLUX.1; the second geometry has FLUX.1's, a twelfth as wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality import GUIDANCE, STEPS, accelerated
from kontext_core.acceleration.settings import PRESETS
from kontext_core.embedded import load_transformer
from kontext_core.geometry import Geometry, read_geometry
from kontext_core.transformer import KontextTransformer
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on

import comfy.ops
import comfy.sd
import comfy.utils
import nodes

LATENT, TEXT = 8, 8
NARROW = Geometry(hidden_size=256, num_heads=2, context_in_dim=336, vec_in_dim=64)  # FLUX.1's depth
SPARED = ("_mod.", ".modulation.", "adaLN_modulation", "time_in.", "vector_in.", "guidance_in.")  # replaced by a table


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per model: bytes per run, by the host and by the preset "exact"."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    torch.manual_seed(0)
    models = {"embedded": load_transformer()[0]}
    if not quick:
        tree = KontextTransformer(NARROW)
        models["FLUX.1, a twelfth as wide"] = {name: w * 0.1 for name, w in tree.state_dict().items()}
    with torch.inference_mode():
        return [row(name, weights) for name, weights in models.items()]


def row(name: str, weights: dict[str, Tensor]) -> dict[str, Any]:
    geometry = read_geometry({key: tuple(tensor.shape) for key, tensor in weights.items()})
    spared = sum(w.numel() for key, w in weights.items() if any(part in key for part in SPARED))
    share = spared / sum(w.numel() for w in weights.values())
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": torch.bfloat16})
    host, exact = (asked(way, geometry) for way in (model, accelerated(model, PRESETS["exact"])))
    return {
        "geometry": name,
        "counted": "weights asked of ComfyUI's cast",
        "steps": STEPS,
        "host_gb": host / 1e9,
        "exact_gb": exact / 1e9,
        "less": 1 - exact / host,
        "share": share,
        "expected": share * (STEPS - 1) / STEPS,
    }


def asked(model: Any, geometry: Any) -> int:
    """Bytes of a complete run with one reference."""
    latents = torch.randn(2, 1, 16, LATENT, LATENT, generator=torch.Generator().manual_seed(1))
    text = torch.zeros(1, TEXT, geometry.context_in_dim)
    values = {"pooled_output": torch.zeros(1, geometry.vec_in_dim), "guidance": GUIDANCE}
    positive = [[text, values | {"reference_latents": [latents[1]]}]]
    with counted_bytes() as count:
        target = {"samples": torch.zeros_like(latents[0])}
        nodes.common_ksampler(model, 1, STEPS, 1.0, "euler", "simple", positive, positive, target)
    return count[0]


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """While open, counts the bytes of weights and biases that layers request from the host's cast, in a list of one."""
    cast, count = comfy.ops.cast_bias_weight, [0]

    def counting(layer: Any, *args: Any, **options: Any) -> Any:
        count[0] += sum(part.nbytes for part in (layer.weight, layer.bias) if part is not None)
        return cast(layer, *args, **options)

    comfy.ops.cast_bias_weight = counting
    try:
        yield count
    finally:
        comfy.ops.cast_bias_weight = cast


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"Weights in bfloat16 requested from ComfyUI's cast in {rows[0]['steps']} steps, counted in a real run. "
        "Expected is the fraction of the layers that a table replaces, in all steps but one. Constants of a run save a "
        "little more.",
        "",
        "| model | their share | host, GB | exact, GB | less | expected |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lines.append(
            f"| {one['geometry']} | {one['share']:.1%} | {one['host_gb']:.3f} | {one['exact_gb']:.3f} | "
            f"{one['less']:.1%} | {one['expected']:.1%} |"
        )
    return "\n".join(lines)
