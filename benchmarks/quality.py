"""Quality against speed on the embedded model: every preset and its rivals, on the same edits as the host's own path.

    python3 manage.py exec -- python -m benchmarks.quality --edits 104 --plot benchmarks/quality.png

One process, edit by edit, all ways interleaved. The host's own path is ComfyUI's KSampler (euler, simple) on
ModelSamplingFlux with references, 28 steps; the others are compared with its picture of the same seed, in time and in
PSNR and SSIM. An edit counts as a success by the rule of `training.evaluate`. Rivals are fewer steps, a second-order
multistep solver with equally many model calls, and ComfyUI's EasyCache. Twice as many edits at the model's training
size, and edits with two and with four references, follow as separate cases.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kontext_core.acceleration.settings import PRESETS, Settings
from kontext_core.embedded.autoencoder import SCALE, SHIFT
from kontext_core.solvers import multistep
from batch import inprocess  # starts ComfyUI: its modules can be imported from here on
from training.editor import Editor
from benchmarks.frontier import Curve, Lead, Point, lead, psnr_at
from training.evaluate import as_tensor, held_out_edits, judge, psnr
from training.instructions import TASKS, Edit

import comfy.sample
import comfy.samplers
import comfy.utils
import nodes
from comfy.cli_args import LatentPreviewMethod, args
from skimage.metrics import structural_similarity

STEPS, CFG, GUIDANCE = 28, 1.0, 2.5
SIDE, TRAINED = 256, 128  # px; most of the training used the second
SEED = 11  # of the edits
SAME = 99  # dB
FRONTIER = {f"{decibels} dB": Settings(fidelity=decibels) for decibels in (46, 22)}
FEWER_BY = {"fewer steps": "euler", "multistep": "multistep"}  # kind of rival -> solver
FEW = (10, 7, 5, 4, 3)  # model calls of rivals, in every table
FEWER = {"fewer steps": (18, 10, 7, 5, 4, 3), "multistep": (14, 10, 7, 5, 4, 3)}  # in the first one
THRESHOLDS = (0.2, 0.05)  # of EasyCache: its default, and one that suits this model better
RIVALS = (*FEWER_BY, "EasyCache")
SELDOM = 4  # "exact" and EasyCache, which are slow and either exact or far off, run on every SELDOM-th edit
SPEEDS = (1.5, 2, 3, 4, 5, 6, 8)  # speedups at which our best and the rivals' best are compared


class Way(NamedTuple):
    """One way from noise to latent."""

    name: str
    kind: str  # host, preset, custom, or one of RIVALS
    model: Any
    steps: int = STEPS
    solver: str = "euler"
    every: int = 1  # runs on every so many-th edit


class Inputs(NamedTuple):
    """An edit as inputs for the host's samplers."""

    edit: Edit
    positive: list
    negative: list
    seed: int
    side: int  # px
    ceiling: Tensor  # the right picture after the autoencoder


class Case(NamedTuple):
    """The edits of one table."""

    name: str
    edits: list[Edit]
    side: int
    ways: list[Way]


class Calls:
    """Counts evaluations of the host's FLUX by either forward, as calls of its last layer."""

    def __init__(self, model: Any):
        self.count = 0
        last = model.model.diffusion_model.final_layer.linear
        last.register_forward_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def measure(quick: bool, edits: int | None = None) -> list[dict[str, Any]]:
    """One row per way and case, the host's own path first in each."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    args.preview_method = LatentPreviewMethod.NoPreviews  # each would take two fifths of a step at 256x256 px
    model = inprocess.pack_module("host.loading").load_embedded_model()  # EasyCache needs its safeguards
    editor, calls = Editor.shipped(), Calls(model)
    rows = []
    with torch.inference_mode():
        for case in cases(model, quick, edits or (len(TASKS) if quick else 8 * (len(TASKS) - 1))):
            inputs = [inputs_of(editor, edit, seed, case.side) for seed, edit in enumerate(case.edits)]
            for way in case.ways[:2]:
                run(way, inputs[0])  # warm-up
            results: dict[str, dict[int, Result]] = {way.name: {} for way in case.ways}
            for i, one in enumerate(inputs):
                for way in case.ways:
                    if i % way.every == 0:
                        results[way.name][i] = evaluate(way, one, editor, calls)
            host = results[case.ways[0].name]
            for way in case.ways:
                mine = results[way.name]
                rows.append(row(case, way, [*mine.values()], [host[i] for i in mine]))
    return rows


def cases(model: Any, quick: bool, count: int) -> list[Case]:
    """All ways at 256x256 px; fewer at the trained size; edits with two and with four references."""
    few = max(count // 26, 1)
    pairs = held_out_edits(SEED, 2 * few, TRAINED, TRAINED)
    pairs = [edit for edit in pairs if len(edit.sources) == 2][: 2 * few]
    fours = [replace(a, sources=(*b.sources, *a.sources)) for a, b in zip(pairs, reversed(pairs), strict=True)][:few]
    large, plain = at_side(model, SIDE), at_side(model, TRAINED)
    host = Way("host", "host", plain)
    kept = {name: PRESETS[name] for name in ("quality", "balanced", "fast")}
    presets = [host, *ours(plain, kept, "preset")]
    return [
        Case(f"{SIDE}x{SIDE} px", chosen_edits(count, SIDE), SIDE, ways_of(large, quick)),
        Case(f"{TRAINED}x{TRAINED} px", chosen_edits(2 * count, TRAINED), TRAINED, [*presets, *fewer(plain)]),
        Case("two references", pairs, TRAINED, [*presets, *fewer(plain)]),
        Case("four references", fours, TRAINED, [*presets, *fewer(plain)]),
    ]


def ways_of(shifted: Any, quick: bool) -> list[Way]:
    exact, *presets = ours(shifted, PRESETS, "preset")
    ways = [Way("host", "host", shifted), exact._replace(every=SELDOM), *presets]
    ways += ours(shifted, {} if quick else FRONTIER, "custom")
    ways += fewer(shifted) if quick else fewer(shifted, FEWER)
    for threshold in THRESHOLDS:
        (easy,) = nodes.NODE_CLASS_MAPPINGS["EasyCache"].execute(shifted, threshold, 0.15, 0.95, False).result
        ways.append(Way(f"EasyCache, threshold {threshold:g}", "EasyCache", easy, every=SELDOM))
    return ways


def fewer(shifted: Any, calls: dict[str, tuple[int, ...]] | None = None) -> list[Way]:
    """The solvers with fewer steps, one model call each; without `calls` a few of them."""
    return [
        Way(f"{solver}, {steps} steps", kind, shifted, steps, solver)
        for kind, solver in FEWER_BY.items()
        for steps in (calls[kind] if calls else FEW)
    ]


def at_side(model: Any, side: int) -> Any:
    """The model with the schedule's shift for pictures of `side` px."""
    shifts = {"max_shift": 1.15, "base_shift": 0.5, "width": side, "height": side}
    (shifted,) = nodes.NODE_CLASS_MAPPINGS["ModelSamplingFlux"]().patch(model, **shifts)
    return shifted


def ours(model: Any, plans: dict[str, Settings], kind: str) -> list[Way]:
    return [Way(name, kind, accelerated(model, settings)) for name, settings in plans.items()]


def accelerated(model: Any, settings: Settings) -> Any:
    """The output of KontextAccelerate, with any settings."""
    return inprocess.pack_module("host.acceleration").accelerate(model, settings)


def chosen_edits(count: int, side: int) -> list[Edit]:
    """`count` held-out edits that cycle through all tasks."""
    per_task = -(-count // len(TASKS))
    edits = held_out_edits(SEED, per_task, side, side)
    return [edits[task * per_task + i] for i in range(per_task) for task in range(len(TASKS))][:count]


def inputs_of(editor: Editor, edit: Edit, seed: int, side: int) -> Inputs:
    text, pooled = editor.text_encoder(torch.tensor([editor.vocabulary.encode(edit.instruction)[0]]))
    pictures = [as_tensor(picture, side, side)[None] for picture in edit.sources]
    values: dict[str, Any] = {"pooled_output": pooled, "guidance": GUIDANCE}
    if pictures:
        values["reference_latents"] = [editor.encode(picture) / SCALE + SHIFT for picture in pictures]
    nothing = values | {"pooled_output": torch.zeros_like(pooled)}
    ceiling = editor.decode(editor.encode(as_tensor(edit.target, side, side)[None]))[0]
    return Inputs(edit, [[text, values]], [[torch.zeros_like(text), nothing]], seed, side, ceiling)


def run(way: Way, inputs: Inputs) -> Tensor:
    """The latent (1, 16, h, w), raw."""
    latent = torch.zeros(1, 16, inputs.side // 8, inputs.side // 8)
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
    return Result(picture, seconds, calls.count, judge(inputs.edit, picture, inputs.ceiling).success)


def row(case: Case, way: Way, results: list[Result], host: list[Result]) -> dict[str, Any]:
    pairs = list(zip(results, host, strict=True))
    decibels = [min(psnr(a.picture, b.picture), 100.0) for a, b in pairs]
    similar = [
        structural_similarity(a.picture.numpy(), b.picture.numpy(), channel_axis=0, data_range=1.0) for a, b in pairs
    ]
    return {
        "preset": way.name,
        "kind": way.kind,
        "case": case.name,
        "geometry": "embedded",
        "side": case.side,
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
    """Markdown: one table per case, the first followed by the leads; a ratio above 1 is faster than the host's path."""
    parts = []
    for name in dict.fromkeys(one["case"] for one in rows):
        chosen = [one for one in rows if one["case"] == name]
        parts.append(case_table(chosen))
        if len(parts) == 1:
            parts += [lead_table(chosen), speed_table(chosen)]
    return "\n\n".join(parts)


def case_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Embedded model, {rows[0]['case']}, cfg {CFG:g}, {rows[0]['threads']} thread(s), ComfyUI "
        "with --use-pytorch-cross-attention.",
        "",
        "| way | edits | model calls | times faster | PSNR (worst) dB | SSIM | success |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        decibels = "same" if one["psnr"] >= SAME else f"{one['psnr']:.1f} ({one['psnr_worst']:.1f})"
        lines.append(
            f"| {one['preset']} | {one['edits']} | {one['model calls']:.1f} | {one['ratio']:.2f} | {decibels} | "
            f"{one['ssim']:.4f} | {100 * one['success']:.1f} % |"
        )
    exact = [one["max_difference"] for one in rows if one["preset"] == "exact"]
    lines += ["", f"*Exact* differs from the host's picture by {exact[0]:.1e} at most, of 1."] if exact else []
    return "\n".join(lines)


def curves(rows: list[dict[str, Any]], kinds: Iterable[str]) -> list[Curve]:
    """The points of each kind, except those that skip nothing."""
    found = []
    for kind in kinds:
        chosen = [one for one in rows if kind_of(one) == kind and one["psnr"] < SAME]
        found.append([Point(one["preset"], one["ratio"], one["psnr"]) for one in chosen])
    return found


def lead_table(rows: list[dict[str, Any]]) -> str:
    """The speedup of each of our plans over the best rival at its fidelity."""
    rivals = curves(rows, RIVALS)
    lines = [
        "At equal fidelity. Between two points of a rival, the logarithm of its speed is taken as linear in PSNR; "
        "where none is as exact, the most exact one is compared.",
        "",
        "| plan | PSNR dB | times faster | best rival there | its times faster | lead |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [lead_line(lead(point, rivals)) for curve in curves(rows, ("preset",)) for point in curve]
    return "\n".join(lines)


def lead_line(one: Lead) -> str:
    point, rival = one.point, one.rival
    note = {"": "", ">": f", only {rival.psnr:.1f} dB", "<": f", still {rival.psnr:.1f} dB"}[one.bound]
    times = f"{one.bound} {one.times:.2f}".strip()
    return f"| {point.name} | {point.psnr:.1f} | {point.ratio:.2f} | {rival.name}{note} | {rival.ratio:.2f} | {times} |"


def speed_table(rows: list[dict[str, Any]]) -> str:
    """The best fidelity of both sides at equal speeds."""
    sides = [[psnr_at(speed, curves(rows, kinds)) for speed in SPEEDS] for kinds in (("preset",), RIVALS)]
    lines = [
        "At equal speed: the best PSNR, dB, of our plans that forecast and of all rivals.",
        "",
        "| times faster | " + " | ".join(f"{speed:g}" for speed in SPEEDS) + " |",
        "|" + " --- |" * (1 + len(SPEEDS)),
    ]
    for name, values in zip(("Kontext Accelerate", "rivals"), sides, strict=True):
        cells = ("-" if value is None else f"{value:.1f}" for value in values)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLOURS: dict[str, tuple[str, str]] = {
    "preset": ("Kontext Accelerate", "C0"),
    "fewer steps": ("fewer Euler steps", "C1"),
    "multistep": ("second-order multistep", "C2"),
    "EasyCache": ("EasyCache", "C3"),
    "custom": ("with active tokens", "C4"),
}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against speedup, one colour per kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    first = [one for one in rows if one["case"] == rows[0]["case"]]
    for kind, (label, colour) in COLOURS.items():
        (curve,) = curves(first, (kind,))
        curve.sort(key=lambda point: point.ratio)
        axes.plot([p.ratio for p in curve], [p.psnr for p in curve], "o-", color=colour, label=label)
    axes.set(xlabel="times faster than ComfyUI's 28 steps", ylabel="PSNR to its picture, dB", xscale="log")
    axes.set_xticks([1, 2, 3, 4, 6, 8], labels=["1", "2", "3", "4", "6", "8"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def kind_of(one: dict[str, Any]) -> str:
    """Plans that forecast without a KV cache belong to the presets' curve."""
    return "preset" if one["preset"] in FRONTIER else one["kind"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, help="how many at 256 px (default: 104); twice as many at 128 px")
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
