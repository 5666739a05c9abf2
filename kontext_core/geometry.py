"""The sizes of a FLUX.1 transformer, read from the tensor shapes of a file before any tensor is loaded.

Nothing in the weights says "Kontext": FLUX.1 [dev] has the same names and shapes. Other models are rejected by name.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a FLUX.1 transformer; the defaults are those of Kontext [dev] (BFL's `flux-dev-kontext`)."""

    in_channels: int = 16  # channels of the latent; a token holds patch_size^2 times as many values
    out_channels: int = 16  # likewise
    hidden_size: int = 3072
    num_heads: int = 24
    depth: int = 19  # double-stream blocks
    depth_single_blocks: int = 38
    context_in_dim: int = 4096  # width of the text embedding (T5-XXL)
    vec_in_dim: int = 768  # width of the pooled text embedding (CLIP-L)
    axes_dim: tuple[int, int, int] = (16, 56, 56)  # rotary channels of index, row and column; they fill one head
    theta: int = 10000
    mlp_ratio: float = 4.0
    guidance_embed: bool = True
    patch_size: int = 2


def read_geometry(shapes: Shapes) -> Geometry:
    """Read the sizes from `shapes`: tensor name (BFL's, with or without a prefix) -> shape.

    Sizes come from rows (first dimensions), because 4-bit formats pack two weights into a byte and halve the columns.
    Three sizes appear only in columns. img_in must have as many columns as final_layer has rows, or half as many if the
    file is packed. The text widths (columns of txt_in and vector_in) are doubled if the layer is packed: it has a
    `weight_scale_2` (nvfp4), or time_in has 128 columns instead of FLUX.1's 256. A file does not store theta, axes or
    patch size; FLUX.1's are assumed.

    Raises ValueError for a file of another model (named), an incomplete file, and one whose shapes disagree.
    """
    shapes = without_prefix(shapes)
    _refuse_foreign(shapes)
    hidden_size = _rows(shapes, "img_in")
    if not hidden_size:
        raise ValueError("img_in.weight is empty. The file is damaged.")
    geometry = Geometry(
        in_channels=_latent_channels(shapes),
        out_channels=_latent_channels(shapes),
        hidden_size=hidden_size,
        num_heads=hidden_size // sum(Geometry.axes_dim),
        depth=_count(shapes, "double_blocks"),
        depth_single_blocks=_count(shapes, "single_blocks"),
        context_in_dim=_columns(shapes, "txt_in"),
        vec_in_dim=_columns(shapes, "vector_in.in_layer"),
        mlp_ratio=_rows(shapes, "double_blocks.0.img_mlp.0") / hidden_size,
        guidance_embed=_first_match(r"^guidance_in\.", shapes) is not None,
    )
    _check_heads(shapes, geometry)
    _check_rows(shapes, geometry)
    return geometry


NEEDED = "A FLUX.1 Kontext transformer with BFL's tensor names, like flux1-kontext-dev.safetensors, is needed."

DIFFUSERS = "FLUX.1 in diffusers layout"

FOREIGN = {
    # The first match counts, so models that share names with FLUX.1 or with a later row come first.
    "an SVDQuant (Nunchaku) file": r"\.qweight$",
    "a bitsandbytes 4-bit file": r"\.weight\.(absmax|quant_state)",
    "a LoRA": r"lora_(A|B|down|up|unet|te)|lora[12]?\.(down|up)|lokr_w|hada_w|\.dora_scale$",
    "a ControlNet": r"^controlnet_|^control_model\.|input_hint_block",
    "an IP-Adapter": r"^ip_adapter|^image_proj\.",
    "a FLUX.1 Redux style model": r"^redux_(up|down)\.",
    "FLUX.2": r"double_stream_modulation_img\.",
    "Chroma": r"distilled_guidance_layer\.",
    "Ovis-Image": r"double_blocks\.0\.img_mlp\.gate_proj\.",
    "HunyuanVideo": r"txt_in\.individual_token_refiner\.",
    DIFFUSERS: r"single_transformer_blocks\.0\.",
    "Qwen-Image": r"transformer_blocks\.0\.img_mod\.1\.",
    "SD3": r"joint_blocks\.0\.|transformer_blocks\.0\.attn\.add_q_proj\.",
    "Wan": r"(^|\.)head\.modulation$|condition_embedder\.time_embedder\.",
    "Z-Image or Lumina 2": r"noise_refiner\.0\.",
    "LTX-Video": r"patchify_proj\.",
    "PixArt": r"t_block\.1\.|adaln_single\.",
    "AuraFlow": r"double_layers\.0\.",
    "HiDream": r"double_stream_blocks\.0\.",
    "SDXL": r"label_emb\.0\.0\.|add_embedding\.linear_1\.",
    "SD1.5 or SD2": r"input_blocks\.0\.0\.|^down_blocks\.0\.",
    "a CLIP-G text encoder": r"text_model\.encoder\.layers\.31\.|transformer\.resblocks\.",
    "a CLIP-L text encoder": r"text_model\.encoder\.layers\.0\.",
    "a CLIP vision model": r"vision_model\.",
    "a T5 text encoder": r"encoder\.block\.0\.layer\.0\.SelfAttention\.",
    "a language model": r"layers\.0\.self_attn\.q_proj\.",
    "an autoencoder (VAE)": r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.",
}

VARIANTS = {384: "FLUX.1 Fill, the inpainting variant", 128: "FLUX.1 Canny or Depth, a control variant"}


def without_prefix(shapes: Shapes) -> Shapes:
    """The transformer's tensors without their prefix, and without the other models of an all-in-one checkpoint."""
    prefix = prefix_of(shapes)
    return {name.removeprefix(prefix): shapes[name] for name in shapes if name.startswith(prefix)}


def prefix_of(names: Collection[str]) -> str:
    """The prefix of the transformer's names, by the rule of ComfyUI's loader; "" for none.

    Source: ComfyUI, `comfy/model_detection.py`, `unet_prefix_from_state_dict`.
    """
    counts = Counter(next(filter(name.startswith, PREFIXES), "") for name in names)
    best = max(PREFIXES, key=lambda prefix: counts[prefix])
    if counts[best] > 5:
        return best
    return "model." if any(name.startswith("model.") for name in names) else ""


PREFIXES = ("model.diffusion_model.", "model.model.", "net.")


def looks_like(shapes: Shapes) -> tuple[str, str] | None:
    """The name of another model that a file holds, and the tensor that shows it; None if unknown."""
    for name, pattern in FOREIGN.items():
        if found := _first_match(pattern, shapes):
            return name, found
    return None


def _refuse_foreign(shapes: Shapes) -> None:
    if foreign := looks_like(shapes):
        raise ValueError(f"this looks like {foreign[0]}: it has the tensor {foreign[1]}. {NEEDED}")
    if not _first_match(r"^(double|single)_blocks\.", shapes):
        some = ", ".join(list(shapes)[:3]) or "none at all"
        raise ValueError(f"this is no model known by its tensor names ({some}). {NEEDED}")


def _first_match(pattern: str, names: Iterable[str]) -> str | None:
    return next((name for name in names if re.search(pattern, name)), None)


def _matrix(shapes: Shapes, layer: str) -> tuple[int, int]:
    name = f"{layer}.weight"
    if name not in shapes:
        raise ValueError(f"this looks like a part of a FLUX.1 transformer: {name} is missing. {NEEDED}")
    if len(shapes[name]) != 2:
        raise ValueError(f"{name} has the shape {list(shapes[name])}, not a matrix's. The file is damaged.")
    rows, columns = shapes[name]
    return rows, columns


def _rows(shapes: Shapes, layer: str) -> int:
    return _matrix(shapes, layer)[0]


def _columns(shapes: Shapes, layer: str) -> int:
    columns = _matrix(shapes, layer)[1]
    packed = f"{layer}.weight_scale_2" in shapes or _matrix(shapes, "time_in.in_layer")[1] == 128
    return 2 * columns if packed else columns


def _count(shapes: Shapes, stack: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{stack}.")})


def _latent_channels(shapes: Shapes) -> int:
    values = _rows(shapes, "final_layer.linear")  # per output token; an input token has as many
    columns = _matrix(shapes, "img_in")[1]
    if columns not in (values, values // 2):
        variant = VARIANTS.get(columns, "a variant of FLUX.1 with other inputs")
        raise ValueError(f"this looks like {variant}: img_in takes {columns} values, not {values}. {NEEDED}")
    return values // Geometry.patch_size**2


def _check_heads(shapes: Shapes, geometry: Geometry) -> None:
    norm = "double_blocks.0.img_attn.norm.key_norm"
    width = (shapes.get(f"{norm}.scale") or shapes.get(f"{norm}.weight") or [0])[0]
    needed = sum(geometry.axes_dim)
    if width != needed or geometry.hidden_size % needed:
        raise ValueError(
            f"attention heads are {width} wide and img_in has {geometry.hidden_size} rows; FLUX.1's heads are"
            f" {needed} wide, and its rows are a multiple of that. {NEEDED}"
        )


def _check_rows(shapes: Shapes, geometry: Geometry) -> None:
    for layer, rows, _ in layers(geometry):
        found = _rows(shapes, layer)
        if found != rows:
            raise ValueError(f"{layer}.weight has {found} rows, but {rows} are needed. The file is damaged.")


def layers(geometry: Geometry) -> Iterator[tuple[str, int, int]]:
    """Every linear layer of the tree: BFL's name, rows (outputs) and columns (inputs) of its weight."""
    hidden, mlp = geometry.hidden_size, int(geometry.hidden_size * geometry.mlp_ratio)
    tokens = geometry.patch_size**2
    inputs = {"time_in": 256, "vector_in": geometry.vec_in_dim, "guidance_in": 256}
    for embedder in list(inputs)[: 3 if geometry.guidance_embed else 2]:
        yield f"{embedder}.in_layer", hidden, inputs[embedder]
        yield f"{embedder}.out_layer", hidden, hidden
    yield "img_in", hidden, geometry.in_channels * tokens
    yield "txt_in", hidden, geometry.context_in_dim
    for block in range(geometry.depth):
        for stream in ("img", "txt"):
            yield f"double_blocks.{block}.{stream}_mod.lin", 6 * hidden, hidden
            yield f"double_blocks.{block}.{stream}_attn.qkv", 3 * hidden, hidden
            yield f"double_blocks.{block}.{stream}_attn.proj", hidden, hidden
            yield f"double_blocks.{block}.{stream}_mlp.0", mlp, hidden
            yield f"double_blocks.{block}.{stream}_mlp.2", hidden, mlp
    for block in range(geometry.depth_single_blocks):
        yield f"single_blocks.{block}.modulation.lin", 3 * hidden, hidden
        yield f"single_blocks.{block}.linear1", 3 * hidden + mlp, hidden
        yield f"single_blocks.{block}.linear2", hidden, hidden + mlp
    yield "final_layer.adaLN_modulation.1", 2 * hidden, hidden
    yield "final_layer.linear", geometry.out_channels * tokens, hidden


def norms(geometry: Geometry) -> Iterator[tuple[str, int]]:
    """Every norm of the tree that has a weight: BFL's name and its width."""
    width = sum(geometry.axes_dim)
    for part in ("query_norm", "key_norm"):
        for block in range(geometry.depth):
            yield f"double_blocks.{block}.img_attn.norm.{part}", width
            yield f"double_blocks.{block}.txt_attn.norm.{part}", width
        for block in range(geometry.depth_single_blocks):
            yield f"single_blocks.{block}.norm.{part}", width
