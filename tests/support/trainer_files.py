"""LoRA files as trainers write them: alpha in other places, wrapped names, and changes of every kind.

Each has a few layers of random matrices, with their expected effect on BFL's tree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lora_files import Change

WIDTH = 128
TO_Q, TO_OUT = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0"
SINGLE_K, EMBEDDER = "single_transformer_blocks.0.attn.to_k", "context_embedder"
PLACES = {  # in BFL's tree: layer, first row
    TO_Q: ("double_blocks.0.img_attn.qkv", 0),
    TO_OUT: ("double_blocks.0.img_attn.proj", 0),
    SINGLE_K: ("single_blocks.0.linear1", WIDTH),
    EMBEDDER: ("txt_in", 0),  # outside the blocks
    "transformer_blocks.0.attn.to_qkv": ("double_blocks.0.img_attn.qkv", 0),
    "transformer_blocks.0.attn.to_added_qkv": ("double_blocks.0.txt_attn.qkv", 0),
    "single_transformer_blocks.0.attn.to_qkv": ("single_blocks.0.linear1", 0),
}
FUSED = ("transformer_blocks.0.attn.to_qkv", "transformer_blocks.0.attn.to_added_qkv")
PROJ = "diffusion_model.double_blocks.0.img_attn.proj"


class Trained(NamedTuple):
    tensors: dict[str, Tensor]
    changes: list[Change]
    said: str  # expected in the report
    metadata: dict[str, str] | None = None
    config: dict | None = None  # adapter_config.json


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_random.generator) / 4


_random.generator = torch.Generator().manual_seed(0)


def _pair(rank: int, rows: int = WIDTH) -> tuple[Tensor, Tensor]:
    return _random(rows, rank), _random(rank, WIDTH)


def lora(
    scales: dict[str, float],
    spell: Callable[[str], str] = lambda name: f"base_model.model.{name}",
    ranks: dict[str, int] | None = None,
    words: tuple[str, str] = ("lora_B.weight", "lora_A.weight"),
) -> tuple[dict[str, Tensor], list[Change]]:
    """LoRA on the layers of `scales`, with these expected scales."""
    tensors, changes = {}, []
    for name, scale in scales.items():
        up, down = _pair((ranks or {}).get(name, 4), 3 * WIDTH if name.endswith("qkv") else WIDTH)
        tensors |= {f"{spell(name)}.{words[0]}": up, f"{spell(name)}.{words[1]}": down}
        changes.append(Change(*PLACES[name], scale * up @ down))
    return tensors, changes


def _peft(scales: dict[str, float], ranks: dict[str, int] | None = None, **settings) -> Trained:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {}, "rank_pattern": {}} | settings
    return Trained(*lora(scales, ranks=ranks), "alpha from adapter_config.json", config=config)


def _diffusers(settings: dict, scales: dict[str, float], ranks: dict[str, int] | None = None) -> Trained:
    text = json.dumps({f"transformer.{name}": value for name, value in settings.items()})
    made = lora(scales, lambda name: f"transformer.{name}", ranks)
    return Trained(*made, "alpha from the metadata lora_adapter_metadata", {"lora_adapter_metadata": text})


def _flat(name: str) -> Trained:
    return Trained(*lora({TO_Q: 2.0}), f"alpha from the metadata {name}", {name: "8", "ss_network_dim": "4"})


def _spelled(spell: Callable[[str], str], said: str) -> Trained:
    return Trained(*lora(dict.fromkeys((TO_Q, SINGLE_K, EMBEDDER), 1.0), spell), said)


def _underscored(prefix: str, end: str = "") -> Callable[[str], str]:
    return lambda name: prefix + name.replace(".", "_") + end


def _lokr_whole(alpha: float, dtype: torch.dtype = torch.float32) -> Trained:
    w1, w2 = _random(4, 4).to(dtype), _random(32, 32).to(dtype)
    tensors = {f"{PROJ}.lokr_w1": w1, f"{PROJ}.lokr_w2": w2, f"{PROJ}.alpha": torch.tensor(alpha).to(dtype)}
    return Trained(tensors, [Change(*PLACES[TO_OUT], torch.kron(w1.float(), w2.float()))], "LoKr")


def _peft_lokr(whole: bool) -> Trained:
    """PEFT also scales a LoKr with full factors."""
    w1, a, b = _random(4, 4), _random(32, 4), _random(4, 32)
    factors = {"lokr_w2": a @ b} if whole else {"lokr_w2_a": a, "lokr_w2_b": b}
    tensors = {f"base_model.model.{TO_OUT}.{name}": tensor for name, tensor in (factors | {"lokr_w1": w1}).items()}
    config = {"peft_type": "LOKR", "r": 4, "alpha": 8, "rank_pattern": {}, "alpha_pattern": {}}
    change = Change(*PLACES[TO_OUT], 2 * torch.kron(w1, a @ b))
    return Trained(tensors, [change], "alpha from adapter_config.json", config=config)


def _peft_loha() -> Trained:
    shapes = {"hada_w1_a": (WIDTH, 4), "hada_w1_b": (4, WIDTH), "hada_w2_a": (WIDTH, 4), "hada_w2_b": (4, WIDTH)}
    found = {name: _random(*shape) for name, shape in shapes.items()}
    product = (found["hada_w1_a"] @ found["hada_w1_b"]) * (found["hada_w2_a"] @ found["hada_w2_b"])
    tensors = {f"base_model.model.{TO_OUT}.{name}": tensor for name, tensor in found.items()}
    config = {"peft_type": "LOHA", "r": 4, "alpha": 8, "rank_pattern": {}, "alpha_pattern": {}}
    return Trained(tensors, [Change(*PLACES[TO_OUT], 2 * product)], "LoHa", config=config)


def _magnitude() -> Trained:
    tensors, (change,) = lora({TO_OUT: 1.0}, lambda name: f"transformer.{name}")
    lengths = 1 + _random(WIDTH).abs()
    tensors[f"transformer.{TO_OUT}.magnitude"] = lengths
    return Trained(tensors, [change._replace(lengths=lengths[:, None])], "DoRA")


def _full_rank() -> Trained:
    whole = _random(WIDTH, WIDTH)
    return Trained({f"transformer.{TO_OUT}.lora_A.weight": whole}, [Change(*PLACES[TO_OUT], whole)], "full weight")


def _twice(*kinds: str) -> Trained:
    """Several changes of one weight, which add up."""
    (up, down), w1, w2 = _pair(4), _random(4, 4), _random(32, 32)
    made = {
        "LoRA": ({"lora_B.weight": up, "lora_A.weight": down}, up @ down),
        "LoKr": ({"lokr_w1": w1, "lokr_w2": w2}, torch.kron(w1, w2)),
        "full weight": ({"diff": (diff := _random(WIDTH, WIDTH))}, diff),
    }
    tensors = {f"{PROJ}.{name}": tensor for kind in kinds for name, tensor in made[kind][0].items()}
    change = Change(*PLACES[TO_OUT], sum((made[kind][1] for kind in kinds), torch.zeros(WIDTH, WIDTH)))
    return Trained(tensors, [change], ", ".join(f"{kind} (1)" for kind in kinds))


TRAINED = {
    "PEFT, save_pretrained": lambda: _peft({TO_Q: 2.0, SINGLE_K: 2.0}),
    "PEFT, rslora": lambda: _peft({TO_Q: 4.0}, use_rslora=True),
    "PEFT, alpha by a name": lambda: _peft({TO_Q: 0.5, TO_OUT: 2.0}, alpha_pattern={"attn.to_q": 2}),
    "PEFT, alpha by a regular expression": lambda: _peft(
        {TO_Q: 0.5, TO_OUT: 2.0, SINGLE_K: 2.0}, alpha_pattern={r"^transformer_blocks\.\d+\.attn\.to_[qk]": 2}
    ),
    "PEFT, the first pattern that fits": lambda: _peft(
        {TO_Q: 1.0, SINGLE_K: 0.5}, alpha_pattern={"to_q": 4, "attn.to_.": 2}
    ),
    "PEFT, a part of a name is no name": lambda: _peft({TO_Q: 2.0}, alpha_pattern={"o_q": 2, "to_": 2}),
    "PEFT, rank by a regular expression": lambda: _peft(
        {TO_Q: 0.5, SINGLE_K: 2.0}, {TO_Q: 16}, rank_pattern={r"transformer_blocks\.0\..*": 16, r"single.*to_k": 4}
    ),
    "PEFT, LoKr": lambda: _peft_lokr(False),
    "PEFT, LoKr of whole factors": lambda: _peft_lokr(True),
    "PEFT, LoHa": _peft_loha,
    "diffusers' metadata": lambda: _diffusers({"r": 4, "lora_alpha": 8}, {TO_Q: 2.0}),
    "diffusers' metadata, patterns": lambda: _diffusers(
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn.to_[kq]": 4}, "rank_pattern": {".*to_k": 8}},
        {TO_Q: 1.0, TO_OUT: 2.0, SINGLE_K: 0.5},
        {SINGLE_K: 8},
    ),
    **{f"metadata {name}": lambda name=name: _flat(name) for name in
       ("lora_alpha", "network_alpha", "alpha", "ss_network_alpha")},
    "DDP": lambda: _spelled(lambda name: f"transformer.module.{name}", "ignored in the names: module."),
    "torch.compile": lambda: _spelled(lambda name: f"_orig_mod.{name}", "ignored in the names: _orig_mod."),
    "DDP and torch.compile": lambda: _spelled(
        lambda name: f"transformer._orig_mod.module.{name}", "ignored in the names: _orig_mod., module."
    ),
    "FSDP, inside": lambda: _spelled(
        lambda name: "transformer." + name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."),
        "ignored in the names: _fsdp_wrapped_module.",
    ),
    "wrapped, underscored": lambda: _spelled(
        _underscored("lora_transformer__orig_mod_"), "ignored in the names: _orig_mod_"
    ),
    "two underscores": lambda: _spelled(_underscored("lora_transformer__"), "ignored in the names: _"),
    "trailing underscore": lambda: _spelled(_underscored("lora_transformer_", "_"), "ignored in the names: trailing _"),
    "trailing underscore, dotted": lambda: _spelled(
        lambda name: f"transformer.{name}_", "ignored in the names: trailing _"
    ),
    "unet.": lambda: _spelled(lambda name: f"unet.{name}", "diffusers names with unet."),
    "unet., no block": lambda: Trained(*lora({EMBEDDER: 1.0}, lambda name: f"unet.{name}"), "names with unet."),
    "a prefix of one's own": lambda: _spelled(lambda name: f"pipe.dit.{name}", "diffusers names with pipe.dit."),
    "fused by diffusers": lambda: Trained(
        *lora({**dict.fromkeys(FUSED, 1.0), "single_transformer_blocks.0.attn.to_qkv": 1.0}), "6 of 6 keys matched"
    ),
    "ai-toolkit, LoKr of whole factors": lambda: _lokr_whole(9999999999.0),
    "ai-toolkit, the same in float16": lambda: _lokr_whole(9999999999.0, torch.float16),
    "ai-toolkit, DoRA": _magnitude,
    "ai-toolkit, full rank": _full_rank,
    "LoRA and a whole difference": lambda: _twice("LoRA", "full weight"),
    "LoRA and LoKr": lambda: _twice("LoRA", "LoKr"),
    "three changes": lambda: _twice("LoRA", "LoKr", "full weight"),
}  # fmt: skip


def trained(name: str) -> Trained:
    """A file of the table; the same on every call."""
    _random.generator.manual_seed(1)
    return TRAINED[name]()
