"""Acceleration of a host MODEL: wrappers around its sampling runs, its predictions and its FLUX.

The state of a run is made when it starts, reaches the other wrappers through the run's own options, and goes when it
ends, also on an error or an interrupt. The model itself carries nothing but the settings.
"""

import logging
import math
from functools import partial
from typing import Any

import torch
from comfy.conds import CONDConstant
from comfy.hooks import EnumHookType
from comfy.k_diffusion.sampling import sample_euler
from comfy.model_management import get_total_memory
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..kontext_core.acceleration.plan import GIGABYTE, Settings
from ..kontext_core.acceleration.run import Run
from ..kontext_core.acceleration.stream import Inputs, stream_bytes
from ..kontext_core.solvers import euler
from ..kontext_core.tokens import pack, unpack
from . import controls
from .forward import Call, layout_of, read_call, require_flux, run_instead
from .known import foreign
from .notices import notify, show
from .sampling import integrate

logger = logging.getLogger(__name__)

KEY = "kontext_acceleration"
_CHANGING = (EnumHookType.Weight, EnumHookType.ObjectPatch, EnumHookType.Injections)  # kinds of hooks


def accelerate(model: Any, settings: Settings) -> Any:
    """The MODEL with acceleration; a setting that it already had is replaced. ValueError for another model.

    Whatever the settings allow, what is kept takes at most half of the device's memory.
    """
    require_flux(model)
    half = get_total_memory(model.load_device) / 2 / GIGABYTE
    settings = settings.limited(half)
    changed = model.clone()
    wrappers = {
        WrappersMP.OUTER_SAMPLE: partial(_sample, settings),
        WrappersMP.PREPARE_SAMPLING: partial(_prepare, settings),
        WrappersMP.PREDICT_NOISE: _predict,
        WrappersMP.DIFFUSION_MODEL: _evaluate,
    }
    for kind, wrapper in wrappers.items():
        changed.remove_wrappers_with_key(kind, KEY)
        changed.add_wrapper_with_key(kind, KEY, wrapper)
    return changed


# A sampling run


def _sample(settings: Settings, executor: Any, *args: Any, **options: Any) -> Tensor:
    """Around a whole run: makes its state, tells what it did, drops it. args: noise, latent, sampler, sigmas, ..."""
    guider, sampler, sigmas = executor.class_obj, args[2], args[3]
    refused = _refused(sampler)
    weight = _weight(guider.conds, args[0].shape)
    run = Run(settings.without_forecast() if refused else settings, sigmas.tolist(), weight)
    if refused and run.settings != settings:
        run.note(f"{refused}: no forecast and no region steps, which need the sampler euler")
    if _changes_weights(guider.conds):
        run.refused = "weights that change with the conditioning"
    guider.model_options["transformer_options"][KEY] = run  # options of this run alone: the guider made a copy
    guider.conds = {name: [_marked(condition) for condition in given] for name, given in guider.conds.items()}
    try:
        result = executor(*args, **options)
        _tell(run)
        return result
    finally:
        run.close()


def _marked(condition: dict) -> dict:
    """With an argument of ours in each call: by it a compiled model knows accelerated runs from others."""
    return condition | {"model_conds": condition["model_conds"] | {KEY: CONDConstant(True)}}


def _changes_weights(conds: dict) -> bool:
    """Whether a conditioning has a hook that changes the model, perhaps from step to step; others act on the call."""
    hooks = [condition.get("hooks") for conditions in conds.values() for condition in conditions]
    return any(group.get_type(kind) for group in hooks if group is not None for kind in _CHANGING)


def _refused(sampler: Any) -> str | None:
    """The name of a sampler that does not take plain Euler steps, else None."""
    function = sampler.sampler_function if isinstance(sampler, KSAMPLER) else None
    extra = sampler.extra_options if function else {}
    if function is sample_euler and not extra.get("s_churn"):
        return None
    if function is integrate:
        return None if extra["solver"] is euler else f"solver {extra['solver'].__name__}"
    return getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")


def _tell(run: Run) -> None:
    """The report on the node that sampled, and in the log; as a warning if something was left undone."""
    if not run.kinds:
        run.note("nothing was accelerated: another node stands between the sampler and the model")
    text = "Kontext Accelerate: " + run.report()
    if run.notes:
        notify(text)
    else:
        logger.info(text)
        show(text)


def _prepare(
    settings: Settings, executor: Any, patcher: Any, noise_shape: Any, conds: dict, *args: Any, **options: Any
) -> Any:
    """Around the loading of models: the estimate of memory, which counts latents, is told of the caches as of more."""
    need = _cache_bytes(settings, patcher, noise_shape, conds)
    if need:
        one = patcher.model.memory_required([1, *noise_shape[1:]])
        noise_shape = [noise_shape[0] + math.ceil(need / one), *noise_shape[1:]]
    return executor(patcher, noise_shape, conds, *args, **options)


def _cache_bytes(settings: Settings, patcher: Any, noise_shape: Any, conds: dict) -> int:
    """What kept keys and values of all conditionings may take, within the settings' bound."""
    if not settings.keeps(_weight(conds, noise_shape)):
        return 0
    params = patcher.get_model_object("diffusion_model").params
    dtype = patcher.model.get_dtype_inference()
    itemsize = 2 if settings.half_precision else dtype.itemsize
    need = 0
    for condition in (condition for conditions in conds.values() for condition in conditions):
        tokens = _reference_tokens(condition)
        if tokens and settings.warmup is not None:
            tokens += _tokens(noise_shape)
        need += stream_bytes(params, noise_shape[0], tokens, itemsize)
    return min(need, settings.cache_bytes)


def _weight(conds: dict, noise_shape: Any) -> float:
    """How many times the target's tokens the references have, in the conditioning with the most."""
    conditions = (condition for conditions in conds.values() for condition in conditions)
    return max(map(_reference_tokens, conditions), default=0) / _tokens(noise_shape)


def _reference_tokens(condition: dict) -> int:
    return sum(_tokens(reference.shape) for reference in condition.get("reference_latents", ()))


def _tokens(shape: Any) -> int:
    """Those of a latent (..., h, w)."""
    return math.ceil(shape[-2] / 2) * math.ceil(shape[-1] / 2)


# A step


def _predict(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
) -> Tensor:
    """Around the prediction of the clean picture from x (b, 16, h, w), after guidance."""
    run = (model_options or {}).get("transformer_options", {}).get(KEY)
    if run is None or x.ndim != 4:
        return executor(x, timestep, model_options, seed)
    sigma = timestep[0].item()
    if run.begin(sigma).kind == "forecast":
        return x - sigma * unpack(run.forecast(), *x.shape[-2:])
    denoised = executor(x, timestep, model_options, seed)
    tokens = pack(x)
    velocity = (tokens - pack(denoised)) / sigma
    followed = run.finish(tokens, velocity)
    return denoised if followed is velocity else x - sigma * unpack(followed, *x.shape[-2:])


@torch.compiler.disable(recursive=False)  # goes by the run, which a compiled graph would hold as it was
def _evaluate(executor: Any, *args: Any, **options: Any) -> Tensor:
    """In place of FLUX's forward, where a run asked for it and nothing is there that only the host's honours."""
    call, tree = read_call(args), executor.class_obj
    run = call.transformer_options.get(KEY)
    if run is None or not run.begun:
        return executor(*args, **options)
    reason = run.refused or foreign(tree, args, options) or _unknown(call, options)
    if reason:
        run.left_out(tree.params, *_sizes(call))
        run.note(f"{reason}: such steps are computed in full")
        return executor(*args, **options)

    def own(*args: Any, **options: Any) -> Tensor:
        call = Call(*args)
        img, references = call.tokens()
        shared = call.transformer_options
        key = (call.x.device, tuple(shared["uuids"]), tuple(call.x.shape))
        describe = partial(_describe, tree, call, references, layout_of(tree, options) if references else "offset")
        return call.picture(run.evaluate(key, tree, describe, img, call.attention()))

    return run_instead(executor, own, call, options)


def _unknown(call: Call, options: dict[str, Any]) -> str | None:
    """What another of our nodes asks for in the call, or a call that does not say whose conditioning it is."""
    if controls.asked(options):
        return "controls of references, or NAG"
    return None if "uuids" in call.transformer_options else "a call without a conditioning's name"


def _sizes(call: Call) -> tuple[int, int, int, int]:
    """Batch, text tokens, target tokens and reference tokens of a call."""
    references = sum(_tokens(reference.shape) for reference in call.ref_latents or ())
    return len(call.x), call.context.shape[1], _tokens(call.x.shape), references


def _describe(tree: Any, call: Call, references: list[Tensor], layout: str) -> Inputs:
    sizes = [part.shape[-2:] for part in (call.x, *(call.ref_latents or ()))]
    grids = [((height + 1) // 2, (width + 1) // 2) for height, width in sizes]
    return Inputs(call.context, call.y, call.guidance, references, grids, torch.cat(call.ids(layout))[None])
