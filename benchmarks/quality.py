"""Quality against speed on the embedded model: every preset, and its rivals, on the same edits as the host's own path.

    python3 manage.py exec -- python -m benchmarks.quality --edits 112 --plot benchmarks/quality.png

One process, one edit after the other, all ways in turn. The host's own path is ComfyUI's KSampler (euler, simple) on
ModelSamplingFlux with references, 28 steps; the others are compared with its picture of the same seed, in time and in
PSNR and SSIM. An edit counts as a success by the rule of `training.evaluate`. Rivals are fewer steps, a second-order
multistep solver with as many model calls, and ComfyUI's EasyCache with its own settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kontext_core.acceleration.plan import PRESETS, Settings
from kontext_core.embedded import load_transformer
from kontext_core.embedded.autoencoder import SCALE, SHIFT
from kontext_core.solvers import multistep
from tools import inprocess  # starts ComfyUI: its modules can be imported from here on
from training.editor import Editor
from training.evaluate import as_tensor, held_out_edits, judge, psnr
from training.instructions import TASKS, Edit

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import nodes
from skimage.metrics import structural_similarity

STEPS, SIDE, CFG, GUIDANCE = 28, 128, 2.0, 2.5
KEPT = {  # what no preset does: references kept between computed steps, and regions
    "10 steps, references every 3rd": Settings(computed=10, refresh=3),
    "10 steps, references every 3rd, regions": Settings(computed=10, refresh=3, warmup=3),
}
FRONTIER = {f"{count} steps, others forecast": Settings(computed=count) for count in (14, 5)}
FEWER = (14, 10, 7, 5, 3)  # model calls of the rivals


class Way(NamedTuple):
    """One way from noise to latent."""

    name: str
    kind: str  # host, preset, custom, fewer steps, multistep, EasyCache
    model: Any
    steps: int = STEPS
    solver: str = "euler"


class Inputs(NamedTuple):
    """An edit as the host's samplers take it."""

    edit: Edit
    positive: list
    negative: list
    seed: int


class Calls:
    """Counts the evaluations of the host's FLUX: how often its `img_in` is asked for the target."""

    def __init__(self, model: Any):
        self.count = 0
        last = model.model.diffusion_model.final_layer.linear
        last.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def measure(quick: bool, edits: int | None = None) -> list[dict[str, Any]]:
    """A row a way, the host's own path first."""
    count = edits or (len(TASKS) if quick else 8 * len(TASKS))
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    weights, _ = load_transformer()
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights))
    editor, calls = Editor.shipped(), Calls(model)
    with torch.inference_mode():
        ways = ways_of(model, quick)
        inputs = [inputs_of(editor, edit, seed) for seed, edit in enumerate(chosen_edits(count))]
        for way in ways:
            run(way, inputs[0])  # once unmeasured
        results = [[evaluate(way, one, editor, calls) for way in ways] for one in inputs]
    return [
        row(way, [result[i] for result in results], [result[0] for result in results]) for i, way in enumerate(ways)
    ]


def ways_of(model: Any, quick: bool) -> list[Way]:
    shifts = {"max_shift": 1.15, "base_shift": 0.5, "width": SIDE, "height": SIDE}
    (shifted,) = nodes.NODE_CLASS_MAPPINGS["ModelSamplingFlux"]().patch(model, **shifts)
    ways = [Way("host", "host", shifted)]
    ways += [Way(name, "preset", accelerated(shifted, settings)) for name, settings in PRESETS.items()]
    for name, settings in ({} if quick else KEPT | FRONTIER).items():
        ways.append(Way(name, "custom", accelerated(shifted, settings)))
    counts = (10, 7) if quick else FEWER
    ways += [Way(f"euler, {steps} steps", "fewer steps", shifted, steps) for steps in counts]
    ways += [Way(f"multistep, {steps} steps", "multistep", shifted, steps, "multistep") for steps in counts]
    for threshold in (0.2, 0.05):  # its default, and one that suits this model better
        (easy,) = nodes.NODE_CLASS_MAPPINGS["EasyCache"].execute(shifted, threshold, 0.15, 0.95, False).result
        ways.append(Way(f"EasyCache, threshold {threshold:g}", "EasyCache", easy))
    return ways


def accelerated(model: Any, settings: Settings) -> Any:
    """What KontextAccelerate gives, with any settings."""
    import importlib

    package = nodes.NODE_CLASS_MAPPINGS["KontextAccelerate"].__module__.rsplit(".", 2)[0]
    return importlib.import_module(f"{package}.host.acceleration").accelerate(model, settings)


def chosen_edits(count: int) -> list[Edit]:
    """So many held-out edits, of all tasks in turn."""
    per_task = -(-count // len(TASKS))
    edits = held_out_edits(11, per_task, SIDE, SIDE)
    return [edits[task * per_task + i] for i in range(per_task) for task in range(len(TASKS))][:count]


def inputs_of(editor: Editor, edit: Edit, seed: int) -> Inputs:
    text, pooled = editor.text_encoder(torch.tensor([editor.vocabulary.encode(edit.instruction)[0]]))
    pictures = [as_tensor(picture, SIDE, SIDE)[None] for picture in edit.sources]
    values: dict[str, Any] = {"pooled_output": pooled, "guidance": GUIDANCE}
    if pictures:
        values["reference_latents"] = [editor.encode(picture) / SCALE + SHIFT for picture in pictures]
    nothing = values | {"pooled_output": torch.zeros_like(pooled)}
    return Inputs(edit, [[text, values]], [[torch.zeros_like(text), nothing]], seed)


def run(way: Way, inputs: Inputs) -> Tensor:
    """The latent (1, 16, h, w), raw."""
    latent = torch.zeros(1, 16, SIDE // 8, SIDE // 8)
    if way.solver == "euler":
        (result,) = nodes.common_ksampler(
            way.model, inputs.seed, way.steps, CFG, "euler", "simple", inputs.positive, inputs.negative,
            {"samples": latent},
        )  # fmt: skip
        return result["samples"]
    sampling = way.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", way.steps)
    (sampler,) = nodes.NODE_CLASS_MAPPINGS["KontextSolver"].execute(multistep.__name__).result
    noise = comfy.sample.prepare_noise(latent, inputs.seed)
    return comfy.sample.sample_custom(
        way.model,
        noise,
        CFG,
        sampler,
        sigmas,
        inputs.positive,
        inputs.negative,
        latent,
        seed=inputs.seed,
        disable_pbar=True,
    )


class Result(NamedTuple):
    picture: Tensor
    seconds: float
    calls: int
    success: bool


def evaluate(way: Way, inputs: Inputs, editor: Editor, calls: Calls) -> Result:
    calls.count = 0
    started = time.perf_counter()
    latent = run(way, inputs)
    seconds = time.perf_counter() - started
    picture = editor.decode((latent - SHIFT) * SCALE)[0]
    ceiling = editor.decode(editor.encode(as_tensor(inputs.edit.target, SIDE, SIDE)[None]))[0]
    return Result(picture, seconds, calls.count, judge(inputs.edit, picture, ceiling).success)


def row(way: Way, results: list[Result], host: list[Result]) -> dict[str, Any]:
    pairs = list(zip(results, host, strict=True))
    decibels = [min(psnr(a.picture, b.picture), 100.0) for a, b in pairs]
    similar = [
        structural_similarity(a.picture.numpy(), b.picture.numpy(), channel_axis=0, data_range=1.0) for a, b in pairs
    ]
    return {
        "preset": way.name,
        "kind": way.kind,
        "geometry": "embedded",
        "side": SIDE,
        "edits": len(results),
        "seconds": statistics.mean(result.seconds for result in results),
        "ratio": statistics.median(b.seconds / a.seconds for a, b in pairs),
        "psnr": statistics.mean(decibels),
        "psnr_worst": min(decibels),
        "ssim": float(statistics.mean(similar)),
        "success": statistics.mean(result.success for result in results),
        "model calls": statistics.mean(result.calls for result in results),
        "max_difference": max((a.picture - b.picture).abs().max().item() for a, b in pairs),
        "threads": torch.get_num_threads(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a ratio above 1 is faster than the host's own path."""
    lines = [
        f"Embedded model, {SIDE}x{SIDE} px, cfg {CFG:g}, {rows[0]['edits']} edits, {rows[0]['threads']} thread(s), "
        "ComfyUI with --use-pytorch-cross-attention.",
        "",
        "| way | model calls | times faster | PSNR (worst) dB | SSIM | success |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        exact = one["psnr"] >= 99
        decibels = "same" if exact else f"{one['psnr']:.1f} ({one['psnr_worst']:.1f})"
        lines.append(
            f"| {one['preset']} | {one['model calls']:.1f} | {one['ratio']:.2f} | {decibels} | {one['ssim']:.4f} | "
            f"{100 * one['success']:.1f} % |"
        )
    return "\n".join(lines)


COLOURS: dict[str, tuple[str, str]] = {
    "preset": ("Kontext Accelerate", "C0"),
    "fewer steps": ("fewer Euler steps", "C1"),
    "multistep": ("second-order multistep", "C2"),
    "EasyCache": ("EasyCache", "C3"),
    "custom": ("references kept, regions", "C4"),
}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against times faster, one colour a kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for kind, (label, colour) in COLOURS.items():
        chosen = [one for one in rows if kind_of(one) == kind and one["psnr"] < 99]
        chosen.sort(key=lambda one: one["ratio"])
        style = "o-" if kind in ("preset", "fewer steps", "multistep") else "o"
        axes.plot([r["ratio"] for r in chosen], [r["psnr"] for r in chosen], style, color=colour, label=label)
    axes.set(xlabel="times faster than ComfyUI's 28 steps", ylabel="PSNR to its picture, dB", xscale="log")
    axes.set_xticks([1, 2, 3, 4, 6, 8], labels=["1", "2", "3", "4", "6", "8"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def kind_of(one: dict[str, Any]) -> str:
    """Plans that forecast and keep nothing lie on the presets' line."""
    return "preset" if one["preset"] in FRONTIER else one["kind"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, help="how many (default: 112)")
    parser.add_argument("--quick", action="store_true", help="14 edits and fewer ways")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = measure(options.quick, options.edits)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
