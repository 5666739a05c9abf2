"""Our forward in place of the host's: a wrapper around its FLUX, installed only where a feature needs it.

The host calls a `DIFFUSION_MODEL` wrapper instead of FLUX's own forward. Ours runs `kontext_core.transformer.forward`
over the host's loaded modules, so weights stay as the host loaded them (offloaded, quantised, with a LoRA). A call with
anything that our forward does not support (`known.py`) is left to the host, and the run says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from comfy.ldm.flux import math
from comfy.ldm.flux.model import Flux
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from ..kontext_core.tokens import pack, place_references, position_ids, unpack
from .flux import require_flux_1


class Attend(Protocol):
    """q, k, v (b, heads, n, d) and an optional bias on the logits -> (b, n, heads * d)."""

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
        """The attention that the user chose for the host, with other nodes' overrides, and an optional logit bias."""

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            options = self.transformer_options
            return math.optimized_attention(
                q, k, v, q.shape[1], mask=bias, skip_reshape=True, transformer_options=options
            )

        return attend

    def tokens(self) -> tuple[Tensor, list[Tensor]]:
        """The target's tokens (b, n, 64), and those of each reference."""
        return pack(self.x), [pack(reference) for reference in self.ref_latents or ()]

    def ids(self, layout: str) -> list[Tensor]:
        """Position ids (n, 3) of the target and of each reference; `layout` is the host's name for it."""
        height, width = self.x.shape[-2:]
        shapes = [(reference.shape[-2], reference.shape[-1]) for reference in self.ref_latents or ()]
        places = place_references(shapes, (height, width), layout)
        ids = [position_ids(height, width)]
        ids += [position_ids(*shape, *place) for shape, place in zip(shapes, places, strict=True)]
        return [part.to(self.x.device) for part in ids]

    def picture(self, velocity: Tensor) -> Tensor:
        """Target tokens (b, n, 64) -> the output of the host's FLUX, (b, 16, h, w)."""
        return unpack(velocity, *self.x.shape[-2:])


def layout_of(tree: Flux, options: dict[str, Any]) -> str:
    """The layout of a call's references, by the host's name."""
    return options.get("ref_latents_method", tree.params.default_ref_method)


def read_call(args: tuple) -> Call:
    """The arguments of a call; a later host may pass more."""
    return Call(*args[: len(Call._fields)])


def require_flux(model: Any) -> Flux:
    """The module tree of a MODEL that is FLUX.1 in the host's own layers. Raises ValueError for any other model."""
    require_flux_1(model)
    tree = model.get_model_object("diffusion_model")
    if not isinstance(tree, Flux):
        raise ValueError(
            f"model is FLUX.1 as {type(tree).__name__}; FLUX.1 in ComfyUI's own layers is needed. Use Kontext Loader, "
            "Load Diffusion Model, or a GGUF loader."
        )
    return tree


def run_instead(executor: WrapperExecutor, own: Callable[..., Tensor], call: Call, options: dict[str, Any]) -> Tensor:
    """Run `own` in place of the host's forward, inside the wrappers that were added after ours (EasyCache is one)."""
    rest = WrapperExecutor.new_class_executor(own, executor.class_obj, executor.wrappers, executor.idx + 1)
    return rest.execute(*call, **options)
