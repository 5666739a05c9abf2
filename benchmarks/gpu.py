"""Timings on the local device, at FLUX.1's full size with random bfloat16 weights: only the core, without ComfyUI.

    python3 manage.py bench gpu
    python -m benchmarks.gpu --json gpu.json          (needs only torch, einops and this repository)

Times a full evaluation, one with cached references, one of a quarter of the picture, and the overhead of decisions and
forecasts in a step; with one and with four references, eager and compiled. 1024x1024 px and FLUX.1's 12 B parameters
on a GPU; without one, or with --small, a small geometry, which only shows that the command works.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext_core.acceleration.control import Control
from kontext_core.acceleration.settings import PRESETS
from kontext_core.acceleration.stream import Inputs, Stream
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import place_references, position_ids
from kontext_core.transformer import KontextTransformer, sdpa

SMALL = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=4, context_in_dim=64, vec_in_dim=64)
STEPS, SHARE, MEGABYTE = 28, 0.25, 1e6
DECIDING = "deciding and forecasting, a step"
REFERENCES, SECONDS = (1, 4), 8.0  # number of references; approximate time per measurement, after the warm-up
LATEST = 330.0  # seconds from the beginning within which a compilation may start, so that all takes under 8 minutes


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per kind of evaluation and number of references; on a GPU also compiled."""
    cuda = torch.cuda.is_available()
    return measured(torch.device("cuda" if cuda else "cpu"), small=quick or not cuda, compiled=cuda)


def measured(device: torch.device, small: bool, compiled: bool = False) -> list[dict[str, Any]]:
    """No compilation starts later than LATEST seconds after the beginning; the rows then end there."""
    geometry, latent, text = (SMALL, 16, 16) if small else (Geometry(), 128, 512)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    begun, tree, rows = time.perf_counter(), random_tree(geometry, device, dtype), []
    with torch.inference_mode():
        for count in REFERENCES:
            inputs, x = inputs_of(geometry, latent, text, count, device, dtype)
            for what, run in {**evaluations(tree, inputs, x), DECIDING: deciding(x)}.items():
                rows.append(row(what, count, run, x, small))
        for count in REFERENCES if compiled else ():
            inputs, x = inputs_of(geometry, latent, text, count, device, dtype)
            for what, run in evaluations(tree, inputs, x).items():
                if time.perf_counter() - begun < LATEST:
                    rows.append(row(f"{what}, compiled", count, torch.compile(run, dynamic=False), x, small))
    return rows


def row(what: str, count: int, run: Callable[[], object], x: Tensor, small: bool) -> dict[str, Any]:
    """One measurement with `count` references, on the device and in the dtype of x."""
    reset_peak(x.device)
    seconds = timed(run, x.device, 0.1 if small else SECONDS) / (STEPS if what == DECIDING else 1)
    return {
        "step": what,
        "references": count,
        "seconds": seconds,
        "peak_mb": peak(x.device) / MEGABYTE,
        "device": torch.cuda.get_device_name(x.device) if x.is_cuda else "CPU",
        "geometry": "small" if small else "FLUX.1, 1024x1024 px",
        "dtype": str(x.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def random_tree(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> KontextTransformer:
    """Built on the device, so that 24 GB of bfloat16 never occupy main memory."""
    with torch.device("meta"):
        tree = KontextTransformer(geometry).to(dtype)
    tree = tree.to_empty(device=device).eval().requires_grad_(False)
    for parameter in tree.parameters():
        parameter.normal_(std=0.02)
    return tree


def inputs_of(
    geometry: Geometry, latent: int, text: int, count: int, device: torch.device, dtype: torch.dtype
) -> tuple[Inputs, Tensor]:
    """One random conditioning, and the target's tokens."""
    side, like = latent // 2, {"device": device, "dtype": dtype}
    places = place_references([(latent, latent)] * count, (latent, latent))
    ids = [position_ids(latent, latent)] + [position_ids(latent, latent, *place) for place in places]
    images = [torch.randn(1, side * side, geometry.in_channels * 4, **like) for _ in range(count + 1)]
    txt, y = torch.randn(1, text, geometry.context_in_dim, **like), torch.randn(1, geometry.vec_in_dim, **like)
    guidance, ids = torch.full((1,), 2.5, **like), torch.cat(ids)[None].to(device)
    return Inputs(txt, y, guidance, images[1:], [(side, side)] * (count + 1), ids), images[0]


def evaluations(tree: KontextTransformer, inputs: Inputs, x: Tensor) -> dict[str, Callable[[], object]]:
    """One evaluation of each kind, as a run makes them; caches are filled first."""
    sigmas = flow_sigmas(STEPS, x.shape[1]).tolist()[:-1]
    stream = Stream(tree, inputs, x, sigmas, None)
    mask = (torch.arange(x.shape[1], device=x.device) < SHARE * x.shape[1])[None]
    stream.velocity(x, sigmas[0], "full", True, None, sdpa)
    return {
        "full, as the model does it": plain(tree, inputs, x),
        "kept references": lambda: stream.velocity(x, sigmas[1], "cached", False, None, sdpa),
        "a quarter of the picture": lambda: stream.velocity(x, sigmas[1], "active", False, mask, sdpa),
        "full": lambda: stream.velocity(x, sigmas[1], "full", True, None, sdpa),
    }


def plain(forward: Callable, inputs: Inputs, x: Tensor) -> Callable[[], object]:
    """The model's own evaluation, without any cache."""
    img = torch.cat((x, *inputs.references), dim=1)
    txt_ids, time_ = inputs.ids.new_zeros(1, inputs.txt.shape[1], 3), torch.full((1,), 0.7, device=x.device)
    return lambda: forward(img, inputs.ids, inputs.txt, txt_ids, time_, inputs.y, inputs.guidance)


def deciding(x: Tensor) -> Callable[[], object]:
    """The decisions and forecasts of a complete run with a velocity that costs nothing."""
    sigmas, velocity = flow_sigmas(STEPS, x.shape[1]).tolist(), torch.randn_like(x)

    def run() -> None:
        control, state = Control(PRESETS["balanced"], sigmas), x
        for step in range(STEPS):
            state = state + (sigmas[step + 1] - sigmas[step]) * control.step(
                step, state, lambda step, _: velocity * step
            )

    return run


def timed(run: Callable[[], object], device: torch.device, budget: float) -> float:
    """The median over repeats within about `budget` seconds, after two more: a second call may compile again."""
    times: list[float] = []
    run()
    run()
    while not times or (sum(times) < budget and len(times) < 20):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a ratio above 1 is faster than the model's own full evaluation with the same number of references."""
    one = rows[0]
    lines = [
        f"{one['device']}, {one['geometry']}, {one['dtype']}, torch {one['torch']}.",
        "",
        "| what | references | ms | times faster | peak MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        full = next(other for other in rows if other["references"] == row["references"])["seconds"]
        times = f"{1000 * row['seconds']:.1f} | {full / row['seconds']:.2f}"
        lines.append(f"| {row['step']} | {row['references']} | {times} | {row['peak_mb']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small geometry through the same code")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = measure(options.small)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
