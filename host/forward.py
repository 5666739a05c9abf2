"""Our forward in place of the host's: a wrapper around its FLUX, installed only where something asks for it.

The host calls a `DIFFUSION_MODEL` wrapper instead of FLUX's own forward. Ours runs `kontext_core.transformer.forward`
over the host's loaded modules, so weights stay what the host made of them (offloaded, quantised, with a LoRA). Where
another node's patch is present that our forward does not know, the call is left to the host, and the run says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, SingleStreamBlock
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from ..kontext_core.tokens import pack, place_references, position_ids, unpack

_LAYOUTS = {"offset": "offset", "index": "index", "uxo": "uno"}  # the host's words for where references lie, and ours
_OTHERS_PATCHES = ("post_input", "attn1_patch", "attn1_output_patch")
_FORWARD, _FORWARD_ORIG = Flux._forward, Flux.forward_orig
_DOUBLE, _SINGLE = DoubleStreamBlock.forward, SingleStreamBlock.forward


class Attend(Protocol):
    """q, k, v (b, heads, n, d) and what is added to their logits, if anything -> (b, n, heads * d)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor: ...


class Call(NamedTuple):
    """The arguments of one call of the host's FLUX, in its own order."""

    x: Tensor  # (b, 16, h, w)
    timestep: Tensor  # (b,) sigma
    context: Tensor  # (b, t, context_in_dim)
    y: Tensor | None  # (b, vec_in_dim)
    guidance: Tensor | None  # (b,)
    ref_latents: list[Tensor] | None  # (b, 16, h, w) each
    control: dict | None
    transformer_options: dict[str, Any]

    def attention(self) -> Attend:
        """The attention that the user chose for the host, with other nodes' overrides, and a bias on the logits."""

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            options = self.transformer_options
            return optimized_attention(q, k, v, q.shape[1], mask=bias, skip_reshape=True, transformer_options=options)

        return attend

    def tokens(self) -> tuple[Tensor, list[Tensor]]:
        """The target's tokens (b, n, 64), and those of each reference."""
        return pack(self.x), [pack(reference) for reference in self.ref_latents or ()]

    def ids(self, layout: str) -> list[Tensor]:
        """Position ids (n, 3) of the target and of each reference; `layout` in the host's words."""
        height, width = self.x.shape[-2:]
        shapes = [(reference.shape[-2], reference.shape[-1]) for reference in self.ref_latents or ()]
        places = place_references(shapes, (height, width), _LAYOUTS[layout])
        ids = [position_ids(height, width)]
        ids += [position_ids(*shape, *place) for shape, place in zip(shapes, places, strict=True)]
        return [part.to(self.x.device) for part in ids]

    def text_ids(self) -> Tensor:
        """Position ids of the text, (1, t, 3): all zero."""
        return self.x.new_zeros(1, self.context.shape[1], 3, dtype=torch.float32)

    def picture(self, velocity: Tensor) -> Tensor:
        """Target tokens (b, n, 64) -> what the host's FLUX gives, (b, 16, h, w)."""
        return unpack(velocity, *self.x.shape[-2:])


def foreign(tree: Flux, call: Call, options: dict[str, Any]) -> str | None:
    """What of this call only the host's own forward honours, in words for the user; None if there is nothing."""
    patches = call.transformer_options.get("patches", {})
    present = [name for name in _OTHERS_PATCHES if patches.get(name)]
    if present:
        return f"another node's {present[0]} patch"
    if replaced := _replaced(tree):
        return replaced
    if call.transformer_options.get("patches_replace", {}).get("dit"):
        return "another node's replaced blocks"
    if call.control is not None:
        return "a ControlNet"
    if call.transformer_options.get("rope_options"):
        return "scaled or shifted positions"
    if options.get("attention_mask") is not None:
        return "an attention mask"
    if call.ref_latents and layout_of(tree, options) not in _LAYOUTS:
        return f"the reference layout '{layout_of(tree, options)}'"
    return None


def _replaced(tree: Flux) -> str | None:
    """What of the tree's own code another node has put something in place of; layers inside a block are only called."""
    if not (_runs(tree._forward, _FORWARD) and _runs(tree.forward_orig, _FORWARD_ORIG)):
        return "another node's forward of the model"
    for blocks, forward in ((tree.double_blocks, _DOUBLE), (tree.single_blocks, _SINGLE)):
        if not all(_runs(block.forward, forward) for block in blocks):
            return "another node's blocks"
    return None


def _runs(method: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether a bound method is the host's own; it stays one that is put back after a patch."""
    return getattr(method, "__func__", None) is function


def layout_of(tree: Flux, options: dict[str, Any]) -> str:
    """Where the references of a call lie, in the host's words."""
    return options.get("ref_latents_method", tree.params.default_ref_method)


def require_flux(model: Any) -> Flux:
    """The FLUX.1 module tree of a MODEL. Raises ValueError for any other model."""
    tree = model.get_model_object("diffusion_model")
    if not isinstance(tree, Flux) or not _is_flux_1(tree.params):
        raise ValueError(
            f"model is {type(model.model).__name__} ({type(tree).__name__}); a FLUX.1 model in ComfyUI's own layers is "
            "needed. Use Kontext Loader, Load Diffusion Model, or a GGUF loader with FLUX.1 Kontext [dev]."
        )
    return tree


def _is_flux_1(params: Any) -> bool:
    others = params.global_modulation or params.yak_mlp or params.mlp_silu_act or params.txt_norm
    return not others and bool(params.vec_in_dim) and not params.txt_ids_dims and params.patch_size == 2


def run_instead(executor: WrapperExecutor, own: Callable[..., Tensor], call: Call, options: dict[str, Any]) -> Tensor:
    """Run `own` in place of the host's forward, inside the wrappers that were added after ours (EasyCache is one)."""
    rest = WrapperExecutor.new_class_executor(own, executor.class_obj, executor.wrappers, executor.idx + 1)
    return rest.execute(*call, **options)
