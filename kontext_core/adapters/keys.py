"""Which layer and parameter each key of a LoRA file names, and which files were made for another model.

A key is `prefix + layer + parameter`; every tool spells all three differently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from .. import names as naming
from ..geometry import Geometry
from ..names import Name, Place, names

Tensors = Mapping[str, Tensor]

NEEDED = "Needed is a LoRA for FLUX.1 Kontext or FLUX.1 [dev]."

_PARAMETERS = {  # our name: spellings after the layer's name
    "down": r"lora_(?:A|down)(?:\.[^.]+)?\.weight|lora_A|lora_down|lora\.down\.weight"
    r"|lora_linear_layer\.down\.weight|down\.weight",
    "up": r"lora_(?:B|up)(?:\.[^.]+)?\.weight|lora_B|lora_up|lora\.up\.weight"
    r"|lora_linear_layer\.up\.weight|up\.weight",
    "up_bias": r"lora_(?:B|up)(?:\.[^.]+)?\.bias",
    "alpha": r"alpha",
    "dora_scale": r"dora_scale|magnitude|lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?",
    "diff": r"diff|w_norm",
    "diff_b": r"diff_b|b_norm",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{name: name for name in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_w1", "lokr_w2")},
}
_KEY = re.compile(r"(.+?)\.(?:" + "|".join(f"(?P<{word}>{pattern})" for word, pattern in _PARAMETERS.items()) + ")")
_DOTTED = re.compile(r"((base_model|model|diffusion_model|transformer|unet|net)\.)*")
_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
_WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_WRAPPER_UNDERSCORED = re.compile(r"^_*((module|orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)_+)*")
_STACK = re.compile(r"(?<![^._])(double_blocks|single_blocks|(single_)?transformer_blocks)[._]\d")
_TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoders?(_\d)?\.|text_model\.|te\d?\.|clip_l\.|t5(xxl)?\.|bundle_emb\.")
_OTHER_KIND = re.compile(
    r"\.(?P<kind>oft_blocks|oft_R|boft_blocks|oft_diag|[ab][12]\.weight|lora_mid|hada_t[12]|lokr_t2|vera_lambda_[bd]"
    r"|on_input|ia3_l)(\.|$)"
)

LAYOUTS = {
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

TEXT_ENCODER = "of a text encoder; this node changes only the model"


class Layer(NamedTuple):
    """A layer as a file names it."""

    name: str  # without prefix and wrappers
    place: Place
    keys: dict[str, str]  # parameter -> key


class Keys(NamedTuple):
    """The keys of a file, by layer."""

    layers: dict[str, Layer]  # by the part of the key before the parameter
    layout: str
    wrappers: list[str]  # parts of names that do not identify a layer, ignored
    unmatched: dict[str, list[str]]  # reason -> keys


def read_keys(tensors: Tensors, geometry: Geometry) -> Keys:
    """Match every key to a parameter of a layer, or list it as unmatched with the reason.

    ValueError for unsupported kinds of change, for a model with more blocks, and for duplicate keys.
    """
    spellings = _Spellings(tensors, geometry)
    found: dict[str, Layer] = {}
    layouts: Counter[tuple[str, str]] = Counter()
    unmatched: dict[str, list[str]] = {}
    taken: dict[Place, str] = {}
    for key in tensors:
        match = _KEY.fullmatch(key)
        if _TEXT_ENCODER.match(key):
            unmatched.setdefault(TEXT_ENCODER, []).append(key)
        elif match is None:
            _refuse_other_kind(key)
            unmatched.setdefault("no known kind of parameter", []).append(key)
        elif (read := spellings.read(module := match[1])) is None:
            spellings.refuse_deeper(module)
            unmatched.setdefault("names no layer of this model", []).append(key)
        else:
            prefix, name = read
            place, kind = spellings.names[name]
            if taken.setdefault(place, module) != module:
                raise ValueError(f"{module} and {taken[place]} are the same layer. The file is damaged.")
            keys = found.setdefault(module, Layer(name, place, {})).keys
            if (parameter := str(match.lastgroup)) in keys:
                raise ValueError(f"{key} and {keys[parameter]} are the same parameter. The file is damaged.")
            keys[parameter] = key
            layouts[prefix, kind] += 1
    return Keys(found, _layout(layouts) if layouts else "", list(spellings.wrappers), unmatched)


def _refuse_other_kind(key: str) -> None:
    """ValueError for a change that is not additive, or that would be read only in part."""
    if kind := _OTHER_KIND.search(key):
        raise ValueError(
            f"this holds {kind['kind']} ({key[:80]}), a kind of change that is not read here (such as OFT, IA3, GLoRA "
            f"or Tucker convolutions). Try ComfyUI's Load LoRA. {NEEDED}"
        )


class _Spellings:
    """How a file spells the layers of a model."""

    def __init__(self, keys: Iterable[str], geometry: Geometry):
        self.geometry = geometry
        self.names: dict[str, Name] = names(geometry)
        self.wrappers: dict[str, None] = {}  # in order of appearance
        self._underscored = {name.replace(".", "_"): name for name in self.names}
        self._prefixes = {_unwrapped(key[: stack.start()]) for key in keys if (stack := _STACK.search(key))}

    def read(self, module: str) -> tuple[str, str] | None:
        """The prefix of a layer's name in a file, and the layer's own name; None if it names no layer."""
        if prefix := next((prefix for prefix in _UNDERSCORED if module.startswith(prefix)), None):
            return self._read_underscored(prefix, module.removeprefix(prefix))
        whole = _unwrapped(module)
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", whole))):
            prefix, rest = whole[:start], whole[start:]
            if rest.rstrip("_") in self.names and (_STACK.match(rest) or self._is_prefix(prefix)):
                self.wrappers |= {f"{wrapper}.": None for wrapper in _WRAPPER.findall(module)}
                return prefix, self._without_trail(rest)
        return None

    def _is_prefix(self, text: str) -> bool:
        """Whether it may precede a layer outside the blocks: it is known, or this file has it before a block."""
        return text in self._prefixes or _DOTTED.fullmatch(text) is not None

    def _read_underscored(self, prefix: str, rest: str) -> tuple[str, str] | None:
        inner = _WRAPPER_UNDERSCORED.sub("", rest)
        if (stack := _STACK.search(inner)) and stack.start():
            inner = inner[stack.start() :]
        name = self._underscored.get(inner.rstrip("_"))
        if name is None:
            return None
        if wrapper := rest.removesuffix(inner):
            self.wrappers[wrapper] = None
        self._without_trail(inner)
        return prefix, name

    def _without_trail(self, name: str) -> str:
        """The name without trailing underscores, which some trainers add."""
        if trail := name[len(name.rstrip("_")) :]:
            self.wrappers[f"trailing {trail}"] = None
        return name.removesuffix(trail)

    def refuse_deeper(self, module: str) -> None:
        """ValueError if `module` would be a layer of a FLUX.1 with more blocks."""
        if not (block := re.search(r"(?<=blocks[._])\d+", module)):
            return
        if self.read(f"{module[: block.start()]}0{module[block.end() :]}") is not None:
            raise ValueError(
                "this LoRA was made for a model with more blocks, such as Qwen-Image, HunyuanVideo or FLUX.2: it has "
                f"{module}, and this model has {self.geometry.depth} double and {self.geometry.depth_single_blocks} "
                f"single blocks. {NEEDED}"
            )


def _unwrapped(name: str) -> str:
    return _WRAPPER.sub("", name)


def _layout(layouts: Counter[tuple[str, str]]) -> str:
    """The layout of most keys. OneTrainer mixes split and unsplit layers."""
    prefix, kind = layouts.most_common(1)[0][0]
    if (prefix, naming.SPLIT) in layouts:
        kind = naming.SPLIT
    return LAYOUTS.get((prefix, kind), f"{kind} names" + (f" with {prefix}" if prefix else ""))


# Other models


FOREIGN = {  # first match wins
    "a ControlNet": r"^controlnet|input_hint_block",
    "an IP-Adapter": r"ip_adapter|^image_proj",
    "SDXL": r"(input|output)_blocks[._]\d+[._]\d|attentions[._]\d[._]transformer_blocks[._][1-9]",
    "SD1.5 or SD2": r"(down|up)_blocks[._]\d+[._]attentions|mid_block[._]attentions",
    "FLUX.2": r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj",
    "Chroma": r"distilled_guidance_layer",
    "Nunchaku, packed for its own kernels (choose the LoRA that it was made from)": (
        r"transformer_blocks\.\d+\.(qkv_proj|out_proj|mlp_fc\d|mlp_context_fc\d)(_context)?\.(lora_|smooth|q?weight)"
    ),
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


def refuse_foreign(tensors: Tensors) -> None:
    """ValueError, naming the model, for a file whose keys show that it was made for something else."""
    for name, pattern in FOREIGN.items():
        compiled = re.compile(pattern)
        if key := next((key for key in tensors if compiled.search(key)), None):
            raise ValueError(f"this looks like a file for {name}: it has {key}. {NEEDED}")
    if "img_in.lora_A.weight" in tensors and any(_CONTROL.search(key) for key in tensors):
        columns = tensors["img_in.lora_A.weight"].shape[-1]
        raise ValueError(
            f"this is a BFL control LoRA (Canny or Depth): it widens the model's input to {columns} values for a "
            f"control picture that Kontext has no input for. {NEEDED}"
        )


def refuse_unmatched(tensors: Tensors, keys: Keys) -> None:
    """ValueError if nothing matches, or only a part: a file is applied completely or not at all.

    Keys of text encoders belong to another model, so they may be present.
    """
    encoder = keys.unmatched.get(TEXT_ENCODER, [])
    if not keys.layers:
        if len(encoder) == len(tensors) and tensors:
            raise ValueError(f"the file changes only text encoders. Load it with ComfyUI's Load LoRA. {NEEDED}")
        if any(_CHECKPOINT.search(key) for key in tensors):
            raise ValueError(f"this is a whole model, not a LoRA. Choose it in Kontext Loader. {NEEDED}")
        raise ValueError(f"no key fits a layer of FLUX.1 ({some(list(tensors)) or 'the file is empty'}). {NEEDED}")
    for reason, unmatched in keys.unmatched.items():
        if reason != TEXT_ENCODER:
            raise ValueError(
                f"{len(unmatched)} of {len(tensors)} keys cannot be read: {reason} ({some(unmatched)}). A file is "
                f"applied completely or not at all; ComfyUI's Load LoRA skips keys that it does not know. {NEEDED}"
            )


def some(keys: list[str]) -> str:
    """The first two, shortened, and how many more there are."""
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(key[:80] for key in keys[:2]) + more
