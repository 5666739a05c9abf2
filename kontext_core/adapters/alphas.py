"""The alpha of a LoRA file without alpha tensors: from its metadata, or from PEFT's adapter_config.json.

The scale of a low-rank change is alpha / rank, with `use_rslora` alpha / sqrt(rank).
Sources: PEFT `tuners/lora/layer.py` and `utils/other.py` (`get_pattern_key`); diffusers `loaders/lora_base.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

CONFIG = "adapter_config.json"  # written by PEFT next to the weights
_METADATA = "lora_adapter_metadata"  # the same settings, written into the file by diffusers
_FLAT = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")  # metadata entries that hold a number
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that also change the model
_MOST_PATTERNS, _LONGEST_PATTERN, _MOST_REPEATS = 2000, 200, 3

Patterns = tuple[tuple[re.Pattern, float], ...]


class Alphas(NamedTuple):
    """One alpha for all layers, and exceptions: the first pattern that matches a layer's name wins."""

    source: str = ""  # "" if there is none
    alpha: float | None = None
    exceptions: Patterns = ()
    root: bool = False
    rank: float | None = None
    ranks: Patterns = ()

    def of(self, names: tuple[str, ...], rank: int | None) -> float | None:
        """The alpha that, divided by the rank, gives the scale; None if unknown.

        `names` are the layer's, with and without the file's prefix. Without a rank (LoKr with two full factors) the
        alpha is for rank 1. ValueError if PEFT's file states another rank than `rank`.
        """
        alpha, told = _first(self.exceptions, names, self.alpha), _first(self.ranks, names, self.rank)
        if self.source == CONFIG and rank is not None and told not in (None, rank):
            raise ValueError(
                f"{CONFIG} beside the file says rank {told:g} for {names[0]}, which has rank {rank}. It belongs to "
                "another file: put each LoRA into a folder of its own."
            )
        if alpha is None:
            return None
        if rank is not None:
            return alpha * rank**0.5 if self.root else alpha
        if not told:
            return None
        return alpha / told**0.5 if self.root else alpha / told


def read_alphas(metadata: Mapping[str, str], config: str | None) -> Alphas:
    """Alphas from a file's metadata, else from the text of its adapter_config.json, else from a number in the metadata.

    ValueError for unreadable settings, and for a LoRA that requires a modified base model.
    """
    if _METADATA in metadata:
        return _settings(f"the metadata {_METADATA}", metadata[_METADATA])
    if config is not None:
        return _settings(CONFIG, config)
    found = {name: number for name in _FLAT if (number := _number(metadata.get(name))) is not None}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} {number:g}" for name, number in found.items())
        raise ValueError(f"the metadata contradict themselves: {told}. The file is damaged.")
    name = next(iter(found), None)
    return Alphas() if name is None else Alphas(f"the metadata {name}", found[name])


def _settings(source: str, text: str) -> Alphas:
    try:
        settings = {name.removeprefix("transformer."): value for name, value in json.loads(text).items()}
        found = Alphas(
            source,
            _number_in(settings, "lora_alpha", "alpha"),
            _patterns(settings.get("alpha_pattern")),
            bool(settings.get("use_rslora")),
            _number_in(settings, "r"),
            _patterns(settings.get("rank_pattern")),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, re.error) as error:
        raise ValueError(f"{source} cannot be read. The file is damaged.") from error
    if (start := str(settings.get("init_lora_weights")).lower()).startswith(_CHANGED_BASES):
        raise ValueError(
            f"this LoRA was trained from {start[:20]}, which also changes the model that it is added to. Convert it "
            "with PEFT (path_initial_model_for_weight_conversion) and choose the result."
        )
    return found


def _number_in(settings: dict[str, Any], *names: str) -> float | None:
    return next((_finite(settings[name]) for name in names if settings.get(name) is not None), None)


def _patterns(pattern: dict[str, Any] | None) -> Patterns:
    """Patterns as PEFT matches them; ValueError for those that could take very long to match."""
    if len(pattern or {}) > _MOST_PATTERNS:
        raise ValueError("a pattern is for a layer or for more")
    found: list[tuple[re.Pattern, float]] = []
    for text, value in (pattern or {}).items():
        repeats = len(re.findall(r"[*+{]", text))
        if len(text) > _LONGEST_PATTERN or repeats > _MOST_REPEATS or re.search(r"\)[*+{]", text):
            raise ValueError("a pattern is a name with a few gaps")
        found.append((re.compile(rf"(.*\.)?({text})$"), _finite(value)))
    return tuple(found)


def _first(patterns: Patterns, names: Iterable[str], otherwise: float | None) -> float | None:
    return next((value for regex, value in patterns if any(map(regex.match, names))), otherwise)


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError("an alpha or a rank is no number")
    return number


def _number(text: str | None) -> float | None:
    """The number in a free text, if any; ValueError for one that is not finite."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    if not math.isfinite(value):
        raise ValueError(f"the metadata have an alpha of {value}. The file is damaged.")
    return value
