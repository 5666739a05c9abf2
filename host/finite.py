"""Stop a run whose result is not finite, and report the first such step and the cause, as far as they can be
determined.

Our solvers check themselves. In the host's samplers a wrapper checks, which is part of our nodes' MODELs and of the
hook of our conditionings.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "kontext_finite"
_ELSEWHERE = "Look at the other nodes that change the model or the conditioning."


def is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def watch(model: Any) -> None:
    """Stop every run of a MODEL, which is changed in place, in the first step whose result is not finite."""
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
    """ValueError if a guider's prediction from x at `sigma` has NaN or infinite values."""
    if is_finite(denoised):
        return
    since = f"not finite (NaN or infinite) since step {int((sigmas > sigma).sum()) + 1} of {max(len(sigmas) - 1, 1)}"
    if not is_finite(x):
        raise ValueError(
            f"the model is given values that are {since}, so the picture would be black. If that is the first step, "
            "look at the node that made the latent or its mask; else try another sampler or scheduler."
        )
    raise ValueError(f"the model gives values that are {since}, so the picture would be black. {_cause(guider)}")


def require_finite_inputs(conditions: dict[str, list[list[Any]]], latent: Tensor) -> None:
    """ValueError if the inputs of a run are not finite."""
    if not is_finite(latent):
        raise ValueError("latent holds values that are not finite (NaN or infinite). Look at the node that made it.")
    for name, conditioning in conditions.items():
        if said := _broken_input(name, conditioning):
            raise ValueError(said)


def _broken_input(name: str, conditioning: Iterable[tuple[Tensor, dict]]) -> str | None:
    """The input of a run that is not finite, and advice; None if all are finite."""
    for what, values in _tensors(conditioning):
        if not is_finite(values):
            return (
                f"{name}: {what} holds values that are not finite (NaN or infinite). Look at the node that made it; "
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
    """The cause of the values, and advice. Another node's guider may have other attributes than the host's."""
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
        return f"The cause is the weight {broken}, which a LoRA changes: lower its strength, or remove it."
    if broken:
        return f"The cause is the weight {broken}: the file is damaged. Load another."
    hints = []
    if patcher.model.get_dtype_inference() == torch.float16:
        hints.append(
            "The model computes in float16, which ends at 65504: start ComfyUI with --bf16-unet or --fp32-unet, or "
            "choose another weight_dtype where the model is loaded."
        )
    if changed:
        hints.append("A LoRA changes the model: lower its strength, or remove it.")
    return " ".join(hints) or _ELSEWHERE


def _is_plain(weight: Tensor) -> bool:
    """Whether the weight can be checked: quantised weights cannot."""
    return weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
