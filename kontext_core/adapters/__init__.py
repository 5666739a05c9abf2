"""Read LoRA files of every common layout as adapters on BFL's layers, without changing a model.

A file is a set of tensors named `prefix + layer + parameter`; every tool spells all three differently. Supported are
LoRA, LoHa, LoKr, DoRA and full weight differences; keys that do not match are reported with the reason, never dropped
silently.

The scale of a low-rank change is alpha / rank; a file without alpha means alpha = rank (diffusers, PEFT).
Sources: kohya-ss/sd-scripts `networks/lora_flux.py`; diffusers `loaders/lora_conversion_utils.py`; PEFT
`tuners/lora`; KohakuBlueleaf/LyCORIS `lycoris/functional`; XLabs-AI/x-flux `src/flux/modules/layers.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoints import MOST_TENSORS
from ..geometry import Geometry, layers
from ..names import Place
from .alphas import CONFIG, Alphas, read_alphas
from .keys import NEEDED, Layer, Tensors, read_keys, refuse_foreign, refuse_unmatched, some

__all__ = ["BIAS", "CONFIG", "FULL", "LOHA", "LOKR", "LORA", "Adapter", "Reading", "describe", "read_adapters"]

LORA, LOHA, LOKR, FULL, BIAS = "LoRA", "LoHa", "LoKr", "full weight", "bias"


class Adapter(NamedTuple):
    """A change of one layer, or of a range of its rows, in BFL's tree."""

    place: Place
    kind: str  # LORA, LOHA, LOKR, FULL or BIAS
    tensors: dict[str, Tensor]  # by parameter: "up", "down"; "hada_w1_a", ...; "lokr_w1", ...; "diff"
    alpha: float | None = None  # None: the scale is 1
    dora_scale: Tensor | None = None  # (rows, 1) or (1, columns)

    @property
    def rank(self) -> int | None:
        """The rank of a low-rank change; None for a full one."""
        return _rank(self.tensors)


def _rank(tensors: Mapping[str, Tensor]) -> int | None:
    for inner in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if inner in tensors and tensors[inner].ndim > 1:
            return tensors[inner].shape[0]
    return None


@dataclass
class Reading:
    """The contents of a file, matched to one model."""

    layout: str
    keys: int
    adapters: list[Adapter] = field(default_factory=list)
    matched: list[str] = field(default_factory=list)  # keys
    unmatched: dict[str, list[str]] = field(default_factory=dict)  # reason -> keys
    wrappers: list[str] = field(default_factory=list)  # parts of names that were ignored
    alpha_source: str = ""  # the origin of the alphas, if not the file's keys


def read_adapters(
    tensors: Tensors, geometry: Geometry, metadata: Mapping[str, str] | None = None, config: str | None = None
) -> Reading:
    """Read a file's `tensors` for a FLUX.1 of this geometry.

    `metadata` is the file's own; `config` is the text of PEFT's adapter_config.json in the same folder, if any.

    ValueError for a file made for another model (named), for one that matches no layer or only in part, and for a
    damaged one: a matrix without its other half, a shape that does not fit its layer, values that are not finite.
    """
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"the file has {len(tensors):,} tensors; a LoRA has at most {MOST_TENSORS:,}.")
    refuse_foreign(tensors)
    keys = read_keys(tensors, geometry)
    refuse_unmatched(tensors, keys)
    columns = {layer: columns for layer, _, columns in layers(geometry)}
    alphas = read_alphas(metadata or {}, config)
    reading = Reading(keys.layout, len(tensors), unmatched=keys.unmatched, wrappers=keys.wrappers)
    for module, layer in keys.layers.items():
        found = {parameter: tensors[key] for parameter, key in layer.keys.items()}
        if set(found) == {"alpha"}:
            reading.unmatched.setdefault("an alpha without matrices has no effect", []).extend(layer.keys.values())
            continue
        if _is_whole_lokr(found):
            found.pop("alpha", None)  # the trainer's own scale is 1; some write an alpha that float16 cannot hold
        for parameter, tensor in found.items():
            _require_numbers(layer.keys[parameter], tensor)
        if "alpha" not in found and _with_alpha(module, layer, found, alphas):
            reading.alpha_source = alphas.source
        reading.adapters += _adapters(module, layer.place, found, columns.get(layer.place.layer))
        reading.matched += layer.keys.values()
    if not reading.adapters:
        raise ValueError(f"the file holds alphas without matrices. {NEEDED}")
    return reading


def _is_whole_lokr(found: Mapping[str, Tensor]) -> bool:
    return {"lokr_w1", "lokr_w2"} <= found.keys()


def _with_alpha(module: str, layer: Layer, found: dict[str, Tensor], alphas: Alphas) -> bool:
    """Whether the settings give an alpha for a layer without one; if so, it is put into `found`."""
    rank = _rank(found)
    if rank is None and not _is_whole_lokr(found):
        return False
    alpha = alphas.of((module, layer.name), rank)
    if alpha is None:
        return False
    if rank is None:
        found["lokr_w1"] = found["lokr_w1"].float() * alpha
    else:
        found["alpha"] = torch.tensor(alpha)
    return True


def describe(reading: Reading, strength: float) -> str:
    """The node's report: layout, keys matched, rank, alpha, and the keys not matched with the reason."""
    places = {adapter.place.layer for adapter in reading.adapters}
    lines = [
        reading.layout,
        f"{len(reading.matched)} of {reading.keys} keys matched, on {len(places)} layers",
        f"{_kinds(reading.adapters)}, strength {strength:g}",
    ]
    if reading.alpha_source:
        lines.append(f"alpha from {reading.alpha_source}")
    if reading.wrappers:
        lines.append(f"ignored in the names: {', '.join(reading.wrappers[:3])}")
    for reason, keys in reading.unmatched.items():
        lines.append(f"not matched, {len(keys)}: {reason} ({some(keys)})")
    return "\n".join(lines)


# Tensors


def _adapters(module: str, place: Place, found: dict[str, Tensor], columns: int | None) -> list[Adapter]:
    """The changes that one layer's parameters make. ValueError if they are incomplete or do not fit.

    `columns` is None for a norm, whose weight is a vector.
    """
    given = dict(found)
    if _is_full_rank(given, place, columns):
        given["diff"] = given.pop("down")
    alpha = _alpha(module, given.pop("alpha", None))
    dora_scale = _dora_scale(module, given.pop("dora_scale", None), place, columns)
    made = []
    if bias := _take(given, ("up_bias",)):
        rank = found["down"].shape[0] if "down" in found else 0
        scale = alpha / rank if alpha is not None and rank else 1.0
        given["diff_b"] = bias["up_bias"].float() * scale  # float8 cannot be multiplied
    for kind, choices in _KINDS.items():
        for parameters in choices:
            if taken := _take(given, parameters):
                flat = {name: tensor.flatten(1) if tensor.ndim == 4 else tensor for name, tensor in taken.items()}
                _require_shape(module, kind, flat, place, columns)
                low_rank = kind in (LORA, LOHA, LOKR)
                made.append(Adapter(place, kind, flat, alpha if low_rank else None, dora_scale if low_rank else None))
    if given or not made:
        present = ", ".join(sorted(found))
        raise ValueError(f"{module} is incomplete: it has only {present}. The file is damaged.")
    weights = [adapter.kind for adapter in made if adapter.kind != BIAS]
    if dora_scale is not None and (len(weights) != 1 or weights[0] == FULL):
        raise ValueError(f"{module} has a DoRA magnitude, but not exactly one low-rank change to apply it to. {NEEDED}")
    return made


def _is_full_rank(found: Mapping[str, Tensor], place: Place, columns: int | None) -> bool:
    """ai-toolkit's full-rank network: the full difference stored as the first matrix, without a second one."""
    return found.keys() == {"down"} and tuple(found["down"].shape) == (place.rows, columns)


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
    """Remove these parameters from `given` and return them, if all are present."""
    if not given.keys() >= set(parameters):
        return {}
    return {parameter: given.pop(parameter) for parameter in parameters}


def _require_numbers(key: str, tensor: Tensor) -> None:
    if not (tensor.is_floating_point() or key.endswith("alpha")):
        raise ValueError(f"{key} holds {tensor.dtype}, not weights. The file is damaged, or of a kind unknown here.")
    if not tensor.float().isfinite().all():
        raise ValueError(f"{key} has values that are not finite (NaN or infinite). The file is damaged.")


def _alpha(module: str, alpha: Tensor | None) -> float | None:
    if alpha is None:
        return None
    if alpha.numel() != 1:
        raise ValueError(f"{module}.alpha has {alpha.numel()} values; it must be one. The file is damaged.")
    return float(alpha)


def _dora_scale(module: str, scale: Tensor | None, place: Place, columns: int | None) -> Tensor | None:
    """DoRA's magnitudes as a column or a row; PEFT stores the column as a vector."""
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
    """The shapes of the matrix products; None where the ranks differ."""
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
    looks_like = f"It looks like a LoRA for {known}." if known else "It was made for a model with other sizes."
    sizes = f"{module} changes a weight of {list(made)}, but this model's has {list(needed)}."
    return f"{sizes} {looks_like} {NEEDED}"


_INPUTS = {  # columns of img_in, in FLUX.1's variants
    128: "FLUX.1 Canny or Depth, which read a control picture that Kontext has no input for",
    384: "FLUX.1 Fill, whose input has a mask next to the picture",
}
_SIZES = {  # widths that identify another model
    1536: "SD3 or SD3.5 medium",
    2432: "SD3.5 large",
    6144: "FLUX.2 [dev]",
    18432: "FLUX.2",
    27648: "FLUX.2 [klein]",
    4096: "FLUX.2 [klein]",
    36864: "FLUX.2",
}


# Report


def _kinds(adapters: list[Adapter]) -> str:
    """For example 'LoRA, rank 16, alpha 8'."""
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
