"""Full size, computed analytically: arithmetic and weight bytes of each kind of step at FLUX.1's sizes, without data.

Steps run on meta tensors under `torch.utils.flop_counter`; the bytes are those of every weight of a called layer, at
one byte each as in an fp8 file. 1024x1024 px, 512 text tokens, references of the same size, one conditioning. Region
steps assume an edit of 25 % of the picture. A forecast step costs nothing that is counted here. A second table compares
the counted bytes with those that a real ComfyUI requests (`benchmarks.weight_bytes`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import weight_bytes
from kontext_core.acceleration.stream import Inputs, Kind, Stream
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import place_references, position_ids
from kontext_core.transformer import Constants, KontextTransformer, forward, precompute

FULL = Geometry()
STEPS, TEXT, LATENT, SHARE = 28, 512, 128, 0.25  # a latent side of 128 is 1024 px


class Spent(NamedTuple):
    flops: int
    weights: int  # bytes


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per plan and number of references, then those of `weight_bytes`."""
    return counted(quick) + weight_bytes.measure(quick)


def counted(quick: bool) -> list[dict[str, Any]]:
    """One row per plan and number of references."""
    with torch.device("meta"):
        tree = KontextTransformer(FULL)
    rows = []
    for references in (1,) if quick else (1, 2, 4):
        inputs, img = inputs_of(references)
        full = vanilla(tree, inputs, img)
        rows.append(row("host", references, full, full, 0))
        spent, kept = steps_of(tree, inputs, img)
        rows += [row(kind, references, each, full, kept) for kind, each in spent.items()]
    return rows


def row(kind: str, references: int, spent: Spent, full: Spent, kept: int) -> dict[str, Any]:
    return {
        "step": kind,
        "geometry": "FLUX.1, 1024x1024 px",
        "references": references,
        "teraflops": spent.flops / 1e12,
        "ratio": full.flops / spent.flops,
        "weight_gb": spent.weights / 1e9,
        "kept_gb": kept / 1e9,
    }


def inputs_of(references: int) -> tuple[Inputs, Tensor]:
    """One conditioning on the meta device; positions are real tensors, because the rotary table needs them."""
    places = place_references([(LATENT, LATENT)] * references, (LATENT, LATENT))
    ids = [position_ids(LATENT, LATENT)] + [position_ids(LATENT, LATENT, *place) for place in places]
    side = LATENT // 2
    img = torch.empty(1, side * side, 64, device="meta")
    txt = torch.empty(1, TEXT, FULL.context_in_dim, device="meta")
    grids = [(side, side)] * (1 + references)
    return Inputs(txt, None, None, [torch.empty_like(img)] * references, grids, torch.cat(ids)[None]), img


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The two matrix products that any attention costs."""
    weights = (q @ k.transpose(-1, -2)).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Weights:
    """Counts the weights of every layer called while the context is open."""

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
    """One evaluation without caches, which finishes the last block for the references too, as the host does."""
    every = torch.cat((img, *inputs.references), dim=1)
    time = torch.empty(1, device="meta")
    with Weights(tree) as weights, FlopCounterMode(display=False) as counter:
        constants = on_meta(precompute(tree, inputs.txt, torch.zeros(1, TEXT, 3), inputs.ids))
        txt, ids = inputs.txt, inputs.ids
        forward(tree, every, ids, txt, ids, time, None, None, attention=attention, constants=constants)
    return Spent(counter.get_total_flops(), weights.count)


def steps_of(tree: KontextTransformer, inputs: Inputs, img: Tensor) -> tuple[dict[str, Spent], int]:
    """One step of each kind, "first" being a full one that fills the modulation table; and the bytes of the caches."""
    sigmas = flow_sigmas(STEPS, img.shape[1]).tolist()[:-1]
    mask = (torch.arange(img.shape[1]) < SHARE * img.shape[1])[None]
    kinds: dict[str, Kind] = {"first": "full", "full": "full", "cached": "cached", "active": "active"}
    spent = {}
    with Weights(tree) as weights, FlopCounterMode(display=False) as counter:
        stream = Stream(tree, inputs, img, sigmas, None)
        stream.constants = on_meta(stream.constants)
        before = Spent(0, 0)
        for name, kind in kinds.items():
            _, did = stream.velocity(img, sigmas[0], kind, kind == "full", mask, attention)
            assert did == kind
            now = Spent(counter.get_total_flops(), weights.count)
            spent[name], before = Spent(now.flops - before.flops, now.weights - before.weights), now
    return spent, stream.keeps_bytes(2)


def on_meta(constants: Constants) -> Constants:
    """Moves the rotary table, the only real tensor, to the meta device."""
    return constants._replace(pe=constants.pe.to("meta"))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one table per measure."""
    asked = [one for one in rows if "counted" in one]
    return steps_table([one for one in rows if one not in asked]) + "\n\n" + weight_bytes.table(asked)


def steps_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"FLUX.1's sizes, 1024x1024 px, {TEXT} text tokens, an edit of {SHARE:.0%} of the picture.",
        "",
        "| step | references | TFLOP | times less | weights, GB (fp8) | kept, GB (bf16) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        lines.append(
            f"| {one['step']} | {one['references']} | {one['teraflops']:.1f} | {one['ratio']:.2f} | "
            f"{one['weight_gb']:.1f} | {one['kept_gb']:.1f} |"
        )
    return "\n".join(lines)
