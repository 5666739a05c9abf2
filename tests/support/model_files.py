"""Transformer files of every layout, made for tests and benchmarks from weights under BFL's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import lora_files
from kontext_core.geometry import Geometry
from kontext_core.transformer import checkpoint_shapes

Weights = dict[str, Tensor]

NORMS = {  # norms of a block: diffusers' name, BFL's name
    "transformer_blocks": {
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    },
    "single_transformer_blocks": {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
}


def random_weights(geometry: Geometry, seed: int = 0, std: float = 0.05) -> Weights:
    """Random weights under BFL's names; norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: std * torch.randn(shape, generator=generator) for name, shape in checkpoint_shapes(geometry).items()}
    return {name: 1 + weight if name.endswith("scale") else weight for name, weight in made.items()}


def to_diffusers(weights: Weights, geometry: Geometry) -> Weights:
    """The same weights under diffusers' names: fused layers split, norm_out's halves in diffusers' order."""
    out = {}
    for name, layer, first, rows, _, swapped in lora_files.diffusers(geometry):
        for parameter in ("weight", "bias"):
            part = weights[f"{layer}.{parameter}"][first : first + rows]
            out[f"{name}.{parameter}"] = torch.cat(part.chunk(2)[::-1]) if swapped else part.clone()
    for stack, norms in NORMS.items():
        depth = geometry.depth if stack == "transformer_blocks" else geometry.depth_single_blocks
        ours = "double_blocks" if stack == "transformer_blocks" else "single_blocks"
        for block in range(depth):
            for name, layer in norms.items():
                out[f"{stack}.{block}.{name}.weight"] = weights[f"{ours}.{block}.{layer}.scale"]
    return out


def write_shards(weights: Weights, folder: Path, count: int = 3, variant: str = "") -> Path:
    """A folder as diffusers saves it; returns the path of its index."""
    stem, ending = "diffusion_pytorch_model", f".{variant}" if variant else ""
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: f"{stem}{ending}-{n % count + 1:05}-of-{count:05}.safetensors" for n, name in enumerate(weights)}
    for shard in sorted(set(table.values())):
        save_file({name: w for name, w in weights.items() if table[name] == shard}, folder / shard)
    index = folder / f"{stem}.safetensors.index{ending}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}), encoding="utf-8")
    return index


def matrices(weights: Weights) -> list[str]:
    """The layers of the blocks, which tools quantise."""
    return [
        name.removesuffix(".weight")
        for name, weight in weights.items()
        if weight.ndim == 2 and name.startswith(("double_blocks.", "single_blocks."))
    ]


def scaled_fp8_old(weights: Weights) -> Weights:
    """fp8 with a scale for each matrix, and the marker `scaled_fp8`: with one element, inputs become fp8 too."""
    out = dict(weights) | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for layer in matrices(weights):
        out[f"{layer}.weight"], out[f"{layer}.scale_weight"] = _scaled(weights[f"{layer}.weight"])
        out[f"{layer}.scale_input"] = torch.tensor(1.0)
    return out


def scaled_fp8_new(weights: Weights, dtype: torch.dtype = torch.float8_e4m3fn) -> Weights:
    """fp8 with scales for each matrix and its inputs, and a tensor `comfy_quant` with the format."""
    out = dict(weights)
    how = json.dumps({"format": str(dtype).removeprefix("torch.")}).encode()
    for layer in matrices(weights):
        out[f"{layer}.weight"], out[f"{layer}.weight_scale"] = _scaled(weights[f"{layer}.weight"], dtype)
        out[f"{layer}.input_scale"] = torch.tensor(8 / torch.finfo(dtype).max)
        out[f"{layer}.comfy_quant"] = torch.tensor(list(how), dtype=torch.uint8)
    return out


FP8 = {"format": "float8_e4m3fn"}


def quantisation_metadata(weights: Weights) -> dict[str, str]:
    """The same information once, in the file's metadata."""
    return {"_quantization_metadata": json.dumps({"layers": dict.fromkeys(matrices(weights), FP8)})}


def scaled_fp8_metadata(weights: Weights) -> Weights:
    return {name: w for name, w in scaled_fp8_new(weights).items() if not name.endswith("comfy_quant")}


def _scaled(weight: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    scale = weight.abs().max().float() / torch.finfo(dtype).max
    return (weight / scale).to(dtype), scale


def all_in_one(weights: Weights) -> Weights:
    """A checkpoint with text encoders and autoencoder in addition to the transformer."""
    out = {f"model.diffusion_model.{name}": weight for name, weight in weights.items()}
    others = ("text_encoders.clip_l.logit_scale", "vae.decoder.conv_in.bias")
    return out | {name: torch.zeros(4) for name in others}


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {f"{prefix}{name}": weight for name, weight in weights.items()}


def cast(dtype: torch.dtype) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight.to(dtype) for name, weight in weights.items()}
