"""Measure the preservation nodes: `python3 manage.py bench preservation [--quick] [--write] [--json FILE]`.

Generated ground truth: pictures with known change, shift, scale and colour drift, and the noise of the embedded
autoencoder. End to end: held-out local edits by the embedded model, with and without preservation, by the rule of
`training.evaluate`; and the same edits by ComfyUI's own nodes, with and without FluxKontextImageScale. Speed and
memory: the node on 12 megapixels, in a separate process (`python -m benchmarks.preservation`).
"""

from __future__ import annotations

import json
import math
import random
import resource
import subprocess
import sys
import time
from statistics import mean
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from kontext_core.colour import delta_e_2000, fit_colours, lab, oklab
from kontext_core.embedded import load_transformer
from kontext_core.embedded.autoencoder import SCALE, SHIFT
from kontext_core.preservation import find_change, preserve
from kontext_core.registration import Similarity, blur, register, warp
from batch import ROOT, inprocess  # starts ComfyUI: its modules can be imported from here on
from training.editor import Editor
from training.evaluate import as_tensor, held_out_edits, judge, outputs_of, psnr
from training.instructions import Edit
from training.photographs import texture

import comfy.sd
import comfy.utils
import nodes

PAIRS, EDITS = 28, 210  # generated pictures per figure; edits
QUICK = 2, 7
STEPS, CFG, GUIDANCE, BATCH = 28, 1.0, 2.5, 32
SEED, SMALL = 31, 128  # of the edits; px, the training size of the embedded model
SIZES = ((1920, 1080), (1080, 1350), (3000, 2000), (511, 770), (64, 64))
LOCAL = ("recolour", "remove", "add", "replace", "move", "resize", "letter")
NOISY = ", with noise and drift"
SIDE = 384  # px of the generated pictures
LEVELS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 25)  # thresholds in Oklab x 100
CHANGED = 0.04  # smallest difference of a changed pixel


def textured(rng: random.Random, side: int = SIDE) -> Tensor:
    """Clouds with fine detail, (3, side, side), with a spectrum like a photograph's."""
    picture = torch.from_numpy(texture(rng, side, side)).permute(2, 0, 1)
    grain = torch.rand(1, 1, side // 4, side // 4, generator=generator(rng)) - 0.5
    return (picture + 0.25 * interpolate(grain, (side, side), mode="bicubic")[0]).clamp(0, 1)


def generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(31))


def blob(rng: random.Random, share: float, side: int = SIDE) -> Tensor:
    """A region that covers that fraction of the picture, (side, side) of bool."""
    field = interpolate(torch.randn(1, 1, 5, 5, generator=generator(rng)), (side, side), mode="bicubic")[0, 0]
    return field > field.flatten().quantile(1 - share)


def drifted(rng: random.Random, picture: Tensor, strength: float, where: Tensor | None = None) -> Tensor:
    """Smoothly varying gamma and offset that change the picture (or `where`) by a mean dE2000 of `strength`."""
    where = torch.ones_like(picture[0], dtype=torch.bool) if where is None else where
    fields = interpolate(
        torch.randn(1, 6, 3, 3, generator=generator(rng)), picture.shape[1:], mode="bicubic", align_corners=True
    )[0]
    low, high, result = 0.0, 1.0, picture
    for _ in range(12):
        middle = (low + high) / 2
        gamma, offset = 1 + 0.3 * middle * fields[:3], 0.15 * middle * fields[3:]
        result = (picture.clamp(min=1e-4) ** gamma + offset).clamp(0, 1)
        weaker = error(picture, result, where) < strength
        low, high = (middle, high) if weaker else (low, middle)
    return result


def error(a: Tensor, b: Tensor, where: Tensor) -> float:
    return float(delta_e_2000(lab(a), lab(b))[where].mean())


def through(editor: Editor, picture: Tensor) -> Tensor:
    """A picture encoded and decoded by the embedded autoencoder."""
    return editor.decode(editor.encode(picture[None]))[0]


def true_change(before: Tensor, after: Tensor) -> Tensor:
    """The difference with holes filled: (h, w) of bool."""
    return solid((before - after).abs().amax(0) > CHANGED)


def solid(different: Tensor) -> Tensor:
    """A map (h, w) of bool without small gaps and holes."""
    closed = ndimage.binary_closing(different.numpy(), iterations=2) | different.numpy()
    return torch.from_numpy(ndimage.binary_fill_holes(closed))


# Generated ground truth


def masks(editor: Editor, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """IoU of the change mask and its bound: textures, the world enlarged three times, and the world at its own size."""
    rows: dict[str, list[tuple[float, float]]] = {"textures, 384 px": [], "world, 384 px": [], "world, 128 px": []}
    rng = random.Random(11)
    for _ in range(pairs):
        before, other = textured(rng), textured(rng)
        after = torch.where(blob(rng, rng.uniform(0.05, 0.3)), other, before)
        rows["textures, 384 px"].append(iou(editor, rng, before, after))
    edits = [edit for edit in held_out_edits(21, math.ceil(pairs / len(LOCAL)), 128, 128) if edit.task in LOCAL]
    for edit in edits:
        before, after = as_tensor(edit.sources[-1], 128, 128), as_tensor(edit.target, 128, 128)
        rows["world, 128 px"].append(iou(editor, rng, before, after))
        before, after = (
            interpolate(picture[None], scale_factor=3, mode="bicubic")[0].clamp(0, 1) for picture in (before, after)
        )
        rows["world, 384 px"].append(iou(editor, rng, before, after))
    return rows


def iou(editor: Editor, rng: random.Random, before: Tensor, after: Tensor) -> tuple[float, float]:
    """IoU of the detected change under noise and drift; and of the best threshold (chosen by the truth) under noise."""
    truth, noisy = true_change(before, after), through(editor, after)
    found = find_change(before, drifted(rng, noisy, 3.0)).core
    distance = blur(oklab(before) - oklab(noisy), 0.5).square().sum(0).sqrt()
    return overlap(found, truth), max(overlap(solid(distance > level), truth) for level in LEVELS)


def overlap(found: Tensor, truth: Tensor) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum().clamp(min=1))


def registrations(editor: Editor, pairs: int) -> dict[str, list[float]]:
    """Errors of shift (px) and scale with 30 % changed; the confidence of unrelated pictures."""
    names = (*(name + noise for noise in ("", NOISY) for name in ("shift, px", "scale")), "unrelated: confidence")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for index in range(pairs):
        rng = random.Random(100 + index)
        original, other = textured(rng), textured(rng)
        angle, reach = rng.uniform(0, math.tau), rng.uniform(0, 40)
        true = Similarity(reach * math.cos(angle), reach * math.sin(angle), rng.uniform(0.95, 1.05))
        back = Similarity(-true.x / true.scale, -true.y / true.scale, 1 / true.scale)
        edited = warp(torch.where(blob(rng, 0.3), other, original), back)[0].clamp(0, 1)
        for noise, picture in (("", edited), (NOISY, drifted(rng, through(editor, edited), 3.0))):
            found = register(original, picture)
            miss = math.hypot(found.similarity.x - true.x, found.similarity.y - true.y)
            rows["shift, px" + noise].append(miss if found.accepted else math.inf)
            rows["scale" + noise].append(abs(found.similarity.scale - true.scale))
        rows["unrelated: confidence"].append(register(original, other).confidence)
    return rows


def colours(editor: Editor, pairs: int) -> dict[str, list[float]]:
    """Mean dE2000 on unchanged pixels with 30 % changed: before, after, and the contribution of the autoencoder."""
    rows: dict[str, list[float]] = {"before": [], "after": [], "by the autoencoder alone": [], "after, with it": []}
    for index in range(pairs):
        rng = random.Random(200 + index)
        original, other, changed = textured(rng), textured(rng), blob(rng, 0.3)
        after = torch.where(changed, other, original)
        edited = drifted(rng, after, 5.0, ~changed)
        noisy = through(editor, edited)
        rows["before"].append(error(original, edited, ~changed))
        for name, picture in (("after", edited), ("after, with it", noisy)):
            fitted = fit_colours(original, picture, (~changed).float()).over(picture).clamp(0, 1)
            rows[name].append(error(original, fitted, ~changed))
        rows["by the autoencoder alone"].append(error(edited, noisy, ~changed))
    return rows


# End to end


def local_edits(count: int) -> list[Edit]:
    """`count` held-out local edits that cycle through the tasks."""
    per_task = math.ceil(count / len(LOCAL))
    edits = [edit for edit in held_out_edits(SEED, per_task, SMALL, SMALL) if edit.task in LOCAL]
    return [edits[task * per_task + i] for i in range(per_task) for task in range(len(LOCAL))][:count]


def preserved(editor: Editor, chosen: list[Edit]) -> list[dict[str, Any]]:
    """Edits by the embedded model: success and preserved part, without and with preservation."""
    outputs = outputs_of(editor, chosen, SMALL, SMALL, batch=BATCH, seed=SEED, steps=STEPS, cfg=CFG)
    rows = []
    for edit, output in zip(chosen, outputs, strict=True):
        before, right = as_tensor(edit.sources[-1], SMALL, SMALL), as_tensor(edit.target, SMALL, SMALL)
        ceiling = through(editor, right)
        result = preserve(before, output)
        outside = ~true_change(before, right)
        exact = (result.picture == before).all(0)
        rows.append(
            {
                "task": edit.task,
                "plain": judge(edit, output, ceiling).success,
                "kept": judge(edit, result.picture, ceiling).success,
                "psnr": psnr(output, before, outside.expand(3, -1, -1)),
                "exact plain": float((output == before).all(0)[outside].float().mean()),
                "exact": float(exact[outside].float().mean()),
                "in mask": bool(exact[result.mask == 0].all()),
                "share kept": float((result.mask == 0).float().mean()),
                "global": result.is_global,
                "moved": result.moved,
            }
        )
    return rows


def stock(editor: Editor, chosen: list[Edit]) -> list[dict[str, Any]]:
    """The same edits by ComfyUI's own nodes, at the pictures' own size: ReferenceLatent and KSampler."""
    inprocess.start()
    comfy.utils.set_progress_bar_enabled(False)
    model = comfy.sd.load_diffusion_model_state_dict(dict(load_transformer()[0]))
    parts = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    rows = [row for part in parts for row in stock_edits(editor, model, part)]
    same = {key: mean(row[key] for row in rows) for key in ("right", "psnr", "exact")}
    return [{"way": f"ReferenceLatent, KSampler ({STEPS} steps, cfg {CFG:g})", "edits": len(rows), **same}]


def stock_edits(editor: Editor, model: Any, chosen: list[Edit]) -> list[dict[str, Any]]:
    """One batch through the host's nodes."""
    before = torch.stack([as_tensor(edit.sources[-1], SMALL, SMALL) for edit in chosen])
    latent = editor.encode(before) / SCALE + SHIFT
    words = torch.tensor([editor.vocabulary.encode(edit.instruction)[0] for edit in chosen])
    text, pooled = editor.text_encoder(words)
    shifts = {"max_shift": 1.15, "base_shift": 0.5, "width": SMALL, "height": SMALL}
    (shifted,) = nodes.NODE_CLASS_MAPPINGS["ModelSamplingFlux"]().patch(model, **shifts)
    conditionings = []
    for context, vector in ((text, pooled), (torch.zeros_like(text), torch.zeros_like(pooled))):
        entry = [[context, {"pooled_output": vector, "guidance": GUIDANCE}]]
        conditionings += nodes.NODE_CLASS_MAPPINGS["ReferenceLatent"].execute(entry, {"samples": latent}).result
    empty = {"samples": torch.zeros_like(latent)}
    (result,) = nodes.common_ksampler(shifted, SEED, STEPS, CFG, "euler", "simple", *conditionings, empty)
    outputs = editor.decode((result["samples"] - SHIFT) * SCALE)
    return [stock_row(editor, *one) for one in zip(chosen, before, outputs, strict=True)]


def stock_row(editor: Editor, edit: Edit, before: Tensor, output: Tensor) -> dict[str, Any]:
    right = as_tensor(edit.target, SMALL, SMALL)
    outside = ~true_change(before, right)
    return {
        "right": judge(edit, output, through(editor, right)).success,
        "psnr": psnr(output, before, outside.expand(3, -1, -1)),
        "exact": float((output == before).all(0)[outside].float().mean()),
    }


def stock_sizes() -> dict[str, str]:
    """FluxKontextImageScale's output for pictures of some sizes."""
    inprocess.start()
    scale = nodes.NODE_CLASS_MAPPINGS["FluxKontextImageScale"].execute
    made = {f"{w}x{h}": scale(torch.zeros(1, h, w, 3)).result[0].shape for w, h in SIZES}
    return {given: f"{shape[2]}x{shape[1]}" for given, shape in made.items()}


# Speed


def speed() -> dict[str, float]:
    """Kontext Preserve on 12 megapixels, in this process: wall and CPU seconds, peak memory in GB.

    The edited picture is shifted by 7 px and changed in a rectangle, so that all steps have work.
    """
    inprocess.start()
    rng = random.Random(1)
    original = interpolate(textured(rng, 1000)[None], (3000, 4000), mode="bilinear").movedim(1, -1).clamp(0, 1)
    edited = original.roll(7, 2)
    edited[:, 800:1600, 1000:2000] = 1 - edited[:, 800:1600, 1000:2000]
    settings = {"align": "shift and scale", "colours": True, "paste": True}
    finding = {"sensitivity": 1.0, "grow": 0.4, "feather": 0.6}
    unit = 2**20 if sys.platform != "darwin" else 2**30  # ru_maxrss is in KiB, and on macOS in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    started, used = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        result = nodes.NODE_CLASS_MAPPINGS["KontextPreserve"].execute(original, edited, **settings, **finding).result
    return {
        "wall": time.perf_counter() - started,
        "processor": time.process_time() - used,
        "peak before": peak,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
        "threads": torch.get_num_threads(),
        "report": result[2],
    }


def speed_alone() -> dict[str, Any]:
    """The same in a separate process, where nothing else has used memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preservation"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(quick: bool) -> dict[str, Any]:
    """All measurements; with `quick` on smaller samples."""
    pairs, count = QUICK if quick else (PAIRS, EDITS)
    alone = speed_alone()
    editor, chosen = Editor.shipped(), local_edits(count)
    with torch.inference_mode():
        return {
            "masks": masks(editor, pairs),
            "registration": registrations(editor, pairs),
            "colours": colours(editor, pairs),
            "edits": preserved(editor, chosen),
            "stock": stock(editor, chosen),
            "stock sizes": stock_sizes(),
            "speed": alone,
        }


# Tables


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| change mask, IoU | mean | worst | best threshold, mean | pictures |", "| --- | --- | --- | --- | --- |"]
    for name, pairs in {**results["masks"], "all": sum(results["masks"].values(), [])}.items():
        found, bound = zip(*pairs, strict=True)
        lines.append(f"| {name} | {mean(found):.3f} | {min(found):.2f} | {mean(bound):.3f} | {len(pairs)} |")
    lines += ["", "| registration, 30 % changed | mean | worst | pictures |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {mean(v):.5f} | {max(v):.5f} | {len(v)} |" for name, v in results["registration"].items()]
    lines += ["", "| colours, dE2000 where nothing changed | mean | worst | pictures |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {mean(v):.2f} | {max(v):.2f} | {len(v)} |" for name, v in results["colours"].items()]
    lines += ["", *edits_table(results["edits"]), "", *stock_table(results), ""]
    spent = results["speed"]
    lines.append(
        f"Kontext Preserve on 12 megapixels: {spent['wall']:.1f} s, {spent['processor']:.1f} s of processor with "
        f"{spent['threads']} thread(s); memory of the whole process {spent['peak']:.2f} GB at most, "
        f"{spent['peak before']:.2f} GB of it before. It said: {'; '.join(spent['report'].splitlines())}."
    )
    return "\n".join(lines)


def edits_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| local edits | right | right, preserved | PSNR outside before | bit-identical outside, preserved |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for task in [*dict.fromkeys(row["task"] for row in rows), "all"]:
        part = [row for row in rows if task in ("all", row["task"])]
        lines.append(
            f"| {task}, n = {len(part)} | {100 * mean(r['plain'] for r in part):.1f} % | "
            f"{100 * mean(r['kept'] for r in part):.1f} % | {mean(r['psnr'] for r in part):.1f} dB | "
            f"{100 * mean(r['exact'] for r in part):.1f} % |"
        )
    local = [row for row in rows if not row["global"]]
    kept = f"{100 * mean(r['share kept'] for r in local):.1f} %" if local else "none"
    return [
        *lines,
        "",
        f"Bit-identical everywhere outside its own mask: {sum(r['in mask'] for r in rows)} of {len(rows)}. Called "
        f"global, and so not preserved: {sum(r['global'] for r in rows)}. Moved: {sum(r['moved'] for r in rows)}. "
        f"Share of the others' pixels kept: {kept}.",
    ]


def stock_table(results: dict[str, Any]) -> list[str]:
    lines = [f"| ComfyUI's own nodes, {SMALL}x{SMALL} px | edits | right | PSNR outside | bit-identical |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in results["stock"]:
        lines.append(
            f"| {row['way']} | {row['edits']} | {100 * row['right']:.1f} % | {row['psnr']:.1f} dB | "
            f"{100 * row['exact']:.1f} % |"
        )
    sizes = ", ".join(f"{given} becomes {made}" for given, made in results["stock sizes"].items())
    return [*lines, "", f"FluxKontextImageScale keeps no size: {sizes}."]


if __name__ == "__main__":
    print(json.dumps(speed()))
