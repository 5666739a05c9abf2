"""Layer names that other tools use for a FLUX.1 transformer, mapped to BFL's names.

BFL fuses weights that others store separately: `qkv` stacks Q, K and V, and a single block's `linear1` stacks Q, K,
V and the MLP. So a name maps to a layer or to a range of rows of a fused layer.
Sources: diffusers, `scripts/convert_flux_to_diffusers.py` (its names, and the swapped halves of norm_out) and
`models/attention_processor.py` (names of fused projections); XLabs' `x-flux` and ByteDance's USO (attention
processors); OneTrainer, `convert_flux_lora.py` (fused layers with a number for each part, and img_in.proj).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .geometry import Geometry, layers, norms

BFL, SPLIT, DIFFUSERS, FUSED, PROCESSORS = "BFL", "BFL, split", "diffusers", "diffusers, fused", "attention processor"


class Place(NamedTuple):
    """A layer of BFL's tree, or a range of its rows."""

    layer: str  # BFL's name, such as "double_blocks.0.img_attn.qkv"
    first: int  # row
    rows: int
    part: bool = False  # not the whole layer
    swapped: bool = False  # halves are swapped: diffusers stores (scale, shift), BFL (shift, scale)


class Name(NamedTuple):
    place: Place
    naming: str  # BFL, SPLIT, DIFFUSERS, FUSED or PROCESSORS


_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_SWAPPED = "norm_out.linear"
_DOUBLE = {  # name below transformer_blocks.N -> name below double_blocks.N
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "ff.linear_in": "img_mlp.0",  # LyCORIS
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_DOUBLE_PARTS = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {  # name below single_transformer_blocks.N -> name below single_blocks.N
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
_SINGLE_PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")  # of linear1
_DOUBLE_FUSED = {"attn.to_qkv": "img_attn.qkv", "attn.to_added_qkv": "txt_attn.qkv"}  # after fuse_qkv_projections()
_DOUBLE_PROCESSORS = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
}


def names(geometry: Geometry) -> dict[str, Name]:
    """Every dotted name, without a prefix, of a layer, a norm or a part of a fused layer."""
    sizes = dict(norms(geometry)) | {layer: rows for layer, rows, _ in layers(geometry)}
    found = {layer: Name(Place(layer, 0, rows), BFL) for layer, rows in sizes.items()}
    for name, layer in _whole(geometry):
        place = Place(layer, 0, sizes[layer], swapped=name == _SWAPPED)
        found[name] = Name(place, DIFFUSERS)
    hidden = geometry.hidden_size
    for parts, layer in _fused(geometry):
        for number, name in enumerate(parts):
            first = number * hidden
            rows = hidden if number < 3 else sizes[layer] - first
            place = Place(layer, first, rows, part=True)
            found[name] = Name(place, DIFFUSERS)
            found[f"{layer}.{number}"] = Name(place, SPLIT)
    found["img_in.proj"] = Name(found["img_in"].place, SPLIT)
    for name, place in _fused_by_diffusers(geometry, sizes):
        found[name] = Name(place, FUSED)
    for name, place in _processors(geometry, sizes):
        found[name] = Name(place, PROCESSORS)
    return found


def _whole(geometry: Geometry) -> Iterator[tuple[str, str]]:
    """Names of unfused layers and norms: diffusers', and BFL's."""
    guidance = geometry.guidance_embed
    yield from ((name, layer) for name, layer in _TOP.items() if guidance or "guidance" not in name)
    for block in range(geometry.depth):
        for name, layer in _DOUBLE.items():
            yield f"transformer_blocks.{block}.{name}", f"double_blocks.{block}.{layer}"
    for block in range(geometry.depth_single_blocks):
        for name, layer in _SINGLE.items():
            yield f"single_transformer_blocks.{block}.{name}", f"single_blocks.{block}.{layer}"


def _fused(geometry: Geometry) -> Iterator[tuple[list[str], str]]:
    """diffusers' names of the parts of each fused layer, from its first row to its last."""
    for block in range(geometry.depth):
        for layer, parts in _DOUBLE_PARTS.items():
            yield [f"transformer_blocks.{block}.{part}" for part in parts], f"double_blocks.{block}.{layer}"
    for block in range(geometry.depth_single_blocks):
        parts = [f"single_transformer_blocks.{block}.{part}" for part in _SINGLE_PARTS]
        yield parts, f"single_blocks.{block}.linear1"


def _fused_by_diffusers(geometry: Geometry, sizes: dict[str, int]) -> Iterator[tuple[str, Place]]:
    for block in range(geometry.depth):
        for name, part in _DOUBLE_FUSED.items():
            layer = f"double_blocks.{block}.{part}"
            yield f"transformer_blocks.{block}.{name}", Place(layer, 0, sizes[layer])
    for block in range(geometry.depth_single_blocks):
        place = Place(f"single_blocks.{block}.linear1", 0, 3 * geometry.hidden_size, part=True)
        yield f"single_transformer_blocks.{block}.attn.to_qkv", place


def _processors(geometry: Geometry, sizes: dict[str, int]) -> Iterator[tuple[str, Place]]:
    """Names of attention processors; for a single block's linear1 they mean Q, K and V without the MLP."""
    for block in range(geometry.depth):
        for name, part in _DOUBLE_PROCESSORS.items():
            layer = f"double_blocks.{block}.{part}"
            yield f"double_blocks.{block}.processor.{name}", Place(layer, 0, sizes[layer])
    for block in range(geometry.depth_single_blocks):
        single = f"single_blocks.{block}"
        yield (
            f"{single}.processor.qkv_lora",
            Place(f"{single}.linear1", 0, 3 * geometry.hidden_size, part=True),
        )
        yield f"{single}.processor.proj_lora", Place(f"{single}.linear2", 0, sizes[f"{single}.linear2"])
