"""What the preserving nodes are worth: `python -m benchmarks.preservation [--edits 210] [--pairs 24] [--json FILE]`.

Generated ground truth: pictures whose true change, shift, scale and drift of colours are known, with the noise of the
embedded autoencoder on them. End to end: held-out local edits by the embedded model, with and without preserving, by
the rule of `training.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from kontext_core.colour import delta_e_2000, fit_colours, lab
from kontext_core.preservation import find_change, preserve
from kontext_core.registration import Similarity, register, warp
from training.editor import Editor
from training.evaluate import as_tensor, held_out_edits, judge, outputs_of, psnr
from training.photographs import texture

LOCAL = ("recolour", "remove", "add", "replace", "move", "resize", "letter")
SIDE = 384  # px of the generated pictures
CHANGED = 0.04  # a pixel that differs by more did change


def textured(rng: random.Random, side: int = SIDE) -> Tensor:
    """Clouds with fine detail, (3, side, side): like a photograph in its spectrum."""
    picture = torch.from_numpy(texture(rng, side, side)).permute(2, 0, 1)
    grain = torch.rand(1, 1, side // 4, side // 4, generator=generator(rng)) - 0.5
    return (picture + 0.25 * interpolate(grain, (side, side), mode="bicubic")[0]).clamp(0, 1)


def generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(31))


def blob(rng: random.Random, share: float, side: int = SIDE) -> Tensor:
    """A region of that share of the picture, (side, side) of bool."""
    field = interpolate(torch.randn(1, 1, 5, 5, generator=generator(rng)), (side, side), mode="bicubic")[0, 0]
    return field > field.flatten().quantile(1 - share)


def drifted(rng: random.Random, picture: Tensor, strength: float, where: Tensor | None = None) -> Tensor:
    """Gamma and offset that vary smoothly over the picture, moving it (or `where`) by a mean dE2000 of `strength`."""
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
    """A picture through the embedded autoencoder."""
    return editor.decode(editor.encode(picture[None]))[0]


def true_change(before: Tensor, after: Tensor) -> Tensor:
    """What differs, holes filled: (h, w) of bool."""
    different = ((before - after).abs().amax(0) > CHANGED).numpy()
    closed = ndimage.binary_closing(different, iterations=2) | different
    return torch.from_numpy(ndimage.binary_fill_holes(closed))


# Generated ground truth


def masks(editor: Editor, pairs: int) -> dict[str, list[float]]:
    """IoU of the change mask on textures, on the world enlarged three times, and on the world as it is."""
    rows: dict[str, list[float]] = {"textures, 384 px": [], "world, 384 px": [], "world, 128 px": []}
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


def iou(editor: Editor, rng: random.Random, before: Tensor, after: Tensor) -> float:
    truth = true_change(before, after)
    found = find_change(before, drifted(rng, through(editor, after), 3.0)).core
    return float((found & truth).sum() / (found | truth).sum().clamp(min=1))


def registrations(editor: Editor, pairs: int) -> dict[str, list[float]]:
    """Errors of shift (px) and scale with 30 % changed; the confidence of unrelated pictures."""
    rows: dict[str, list[float]] = {"shift": [], "scale": [], "shift, noise": [], "scale, noise": [], "unrelated": []}
    for index in range(pairs):
        rng = random.Random(100 + index)
        original, other = textured(rng), textured(rng)
        angle, reach = rng.uniform(0, math.tau), rng.uniform(0, 40)
        true = Similarity(reach * math.cos(angle), reach * math.sin(angle), rng.uniform(0.95, 1.05))
        back = Similarity(-true.x / true.scale, -true.y / true.scale, 1 / true.scale)
        edited = warp(torch.where(blob(rng, 0.3), other, original), back)[0].clamp(0, 1)
        for name, picture in (("", edited), (", noise", drifted(rng, through(editor, edited), 3.0))):
            found = register(original, picture)
            miss = math.hypot(found.similarity.x - true.x, found.similarity.y - true.y)
            rows["shift" + name].append(miss if found.accepted else math.inf)
            rows["scale" + name].append(abs(found.similarity.scale - true.scale))
        rows["unrelated"].append(register(original, other).confidence)
    return rows


def colours(editor: Editor, pairs: int) -> dict[str, list[float]]:
    """Mean dE2000 on unchanged pixels with 30 % changed: before, after, and the autoencoder's own part of it."""
    rows: dict[str, list[float]] = {"before": [], "after": [], "noise alone": [], "after, noise": []}
    for index in range(pairs):
        rng = random.Random(200 + index)
        original, other, changed = textured(rng), textured(rng), blob(rng, 0.3)
        after = torch.where(changed, other, original)
        edited = drifted(rng, after, 5.0, ~changed)
        noisy = through(editor, edited)
        rows["before"].append(error(original, edited, ~changed))
        for name, picture in (("after", edited), ("after, noise", noisy)):
            fitted = fit_colours(original, picture, (~changed).float()).over(picture).clamp(0, 1)
            rows[name].append(error(original, fitted, ~changed))
        rows["noise alone"].append(error(edited, noisy, ~changed))
    return rows


# End to end


def edits(editor: Editor, count: int) -> dict[str, Any]:
    """Held-out local edits by the embedded model: success and what is kept, without and with preserving."""
    chosen = [edit for edit in held_out_edits(31, math.ceil(count / len(LOCAL)), 128, 128) if edit.task in LOCAL]
    outputs = outputs_of(editor, chosen, 128, 128, seed=31, steps=28, cfg=2.0)
    rows = []
    for edit, output in zip(chosen, outputs, strict=True):
        before, right = as_tensor(edit.sources[-1], 128, 128), as_tensor(edit.target, 128, 128)
        ceiling = through(editor, right)
        kept = preserve(before, output)
        outside = ~true_change(before, right)
        exact = (kept.picture == before).all(0)
        rows.append(
            {
                "task": edit.task,
                "plain": judge(edit, output, ceiling).success,
                "kept": judge(edit, kept.picture, ceiling).success,
                "psnr": psnr(output, before, outside.expand(3, -1, -1)),
                "exact": float(exact[outside].float().mean()),
                "in mask": bool(torch.equal(kept.picture[:, kept.mask == 0], before[:, kept.mask == 0])),
                "global": kept.is_global,
                "moved": kept.moved,
            }
        )
    return {"rows": rows}


def speed() -> dict[str, float]:
    """Seconds of wall and of processor for 12 megapixels."""
    rng = random.Random(1)
    original = interpolate(textured(rng, 1000)[None], (3000, 4000), mode="bilinear")[0].clamp(0, 1)
    edited = original.clone()
    edited[:, 800:1600, 1000:2000] = 1 - edited[:, 800:1600, 1000:2000]
    edited = edited.roll(9, 2)
    started, used = time.perf_counter(), time.process_time()
    preserve(original, edited)
    return {"wall": time.perf_counter() - started, "processor": time.process_time() - used}


def measure(pairs: int, count: int) -> dict[str, Any]:
    editor = Editor.shipped()
    with torch.inference_mode():
        return {
            "masks": masks(editor, pairs),
            "registration": registrations(editor, pairs),
            "colours": colours(editor, pairs),
            "edits": edits(editor, count)["rows"] if count else [],
            "speed": speed(),
        }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| change mask, IoU | mean | worst | pictures |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {mean(v):.3f} | {min(v):.2f} | {len(v)} |" for name, v in results["masks"].items()]
    lines += ["", "| registration, 30 % changed | mean | worst |", "| --- | --- | --- |"]
    lines += [f"| {name} | {mean(v):.5f} | {max(v):.5f} |" for name, v in results["registration"].items()]
    lines += ["", "| colours, dE2000 where nothing changed | mean | worst |", "| --- | --- | --- |"]
    lines += [f"| {name} | {mean(v):.2f} | {max(v):.2f} |" for name, v in results["colours"].items()]
    if rows := results["edits"]:
        lines += ["", "| local edits | right | right, preserved | PSNR outside | bit-identical outside |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for task in [*dict.fromkeys(row["task"] for row in rows), "all"]:
            part = [row for row in rows if task in ("all", row["task"])]
            lines.append(
                f"| {task}, n = {len(part)} | {100 * mean(r['plain'] for r in part):.1f} % | "
                f"{100 * mean(r['kept'] for r in part):.1f} % | {mean(r['psnr'] for r in part):.1f} dB | "
                f"{100 * mean(r['exact'] for r in part):.1f} % |"
            )
        lines.append(
            f"\noutside its own mask bit-identical: {sum(r['in mask'] for r in rows)} of {len(rows)} "
            f"(called global: {sum(r['global'] for r in rows)}, moved: {sum(r['moved'] for r in rows)})"
        )
    lines.append("\n12 megapixels: {wall:.1f} s, {processor:.1f} s of processor".format(**results["speed"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=210, help="held-out local edits by the embedded model; 0: none")
    parser.add_argument("--pairs", type=int, default=28, help="generated pictures for each figure")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = measure(options.pairs, options.edits)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
