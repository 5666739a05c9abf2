"""Settings of references and negatives in a CONDITIONING, and their execution in a sampling run of the host.

A conditioning carries plain data under our own keys, and a host hook. The hook installs three wrappers in any run that
uses the conditioning, with any MODEL and any sampler node: one reads the data when the run starts, one runs our forward
in the steps where a setting is active, and one checks that the latter is reached. In other steps the host's own forward
runs.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.conds
import comfy.hooks
import node_helpers
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..kontext_core import controls as core
from ..kontext_core import negatives
from ..kontext_core.controls import Control, Controls, View
from ..kontext_core.negatives import Nag
from ..kontext_core.schedule import is_during, progress, require_range
from ..kontext_core.transformer import forward
from .conditioning import Conditioning
from .finite import watching
from .flux import require_flux_1
from .forward import Call, layout_of, read_call, require_flux, run_instead
from .images import one_mask
from .known import CONTROLS as KEY
from .known import NAG as _NAG
from .known import NEGATIVE, REFERENCES, foreign
from .latents import PIXELS, tokens
from .schedule import run_fractions

# Setting


def with_control(conditioning: Conditioning, number: int, control: Control) -> Conditioning:
    """A copy with one more control of reference `number` (from 1); the same object if it changes nothing."""
    if core.is_neutral(control):
        return conditioning
    out = []
    for text, values in conditioning:
        controls: Controls = values.get(REFERENCES, {})
        out.append([text, values | {REFERENCES: _added(controls, number, control)}])
    return hooked(out)


def _added(controls: Controls, number: int, control: Control) -> Controls:
    known = controls.get(number)
    return {**controls, number: control if known is None else core.both(known, control)}


def with_nag(conditioning: Conditioning, text: Tensor, nag: Nag) -> Conditioning:
    """A copy with NAG against a negative text (1, n, width); the same object if `nag` changes nothing."""
    if negatives.is_neutral(nag):
        return conditioning
    return hooked(node_helpers.conditioning_set_values(conditioning, {NEGATIVE: (text, nag)}))


def is_asked(conditioning: Conditioning) -> bool:
    """Whether a conditioning has settings that only our forward supports."""
    return any(key in values for _, values in conditioning for key in (REFERENCES, NEGATIVE))


def hooked(conditioning: Conditioning) -> Conditioning:
    """With our hook in addition to others. Conditionings without other hooks share one group, so they can be
    batched.
    """
    return [[text, values if _has_hook(values) else _with_hook(values)] for text, values in conditioning]


def _has_hook(values: dict[str, Any]) -> bool:
    return "hooks" in values and values["hooks"].contains(_HOOK)


def _with_hook(values: dict[str, Any]) -> dict[str, Any]:
    others = values.get("hooks")
    return values | {"hooks": _HOOKS if others is None else others.clone_and_combine(_HOOKS)}


def control(
    conditioning: Conditioning,
    number: int,
    *,
    strength: float,
    start: float,
    end: float,
    mask: Tensor | None,
    region: Tensor | None,
) -> tuple[Conditioning, str]:
    """A copy of `conditioning` with these settings for reference `number` (from 1), and a report of effect and cost.

    `mask` covers the reference, `region` the new picture, (1, h, w) each at any size. Raises ValueError for several
    masks in one input, for an empty one, and for a range that ends before it starts.
    """
    require_range(start, end)
    masks, areas = (
        () if given is None else (one_mask(name, given),) for name, given in (("mask", mask), ("region", region))
    )
    new = Control(strength, masks, areas, start, end)
    out = with_control(conditioning, number, new)
    return out, "\n".join(_account(out, number))


def _account(conditioning: Conditioning, number: int) -> list[str]:
    """Tokens and cost of the references with their current settings, and the settings of reference `number`."""
    text, values = conditioning[0]
    latents = values.get("reference_latents", ())
    known = values.get(REFERENCES, {})
    lines = [_describe_control(number, known.get(number, Control()))]
    if number > len(latents):
        return [*lines, f"the conditioning carries {len(latents)} references so far; the setting waits for this one"]
    counts = [tokens({"samples": latent}) for latent in latents]
    seen = [
        _seen(known.get(place, Control()), latent, count)
        for place, (latent, count) in enumerate(zip(latents, counts, strict=True), 1)
    ]
    lines += [
        f"reference {place}: {count} tokens, {part:g} in the sequence on average"
        for place, (count, part) in enumerate(zip(counts, seen, strict=True), 1)
    ]
    cost = core.relative_cost(text.shape[1], counts[0], seen, single=counts[0])
    return [*lines, f"a step costs {cost:.2f} x one with reference 1 alone, for a target of its size"]


def _seen(known: Control, latent: Tensor, count: int) -> float:
    """Visible tokens of a reference, averaged over the run."""
    if known.strength == 0:
        return 0.0
    inside = core.covered(known.masks, *latent.shape[-2:])
    return (count if inside is None else int(inside.sum())) * max(0.0, known.end - known.start)


def _describe_control(number: int, known: Control) -> str:
    words = [f"strength {known.strength:g}"]
    words += ["with a mask"] * bool(known.masks) + ["for a region"] * bool(known.areas)
    if (known.start, known.end) != (0, 1):
        words.append(f"from {100 * known.start:g} to {100 * known.end:g} % of the run")
    return f"reference {number}: {', '.join(words)}"


# Execution


def install(model: Any, conditionings: dict[str, Conditioning]) -> tuple[Any, dict[str, Conditioning]]:
    """A MODEL with wrappers for the conditionings' settings, and the conditionings without the hook.

    For our own sampler: the host disables its dynamic memory management for runs with hooks, and this run needs none.
    """
    if not any(is_asked(conditioning) for conditioning in conditionings.values()):
        return model, conditionings
    model = model.clone()
    for kind, wrapper in _WRAPPERS.items():
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    return model, {name: _unhooked(conditioning) for name, conditioning in conditionings.items()}


def _unhooked(conditioning: Conditioning) -> Conditioning:
    out = []
    for text, values in conditioning:
        if _has_hook(values):
            group = values["hooks"].clone()
            group.remove(_HOOK)
            values = {key: value for key, value in values.items() if key != "hooks"}
            values |= {"hooks": group} if len(group) else {}
        out.append([text, values])
    return out


@dataclass
class _State:
    """The state of every run, independent of its conditionings' settings."""

    done: list[float]  # the completed fraction of the run at each noise level
    reached: bool = False  # whether the model was called through our wrapper


class _Run(NamedTuple):
    """Controls in a run: over a target of `size` latent pixels."""

    controls: Controls
    size: tuple[int, int]  # height, width
    part: tuple[int, ...] | None = None  # of the target, in this call: height, width, y, x; None: all of it


class _RunCond(comfy.conds.CONDConstant):
    """`_Run` as a value of `model_conds`; two calls are batched if theirs are equal."""

    def process_cond(self, batch_size: int, area: Any = None, **options: Any) -> "_RunCond":
        return self if area is None else _RunCond(self.cond._replace(part=tuple(area)))


def _start(
    executor: WrapperExecutor, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **options: Any
) -> Tensor:
    """The OUTER_SAMPLE wrapper: check the model, and store the settings where each call finds them."""
    guider = executor.class_obj
    state = _State(run_fractions(guider.model_patcher, noise, sigmas))
    guider.model_options["transformer_options"][KEY] = state  # options of this run only: the guider made a copy
    for name, conds in guider.conds.items():
        guider.conds[name] = [_started(name, cond, guider.model_patcher, noise) for cond in conds]
    return executor(noise, latent, sampler, sigmas, *args, **options)


def _started(name: str, cond: dict[str, Any], model: Any, noise: Tensor) -> dict[str, Any]:
    model_conds = dict(cond["model_conds"])
    if REFERENCES in cond or NEGATIVE in cond:
        require_flux(model)
    if REFERENCES in cond:
        controls = cond[REFERENCES]
        _require_references(name, controls, len(cond.get("reference_latents", ())))
        model_conds[REFERENCES] = _RunCond(_Run(controls, (noise.shape[-2], noise.shape[-1])))
    if NEGATIVE in cond:
        text, nag = cond[NEGATIVE]
        _require_width(name, text, model)
        model_conds |= {NEGATIVE: comfy.conds.CONDRegular(text), _NAG: comfy.conds.CONDConstant(nag)}
    return cond | {"model_conds": model_conds}


def _require_references(name: str, controls: Controls, count: int) -> None:
    beyond = [number for number in sorted(controls) if number > count]
    if beyond:
        raise ValueError(
            f"{name}: Kontext Reference Control names reference {beyond[0]}, but the conditioning carries {count}. "
            "Connect the picture to Kontext Context, or take the control away."
        )


def _require_width(name: str, text: Tensor, model: Any) -> None:
    width = require_flux_1(model).context_in_dim
    if text.shape[-1] != width:
        raise ValueError(
            f"{name}: the negative of Kontext Negative comes from a text encoder of width {text.shape[-1]}; this model "
            f"reads {width}. Use the CLIP that was loaded beside the model."
        )


def _predict(
    executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None
) -> Tensor:
    """The PREDICT_NOISE wrapper: stop in the first step if the result is not finite, or if our forward was not
    reached.
    """
    denoised = watching(executor, x, timestep, model_options, seed)
    state = (model_options or {}).get("transformer_options", {}).get(KEY)
    if state is not None and not state.reached:
        raise ValueError(
            "another node answers in place of the model, so Kontext Reference Control and NAG of Kontext Negative are "
            "not carried out. Take that node away, or the control."
        )
    return denoised


def _step(executor: WrapperExecutor, *args: Any, **options: Any) -> Tensor:
    """The DIFFUSION_MODEL wrapper: our forward if a setting is active in this call, else the host's.

    The host may install it twice when it combines hooks; the second then runs inside the first one's forward.
    """
    if (state := read_call(args).transformer_options.get(KEY)) is not None:
        state.reached = True
    if not asked(options):
        return executor(*args, **options)
    if reason := foreign(executor.class_obj, args, options):
        raise ValueError(
            f"this run has {reason}, which does not go together with Kontext Reference Control or NAG of Kontext "
            "Negative. Take one of the two away."
        )
    call = Call(*args)
    view, nag = _asked(call, options)
    if view is None and nag is None:
        return executor(*args, **options)

    def own(*args: Any, **options: Any) -> Tensor:
        return _evaluate(executor.class_obj, Call(*args), options, view, nag)

    return run_instead(executor, own, call, options)


def _asked(call: Call, options: dict[str, Any]) -> tuple[View | None, Nag | None]:
    """The view of the references and the NAG that are active at this call's sigma."""
    said = call.transformer_options
    done = progress(float(said["sigmas"][0]), said["sample_sigmas"], said[KEY].done)
    view, nag = None, options.get(_NAG)
    if REFERENCES in options:
        target = (call.x.shape[-2], call.x.shape[-1])
        sizes = [(latent.shape[-2], latent.shape[-1]) for latent in call.ref_latents or ()]
        view = core.look(_in_part(options[REFERENCES], target), sizes, target, done)
    return view, nag if nag is not None and is_during(done, nag.start, nag.end) else None


def asked(options: dict[str, Any]) -> bool:
    """Whether the keyword arguments of a call contain settings of ours."""
    return REFERENCES in options or _NAG in options


def _in_part(run: _Run, drawn: tuple[int, int]) -> Controls:
    """The controls with their areas cropped to the part of the target that this call computes, of size `drawn`.

    Raises ValueError if another node computes a part of its own choice, whose position is unknown.
    """
    if not any(control.areas for control in run.controls.values()):
        return run.controls
    height, width, y, x = run.part or (*run.size, 0, 0)
    if (height, width) != drawn:
        raise ValueError(
            f"another node draws this picture in tiles or windows ({drawn[1] * PIXELS}x{drawn[0] * PIXELS} px of "
            f"{width * PIXELS}x{height * PIXELS}), and where each lies is not said, so a region of Kontext Reference "
            "Control has no place in it. Take that node away, or the region."
        )
    if run.part is None:
        return run.controls

    def cropped(mask: Tensor) -> Tensor:
        whole = F.interpolate(mask[None, None].float(), run.size, mode="area")[0, 0]
        return whole[y : y + height, x : x + width]

    return {
        number: control._replace(areas=tuple(map(cropped, control.areas))) for number, control in run.controls.items()
    }


def _evaluate(tree: Any, call: Call, options: dict[str, Any], view: View | None, nag: Nag | None) -> Tensor:
    """The velocity (b, 16, h, w) with a view of the references and a negative text."""
    img, tokens = call.tokens()
    ids, *reference_ids = call.ids(layout_of(tree, options))
    if view is not None:
        tokens, reference_ids = core.select(view, tokens, 1), core.select(view, reference_ids, 0)
    counts = [part.shape[1] for part in tokens]
    attend, target, text = call.attention(), img.shape[1], call.context

    def over(text_tokens: int) -> Any:
        return attend if view is None else core.controlled(view, attend, text_tokens, target, counts)

    attention = over(text.shape[1])
    if nag is not None:
        negative = options[NEGATIVE]
        attention = negatives.guided(over, text.shape[1], negative.shape[1], target, nag)
        text = torch.cat((text, negative), dim=1)
    velocity = forward(
        tree,
        torch.cat((img, *tokens), dim=1),
        torch.cat((ids, *reference_ids))[None],
        text,
        text.new_zeros(1, text.shape[1], 3, dtype=torch.float32),
        call.timestep,
        call.y,
        call.guidance,
        attention=attention,
    )
    return call.picture(velocity[:, :target])


_WRAPPERS = {
    WrappersMP.OUTER_SAMPLE: _start,
    WrappersMP.PREDICT_NOISE: _predict,
    WrappersMP.DIFFUSION_MODEL: _step,
}
_HOOK = comfy.hooks.TransformerOptionsHook({"wrappers": {kind: {KEY: [w]} for kind, w in _WRAPPERS.items()}})
_HOOKS = comfy.hooks.HookGroup()
_HOOKS.add(_HOOK)
