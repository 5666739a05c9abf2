"""LoRA files of every layout, made for tests from random matrices, with their expected effect on BFL's tree.

The layouts are repeated here by hand, without the pack's own tables, so that an error in those tables is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kontext_core.geometry import Geometry, layers

Shapes = dict[str, tuple[int, ...]]


class Change(NamedTuple):
    """The effect of one layer of a file on a layer of BFL's tree."""

    layer: str
    first: int  # row
    delta: Tensor
    lengths: Tensor | None = None  # DoRA: norms of the changed weight's rows (rows, 1) or columns (1, columns)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """These rows of a weight with the change: W + d; with lengths m, m (W + d) / |W + d|."""
        if self.lengths is None:
            return weight + strength * self.delta
        changed = weight + self.delta
        lengths = changed.norm(dim=1 if len(self.lengths) == len(weight) else 0, keepdim=True)
        return weight + strength * (changed * self.lengths / lengths - weight)


class File(NamedTuple):
    tensors: dict[str, Tensor]
    changes: list[Change]


class Kind(NamedTuple):
    """The parameters of one layer."""

    shapes: Callable[[int, int, int], Shapes]  # rows, columns, rank -> parameters by name
    product: Callable[[dict[str, Tensor]], Tensor]  # their change of the weight, at scale 1
    lengths: str = ""  # the parameter with DoRA's norms


def low_rank(up: str, down: str) -> Kind:
    return Kind(
        lambda rows, columns, rank: {down: (rank, columns), up: (rows, rank)}, lambda found: found[up] @ found[down]
    )


def dora(plain: Kind, lengths: str, shape: Callable[[int, int], tuple[int, ...]]) -> Kind:
    return Kind(
        lambda rows, columns, rank: plain.shapes(rows, columns, rank) | {lengths: shape(rows, columns)},
        plain.product,
        lengths,
    )


LOHA = Kind(
    lambda rows, columns, rank: {
        "hada_w1_a": (rows, rank),
        "hada_w1_b": (rank, columns),
        "hada_w2_a": (rows, rank),
        "hada_w2_b": (rank, columns),
    },
    lambda found: (found["hada_w1_a"] @ found["hada_w1_b"]) * (found["hada_w2_a"] @ found["hada_w2_b"]),
)
LOKR = Kind(
    lambda rows, columns, rank: {
        "lokr_w1": (4, 4),
        "lokr_w2_a": (rows // 4, rank),
        "lokr_w2_b": (rank, columns // 4),
    },
    lambda found: torch.kron(found["lokr_w1"], found["lokr_w2_a"] @ found["lokr_w2_b"]),
)


# Places of a file's layers in BFL's tree:
# name in the file, BFL's layer, first row, rows, columns, whether the halves are swapped
Row = tuple[str, str, int, int, int, bool]


def bfl(geometry: Geometry) -> Iterator[Row]:
    for layer, rows, columns in layers(geometry):
        yield layer, layer, 0, rows, columns, False


def split(geometry: Geometry) -> Iterator[Row]:
    """OneTrainer: a numbered name for each part of a fused layer, and img_in.proj."""
    hidden = geometry.hidden_size
    for layer, rows, columns in layers(geometry):
        if layer.endswith(("qkv", "linear1")):
            for part in range(3):
                yield f"{layer}.{part}", layer, part * hidden, hidden, columns, False
            if layer.endswith("linear1"):
                yield f"{layer}.3", layer, 3 * hidden, rows - 3 * hidden, columns, False
        else:
            yield f"{layer}.proj" if layer == "img_in" else layer, layer, 0, rows, columns, False


def processors(geometry: Geometry) -> Iterator[Row]:
    """XLabs: only the attention of double blocks."""
    hidden = geometry.hidden_size
    for block in range(geometry.depth):
        for number, stream in ((1, "img"), (2, "txt")):
            processor, attention = f"double_blocks.{block}.processor", f"double_blocks.{block}.{stream}_attn"
            yield f"{processor}.qkv_lora{number}", f"{attention}.qkv", 0, 3 * hidden, hidden, False
            yield f"{processor}.proj_lora{number}", f"{attention}.proj", 0, hidden, hidden, False


def uso(geometry: Geometry) -> Iterator[Row]:
    """USO: XLabs' layers, and Q, K, V and the output of single blocks."""
    hidden = geometry.hidden_size
    yield from processors(geometry)
    for block in range(geometry.depth_single_blocks):
        single = f"single_blocks.{block}"
        yield f"{single}.processor.qkv_lora", f"{single}.linear1", 0, 3 * hidden, hidden, False
        yield f"{single}.processor.proj_lora", f"{single}.linear2", 0, hidden, 5 * hidden, False


DIFFUSERS = """
x_embedder img_in
context_embedder txt_in
time_text_embed.timestep_embedder.linear_1 time_in.in_layer
time_text_embed.timestep_embedder.linear_2 time_in.out_layer
time_text_embed.text_embedder.linear_1 vector_in.in_layer
time_text_embed.text_embedder.linear_2 vector_in.out_layer
time_text_embed.guidance_embedder.linear_1 guidance_in.in_layer
time_text_embed.guidance_embedder.linear_2 guidance_in.out_layer
norm_out.linear final_layer.adaLN_modulation.1
proj_out final_layer.linear
transformer_blocks.N.norm1.linear double_blocks.N.img_mod.lin
transformer_blocks.N.norm1_context.linear double_blocks.N.txt_mod.lin
transformer_blocks.N.attn.to_q double_blocks.N.img_attn.qkv 0
transformer_blocks.N.attn.to_k double_blocks.N.img_attn.qkv 1
transformer_blocks.N.attn.to_v double_blocks.N.img_attn.qkv 2
transformer_blocks.N.attn.add_q_proj double_blocks.N.txt_attn.qkv 0
transformer_blocks.N.attn.add_k_proj double_blocks.N.txt_attn.qkv 1
transformer_blocks.N.attn.add_v_proj double_blocks.N.txt_attn.qkv 2
transformer_blocks.N.attn.to_out.0 double_blocks.N.img_attn.proj
transformer_blocks.N.attn.to_add_out double_blocks.N.txt_attn.proj
transformer_blocks.N.ff.net.0.proj double_blocks.N.img_mlp.0
transformer_blocks.N.ff.net.2 double_blocks.N.img_mlp.2
transformer_blocks.N.ff_context.net.0.proj double_blocks.N.txt_mlp.0
transformer_blocks.N.ff_context.net.2 double_blocks.N.txt_mlp.2
single_transformer_blocks.N.norm.linear single_blocks.N.modulation.lin
single_transformer_blocks.N.attn.to_q single_blocks.N.linear1 0
single_transformer_blocks.N.attn.to_k single_blocks.N.linear1 1
single_transformer_blocks.N.attn.to_v single_blocks.N.linear1 2
single_transformer_blocks.N.proj_mlp single_blocks.N.linear1 3
single_transformer_blocks.N.proj_out single_blocks.N.linear2
"""


def diffusers(geometry: Geometry) -> Iterator[Row]:
    sizes = {layer: (rows, columns) for layer, rows, columns in layers(geometry)}
    hidden = geometry.hidden_size
    for line in DIFFUSERS.split("\n")[1:-1]:
        name, layer, *part = line.split()
        blocks = geometry.depth_single_blocks if "single" in name else geometry.depth
        for block in map(str, range(blocks) if ".N." in layer else [0]):
            place = re.sub(r"\bN\b", block, layer)
            rows, columns = sizes[place]
            first = int(part[0]) * hidden if part else 0
            rows = hidden if part and int(part[0]) < 3 else rows - first
            yield re.sub(r"\bN\b", block, name), place, first, rows, columns, name == "norm_out.linear"


class Layout(NamedTuple):
    """A row of the table."""

    key: Callable[[str], str]  # layer's name -> the part of the key before the parameter
    layers: Callable[[Geometry], Iterator[Row]]
    kind: Kind
    alpha: bool  # whether it is in the file
    label: str  # the report's text
    example: str


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def underscored(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.replace(".", "_")


KOHYA = low_rank("lora_up.weight", "lora_down.weight"), True
PEFT = low_rank("lora_B.weight", "lora_A.weight"), False
PROCESSOR = low_rank("up.weight", "down.weight"), False
LAYOUTS = {
    "kohya": Layout(
        underscored("lora_unet_"),
        bfl,
        *KOHYA,
        "kohya",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
    ),
    "diffusers, PEFT, ai-toolkit": Layout(
        dotted("transformer."),
        diffusers,
        *PEFT,
        "diffusers/PEFT",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
    ),
    "PEFT with the adapter's name": Layout(
        dotted("transformer."),
        diffusers,
        low_rank("lora_B.default.weight", "lora_A.default.weight"),
        False,
        "diffusers/PEFT",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight",
    ),
    "diffusion_model. and BFL names": Layout(
        dotted("diffusion_model."),
        bfl,
        *PEFT,
        "BFL names with diffusion_model.",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
    ),
    "LyCORIS": Layout(
        underscored("lycoris_"),
        diffusers,
        *KOHYA,
        "LyCORIS",
        "lycoris_transformer_blocks_0_attn_to_q.lora_down.weight",
    ),
    "OneTrainer": Layout(
        underscored("lora_transformer_"),
        diffusers,
        *KOHYA,
        "OneTrainer",
        "lora_transformer_single_transformer_blocks_0_attn_to_k.lora_down.weight",
    ),
    "bare diffusers names": Layout(
        dotted(""),
        diffusers,
        *PEFT,
        "bare diffusers names",
        "transformer_blocks.0.attn.to_q.lora_A.weight",
    ),
    "fal's Kontext trainer": Layout(
        dotted("base_model.model."),
        bfl,
        *PEFT,
        "PEFT with BFL names (fal)",
        "base_model.model.double_blocks.0.img_attn.qkv.lora_A.weight",
    ),
    "PEFT save_pretrained": Layout(
        dotted("base_model.model."),
        diffusers,
        *PEFT,
        "PEFT with diffusers names",
        "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight",
    ),
    "bare BFL names": Layout(dotted(""), bfl, *PEFT, "bare BFL names", "double_blocks.0.img_attn.qkv.lora_A.weight"),
    "transformer. and BFL names": Layout(
        dotted("transformer."),
        bfl,
        *PEFT,
        "BFL names with transformer.",
        "transformer.double_blocks.0.img_attn.qkv.lora_A.weight",
    ),
    "OneTrainer, Q, K and V apart": Layout(
        dotted("transformer."),
        split,
        *KOHYA,
        "OneTrainer, Q, K and V apart",
        "transformer.double_blocks.0.img_attn.qkv.0.lora_down.weight",
    ),
    "XLabs": Layout(
        dotted(""),
        processors,
        *PROCESSOR,
        "XLabs",
        "double_blocks.0.processor.qkv_lora1.down.weight",
    ),
    "USO": Layout(
        dotted(""),
        uso,
        *PROCESSOR,
        "XLabs",
        "single_blocks.0.processor.qkv_lora.down.weight",
    ),
    "LoKr, BFL names": Layout(
        dotted("diffusion_model."),
        bfl,
        LOKR,
        True,
        "BFL names with diffusion_model.",
        "diffusion_model.double_blocks.0.img_attn.proj.lokr_w1",
    ),
    "LoKr, LyCORIS": Layout(
        underscored("lycoris_"), diffusers, LOKR, True, "LyCORIS", "lycoris_transformer_blocks_0_attn_to_v.lokr_w1"
    ),
    "LoHa, kohya": Layout(
        underscored("lora_unet_"), bfl, LOHA, True, "kohya", "lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a"
    ),
    "DoRA, OneTrainer": Layout(
        underscored("lora_transformer_"),
        diffusers,
        dora(KOHYA[0], "dora_scale", lambda rows, columns: (1, columns)),
        True,
        "OneTrainer",
        "lora_transformer_single_transformer_blocks_0_attn_to_k.dora_scale",
    ),
    "DoRA, PEFT": Layout(
        dotted("transformer."),
        diffusers,
        dora(PEFT[0], "lora_magnitude_vector", lambda rows, columns: (rows,)),
        False,
        "diffusers/PEFT",
        "transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector",
    ),
}


def make(layout: str, geometry: Geometry, ranks=(4, 16, 64), seed: int = 0, alpha: bool | None = None) -> File:
    """A LoRA on every layer that the layout can name, cycling through these ranks.

    `alpha`, half the rank, is in the file by the layout's rule, or as requested.
    """
    key, rows_of, kind, usual = LAYOUTS[layout][:4]
    generator = torch.Generator().manual_seed(seed)
    tensors, changes = {}, []
    for turn, (name, layer, first, rows, columns, swapped) in enumerate(rows_of(geometry)):
        rank = ranks[turn % len(ranks)]
        shapes = kind.shapes(rows, columns, rank)
        found = {parameter: torch.randn(shape, generator=generator) / 8 for parameter, shape in shapes.items()}
        parts = [kind.product(found)]
        if usual if alpha is None else alpha:
            found["alpha"] = torch.tensor(rank / 2)
            parts[0] *= 0.5
        if kind.lengths:
            found[kind.lengths] = 1 + found[kind.lengths].abs()
            lengths = found[kind.lengths]
            parts.append(lengths if lengths.ndim == 2 else lengths[:, None])
        tensors |= {f"{key(name)}.{parameter}": tensor for parameter, tensor in found.items()}
        halves = (torch.cat(part.chunk(2)[::-1]) if swapped and len(part) > 1 else part for part in parts)
        changes.append(Change(layer, first, *halves))
    return File(tensors, changes)


def outline(layout: str, geometry: Geometry) -> dict[str, Tensor]:
    """The same keys and shapes at any size, as expanded scalars, which take no memory."""
    key, rows_of, kind, alpha = LAYOUTS[layout][:4]
    one, tensors = torch.ones(()), {}
    for name, _, _, rows, columns, _ in rows_of(geometry):
        shapes = kind.shapes(rows, columns, 4) | ({"alpha": ()} if alpha else {})
        tensors |= {f"{key(name)}.{parameter}": one.expand(shape) for parameter, shape in shapes.items()}
    return tensors


def text_encoder_keys() -> dict[str, Tensor]:
    """The additional keys of sd-scripts and OneTrainer when they train text encoders too."""
    layers = ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te3_encoder_block_0_layer_0_SelfAttention_q")
    layers += ("clip_l.text_model.encoder.layers.0.mlp.fc1", "t5.encoder.block.0.layer.0.SelfAttention.q")
    sizes = {"lora_down.weight": (4, 768), "lora_up.weight": (768, 4), "alpha": ()}
    return {f"{layer}.{parameter}": torch.ones(size) for layer in layers for parameter, size in sizes.items()}
