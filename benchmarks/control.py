"""The effect of strength and negatives on held-out edits of the embedded model: `python -m benchmarks.control`.

Strength: an instruction in the style of a reference, or with its object, at six strengths; measures the similarity to
the reference. Negatives: "change the background" leaves the colour open; the same run again with the most frequent
colour as the negative. The model runs without ComfyUI (`training.editor`), with the nodes' attention functions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from kontext_core.geometry import Geometry
from kontext_core.negatives import Nag, guided
from kontext_core.controls import Control
from kontext_core.tokens import position_ids
from kontext_core.transformer import KontextTransformer, forward, sdpa
from training.editor import Editor
from training.evaluate import as_tensor, psnr
from training.instructions import Edit, sample
from training.world import COLOURS, Scene

SIDE, BATCH = 128, 20  # px; batch size
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
FALL = 0.01  # of the value range: a smaller decrease from one strength to the next is ignored
SHOWN = 3  # edits of each kind on the contact sheet: the first ones, no selection
OPEN = "change the background"
SHOWN_AS = "without; its colour as the negative, by NAG of falling scale | cfg without; with, falling"
NAG = Nag()
SCALES = (5.0, 3.0, 2.0, 1.5)  # of NAG
CFGS = (3.0, 2.0, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="cases each of style, character and negatives")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sheet", type=Path, default=Path(__file__).with_name("control.png"))
    options = parser.parse_args()

    editor = Editor.shipped()
    print(f"{options.cases} cases each, {options.steps} steps, seed {options.seed}\n", flush=True)
    run = Runner(editor, options.steps, options.seed)
    panels = measure_strength(run, options.cases)
    panels += measure_negatives(run, options.cases)
    contact_sheet(panels, options.sheet)
    print(step_costs())


@dataclass
class Runner:
    """Runs edits with one reference in batches."""

    editor: Editor
    steps: int
    seed: int

    def edits(self, task: str, count: int) -> list[Edit]:
        rng = random.Random(f"{self.seed} {task}")
        return [sample(rng, task, width=SIDE, height=SIDE, held_out=True) for _ in range(count)]

    def __call__(self, edits: list[Edit], avoid: list[str] | None = None, **options: Any) -> list[Tensor]:
        """The results (3, h, w), in the order of the edits."""
        results = []
        for start in range(0, len(edits), BATCH):
            part = edits[start : start + BATCH]
            references = [torch.stack([as_tensor(edit.sources[0], SIDE, SIDE) for edit in part])]
            words = None if avoid is None else avoid[start : start + BATCH]
            fixed = {"seed": self.seed, "steps": self.steps, "avoid": words}
            texts = [edit.instruction for edit in part]
            results += self.editor.edit(references, texts, (SIDE, SIDE), **fixed, **options)
        return results


Panel = tuple[str, list[Tensor]]  # caption, and pictures from left to right


# Strength


def measure_strength(run: Runner, cases: int) -> list[Panel]:
    """Print a table; returns the first edits of each task at every strength."""
    print("| task | " + " | ".join(f"{strength:g}" for strength in STRENGTHS) + " | grows to 1 | grows to 1.5 |")
    print("| --- |" + " --- |" * (len(STRENGTHS) + 2), flush=True)
    panels = []
    for task in ("style", "character"):
        edits = run.edits(task, cases)
        results = [run(edits, controls={1: Control(strength=strength)}) for strength in STRENGTHS]
        scores = [[likeness(edit, output) for output in row] for edit, *row in zip(edits, *results, strict=True)]
        print(strength_row(task, scores), flush=True)
        columns = list(zip(*results, strict=True))[:SHOWN]
        panels += [
            (edit.instruction, [as_tensor(edit.sources[0], SIDE, SIDE), *column])
            for edit, column in zip(edits, columns, strict=False)
        ]
    return panels


def likeness(edit: Edit, output: Tensor) -> float:
    """The similarity of an output (3, h, w) to its reference, where the reference determines the result; 1 is equal.

    That is everything but the new thing for a style, and the thing in its new place for a character. Computed as 1
    minus the mean absolute difference to the right picture there.
    """
    assert isinstance(edit.target, Scene)
    right = as_tensor(edit.target, SIDE, SIDE)
    thing = (right - as_tensor(replace(edit.target, things=()), SIDE, SIDE)).abs().amax(0) > 0.02
    inside = (thing if edit.task == "character" else ~thing).expand_as(right)
    return 1 - (output - right).abs()[inside].mean().item()


def grows(scores: Sequence[float]) -> bool:
    """Whether no step to the next strength falls by more than `FALL`, and the last is above the first."""
    return all(after > before - FALL for before, after in zip(scores, scores[1:])) and scores[-1] > scores[0]  # noqa: B905


def strength_row(task: str, scores: list[list[float]]) -> str:
    means = [statistics.fmean(column) for column in zip(*scores, strict=True)]
    to_1 = statistics.fmean(grows(row[: STRENGTHS.index(1.0) + 1]) for row in scores)
    to_the_end = statistics.fmean(map(grows, scores))
    cells = " | ".join(f"{mean:.3f}" for mean in means)
    return f"| {task} (n={len(scores)}) | {cells} | {100 * to_1:.0f} % | {100 * to_the_end:.0f} % |"


# Negatives


def measure_negatives(run: Runner, cases: int) -> list[Panel]:
    """Print a table; returns the first edits without and with a negative, by NAG and by cfg."""
    edits = [replace(edit, instruction=OPEN) for edit in run.edits("background", cases)]
    places = [place_of(edit) for edit in edits]
    print("\n| negative by | its colour before | after | unchanged before dB | after | lost dB |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    nag = [(f"NAG, scale {scale:g}", {}, {"nag": NAG._replace(scale=scale)}) for scale in SCALES]
    cfg = [(f"cfg {value:g}", {"cfg": value}, {"cfg": value}) for value in CFGS]
    columns = [[as_tensor(edit.sources[0], SIDE, SIDE) for edit in edits]]
    for name, plain, guided_by in (*nag, *cfg):
        before = run(edits, **plain)
        found = [shares(output, place) for output, place in zip(before, places, strict=True)]
        colours = [max(share, key=share.__getitem__) for share in found]
        after = run(edits, [f"{OPEN} to {colour}" for colour in colours], **guided_by)
        print(negative_row(name, edits, places, colours, before, after), flush=True)
        columns += [before, after] if name in (nag[0][0], cfg[0][0]) else [after]
    captions = [f"{edit.instruction} | {SHOWN_AS}" for edit in edits]
    return list(zip(captions, map(list, zip(*columns, strict=True)), strict=True))[:SHOWN]


def place_of(edit: Edit) -> Tensor:
    """The pixels (h, w) of the background."""
    source = edit.sources[0]
    assert isinstance(source, Scene)
    return (as_tensor(source, SIDE, SIDE) - as_tensor(replace(source, things=()), SIDE, SIDE)).abs().amax(0) <= 0.02


def shares(output: Tensor, place: Tensor) -> dict[str, float]:
    """The fraction of a place that is nearest to each of the world's colours."""
    values = torch.tensor(list(COLOURS.values())) / 255
    nearest = torch.cdist(output.permute(1, 2, 0)[place], values).argmin(1)
    return {name: (nearest == number).float().mean().item() for number, name in enumerate(COLOURS)}


def negative_row(
    name: str, edits: list[Edit], places: list[Tensor], colours: list[str], before: list[Tensor], after: list[Tensor]
) -> str:
    """The fraction of the most frequent colour and the PSNR of the rest, without and with the negative."""

    def share(outputs: list[Tensor]) -> float:
        rows = zip(outputs, places, colours, strict=True)
        return 100 * statistics.fmean(shares(output, place)[colour] for output, place, colour in rows)

    def kept(outputs: list[Tensor]) -> float:
        rows = zip(edits, outputs, places, strict=True)
        sources = ((as_tensor(edit.sources[0], SIDE, SIDE), output, ~place) for edit, output, place in rows)
        return statistics.fmean(psnr(output, source, rest.expand_as(output)) for source, output, rest in sources)

    lost = kept(before) - kept(after)
    cells = f"{share(before):.0f} % | {share(after):.0f} % | {kept(before):.1f} | {kept(after):.1f} | {lost:.1f}"
    return f"| {name} | {cells} |"


# Cost

WIDE = Geometry(hidden_size=768, num_heads=6, depth=1, depth_single_blocks=2, context_in_dim=512, vec_in_dim=256)


def step_costs(side: int = 48, text: int = 256, repeats: int = 3) -> str:
    """Seconds of an evaluation without a negative, with NAG and with cfg, interleaved; `side` in latent pixels.

    The transformer has random weights, is narrower and shallower than FLUX.1, and runs 384x384 px with one reference.
    """
    torch.manual_seed(0)
    tree, target = KontextTransformer(WIDE).requires_grad_(False), (side // 2) ** 2
    ids = torch.cat((position_ids(side, side), position_ids(side, side, index=1)))[None]

    def evaluate(batch: int, texts: int, attention: Any) -> float:
        img, txt = torch.randn(batch, 2 * target, 64), torch.randn(batch, texts * text, 512)
        ones, pooled, txt_ids = torch.ones(batch), torch.randn(batch, 256), torch.zeros(1, texts * text, 3)
        start = time.perf_counter()
        forward(tree, img, ids, txt, txt_ids, ones, pooled, ones, attention=attention)
        return time.perf_counter() - start

    nag = guided(lambda _: sdpa, text, text, target, NAG)
    turns = [(evaluate(1, 1, sdpa), evaluate(1, 2, nag), evaluate(2, 1, sdpa)) for _ in range(repeats)]
    plain, with_nag, with_cfg = (statistics.median(column) for column in zip(*turns, strict=True))
    return f"\na step costs {with_nag / plain:.2f} x with NAG, {with_cfg / plain:.2f} x with cfg (plain {plain:.2f} s)"


def contact_sheet(panels: list[Panel], path: Path) -> None:
    width = max(len(pictures) for _, pictures in panels) * (SIDE + 4)
    sheet = Image.new("RGB", (width, len(panels) * (SIDE + 20)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (caption, pictures) in enumerate(panels):
        top = line * (SIDE + 20)
        for place, picture in enumerate(pictures):
            pixels = (255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (place * (SIDE + 4), top))
        draw.text((0, top + SIDE + 3), caption, fill="black")
    sheet.save(path)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
