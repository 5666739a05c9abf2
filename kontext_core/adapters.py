"""LoRA files of every layout in use, read as adapters on BFL's layers. Nothing here changes a model.

A file is a set of tensors named `prefix + layer + parameter`, and every tool has its own words for all three.
Read here are LoRA, LoHa, LoKr, DoRA and full differences; what is not matched is told with the reason, never
dropped silently.

The scale of a low-rank change is alpha / rank; a file without alpha means alpha = rank (diffusers, PEFT).
Sources: kohya-ss/sd-scripts `networks/lora_flux.py`; diffusers `loaders/lora_conversion_utils.py`; PEFT
`tuners/lora`; KohakuBlueleaf/LyCORIS `lycoris/functional`; XLabs-AI/x-flux `src/flux/modules/layers.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from . import names as naming
from .checkpoints import MOST_TENSORS
from .geometry import Geometry, layers
from .names import Name, Place, names

LORA, LOHA, LOKR, FULL, BIAS = "LoRA", "LoHa", "LoKr", "full weight", "bias"

Tensors = Mapping[str, Tensor]


class Adapter(NamedTuple):
    """A change of one layer, or of a range of its rows, in BFL's tree."""

    place: Place
    kind: str  # LORA, LOHA, LOKR, FULL or BIAS
    tensors: dict[str, Tensor]  # by parameter: "up", "down"; "hada_w1_a", ...; "lokr_w1", ...; "diff"
    alpha: float | None = None  # None: the scale is 1
    dora_scale: Tensor | None = None  # (rows, 1) or (1, columns)

    @property
    def rank(self) -> int | None:
        """Of a low-rank change; None of a full one."""
        for inner in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if inner in self.tensors:
                return self.tensors[inner].shape[0]
        return None


@dataclass
class Reading:
    """What a file holds for one model."""

    layout: str
    keys: int
    adapters: list[Adapter] = field(default_factory=list)
    matched: list[str] = field(default_factory=list)  # keys
    unmatched: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # reason -> keys


def read_adapters(tensors: Tensors, geometry: Geometry, metadata: Mapping[str, str] | None = None) -> Reading:
    """Read a file's `tensors` for a FLUX.1 of this geometry; `metadata` is the file's own.

    ValueError for a file made for another model (by name), for one that fits no layer, and for a damaged one:
    a matrix without its other half, a shape that does not fit its layer, values that are no numbers.
    """
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"the file has {len(tensors):,} tensors; a LoRA has at most {MOST_TENSORS:,}.")
    _refuse_foreign(tensors)
    reading, groups, layouts = _group(tensors, geometry)
    columns = {layer: columns for layer, _, columns in layers(geometry)}
    alphas = _peft_alphas(metadata or {})
    for module, (name, parameters) in groups.items():
        found = {parameter: tensors[key] for parameter, key in parameters.items()}
        if set(found) == {"alpha"}:
            reading.unmatched["an alpha without matrices has no effect"] += parameters.values()
            continue
        for parameter, tensor in found.items():
            _require_numbers(parameters[parameter], tensor)
        if "alpha" not in found and (alpha := alphas.of(module, found)) is not None:
            found["alpha"] = torch.tensor(alpha)
        reading.adapters += _adapters(module, name.place, found, columns.get(name.place.layer))
        reading.matched += parameters.values()
    if not reading.adapters:
        raise ValueError(_no_match(tensors, reading))
    reading.layout = _layout(layouts)
    return reading


def describe(reading: Reading, strength: float) -> str:
    """The report on the node: layout, keys matched of keys present, rank, alpha, and what was not matched and why."""
    places = {adapter.place.layer for adapter in reading.adapters}
    lines = [
        reading.layout,
        f"{len(reading.matched)} of {reading.keys} keys matched, on {len(places)} layers",
        f"{_kinds(reading.adapters)}, strength {strength:g}",
    ]
    for reason, keys in reading.unmatched.items():
        lines.append(f"not matched, {len(keys)}: {reason} ({_some(keys)})")
    return "\n".join(lines)


# Keys


_PARAMETERS = {  # our word: what follows the layer's name
    "down": r"lora_(?:A|down)(?:\.[^.]+)?\.weight|lora_A|lora_down|lora\.down\.weight"
    r"|lora_linear_layer\.down\.weight|down\.weight",
    "up": r"lora_(?:B|up)(?:\.[^.]+)?\.weight|lora_B|lora_up|lora\.up\.weight"
    r"|lora_linear_layer\.up\.weight|up\.weight",
    "up_bias": r"lora_(?:B|up)(?:\.[^.]+)?\.bias",
    "alpha": r"alpha",
    "dora_scale": r"dora_scale|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?",
    "diff": r"diff|w_norm",
    "diff_b": r"diff_b|b_norm",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{name: name for name in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_w1", "lokr_w2")},
}
_KEY = re.compile(r"(.+?)\.(?:" + "|".join(f"(?P<{word}>{pattern})" for word, pattern in _PARAMETERS.items()) + ")")
_DOTTED = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
_TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoders?(_\d)?\.|text_model\.|te\d?\.|clip_l\.|t5(xxl)?\.")
_OTHER_KIND = re.compile(
    r"\.(?P<kind>oft_blocks|oft_R|boft_blocks|oft_diag|[ab][12]\.weight|lora_mid|hada_t[12]|lokr_t2|vera_lambda_[bd])(\.|$)"
)

_LAYOUTS = {
    ("lora_unet_", naming.BFL): "kohya",
    ("transformer.", naming.DIFFUSERS): "diffusers/PEFT",
    ("diffusion_model.", naming.BFL): "BFL names with diffusion_model.",
    ("lycoris_", naming.DIFFUSERS): "LyCORIS",
    ("lora_transformer_", naming.DIFFUSERS): "OneTrainer",
    ("", naming.DIFFUSERS): "bare diffusers names",
    ("base_model.model.", naming.BFL): "PEFT with BFL names (fal)",
    ("base_model.model.", naming.DIFFUSERS): "PEFT with diffusers names",
    ("", naming.BFL): "bare BFL names",
    ("transformer.", naming.BFL): "BFL names with transformer.",
    ("transformer.", naming.SPLIT): "OneTrainer, Q, K and V apart",
    ("", naming.PROCESSORS): "XLabs",
}

Groups = dict[str, tuple[Name, dict[str, str]]]  # layer as the file calls it -> (what it is, parameter -> key)


def _group(tensors: Tensors, geometry: Geometry) -> tuple[Reading, Groups, Counter[tuple[str, str]]]:
    """The keys that name a layer, by layer; the others go into the reading with their reason."""
    dotted = names(geometry)
    underscored = {name.replace(".", "_"): place for name, place in dotted.items()}
    reading, groups, layouts = Reading("", len(tensors)), {}, Counter()
    taken: dict[Place, str] = {}
    for key in tensors:
        match = _KEY.fullmatch(key)
        if _TEXT_ENCODER.match(key):
            reading.unmatched["of a text encoder; this node changes the model alone"].append(key)
        elif match is None:
            _refuse_other_kind(key)
            reading.unmatched["no known kind of parameter"].append(key)
        else:
            module, parameter = match[1], str(match.lastgroup)
            prefix, name = _look_up(module, dotted, underscored)
            if name is None:
                _refuse_deeper(module, geometry, dotted, underscored)
                reading.unmatched["names no layer of this model"].append(key)
                continue
            if taken.setdefault(name.place, module) != module:
                raise ValueError(f"{module} and {taken[name.place]} are the same layer. The file is damaged.")
            _, parameters = groups.setdefault(module, (name, {}))
            if parameter in parameters:
                raise ValueError(f"{key} and {parameters[parameter]} are the same parameter. The file is damaged.")
            parameters[parameter] = key
            layouts[prefix, name.naming] += 1
    return reading, groups, layouts


def _refuse_other_kind(key: str) -> None:
    """ValueError for a change that is no sum, or of which other parameters would be read and this one not."""
    if kind := _OTHER_KIND.search(key):
        raise ValueError(
            f"this holds {kind['kind']} ({key[:80]}), a kind of change that is not read here (such as OFT, GLoRA or "
            f"Tucker convolutions). Try ComfyUI's Load LoRA. {NEEDED}"
        )


def _look_up(module: str, dotted: Mapping[str, Name], underscored: Mapping[str, Name]) -> tuple[str, Name | None]:
    """The prefix of a layer's name in a file, and what the rest of it stands for."""
    for prefix in _UNDERSCORED:
        if module.startswith(prefix):
            return prefix, underscored.get(module.removeprefix(prefix))
    rest = module
    while rest not in dotted:
        prefix = next((prefix for prefix in _DOTTED if rest.startswith(prefix)), None)
        if prefix is None:
            return "", None
        rest = rest.removeprefix(prefix)
    return module.removesuffix(rest), dotted[rest]


def _refuse_deeper(
    module: str, geometry: Geometry, dotted: Mapping[str, Name], underscored: Mapping[str, Name]
) -> None:
    """ValueError if `module` would be a layer of FLUX.1, were the model deeper."""
    if not (block := re.search(r"(?<=blocks[._])\d+", module)):
        return
    first = f"{module[: block.start()]}0{module[block.end() :]}"
    if _look_up(first, dotted, underscored)[1] is not None:
        raise ValueError(
            "this LoRA was made for a model with more blocks, such as Qwen-Image, HunyuanVideo or FLUX.2: it has "
            f"{module}, and this model has {geometry.depth} double and {geometry.depth_single_blocks} single "
            f"blocks. {NEEDED}"
        )


def _layout(layouts: Counter[tuple[str, str]]) -> str:
    """The layout of most keys. OneTrainer's split layers stand beside unsplit ones."""
    prefix, kind = layouts.most_common(1)[0][0]
    if (prefix, naming.SPLIT) in layouts:
        kind = naming.SPLIT
    return _LAYOUTS.get((prefix, kind), f"{kind} names" + (f" with {prefix}" if prefix else ""))


# Tensors


def _adapters(module: str, place: Place, found: dict[str, Tensor], columns: int | None) -> list[Adapter]:
    """The changes that one layer's parameters make. ValueError for what is not whole or does not fit.

    `columns` is None for a norm, which has a vector for a weight.
    """
    given = dict(found)
    alpha = _alpha(module, given.pop("alpha", None))
    dora_scale = _dora_scale(module, given.pop("dora_scale", None), place, columns)
    made = []
    if bias := _take(given, ("up_bias",)):
        rank = found["down"].shape[0] if "down" in found else 0
        scale = alpha / rank if alpha is not None and rank else 1.0
        given["diff_b"] = bias["up_bias"] * scale
    for kind, choices in _KINDS.items():
        for parameters in choices:
            if taken := _take(given, parameters):
                flat = {name: tensor.flatten(1) if tensor.ndim == 4 else tensor for name, tensor in taken.items()}
                _require_shape(module, kind, flat, place, columns)
                low_rank = kind in (LORA, LOHA, LOKR)
                made.append(Adapter(place, kind, flat, alpha if low_rank else None, dora_scale if low_rank else None))
    if given or not made:
        present = ", ".join(sorted(found))
        raise ValueError(f"{module} is not whole: it has {present} alone. The file is damaged.")
    return made


_KINDS = {
    LORA: (("up", "down"),),
    LOHA: (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),),
    LOKR: (
        ("lokr_w1", "lokr_w2"),
        ("lokr_w1", "lokr_w2_a", "lokr_w2_b"),
        ("lokr_w1_a", "lokr_w1_b", "lokr_w2"),
        ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
    ),
    FULL: (("diff",),),
    BIAS: (("diff_b",),),
}


def _take(given: dict[str, Tensor], parameters: tuple[str, ...]) -> dict[str, Tensor]:
    """These parameters, out of `given`, if all are there."""
    if not given.keys() >= set(parameters):
        return {}
    return {parameter: given.pop(parameter) for parameter in parameters}


def _require_numbers(key: str, tensor: Tensor) -> None:
    if not (tensor.is_floating_point() or key.endswith("alpha")):
        raise ValueError(f"{key} holds {tensor.dtype}, not weights. The file is damaged, or of a kind unknown here.")
    if not tensor.float().isfinite().all():
        raise ValueError(f"{key} has values that are no numbers (NaN or infinite). The file is damaged.")


def _alpha(module: str, alpha: Tensor | None) -> float | None:
    if alpha is None:
        return None
    if alpha.numel() != 1:
        raise ValueError(f"{module}.alpha has {alpha.numel()} values; it must be one. The file is damaged.")
    return float(alpha)


def _dora_scale(module: str, scale: Tensor | None, place: Place, columns: int | None) -> Tensor | None:
    """PEFT's vector of magnitudes is LyCORIS' column."""
    if scale is None:
        return None
    if scale.ndim == 1 or (scale.ndim == 2 and scale.shape[1] == 1):
        scale = scale.reshape(-1, 1)
    if tuple(scale.shape) not in ((place.rows, 1), (1, columns)):
        raise ValueError(_misfit(f"{module}.dora_scale", tuple(scale.shape), (place.rows, 1)))
    return torch.cat(scale.chunk(2)[::-1]) if place.swapped and len(scale) > 1 else scale


def _require_shape(module: str, kind: str, tensors: dict[str, Tensor], place: Place, columns: int | None) -> None:
    needed = (place.rows,) if columns is None or kind == BIAS else (place.rows, columns)
    low_rank = kind in (LORA, LOHA, LOKR)
    if low_rank and any(tensor.ndim != 2 for tensor in tensors.values()):
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"{module} has {shapes}, but matrices are needed. The file is damaged.")
    for made in _made(kind, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        if made is None:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise ValueError(f"the halves of {module} have different ranks: {shapes}. The file is damaged.")
        if made != needed:
            raise ValueError(_misfit(module, made, needed))


def _made(kind: str, shapes: dict[str, tuple[int, ...]]) -> Iterable[tuple[int, ...] | None]:
    """The shapes of what the matrices multiply to; None where their ranks differ."""
    if kind == LORA:
        yield _product(shapes["up"], shapes["down"])
    elif kind == LOHA:
        yield _product(shapes["hada_w1_a"], shapes["hada_w1_b"])
        yield _product(shapes["hada_w2_a"], shapes["hada_w2_b"])
    elif kind == LOKR:
        factors = [
            shapes.get(factor) or _product(shapes[f"{factor}_a"], shapes[f"{factor}_b"])
            for factor in ("lokr_w1", "lokr_w2")
        ]
        yield None if None in factors else tuple(math.prod(pair) for pair in zip(*factors, strict=True))
    else:
        yield from shapes.values()


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int] | None:
    return (a[0], b[1]) if a[1] == b[0] and a[1] else None


def _misfit(module: str, made: tuple[int, ...], needed: tuple[int, ...]) -> str:
    if module.endswith(("img_in", "img_in.proj", "x_embedder")) and made[-1] in _INPUTS:
        known = _INPUTS[made[-1]]
    else:
        known = next((model for size, model in _SIZES.items() if size in made), None)
    looks_like = f"It looks like a LoRA for {known}" if known else "It was made for a model of other sizes"
    sizes = f"{module} changes a weight of {list(made)}, but this model's has {list(needed)}"
    return f"{sizes}. {looks_like}. {NEEDED}"


_INPUTS = {  # columns of img_in, in FLUX.1's variants
    128: "FLUX.1 Canny or Depth: a control LoRA, for a picture beside the latent that Kontext has no place for",
    384: "FLUX.1 Fill, whose input has a mask beside the picture",
}
_SIZES = {  # widths that tell another model
    1536: "SD3 or SD3.5 medium",
    2432: "SD3.5 large",
    6144: "FLUX.2 [dev]",
    18432: "FLUX.2",
    27648: "FLUX.2 [klein]",
    4096: "FLUX.2 [klein]",
    36864: "FLUX.2",
}


# Alpha in the metadata


class _Alphas(NamedTuple):
    """PEFT's settings, which diffusers writes into the metadata: one alpha, and exceptions by layer."""

    alpha: float | None
    pattern: dict[str, float]
    root: bool  # the scale is alpha / sqrt(rank)

    def of(self, module: str, found: Mapping[str, Tensor]) -> float | None:
        """The alpha whose quotient with the rank is the scale."""
        if "down" not in found:
            return None
        exceptions = [value for name, value in self.pattern.items() if f".{module}".endswith(f".{name}")]
        alpha = exceptions[0] if exceptions else self.alpha
        return alpha if alpha is None or not self.root else alpha * found["down"].shape[0] ** 0.5


def _peft_alphas(metadata: Mapping[str, str]) -> _Alphas:
    try:
        settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        ours = {name.removeprefix("transformer."): value for name, value in settings.items()}
        alpha = ours.get("lora_alpha")
        pattern = {name: float(value) for name, value in (ours.get("alpha_pattern") or {}).items()}
        alphas = _Alphas(None if alpha is None else float(alpha), pattern, bool(ours.get("use_rslora")))
        if not all(map(math.isfinite, [*pattern.values(), alphas.alpha or 0])):
            raise ValueError("an alpha is no number")
        return alphas
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("the metadata lora_adapter_metadata cannot be read. The file is damaged.") from error


# Other models


NEEDED = "Needed is a LoRA for FLUX.1 Kontext or FLUX.1 [dev]."

FOREIGN = {  # first match wins
    "a ControlNet": r"^controlnet|input_hint_block",
    "an IP-Adapter": r"ip_adapter|^image_proj",
    "SDXL": r"(input|output)_blocks[._]\d+[._]\d|attentions[._]\d[._]transformer_blocks[._][1-9]",
    "SD1.5 or SD2": r"(down|up)_blocks[._]\d+[._]attentions|mid_block[._]attentions",
    "FLUX.2": r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj",
    "Chroma": r"distilled_guidance_layer",
    "HunyuanVideo": r"(img|txt)_(mlp[._]fc\d|mod[._]linear)|modulation[._]linear|\.(img|txt)_attn_(qkv|proj)",
    "Qwen-Image": r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)[._]",
    "Wan": r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|attn1|attn2)[._]|condition_embedder",
    "SD3": r"joint_blocks",
    "AuraFlow": r"joint_transformer_blocks|double_layers",
    "HiDream": r"(double|single)_stream_blocks",
    "Z-Image or Lumina 2": r"(noise|context)_refiner|layers[._]\d+[._](attention|feed_forward)[._]",
    "LTX-Video or PixArt": r"transformer_blocks[._]\d+[._]attn[12][._]",
}
_CONTROL = re.compile(r"norm\.(key|query)_norm\.scale$")
_CHECKPOINT = re.compile(r"(qkv|linear1|to_q|proj_mlp|img_in|x_embedder)\.weight$")


def _refuse_foreign(tensors: Tensors) -> None:
    for name, pattern in FOREIGN.items():
        compiled = re.compile(pattern)
        if key := next((key for key in tensors if compiled.search(key)), None):
            raise ValueError(f"this looks like a file for {name}: it has {key}. {NEEDED}")
    if "img_in.lora_A.weight" in tensors and any(_CONTROL.search(key) for key in tensors):
        columns = tensors["img_in.lora_A.weight"].shape[-1]
        raise ValueError(
            f"this is a BFL control LoRA (Canny or Depth): it widens the model's input to {columns} values for a "
            f"control picture that Kontext has no place for. {NEEDED}"
        )


def _no_match(tensors: Tensors, reading: Reading) -> str:
    if _keys_of(reading, "text encoder") == len(tensors) and tensors:
        return f"the file changes text encoders alone. Load it with ComfyUI's Load LoRA. {NEEDED}"
    if any(_CHECKPOINT.search(key) for key in tensors):
        return f"this is a whole model, not a LoRA. Choose it in Kontext Loader. {NEEDED}"
    return f"no key fits a layer of FLUX.1 ({_some(list(tensors)) or 'the file is empty'}). {NEEDED}"


def _keys_of(reading: Reading, word: str) -> int:
    return sum(len(keys) for reason, keys in reading.unmatched.items() if word in reason)


# Words


def _kinds(adapters: list[Adapter]) -> str:
    """Such as 'LoRA, rank 16, alpha 8'."""
    kinds = Counter(adapter.kind for adapter in adapters)
    words = [f"{kind} ({count})" if len(kinds) > 1 else kind for kind, count in kinds.items()]
    if any(adapter.dora_scale is not None for adapter in adapters):
        words.append("DoRA")
    low_rank = [adapter for adapter in adapters if adapter.rank is not None]
    if low_rank:
        words.append(f"rank {_range(adapter.rank for adapter in low_rank)}")
        alphas = {adapter.alpha for adapter in low_rank}
        given = _range(alpha for alpha in alphas if alpha is not None)
        words.append(f"alpha {given}" if given else "alpha not given: scale 1")
        if given and None in alphas:
            words[-1] += " (not given on some: scale 1)"
    return ", ".join(words)


def _range(values: Iterable[float | int | None]) -> str:
    given = sorted({value for value in values if value is not None})
    return " to ".join(f"{value:g}" for value in given[:: max(len(given) - 1, 1)])


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(key[:80] for key in keys[:2]) + more
