"""Acceleration of a host MODEL: wrappers around its sampling runs, its predictions and its FLUX.

The state of a run is created when it starts, reaches the other wrappers through the run's own options, and is dropped
when it ends, even after an error or an interrupt. The model itself stores only the settings.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfy.conds import CONDConstant
from comfy.hooks import EnumHookType
from comfy.model_management import get_total_memory
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..kontext_core.acceleration.attention import kept_bytes
from ..kontext_core.acceleration.run import Run
from ..kontext_core.acceleration.settings import GIGABYTE, Settings
from ..kontext_core.acceleration.stream import Inputs
from ..kontext_core.schedule import part_of
from ..kontext_core.tokens import pack, unpack
from . import controls
from .finite import watch
from .forward import Call, layout_of, read_call, require_flux, run_instead
from .known import ACCELERATION as KEY
from .known import foreign
from .notices import notify, show
from .schedule import run_fractions

logger = logging.getLogger(__name__)

_CHANGING = (EnumHookType.Weight, EnumHookType.ObjectPatch, EnumHookType.Injections)  # kinds of hooks
_CACHE = "easycache"  # key under which the host's own caches store their state in a run's options


def accelerate(model: Any, settings: Settings, reports: Callable[[Run], None] | None = None) -> Any:
    """The MODEL with acceleration, which replaces an earlier setting. ValueError for another model.

    Regardless of the settings, caches use at most half of the device's memory. `reports` receives every run at its end,
    instead of the user.
    """
    require_flux(model)
    half = get_total_memory(model.load_device) / 2 / GIGABYTE
    settings = settings.limited(half)
    changed = model.clone()
    wrappers = {
        WrappersMP.OUTER_SAMPLE: partial(_sample, settings, reports or _tell),
        WrappersMP.PREPARE_SAMPLING: partial(_prepare, settings),
        WrappersMP.PREDICT_NOISE: _predict,
        WrappersMP.DIFFUSION_MODEL: _evaluate,
    }
    for kind, wrapper in wrappers.items():
        changed.remove_wrappers_with_key(kind, KEY)
        changed.add_wrapper_with_key(kind, KEY, wrapper)
    watch(changed)
    return changed


# A sampling run


def _sample(settings: Settings, tell: Callable[[Run], None], executor: Any, *args: Any, **options: Any) -> Tensor:
    """Wraps a complete run: creates its state, reports, drops it. args: those of `CFGGuider.outer_sample`."""
    guider, (noise, latent, sampler, sigmas, mask, callback, *rest) = executor.class_obj, args
    if len(sigmas) < 2:
        return executor(*args, **options)
    if not (sigmas[1:] < sigmas[:-1]).all():
        notify("Kontext Accelerate: nothing was accelerated: the noise levels of this run do not fall")
        return executor(*args, **options)
    other = _no_euler(sampler) or _no_flow(guider.model_patcher)
    part = part_of(run_fractions(guider.model_patcher, noise, sigmas))
    run = Run(settings.exact() if other else settings, sigmas.tolist(), part)
    if other and settings.leaves_out:
        run.note(f"{other}: every step is computed; leaving out steps needs the sampler euler and the model's own flow")
    if _changes_weights(guider.conds):
        run.refused = "weights that change with the conditioning"
    shared = guider.model_options["transformer_options"]  # options of this run only: the guider made a copy
    shared[KEY] = run
    guider.conds = {name: [_marked(condition) for condition in given] for name, given in guider.conds.items()}
    try:
        result = executor(noise, latent, sampler, sigmas, mask, _estimating(run, mask, callback), *rest, **options)
        if (cache := shared.get(_CACHE)) is not None:
            name = type(cache).__name__.removesuffix("Holder")
            run.note(f"{name} is active too; the errors of the two caches add up, and only ours is counted: remove one")
        run.end()
        tell(run)
        return result
    finally:
        run.close()


def _estimating(run: Run, mask: Tensor | None, callback: Callable | None) -> Callable | None:
    """The callback of a run with the model's own estimates: those of the followed velocity contain its corrections."""
    if callback is None:
        return None

    def call(step: int, estimate: Tensor, x: Tensor, steps: int) -> Any:
        if (correction := run.control.correction) is not None:
            own = run.sigmas[step] * unpack(correction, *estimate.shape[-2:])
            estimate = estimate + (own if mask is None else own * mask)
        return callback(step, estimate, x, steps)

    return call


def _marked(condition: dict) -> dict:
    """Adds our argument to each call, so that a compiled model distinguishes accelerated runs."""
    return condition | {"model_conds": condition["model_conds"] | {KEY: CONDConstant(True)}}


def _changes_weights(conds: dict) -> bool:
    """Whether a conditioning has a hook that changes the model, perhaps from step to step; other hooks act on calls."""
    hooks = [condition.get("hooks") for conditions in conds.values() for condition in conditions]
    return any(group.get_type(kind) for group in hooks if group is not None for kind in _CHANGING)


def _no_euler(sampler: Any) -> str | None:
    """The name of a sampler that does not take plain Euler steps, else None.

    Compared by name: other packs import the host's samplers again, which creates other objects.
    """
    function = sampler.sampler_function if isinstance(sampler, KSAMPLER) else None
    name = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
    extra = sampler.extra_options if function else {}
    if name == "integrate" and "solver" in extra:  # ours, `sampling.integrate`
        name = f"solver {extra['solver'].__name__}"
    return None if name in ("euler", "solver euler") and not extra.get("s_churn") else name


def _no_flow(model: Any) -> str | None:
    """The name of a model sampling for which FLUX.1's output is not a velocity, else None."""
    sampling = model.get_model_object("model_sampling")
    return None if isinstance(sampling, CONST) else type(sampling).__name__


def _tell(run: Run) -> None:
    """Show the report on the node that sampled and log it; as a warning if something could not be done."""
    text = "Kontext Accelerate: " + run.report()
    if run.notes:
        notify(text)
    else:
        logger.info(text)
        show(text)


def _prepare(
    settings: Settings, executor: Any, patcher: Any, noise_shape: Any, conds: dict, *args: Any, **options: Any
) -> Any:
    """Wraps model loading: inflates the latent shape in the memory estimate to reserve room for the caches."""
    need = _cache_bytes(settings, patcher, noise_shape, conds)
    if need:
        one = patcher.model.memory_required([1, *noise_shape[1:]])
        noise_shape = [noise_shape[0] + math.ceil(need / one), *noise_shape[1:]]
    return executor(patcher, noise_shape, conds, *args, **options)


def _cache_bytes(settings: Settings, patcher: Any, noise_shape: Any, conds: dict) -> int:
    """The size of the KV caches of all conditionings; 0 if it exceeds the settings' limit."""
    params = patcher.get_model_object("diffusion_model").params
    itemsize = 2 if settings.half_precision else patcher.model.get_dtype_inference().itemsize
    need = 0
    for condition in (condition for conditions in conds.values() for condition in conditions):
        tokens = sum(_tokens(reference.shape) for reference in condition.get("reference_latents", ()))
        if tokens and settings.fidelity is not None:
            blocks = params.depth + params.depth_single_blocks
            need += kept_bytes(blocks, noise_shape[0], tokens + _tokens(noise_shape), params.hidden_size, itemsize)
    return need if need <= settings.cache_bytes else 0


def _tokens(shape: Any) -> int:
    """The tokens of a latent (..., h, w)."""
    return math.ceil(shape[-2] / 2) * math.ceil(shape[-1] / 2)


# A step


def _predict(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
) -> Tensor:
    """Wraps the prediction of the clean picture from x (b, 16, h, w), after guidance."""
    run = (model_options or {}).get("transformer_options", {}).get(KEY)
    if run is None or x.ndim != 4:
        return executor(x, timestep, model_options, seed)
    size, sigma, here = x.shape[-2:], timestep[0].item(), pack(x)
    given: list[tuple[Tensor, Tensor]] = []  # velocities, and the predictions that they were computed from

    def model(tokens: Tensor, at: float) -> Tensor:
        state = x if tokens is here else unpack(tokens, *size)
        denoised = executor(state, timestep if at == sigma else torch.full_like(timestep, at), model_options, seed)
        given.append(((tokens - pack(denoised)) / at, denoised))
        return given[-1][0]

    velocity = run.step(here, sigma, model)
    same = [denoised for one, denoised in given if one is velocity]  # reuse the model's own prediction, bit for bit
    return same[0] if same else x - sigma * unpack(velocity, *size)


@torch.compiler.disable(recursive=False)  # depends on the run, which a compiled graph would capture as a constant
def _evaluate(executor: Any, *args: Any, **options: Any) -> Tensor:
    """Replaces FLUX's forward if a run requested it and the call has nothing that only the host supports."""
    call, tree = read_call(args), executor.class_obj
    run = call.transformer_options.get(KEY)
    if run is None or run.task is None:
        return executor(*args, **options)
    reason = run.refused or foreign(tree, args, options) or _unknown(call, run.task.sigma, options)
    if not reason:
        key, inputs = _key(call), _inputs(tree, call, options)
        reason = "a conditioning that changes from step to step" if run.changed(key, inputs) else None
    if reason:
        run.left_out(tree.params, len(call.x), _tokens_of(call))
        run.note(f"{reason}: such steps are computed in full")
        return executor(*args, **options)

    def own(*args: Any, **options: Any) -> Tensor:
        call = Call(*args)
        img, _ = call.tokens()
        return call.picture(run.evaluate(_key(call), tree, _inputs(tree, call, options), img, call.attention()))

    return run_instead(executor, own, call, options)


def _unknown(call: Call, sigma: float, options: dict[str, Any]) -> str | None:
    """A feature that our forward does not support at `sigma`: another of our nodes' settings, or an unusual call."""
    if controls.asked(options):
        return "Reference Control or NAG"
    if not (call.timestep == sigma).all():
        return "a model sampling with timesteps of its own"
    return None if "uuids" in call.transformer_options else "a call without a conditioning's name"


def _key(call: Call) -> tuple:
    """Identifies the conditioning of an evaluation, or the several conditionings in one batch."""
    return call.x.device, tuple(call.transformer_options["uuids"]), tuple(call.x.shape)


def _tokens_of(call: Call) -> int:
    """The tokens of text, target and references."""
    images = sum(_tokens(part.shape) for part in (call.x, *(call.ref_latents or ())))
    return call.context.shape[1] + images


def _inputs(tree: Any, call: Call, options: dict[str, Any]) -> Inputs:
    """The inputs of a call."""
    sizes = [part.shape[-2:] for part in (call.x, *(call.ref_latents or ()))]
    grids = [((height + 1) // 2, (width + 1) // 2) for height, width in sizes]
    _, references = call.tokens()
    ids = torch.cat(call.ids(layout_of(tree, options) if references else "offset"))[None]
    return Inputs(call.context, call.y, call.guidance, references, grids, ids)
