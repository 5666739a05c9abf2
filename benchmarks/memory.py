"""The real size on paper: arithmetic and weight bytes of whole runs at FLUX.1's sizes, counted, with no data anywhere.

One step of each kind is run on meta tensors under `torch.utils.flop_counter` and summed over each plan; the bytes are
those of every weight that a called layer has, at one byte each as in an fp8 file. 1024x1024 px, 512 text tokens,
references of the same size, 28 steps, one conditioning. Region steps are counted for an edit of 25 % of the picture.
A second table holds the count of bytes against what a real ComfyUI asks for (`benchmarks.weight_bytes`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import weight_bytes
from kontext_core.acceleration.plan import PRESETS, Settings, Step, make_plan
from kontext_core.acceleration.stream import Inputs, Limits, Stream, stream_bytes
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import place_references, position_ids
from kontext_core.transformer import Constants, KontextTransformer, forward, precompute

FULL = Geometry()
STEPS, TEXT, LATENT, SHARE = 28, 512, 128, 0.25  # a latent side of 128 is 1024 px
PLANS = PRESETS | {
    "10 steps, references once": Settings(computed=10, refresh=0),
    "10 steps, references once, regions": Settings(computed=10, refresh=0, warmup=2),
}
EQUAL = [plan.computed for plan in PRESETS.values() if plan.computed]  # the presets' model calls, for the rival


class Spent(NamedTuple):
    flops: int
    weights: int  # bytes


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row a plan and number of references, then those of `weight_bytes`."""
    return counted(quick) + weight_bytes.measure(quick)


def counted(quick: bool) -> list[dict[str, Any]]:
    """A row a plan and number of references."""
    with torch.device("meta"):
        tree = KontextTransformer(FULL)
    rows = []
    for references in (1,) if quick else (1, 2, 4):
        inputs, img = inputs_of(references)
        full = vanilla(tree, inputs, img)
        base, spent = STEPS * full.flops, steps_of(tree, inputs, img)
        rows.append(row("host", references, STEPS, Spent(base, STEPS * full.weights), base, 0))
        for name, settings in PLANS.items():
            plan = make_plan(STEPS, settings, references)
            computed = sum(step.kind != "forecast" for step in plan)
            kept = kept_bytes(plan, references)
            rows.append(row(name, references, computed, total(plan, spent), base, kept))
        for calls in EQUAL:
            rival = Spent(calls * full.flops, calls * full.weights)
            rows.append(row(f"multistep, {calls} steps", references, calls, rival, base, 0))
    return rows


def row(name: str, references: int, calls: int, spent: Spent, base: int, kept: int) -> dict[str, Any]:
    return {
        "preset": name,
        "geometry": "FLUX.1, 1024x1024 px",
        "references": references,
        "model calls": calls,
        "petaflops": spent.flops / 1e15,
        "ratio": base / spent.flops,
        "weight_gb": spent.weights / 1e9,
        "kept_gb": kept / 1e9,
    }


def inputs_of(references: int) -> tuple[Inputs, Tensor]:
    """One conditioning on the meta device; positions are real numbers, as the rotary table needs."""
    places = place_references([(LATENT, LATENT)] * references, (LATENT, LATENT))
    ids = [position_ids(LATENT, LATENT)] + [position_ids(LATENT, LATENT, *place) for place in places]
    side = LATENT // 2
    img = torch.empty(1, side * side, 64, device="meta")
    txt = torch.empty(1, TEXT, FULL.context_in_dim, device="meta")
    grids = [(side, side)] * (1 + references)
    return Inputs(txt, None, None, [torch.empty_like(img)] * references, grids, torch.cat(ids)[None]), img


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two products: what any attention costs."""
    weights = (q @ k.transpose(-1, -2)).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Weights:
    """Counts the weights of every layer that is called, while it is open."""

    def __init__(self, tree: torch.nn.Module):
        self.count = 0
        self._sizes = {module: sum(p.numel() for p in module.parameters(recurse=False)) for module in tree.modules()}
        self._handles = []

    def __enter__(self) -> Weights:
        layers = [module for module, size in self._sizes.items() if size]
        self._handles = [layer.register_forward_hook(self._add) for layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _add(self, layer: torch.nn.Module, *_: object) -> None:
        self.count += self._sizes[layer]


def vanilla(tree: KontextTransformer, inputs: Inputs, img: Tensor) -> Spent:
    """One evaluation with nothing kept and the last block finished for the references too, as the host does it."""
    every = torch.cat((img, *inputs.references), dim=1)
    time = torch.empty(1, device="meta")
    with Weights(tree) as weights, FlopCounterMode(display=False) as counter:
        constants = on_meta(precompute(tree, inputs.txt, torch.zeros(1, TEXT, 3), inputs.ids))
        txt, ids = inputs.txt, inputs.ids
        forward(tree, every, ids, txt, ids, time, None, None, attention=attention, constants=constants)
    return Spent(counter.get_total_flops(), weights.count)


def steps_of(tree: KontextTransformer, inputs: Inputs, img: Tensor) -> dict[str, Spent]:
    """One step of each kind, and "first": a full one that fills the table of modulations for all steps."""
    sigmas = flow_sigmas(STEPS, img.shape[1]).tolist()[:-1]
    mask = (torch.arange(img.shape[1]) < SHARE * img.shape[1])[None]
    keeping = {"first": Step("full", True, True), "full": Step("full", True, True)}
    spent = {}
    with Weights(tree) as weights, FlopCounterMode(display=False) as counter:
        stream = Stream(tree, inputs, img, sigmas, Limits())
        stream.constants = on_meta(stream.constants)
        before = Spent(0, 0)
        for name, step in (keeping | {"cached": Step("cached", False, True), "region": Step("region")}).items():
            _, kind = stream.velocity(img, sigmas[0], step, mask, attention)
            assert kind == step.kind
            now = Spent(counter.get_total_flops(), weights.count)
            spent[name], before = Spent(now.flops - before.flops, now.weights - before.weights), now
    return spent


def total(plan: tuple[Step, ...], spent: dict[str, Spent]) -> Spent:
    """A whole run."""
    first, *others = [step.kind for step in plan if step.kind != "forecast"]
    assert first == "full"
    parts = [spent["first"], *(spent[kind] for kind in others)]
    return Spent(sum(part.flops for part in parts), sum(part.weights for part in parts))


def on_meta(constants: Constants) -> Constants:
    """The rotary table is made of real numbers; the rest is on the meta device already."""
    return constants._replace(pe=constants.pe.to("meta"))


def kept_bytes(plan: tuple[Step, ...], references: int) -> int:
    """Keys and values at two bytes, as a model in bfloat16 keeps them."""
    tokens = (LATENT // 2) ** 2
    kept = references * any(step.keep_references for step in plan) + any(step.keep_target for step in plan)
    return stream_bytes(FULL, 1, kept * tokens, 2)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table a measure."""
    asked = [one for one in rows if "counted" in one]
    return plans_table([one for one in rows if one not in asked]) + "\n\n" + weight_bytes.table(asked)


def plans_table(rows: list[dict[str, Any]]) -> str:
    one_reference = {row["preset"]: row["petaflops"] for row in rows if row["references"] == 1}
    lines = [
        f"FLUX.1's sizes, 1024x1024 px, {TEXT} text tokens, {STEPS} steps, an edit of {SHARE:.0%} of the picture. "
        '"Of one": the arithmetic over that of the same way with one reference.',
        "",
        "| way | references | model calls | PFLOP | times less | of one | weights, GB (fp8) | kept, GB (bf16) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lines.append(
            f"| {one['preset']} | {one['references']} | {one['model calls']} | {one['petaflops']:.2f} | "
            f"{one['ratio']:.2f} | {one['petaflops'] / one_reference[one['preset']]:.2f} | "
            f"{one['weight_gb']:.0f} | {one['kept_gb']:.1f} |"
        )
    return "\n".join(lines)
