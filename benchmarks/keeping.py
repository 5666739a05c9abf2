"""Preservation on photographs: `python3 manage.py bench keeping [--quick] [--write] [--json FILE]`.

Held-out photographs, edits whose visible change is known, and the drifts that editors add to the rest of a picture:
`benchmarks/edits.py`. A case is a photograph, an edit and a drift.
`python -m benchmarks.keeping ROWS.json SHEET.jpg` shows the twenty worst cases of a run's JSON: original, edit,
returned picture, preserved picture, true change and detected change.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from kontext_core.colour import delta_e_2000, lab
from kontext_core.looks import fit_look
from kontext_core.preservation import MATCH, Preserved, align, preserve
from kontext_core.registration import blur

from .edits import DRIFTS, GLOBAL, LOCAL, case, drifted, seen
from .photographs import PHOTOGRAPHS, fetch, half, longest_side

CASES, ENLARGED, QUICK = 120, 24, 8  # cases at SIZES, at LARGE, and in a quick run
SIZES, LARGE = (512, 768, 1024), (2048, 3000, 4000)  # px, the longer sides
Row = dict[str, Any]


def cases(figures: bool, sizes: tuple[int, ...] = SIZES) -> list[tuple[str, str, str, int]]:
    """Photograph, edit, drift, longer side: in each prefix of the list, drifts and edits are about equally frequent."""
    found = []
    for index, path in enumerate(half(PHOTOGRAPHS, figures)):
        for number, drift in enumerate(DRIFTS):
            turn = index + number
            edits = [list(LOCAL)[(turn + number // len(LOCAL)) % len(LOCAL)]]
            if number % 3 == 0:
                edits.append("nothing")
            if number % 4 == 0:
                edits.append(list(GLOBAL)[(index + number // 4) % len(GLOBAL)])
            found += [(path, edit, drift, sizes[turn % len(sizes)]) for edit in edits]
    random.Random(5).shuffle(found)
    return found


def large_cases(figures: bool) -> list[tuple[str, str, str, int]]:
    """Cases at LARGE, from photographs that have as many pixels."""
    return [one for one in cases(figures, LARGE) if longest_side(one[0]) >= one[3]]


def pictures(path: str, edit: str, drift: str, longest: int, figures: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The original, the edit without drift, and the picture that an editor returns."""
    original, clean = case(path, "text" if edit == "nothing" else edit, longest, figures)
    if edit == "nothing":
        clean = original
    return original, clean, drifted(drift, random.Random(f"{path} {edit} {drift}"), clean)


def measured(path: str, edit: str, drift: str, longest: int, figures: bool) -> Row:
    """The row of one case: figures, and whether the edit was classified correctly as local or global."""
    original, clean, edited = pictures(path, edit, drift, longest, figures)
    started = time.process_time()
    kept = preserve(original, edited)
    row: Row = {"photograph": path, "edit": edit, "drift": drift, "longest": longest, "figures": figures}
    row |= {"seconds": time.process_time() - started, "global": kept.is_global}
    same = (kept.picture == original).all(0)
    if edit not in LOCAL:
        return row | {"exact": float(same.float().mean())}
    truth = seen(original, clean)
    row["iou"], row["exact"] = overlap(core_of(kept), truth), float(same[~truth].float().mean())
    known = informed(original, clean, edited, truth)
    row["inside"], row["bound"] = (off(one, clean, truth) for one in (kept.picture, known))
    return row | {"seam": seam(kept.picture, clean, kept.mask > 0.5)}


def off(picture: Tensor, clean: Tensor, where: Tensor) -> float:
    """The mean difference, of 255, inside a map (h, w) of bool."""
    return float((picture - clean).abs()[:, where].mean()) * 255 if where.any() else 0.0


def informed(original: Tensor, clean: Tensor, edited: Tensor, truth: Tensor) -> Tensor:
    """The edited picture, aligned outside the true change, its look fitted to the true edit: a bound of a look."""
    moved = align(original, edited, (~truth).float())[0]
    look = fit_look(moved, clean, torch.ones_like(clean[0], dtype=torch.bool), MATCH)
    return look.over(moved, (0, 0, *clean.shape[1:]))


def core_of(kept: Preserved) -> Tensor:
    """The detected change, at the picture's size."""
    if kept.change is None or kept.is_global:
        return kept.mask > 0
    core = interpolate(kept.change.core[None, None].float(), kept.mask.shape, mode="nearest")[0, 0] > 0
    return core & (kept.mask > 0)


def overlap(found: Tensor, truth: Tensor) -> float:
    """Intersection over union; 1 if both are empty."""
    return float((found & truth).sum() / (found | truth).sum()) if (found | truth).any() else 1.0


def seam(picture: Tensor, clean: Tensor, mask: Tensor) -> float:
    """dE2000 across the edge of a mask (h, w) of bool, in excess of the undrifted edit's.

    The mean, along the edge, of the difference between its two sides, each within 1 % of the longer side.
    """
    edge = mask & torch.from_numpy(~ndimage.binary_erosion(mask.numpy(), border_value=1))
    if not edge.any():
        return 0.0
    reach = max(picture.shape[1:]) * 0.01 / 2
    weights = blur(torch.stack((mask, ~mask)).float(), reach).clamp(min=1e-4)
    steps = []
    for one in (picture, clean):
        inner, outer = (blur(one * side, reach) / weight for side, weight in zip((mask, ~mask), weights, strict=True))
        steps.append(delta_e_2000(lab(inner), lab(outer))[edge])
    return float((steps[0] - steps[1]).clamp(min=0).mean())


def measure(quick: bool) -> dict[str, Any]:
    """The rows of the held-out half; a few of them with `quick`."""
    fetch()
    chosen = cases(True)[:QUICK] if quick else cases(True)[:CASES] + large_cases(True)[:ENLARGED]
    with torch.inference_mode():
        return {"rows": [measured(*one, True) for one in chosen]}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown: all, by drift, by edit, and the large pictures."""
    rows = results["rows"]
    local = [row for row in rows if row["edit"] in LOCAL]
    head = "| | IoU | bit-identical outside | inside, of 255 | bound of inside | seam, dE2000 "
    head += "| taken for global | cases |"
    lines = [head, "|" + " --- |" * 8, summary("all", local)]
    for key, names in (("drift", DRIFTS), ("edit", LOCAL)):
        parts = {name: [row for row in local if row[key] == name] for name in names}
        lines += [summary(name, part) for name, part in parts.items() if part]
    large = [row for row in local if row["longest"] in LARGE]
    lines += [summary(f"{LARGE[0]} to {LARGE[-1]} px", large)] if large else []
    every, nothing = ([row for row in rows if row["edit"] in kinds] for kinds in (GLOBAL, ("nothing",)))
    return "\n".join(
        [
            *lines,
            "",
            f"Global edits taken for local: {sum(not row['global'] for row in every)} of {len(every)}. Drift alone: "
            f"{sum(row['exact'] == 1 for row in nothing)} of {len(nothing)} come back bit for bit, "
            f"{sum(row['global'] for row in nothing)} are taken for a global edit. "
            f"{mean(row['seconds'] for row in rows):.1f} s of processor a case.",
        ]
    )


def summary(name: str, rows: list[Row]) -> str:
    """A row of a table."""
    means = [mean(row[key] for row in rows) for key in ("iou", "exact", "inside", "bound", "seam")]
    wrong = sum(row["global"] for row in rows)
    return "| {} | {:.3f} | {:.3f} | {:.2f} | {:.2f} | {:.2f} | {} | {} |".format(name, *means, wrong, len(rows))


def sheet(rows: list[Row], path: Path, count: int = 20) -> None:
    """The cases with the worst masks, one row each, 240 px per picture."""
    worst = sorted((row for row in rows if row["edit"] in LOCAL), key=lambda row: row["iou"])[:count]
    lines = []
    for row in worst:
        original, clean, edited = pictures(*(row[key] for key in ("photograph", "edit", "drift", "longest", "figures")))
        kept = preserve(original, edited)
        masks = (one.float().expand_as(original) for one in (seen(original, clean), core_of(kept)))
        shown = torch.stack([original, clean, edited, kept.picture, *masks])
        lines.append(torch.cat(list(interpolate(shown, (180, 240), mode="area")), 2))
    pixels = (torch.cat(lines, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=85)


if __name__ == "__main__":
    sheet(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["keeping"]["rows"], Path(sys.argv[2]))
