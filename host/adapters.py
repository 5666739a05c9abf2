"""LoRA files on a host MODEL: read by `kontext_core.adapters`, applied by the host's own weight adapters."""

import copy
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor

from ..kontext_core.adapters import BIAS, CONFIG, FULL, LOHA, LOKR, LORA, Adapter, describe, read_adapters
from ..kontext_core.checkpoints import read_header
from .files import SUFFIXES
from .finite import watch
from .flux import require_flux_1

_LARGEST_CONFIG = 1_000_000  # characters


def apply_lora(model: Any, lora: str, strength: float) -> tuple[Any, str]:
    """A clone of `model` with a file of the folder loras applied, and a report of what was matched.

    The host applies the changes when it loads a weight, so offloaded and quantised weights and hooks work as with its
    own LoRA nodes. ValueError for a model that is not FLUX.1, and for a file that is damaged or made for another model.
    """
    geometry = require_flux_1(model)
    path = folder_paths.get_full_path_or_raise("loras", lora)
    try:
        read_header(path)
        tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
        config, left = _config_beside(Path(path))
        reading = read_adapters(tensors, geometry, metadata, config)
    except ValueError as error:
        raise ValueError(f"lora: {lora}: {error}") from error
    report = f"{lora}: {describe(reading, strength)}{left}"
    return (_patched(model, reading.adapters, strength) if strength else model), report


def _config_beside(path: Path) -> tuple[str | None, str]:
    """The text of PEFT's settings next to a file, or None; and a line if they may belong to another file."""
    config = path.with_name(CONFIG)
    if not config.is_file():
        return None, ""
    others = [other for other in path.parent.iterdir() if other.suffix in SUFFIXES and other != path]
    if others and not path.name.startswith("adapter_model"):
        return None, f"\n{CONFIG} beside it is not read: it may belong to {others[0].name}"
    with config.open(encoding="utf-8", errors="replace") as file:
        return file.read(_LARGEST_CONFIG), ""


def _patched(model: Any, adapters: list[Adapter], strength: float) -> Any:
    """A clone with the changes. A file may hold several for one weight, but a dictionary holds one: they are added."""
    patched, rounds = model.clone(), []
    watch(patched)
    for adapter in adapters:
        target = _target(adapter)
        free = next((patches for patches in rounds if target not in patches), None)
        if free is None:
            rounds.append(free := {})
        free[target] = _patch(adapter)
    for patches in rounds:
        taken = set(patched.add_patches(patches, strength))
        if left := [target[0] for target in patches if target not in taken]:
            raise ValueError(f"model has no weight {left[0]} ({len(left)} such in all). Load it with another loader.")
    return patched


def _target(adapter: Adapter) -> tuple:
    """The host's key of a change: weight, range of its rows, function applied to the change."""
    place = adapter.place
    parameter = "bias" if adapter.kind == BIAS else "weight"
    rows = (0, place.first, place.rows) if place.part else None
    return f"diffusion_model.{place.layer}.{parameter}", rows, _swap_halves if place.swapped else None


def _swap_halves(change: Tensor) -> Tensor:
    return torch.cat(change.chunk(2)[::-1])


def _patch(adapter: Adapter) -> Any:
    """The change as the host's weight adapter."""
    kind, tensors, alpha, dora_scale = adapter[1:]
    if kind in (FULL, BIAS):
        return "diff", tuple(tensors.values())
    get = tensors.get
    if kind == LORA:
        weights = (get("up"), get("down"), alpha, None, dora_scale, None)
    elif kind == LOHA:
        first, second = (get("hada_w1_a"), get("hada_w1_b")), (get("hada_w2_a"), get("hada_w2_b"))
        weights = (*first, alpha, *second, None, None, dora_scale)
    else:
        factors = (get("lokr_w1_a"), get("lokr_w1_b"), get("lokr_w2_a"), get("lokr_w2_b"))
        weights = (get("lokr_w1"), get("lokr_w2"), alpha, *factors, None, dora_scale)
    return _CLASSES[kind][dora_scale is not None](set(), weights)


class _Dora:
    """DoRA: a change of a weight's direction with new norms by row or column: W' = scale * (W + d) / |W + d|.

    This is the trainers' definition (DoRA, arXiv 2402.09353, equation 5; PEFT, LyCORIS, OneTrainer). The host's own
    adapters divide rows by |W| instead, which differs wherever d is not small.
    """

    slot: int  # index of the norms in `weights`
    weights: tuple

    def calculate_weight(self, weight: Tensor, key: str, strength: float, *arguments: Any) -> Tensor:
        """In place, as the host requires; `weight` may be a range of rows."""
        scale = comfy.model_management.cast_to_device(self.weights[self.slot], weight.device, weight.dtype)
        undivided = copy.copy(self)
        undivided.weights = (*self.weights[: self.slot], None, *self.weights[self.slot + 1 :])
        changed = super(_Dora, undivided).calculate_weight(weight.clone(), key, 1.0, *arguments)  # type: ignore
        lengths = changed.norm(dim=1 if len(scale) == len(weight) else 0, keepdim=True)
        changed *= scale / lengths.clamp_min(torch.finfo(weight.dtype).eps)
        return weight.add_(changed.sub_(weight), alpha=strength)


class _DoraLora(_Dora, LoRAAdapter):
    slot = 4


class _DoraLoha(_Dora, LoHaAdapter):
    slot = 7


class _DoraLokr(_Dora, LoKrAdapter):
    slot = 8


_CLASSES = {LORA: (LoRAAdapter, _DoraLora), LOHA: (LoHaAdapter, _DoraLoha), LOKR: (LoKrAdapter, _DoraLokr)}
