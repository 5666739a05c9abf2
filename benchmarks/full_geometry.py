"""Full size: load an fp8 file with the names and shapes of FLUX.1 Kontext [dev], and run one step.

    python3 manage.py exec -- python -m benchmarks.full_geometry FOLDER [--tiny]

Writes FOLDER/kontext_full_fp8.safetensors once (11.9 GB, random values, tensor by tensor), then loads it in a separate
process for each side: ours with Kontext Loader's code, the host's with its UNETLoader. Each runs one step of a 256x256
edit with one reference and 64 text tokens. Reports seconds, and anonymous and file-backed memory separately: pages of
the mapped file count as the latter, and the system reclaims them when it needs memory. --tiny runs a small geometry
through the same code as a smoke test. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kontext_core.checkpoints import read_checkpoint
from kontext_core.geometry import Geometry
from kontext_core.transformer import checkpoint_shapes

FULL = Geometry()
TINY = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=64, vec_in_dim=32)
SIDES = ("ours", "host")
TEXT_TOKENS, LATENT = 64, 32  # a 256x256 picture
GB = 1000**3


def write_file(path: Path, geometry: Geometry) -> None:
    """A plain e4m3 file of random bytes without NaN, written in small pieces under a temporary name."""
    if path.exists():
        return
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in checkpoint_shapes(geometry).items():
        end = offset + math.prod(shape)
        header[name] = {"dtype": "F8_E4M3", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    unfinished = path.with_suffix(".partial")
    # 0 to 0x2f and their negatives: magnitudes below 0.25, never NaN
    table = bytes((byte & 0x80) | (byte & 0x7F) % 0x30 for byte in range(256))
    block = os.urandom(1 << 24).translate(table)
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, offset, len(block)):
            file.write(block[: offset - start])
    os.replace(unfinished, path)


class Peak:
    """The peak anonymous and file-backed resident memory of this process while the context is open, in GB."""

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()  # growth since the thread's last sample

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._look()

    def _look(self) -> None:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        anonymous, mapped = (int(status[key].split()[0]) * 1024 / GB for key in ("RssAnon", "RssFile"))
        self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)


def loader(side: str) -> Callable[[Path], Any]:
    """A function from a file to a host MODEL: our loader or the host's. ComfyUI and the pack are started first."""
    from batch import inprocess

    inprocess.start()
    if side == "host":
        import comfy.sd

        return lambda path: comfy.sd.load_diffusion_model(str(path))
    loading = inprocess.pack_module("host.loading")
    return lambda path: loading.load_transformer(read_checkpoint(path).paths, {})


def sampled(model: Any, geometry: Geometry, sigmas: Sequence[float] = (1.0, 0.0)) -> None:
    """One evaluation per step through the host's sampling, Euler, with one reference of the target's size."""
    import comfy.samplers
    import torch

    noise = torch.randn(1, 16, LATENT, LATENT, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, TEXT_TOKENS, geometry.context_in_dim)
    values = {"pooled_output": torch.zeros(1, geometry.vec_in_dim), "guidance": 2.5, "reference_latents": [noise]}
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[text, values]]})
    guider.set_cfg(1.0)
    sampler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(sigmas), disable_pbar=True)


def measure_side(side: str, path: Path, geometry: Geometry) -> dict[str, float | str]:
    """Measure one side in this process."""
    load = loader(side)
    with Peak() as peak:
        started = time.monotonic()
        model = load(path)
        loaded = time.monotonic()
        sampled(model, geometry)
        ended = time.monotonic()
    seconds = {"load s": loaded - started, "step s": ended - loaded}
    return {"side": side, **seconds, "anonymous GB": peak.anonymous, "mapped GB": peak.mapped}


def table(rows: list[dict[str, Any]], size: float) -> str:
    names = list(rows[0])
    lines = [f"file: {size:.2f} GB", "| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = (value if isinstance(value, str) else f"{value:.2f}" for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="load and run a file of the full size")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small geometry through the same code")
    parser.add_argument("--side", choices=SIDES, help="measure only this side and print its row as JSON")
    options = parser.parse_args()
    geometry = TINY if options.tiny else FULL
    path = options.folder / f"kontext_{'tiny' if options.tiny else 'full'}_fp8.safetensors"
    if options.side:
        print(json.dumps(measure_side(options.side, path, geometry)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    write_file(path, geometry)
    rows = []
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.full_geometry", str(options.folder), "--side", side]
        output = subprocess.run(command + ["--tiny"] * options.tiny, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(output.stdout.splitlines()[-1]))
    print(table(rows, path.stat().st_size / GB))


if __name__ == "__main__":
    main()
