"""Our solvers as a host SAMPLER, and a whole sampling run in the host's hands."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ..kontext_core.schedule import flow_sigmas, mu
from ..kontext_core.solvers import SOLVERS
from .conditioning import Conditioning, with_guidance
from .latents import Latent, tokens


def make_sampler(solver: str) -> comfy.samplers.KSAMPLER:
    """A host SAMPLER that runs one of `kontext_core.solvers`."""
    return comfy.samplers.KSAMPLER(integrate, {"solver": SOLVERS[solver]})


def integrate(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callable | None,
    disable: bool | None,
    solver: Callable,
) -> Tensor:
    """A sampler function as the host's KSAMPLER calls it.

    `model` gives the denoised picture after masks, guidance and other nodes' patches; the solver needs the
    velocity, which on a straight path is (x - denoised) / sigma.
    """
    ones = x.new_ones([x.shape[0]])

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - model(x, sigma * ones, **extra_args)) / sigma

    with comfy.utils.model_trange(len(sigmas) - 1, disable=disable) as bar:

        def report(step: int, sigma: Tensor, x: Tensor, denoised: Tensor) -> None:
            bar.update()
            if callback is not None:
                callback({"i": step, "sigma": sigma, "sigma_hat": sigma, "x": x, "denoised": denoised})

        return solver(velocity, x, sigmas, report)


def sample(
    model: Any,
    positive: Conditioning,
    negative: Conditioning | None,
    latent: Latent,
    *,
    seed: int,
    steps: int,
    guidance: float,
    cfg: float,
    solver: str,
    denoise: float,
) -> tuple[Latent, str]:
    """A whole run: noise, size-dependent schedule, guidance, previews, mask. The result, and what was used.

    Raises ValueError for a model or latent that is not FLUX.1's, for cfg without a negative, for references
    whose batch does not match, and for fewer than one step.
    """
    if negative is None and cfg != 1:
        raise ValueError(f"cfg is {cfg} but negative is not connected; connect it, or set cfg to 1.")
    samples = comfy.sample.fix_empty_latent_channels(
        model,
        latent["samples"],
        latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )
    _require_model(model, samples)
    conditions = {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
    for name, conditioning in conditions.items():
        _require_conditioning(name, conditioning, model, samples.shape[0])

    sigmas = flow_sigmas(steps, tokens({"samples": samples}), denoise=denoise)
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({name: with_guidance(value, guidance) for name, value in conditions.items()})
    guider.set_cfg(cfg)
    result = guider.sample(
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        samples,
        make_sampler(solver),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    host = comfy.model_management
    result = result.to(host.intermediate_device(), host.intermediate_dtype())
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return {**kept, "samples": result}, _report(model, conditions, samples, sigmas, guidance, cfg, solver)


def _require_model(model: Any, samples: Tensor) -> None:
    if not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise ValueError(
            f"model is {type(model.model).__name__}, which predicts no velocity; a FLUX.1 model is needed. "
            "Use Kontext Loader, or Load Diffusion Model with FLUX.1 Kontext [dev]."
        )
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"latent has the shape {tuple(samples.shape)}; needed is (batch, {channels}, height, width). "
            "Use Kontext Target, or encode the picture with the model's own VAE."
        )


def _require_conditioning(name: str, conditioning: Conditioning, model: Any, batch: int) -> None:
    if not conditioning:
        raise ValueError(f"{name} is empty; connect a CLIP Text Encode.")
    width = model.model.model_config.unet_config.get("context_in_dim")
    for text, values in conditioning:
        if width and text.shape[-1] != width:
            raise ValueError(
                f"{name} comes from a text encoder of width {text.shape[-1]}; this model reads {width}. "
                "Use the CLIP that was loaded beside the model."
            )
        for number, reference in enumerate(values.get("reference_latents", ()), 1):
            if reference.shape[0] not in (1, batch):
                raise ValueError(
                    f"{name}: reference {number} holds {reference.shape[0]} pictures, the latent {batch}. "
                    f"Give one picture, or {batch}, or change the latent's batch size."
                )


def _report(
    model: Any,
    conditions: dict[str, Conditioning],
    samples: Tensor,
    sigmas: Tensor,
    guidance: float,
    cfg: float,
    solver: str,
) -> str:
    count = tokens({"samples": samples})
    lines = [
        f"{solver}, {len(sigmas) - 1} steps from sigma {sigmas[0]:.3f}; {count} tokens, shift {mu(count):.3f}"
    ]
    lines += _guidance_lines(conditions["positive"], guidance)
    negative = conditions.get("negative")
    if negative and cfg == 1 and not model.model_options.get("disable_cfg1_optimization"):
        lines.append("cfg is 1: negative has no effect")
    elif negative and cfg != 1:
        lines.append(f"cfg {cfg:g}")
        if _has_references(conditions["positive"]) and not _has_references(negative):
            lines.append(
                "negative has no references: cfg pushes towards them. Lead it through Kontext Context too."
            )
    return "\n".join(lines)


def _guidance_lines(positive: Conditioning, guidance: float) -> list[str]:
    given = {values["guidance"] for _, values in positive if "guidance" in values}
    if not given:
        return [f"guidance {guidance:g}"]
    names = ", ".join("none" if value is None else f"{value:g}" for value in given)
    return [f"guidance {names}, set by a node before this one (not {guidance:g})"]


def _has_references(conditioning: Conditioning) -> bool:
    return any(values.get("reference_latents") for _, values in conditioning)
