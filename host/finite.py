"""A run that gives no numbers ends, and says since when and where they come from, as far as that can be told.

Our solvers look themselves. In the host's samplers a wrapper looks, which comes with a MODEL of our nodes and with the
hook of our conditionings.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .conditioning import Conditioning

KEY = "kontext_finite"
_ELSEWHERE = "Look at the other nodes that change the model or the conditioning."


def is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def watch(model: Any) -> None:
    """End every run of a MODEL, which is changed in place, in the step in which it gives no numbers."""
    model.remove_wrappers_with_key(WrappersMP.PREDICT_NOISE, KEY)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, watching)


def watching(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
) -> Tensor:
    """The PREDICT_NOISE wrapper: around the prediction of the clean picture from x, after guidance."""
    denoised = executor(x, timestep, model_options, seed)
    sigmas = (model_options or {}).get("transformer_options", {}).get("sample_sigmas")
    require_finite(denoised, x, timestep[0], timestep if sigmas is None else sigmas, executor.class_obj)
    return denoised


def require_finite(denoised: Tensor, x: Tensor, sigma: Tensor, sigmas: Tensor, guider: Any) -> None:
    """ValueError if what the model of a guider made of x at `sigma` holds NaN or infinite values."""
    if is_finite(denoised):
        return
    since = f"no numbers (NaN or infinite) since step {int((sigmas > sigma).sum()) + 1} of {max(len(sigmas) - 1, 1)}"
    if not is_finite(x):
        raise ValueError(
            f"the model is given values that are {since}, so the picture would be black. If that is the first step, "
            "look at the node that made the latent or its mask; else try another sampler or scheduler."
        )
    raise ValueError(f"the model gives values that are {since}, so the picture would be black. {_cause(guider)}")


def require_finite_inputs(conditions: dict[str, Conditioning], latent: Tensor) -> None:
    """ValueError if a run is given what is no number already."""
    if not is_finite(latent):
        raise ValueError("latent holds values that are no numbers (NaN or infinite). Look at the node that made it.")
    for name, conditioning in conditions.items():
        if said := _broken_input(name, conditioning):
            raise ValueError(said)


def _broken_input(name: str, conditioning: Iterable[tuple[Tensor, dict]]) -> str | None:
    """Which input of a run is no number, and what to try; None if all are."""
    for what, values in _tensors(conditioning):
        if not is_finite(values):
            return (
                f"{name}: {what} holds values that are no numbers (NaN or infinite). Look at the node that made it; "
                "a text encoder or VAE in float16 may overflow."
            )
    return None


def _tensors(conditioning: Iterable[tuple[Tensor | None, dict]]) -> Iterator[tuple[str, Tensor]]:
    for text, values in conditioning:
        if text is not None:
            yield "its text", text
        if values.get("pooled_output") is not None:
            yield "its pooled text", values["pooled_output"]
        for number, reference in enumerate(values.get("reference_latents", ()), 1):
            yield f"reference {number}", reference


def _cause(guider: Any) -> str:
    """Where the values come from, and what to try; another node's guider may not say."""
    for name, conditions in getattr(guider, "conds", {}).items():
        if said := _broken_input(name, [(condition.get("cross_attn"), condition) for condition in conditions or ()]):
            return said[0].upper() + said[1:]
    patcher = getattr(guider, "model_patcher", None)
    if patcher is None:
        return _ELSEWHERE
    changed = {key.removeprefix("diffusion_model.") for key in patcher.patches}
    layers = patcher.model.diffusion_model.named_parameters()
    broken = next((name for name, weight in layers if _is_plain(weight) and not is_finite(weight)), None)
    if broken in changed:
        return f"The weight {broken} does, which a LoRA changes: lower its strength, or take it out."
    if broken:
        return f"The weight {broken} does: the file is damaged. Load another."
    hints = []
    if patcher.model.get_dtype_inference() == torch.float16:
        hints.append(
            "The model computes in float16, which ends at 65504: start ComfyUI with --bf16-unet or --fp32-unet, or "
            "choose another weight_dtype where the model is loaded."
        )
    if changed:
        hints.append("A LoRA changes the model: lower its strength, or take it out.")
    return " ".join(hints) or _ELSEWHERE


def _is_plain(weight: Tensor) -> bool:
    """Whether it can be asked: quantised weights cannot."""
    return weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
