"""Kontext Accelerate in split runs: the same edits in one run, and in parts by chained KSampler (Advanced) nodes.

Each way is compared with the picture of the full run on the same noise. The edits are held out, one of each task, at
the model's trained size.
"""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kontext_core.acceleration.settings import PRESETS
from kontext_core.embedded import load_transformer
from kontext_core.embedded.autoencoder import SCALE, SHIFT
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on
from training.editor import Editor
from training.evaluate import psnr
from training.instructions import TASKS
from benchmarks.quality import CFG, STEPS, TRAINED, Calls, Inputs, accelerated, at_side, chosen_edits, inputs_of

import comfy.sd
import comfy.utils
import nodes

CUTS = {"one run": (), "cut at step 14": (14,), "cut at step 7": (7,), "cut at steps 7, 14 and 21": (7, 14, 21)}
NAMES = ("quality", "balanced", "fast")


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per preset and way to cut."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    weights, _ = load_transformer()
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights))
    editor, calls = Editor.shipped(), Calls(model)
    plain = at_side(model, TRAINED)
    models = {name: accelerated(plain, PRESETS[name]) for name in NAMES}
    found: dict[tuple[str, str], list[tuple[float, int]]] = {}
    with torch.inference_mode():
        for seed, edit in enumerate(chosen_edits(1 if quick else len(TASKS), TRAINED)):
            inputs = inputs_of(editor, edit, seed, TRAINED)
            whole = picture(editor, in_parts(plain, inputs, ()))
            for name, each in models.items():
                for way, cuts in CUTS.items():
                    calls.count = 0
                    mine = picture(editor, in_parts(each, inputs, cuts))
                    decibels = min(psnr(mine, whole), 100.0)
                    found.setdefault((name, way), []).append((decibels, calls.count))
    return [row(*key, results) for key, results in found.items()]


def picture(editor: Editor, latent: Tensor) -> Tensor:
    return editor.decode((latent - SHIFT) * SCALE)[0]


def in_parts(model: Any, inputs: Inputs, cuts: tuple[int, ...]) -> Tensor:
    """The latent (1, 16, h, w) of a chain of samplers: the first adds noise, each goes on where the last stopped."""
    latent = {"samples": torch.zeros(1, 16, inputs.side // 8, inputs.side // 8)}
    for start, end in pairwise((0, *cuts, STEPS)):
        (latent,) = nodes.common_ksampler(
            model, inputs.seed, STEPS, CFG, "euler", "simple", inputs.positive, inputs.negative, latent,
            disable_noise=start > 0, start_step=start, last_step=end, force_full_denoise=end == STEPS,
        )  # fmt: skip
    return latent["samples"]


def row(name: str, way: str, results: list[tuple[float, int]]) -> dict[str, Any]:
    decibels, counts = zip(*results, strict=True)
    return {
        "preset": name,
        "way": way,
        "edits": len(results),
        "model calls": statistics.mean(counts),
        "psnr": statistics.median(decibels),
        "psnr_worst": min(decibels),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Embedded model, {rows[0]['edits']} edits at {TRAINED}x{TRAINED} px, {STEPS} steps; PSNR to the full run.",
        "",
        "| preset | run | model calls | median PSNR (worst) dB |",
        "| --- | --- | --- | --- |",
    ]
    for one in rows:
        decibels = f"{one['psnr']:.1f} ({one['psnr_worst']:.1f})"
        lines.append(f"| {one['preset']} | {one['way']} | {one['model calls']:.1f} | {decibels} |")
    return "\n".join(lines)
