"""Our solvers as a host SAMPLER, and a complete sampling run through the host."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ..kontext_core.geometry import Geometry
from ..kontext_core.schedule import flow_sigmas, fractions, is_during, mu, progress, require_range
from ..kontext_core.solvers import SOLVERS
from . import controls
from .conditioning import Conditioning, with_guidance
from .finite import require_finite, require_finite_inputs
from .flux import require_flux_1
from .latents import Latent, require_flux, size_px, tokens
from .trained import trained_for_model, warn_beyond


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
    """A sampler function for the host's KSAMPLER.

    `model` returns the denoised picture after masks, guidance and other nodes' patches; the solver needs the velocity,
    which for a rectified flow is (x - denoised) / sigma.
    """
    ones = x.new_ones([x.shape[0]])

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = model(x, sigma * ones, **extra_args)
        require_finite(denoised, x, sigma, sigmas, getattr(model, "inner_model", None))
        return (x - denoised) / sigma

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
    cfg_range: tuple[float, float] = (0.0, 1.0),
    cfg_rescale: float = 0.0,
    callback: Callable | None = None,
) -> tuple[Latent, str]:
    """A complete run: noise, size-dependent schedule, guidance, previews, mask. Returns the result and a report.

    `cfg_range`: the fractions of the run between which the negative is used; `cfg_rescale`: see `rescaled`. `callback`
    is called after each step, instead of the host's preview.
    Raises ValueError for a model or latent that is not FLUX.1's, for cfg without a negative, for references
    whose batch does not match, for a range that ends before it starts, and for fewer than one step.
    """
    if negative is None and cfg != 1:
        raise ValueError(f"cfg is {cfg} but negative is not connected; connect it, or set cfg to 1.")
    require_range(*cfg_range, ("cfg_start", "cfg_end"))
    samples = comfy.sample.fix_empty_latent_channels(
        model,
        latent["samples"],
        latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )
    geometry = _require_model(model, {"samples": samples})
    warn_beyond(trained_for_model(geometry), "The picture to be made", size_px({"samples": samples}))
    conditions = {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
    for name, conditioning in conditions.items():
        _require_conditioning(name, conditioning, geometry.context_in_dim, samples.shape[0])
    require_finite_inputs(conditions, samples)

    sigmas = flow_sigmas(steps, tokens({"samples": samples}), denoise=denoise)
    patched, plain = controls.install(rescaled(model, cfg_rescale) if cfg != 1 else model, conditions)
    guider = comfy.samplers.CFGGuider(patched) if cfg_range == (0, 1) else _RangedGuider(patched, cfg_range)
    guider.inner_set_conds({name: with_guidance(value, guidance) for name, value in plain.items()})
    guider.set_cfg(cfg)
    result = guider.sample(
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        samples,
        make_sampler(solver),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback or latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    host = comfy.model_management
    result = result.to(host.intermediate_device(), host.intermediate_dtype())
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    lines = _report(model, conditions, samples, sigmas, seed, guidance, cfg, solver)
    if cfg != 1:
        lines += _cfg_lines(cfg_range, cfg_rescale)
    return {**kept, "samples": result}, "\n".join(lines)


class _RangedGuider(comfy.samplers.CFGGuider):
    """The host's guider, with cfg 1 (no negative) outside a range of the run."""

    def __init__(self, model: Any, cfg_range: tuple[float, float]):
        super().__init__(model)
        self.cfg_range = cfg_range

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {}, seed: int | None = None) -> Tensor:  # noqa: B006
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        done = progress(float(timestep[0]), sigmas, fractions(sigmas))
        cfg = self.cfg if is_during(done, *self.cfg_range) else 1.0
        conds = self.conds.get("negative"), self.conds.get("positive")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, cfg, model_options=model_options, seed=seed
        )


def rescaled(model: Any, share: float) -> Any:
    """A MODEL whose guided velocity is rescaled towards the standard deviation of the positive's, by a factor `share`.

    CFG raises contrast; this lowers it again. Source: arXiv 2305.08891, section 3.4. 0 gives the model itself. Raises
    ValueError if another node has replaced how the model combines positive and negative.
    """
    if share == 0:
        return model
    if "sampler_cfg_function" in model.model_options:
        raise ValueError(
            f"cfg_rescale is {share:g}, but another node on the model (such as RescaleCFG) already decides how "
            "positive and negative are combined. Set cfg_rescale to 0, or take that node away."
        )

    def combine(args: dict[str, Any]) -> Tensor:
        positive, negative, cfg = args["cond"], args["uncond"], args["cond_scale"]
        if cfg == 1:
            return positive
        guided = negative + cfg * (positive - negative)
        spread = [x.std(dim=(1, 2, 3), keepdim=True) for x in (positive, guided)]
        return guided.lerp(guided * (spread[0] / spread[1]), share)

    patched = model.clone()
    patched.set_model_sampler_cfg_function(combine)
    return patched


def _require_model(model: Any, latent: Latent) -> Geometry:
    geometry = require_flux_1(model)
    require_flux("latent", latent)
    if not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise ValueError(
            f"model is {type(model.model).__name__}, which predicts no velocity as FLUX.1 does. "
            "Take the node away that changes its sampling."
        )
    return geometry


def _require_conditioning(name: str, conditioning: Conditioning, width: int, batch: int) -> None:
    if not conditioning:
        raise ValueError(f"{name} is empty; connect a CLIP Text Encode.")
    for text, values in conditioning:
        if text.shape[-1] != width:
            raise ValueError(
                f"{name} comes from a text encoder of width {text.shape[-1]}; this model reads {width}. "
                "Use the CLIP that was loaded beside the model."
            )
        for number, reference in enumerate(values.get("reference_latents", ()), 1):
            if reference.shape[0] not in (1, batch):
                raise ValueError(
                    f"{name}: reference {number} holds {reference.shape[0]} pictures (a batch, or the frames of an "
                    f"animated file), the latent {batch}. Take one out with Image From Batch before Kontext "
                    f"Reference, or set batch_size of Kontext Target to {reference.shape[0]} for a result of each."
                )


def _report(
    model: Any,
    conditions: dict[str, Conditioning],
    samples: Tensor,
    sigmas: Tensor,
    seed: int,
    guidance: float,
    cfg: float,
    solver: str,
) -> list[str]:
    count = tokens({"samples": samples})
    lines = [f"seed {seed}; {solver}, {len(sigmas) - 1} steps from sigma {sigmas[0]:.3f}"]
    lines.append(f"{count} tokens, shift {mu(count):.3f}")
    lines += _guidance_lines(conditions["positive"], guidance)
    negative = conditions.get("negative")
    if negative and cfg == 1 and not model.model_options.get("disable_cfg1_optimization"):
        has_nag = any(controls.NEGATIVE in values for _, values in conditions["positive"])
        lines.append("cfg is 1: input negative has no effect" + "; the negative of NAG has one" * has_nag)
    elif negative and cfg != 1:
        lines.append(f"cfg {cfg:g}")
        if _has_references(conditions["positive"]) and not _has_references(negative):
            lines.append("negative has no references: cfg pushes towards them. Lead it through Kontext Context too.")
    return lines + _control_lines(conditions["positive"])


def _cfg_lines(cfg_range: tuple[float, float], share: float) -> list[str]:
    start, end = cfg_range
    lines = [] if cfg_range == (0, 1) else [f"cfg from {100 * start:g} to {100 * end:g} % of the run"]
    return lines + [f"cfg rescaled by {share:g}"] * bool(share)


def _control_lines(positive: Conditioning) -> list[str]:
    numbers = {number for _, values in positive for number in values.get(controls.REFERENCES, ())}
    nags = [values[controls.NEGATIVE][1] for _, values in positive if controls.NEGATIVE in values]
    lines = [f"controlled references: {', '.join(map(str, sorted(numbers)))}"] if numbers else []
    return lines + [f"NAG scale {nag.scale:g}" for nag in nags[:1]]


def _guidance_lines(positive: Conditioning, guidance: float) -> list[str]:
    given = {values["guidance"] for _, values in positive if "guidance" in values}
    if not given:
        return [f"guidance {guidance:g}"]
    names = ", ".join("none" if value is None else f"{value:g}" for value in given)
    if all("guidance" in values for _, values in positive):
        return [f"guidance {names}, set by a node before this one (not {guidance:g})"]
    return [f"guidance {names}, set by a node before this one, and {guidance:g} where none is set"]


def _has_references(conditioning: Conditioning) -> bool:
    return any(values.get("reference_latents") for _, values in conditioning)
