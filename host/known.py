"""The parts of a call of the host's FLUX that our forward supports. Everything else is left to the host.

This lists what is supported, not what is unsupported: hosts and other nodes add options, arguments, settings and
layers, and one that is not understood must not be dropped silently.
"""

from collections.abc import Callable
from dataclasses import MISSING, fields
from types import ModuleType
from typing import Any

import torch
from comfy.ldm.flux import layers, math, model
from comfy.ldm.flux.layers import DoubleStreamBlock, LastLayer, SingleStreamBlock
from comfy.ldm.flux.model import Flux

from ..kontext_core.tokens import LAYOUTS
from .forward import Call, layout_of

# In `transformer_options`: who runs, when, and where. FLUX's own forward reads none of it except the attention, which
# `Call.attention` passes on.
_CARRIED = {
    "wrappers",
    "callbacks",
    "patches",
    "patches_replace",
    "cond_or_uncond",
    "uuids",
    "sigmas",
    "sample_sigmas",
} | {"prefetch_dynamic_vbars", "multigpu_thread_device", "optimized_attention_override", "easycache"}
_ARGUMENTS = {"ref_latents_method", "attention_mask"}
ACCELERATION = "kontext_acceleration"  # of the wrappers of Kontext Accelerate
CONTROLS = "kontext_controls"  # of the wrappers of controls
REFERENCES = "kontext_references"  # in a conditioning: Controls
NEGATIVE = "kontext_negative"  # in a conditioning: (text (1, n, width), Nag)
NAG = "kontext_nag"  # in a call: Nag; its text is under NEGATIVE
_OURS = {ACCELERATION, CONTROLS, REFERENCES, NEGATIVE, NAG}

# Of the tree: the settings that our forward reads, and the layers that it calls.
_READ = (
    {"in_channels", "out_channels", "patch_size", "hidden_size", "num_heads", "axes_dim", "theta", "mlp_ratio"}
    | {"depth", "depth_single_blocks", "context_in_dim", "vec_in_dim", "guidance_embed", "qkv_bias", "ops_bias"}
    | {"default_ref_method"}
)
_LAYERS = (
    {"pe_embedder", "img_in", "time_in", "vector_in", "guidance_in", "txt_in"}
    | {"double_blocks", "single_blocks", "final_layer"}
)  # fmt: skip
_DOUBLE_LAYERS = {f"{part}_{name}" for part in ("img", "txt") for name in ("mod", "norm1", "attn", "norm2", "mlp")}
_ATTENTION_LAYERS = {"qkv", "norm", "proj"}
_SINGLE_LAYERS = {"linear1", "linear2", "norm", "pre_norm", "mlp_act", "modulation"}
_LAST_LAYERS = {"adaLN_modulation", "norm_final", "linear"}


def _own(module: ModuleType, function: Any) -> Any:
    """A function defined by `module` itself; None if another node replaced it before us."""
    code = getattr(function, "__code__", None)
    return function if code is not None and code.co_filename == module.__file__ else None


_METHODS = {name: _own(model, getattr(Flux, name)) for name in ("forward", "_forward", "forward_orig", "process_img")}
_DOUBLE, _SINGLE, _LAST = (_own(layers, kind.forward) for kind in (DoubleStreamBlock, SingleStreamBlock, LastLayer))
_ATTENTION = _own(math, layers.attention)


@torch.compiler.disable  # compares identities of methods, which tracing does not preserve
def foreign(tree: Flux, args: tuple, options: dict[str, Any]) -> str | None:
    """A part of a call that our forward does not support, in words for the user; None if there is none.

    `args` and `options` are those of the call. Anything new, from a later host or another node, goes to the host's own
    forward.
    """
    if len(args) != len(Call._fields):
        return f"a call of {len(args)} arguments"
    call = Call(*args)
    return _changed(tree) or _patched(call.transformer_options) or _asked_for(tree, call, options)


def _patched(options: dict[str, Any]) -> str | None:
    """Patches by other nodes in `transformer_options`."""
    if names := _present(options.get("patches")):
        return f"another node's {names[0]} patch"
    if _present(options.get("patches_replace")):
        return "another node's replaced blocks"
    if options.get("rope_options"):
        return "scaled or shifted positions"
    unknown = [name for name in _present(options) if name not in _CARRIED | _OURS]
    return f"another node's option '{unknown[0]}'" if unknown else None


def _asked_for(tree: Flux, call: Call, options: dict[str, Any]) -> str | None:
    """Unsupported requests in the arguments of the call."""
    if call.control is not None:
        return "a ControlNet"
    if options.get("attention_mask") is not None:
        return "an attention mask"
    if call.ref_latents and layout_of(tree, options) not in LAYOUTS:
        return f"the reference layout '{layout_of(tree, options)}'"
    unknown = [name for name in _present(options) if name not in _ARGUMENTS | _OURS]
    return f"another node's argument '{unknown[0]}'" if unknown else None


def _present(values: dict[str, Any] | None) -> list[str]:
    """The names of values that are neither None nor an empty collection."""
    return sorted(name for name, value in (values or {}).items() if not (value is None or _is_empty(value)))


def _is_empty(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) and not value


def _changed(tree: Flux) -> str | None:
    """A part of the tree that differs from FLUX.1 as the host builds it."""
    return _replaced(tree) or _unknown_size(tree.params) or _unknown_layer(tree)


def _unknown_size(params: Any) -> str | None:
    """A setting that our forward does not read and that differs from FLUX.1's."""
    for field in fields(params):
        usual = None if field.default is MISSING else field.default
        if field.name not in _READ and (getattr(params, field.name) or None) != (usual or None):
            return f"the model's setting {field.name}"
    return None


def _unknown_layer(tree: Flux) -> str | None:
    parts = [(tree, _LAYERS), (tree.final_layer, _LAST_LAYERS)]
    parts += [(block, _DOUBLE_LAYERS) for block in tree.double_blocks]
    parts += [(part, _ATTENTION_LAYERS) for block in tree.double_blocks for part in (block.img_attn, block.txt_attn)]
    parts += [(block, _SINGLE_LAYERS) for block in tree.single_blocks]
    for part, known in parts:
        if unknown := [name for name, layer in part.named_children() if name not in known]:
            return f"the model's layer {unknown[0]}"
    return None


def _replaced(tree: Flux) -> str | None:
    """A part of the host's own code that another node replaced; layers inside a block are only called."""
    if not all(_runs(getattr(tree, name), function) for name, function in _METHODS.items()):
        return "another node's code in place of the model's forward"
    if layers.attention is not _ATTENTION or _ATTENTION is None:
        return "another node's attention in the model"
    parts = ((tree.double_blocks, _DOUBLE), (tree.single_blocks, _SINGLE), ((tree.final_layer,), _LAST))
    for blocks, forward in parts:
        if not all(_runs(block.forward, forward) for block in blocks):
            return "another node's blocks"
    return None


def _runs(method: Callable[..., Any], function: Callable[..., Any] | None) -> bool:
    """Whether a bound method is the host's own, even after a patch was applied and undone."""
    return function is not None and getattr(method, "__func__", None) is function
