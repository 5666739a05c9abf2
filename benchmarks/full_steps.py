"""Full size, timed once: one step of each kind on the file that `benchmarks.full_geometry` writes.

    python3 manage.py exec -- python -m benchmarks.full_steps FOLDER [--tiny]

A 256x256 edit with one reference and 64 text tokens, float32 arithmetic on fp8 weights: ComfyUI's own full step; then
in one run of ours a full step (the first of a run, which also fills the modulation table), one with the reference's
KV cache, and one that computes a quarter of the target. Reports seconds and the bytes of weights that the layers
requested from ComfyUI. All weights are read once before, so that no step waits for the disk. --tiny runs a small
geometry through the same code. At full size: about 14 GB of memory, and minutes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.full_geometry import FULL, GB, LATENT, TINY, Peak, loader, sampled, write_file

KINDS = ("full", "cached", "active")
SIGMAS = (1.0, 0.7, 0.4, 0.0)
QUARTER = 4


def measure(path: Path, geometry: Any) -> list[dict[str, Any]]:
    """One row per step."""
    load = loader("ours")  # starts ComfyUI: its modules can be imported from here on
    from benchmarks.weight_bytes import counted_bytes
    from comfy.patcher_extension import WrappersMP
    from batch.inprocess import pack_module

    room = pack_module("host.acceleration")
    rows: list[dict[str, Any]] = []
    runs = []

    def watched(executor: Any, *args: Any, **options: Any) -> Any:
        """Wraps one evaluation; a step of active tokens gets a quarter of them: random weights predict none."""
        run = args[-1].get(room.KEY)
        runs.append(run)
        kind = "full, ComfyUI"
        if run is not None:
            kind = KINDS[len(rows) - 1]
            run.task = run.task._replace(kind=kind, keep=kind == "full")
            run.mask = quarter()
        with counted_bytes() as count:
            started = time.monotonic()
            result = executor(*args, **options)
            seconds = time.monotonic() - started
        rows.append({"step": kind, "seconds": seconds, "weights GB": count[0] / GB})
        return result

    model = load(path)
    touch(model)
    for way, sigmas in ((model, (1.0, 0.0)), (room.accelerate(model, room.Settings()), SIGMAS)):
        way = way.clone()
        way.add_wrapper(WrappersMP.DIFFUSION_MODEL, watched)
        sampled(way, geometry, sigmas)
    if runs[-1].kinds != dict.fromkeys(KINDS, 1):
        raise RuntimeError(f"the steps were {runs[-1].kinds}; one of each kind was expected. {runs[-1].report()}")
    return rows


def quarter() -> Any:
    """(1, n) of bool: the first quarter of the target's tokens."""
    import torch

    tokens = (LATENT // 2) ** 2
    return (torch.arange(tokens) < tokens // QUARTER)[None]


def touch(model: Any) -> None:
    """Read every weight once."""
    import torch

    for weight in model.model.diffusion_model.parameters():
        weight.data.view(torch.uint8).flatten()[::4096].sum()


def table(rows: list[dict[str, Any]], peak: Peak) -> str:
    """Markdown; a ratio above 1 is faster than ComfyUI's full step."""
    lines = ["| step | seconds | times faster | weights read, GB |", "| --- | --- | --- | --- |"]
    for one in rows:
        ratio = rows[0]["seconds"] / one["seconds"]
        lines.append(f"| {one['step']} | {one['seconds']:.1f} | {ratio:.2f} | {one['weights GB']:.4f} |")
    return "\n".join([*lines, "", f"Peak: {peak.anonymous:.2f} GB of its own, {peak.mapped:.2f} GB of mapped files."])


def main() -> None:
    parser = argparse.ArgumentParser(description="time one step of each kind on a file of the full size")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small geometry through the same code")
    options = parser.parse_args()
    geometry = TINY if options.tiny else FULL
    path = options.folder / f"kontext_{'tiny' if options.tiny else 'full'}_fp8.safetensors"
    options.folder.mkdir(parents=True, exist_ok=True)
    write_file(path, geometry)
    with Peak() as peak:
        rows = measure(path, geometry)
    print(table(rows, peak))


if __name__ == "__main__":
    main()
