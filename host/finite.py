"""A run that gives no numbers ends, and says since when and where they come from, as far as that can be told."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .conditioning import Conditioning

_ELSEWHERE = "Look at the other nodes that change the model or the conditioning."


def is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def require_finite(denoised: Tensor, sigma: Tensor, sigmas: Tensor, model: Any) -> None:
    """ValueError if what `model`, as the host gives it to a sampler, made at `sigma` holds NaN or infinite values."""
    if is_finite(denoised):
        return
    step, steps = int((sigmas > sigma).sum()) + 1, len(sigmas) - 1
    raise ValueError(
        f"the model gives values that are no numbers (NaN or infinite) since step {step} of {steps}, so the picture "
        f"would be black. {_cause(getattr(getattr(model, 'inner_model', None), 'model_patcher', None))}"
    )


def require_finite_inputs(conditions: dict[str, Conditioning], latent: Tensor) -> None:
    """ValueError if a run is given what is no number already."""
    if not is_finite(latent):
        raise ValueError("latent holds values that are no numbers (NaN or infinite). Look at the node that made it.")
    for name, conditioning in conditions.items():
        for what, values in _tensors(conditioning):
            if not is_finite(values):
                raise ValueError(
                    f"{name}: {what} holds values that are no numbers (NaN or infinite). Look at the node that made "
                    "it; a text encoder or VAE in float16 may overflow."
                )


def _tensors(conditioning: Conditioning) -> Iterator[tuple[str, Tensor]]:
    for text, values in conditioning:
        yield "its text", text
        if values.get("pooled_output") is not None:
            yield "its pooled text", values["pooled_output"]
        for number, reference in enumerate(values.get("reference_latents", ()), 1):
            yield f"reference {number}", reference


def _cause(patcher: Any) -> str:
    """Where the values come from, and what to try; `patcher` is the MODEL, or None where another node hides it."""
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
