"""A negative prompt that takes effect: with NAG, or with the positive's references for CFG."""

from typing import Any

from ..kontext_core.negatives import Nag, is_neutral, relative_cost
from ..kontext_core.schedule import require_range
from . import controls
from .conditioning import Conditioning
from .latents import tokens

_SHARED = ("reference_latents", "reference_latents_method", controls.REFERENCES)


def with_nag(positive: Conditioning, negative: Conditioning, nag: Nag) -> tuple[Conditioning, Conditioning, str]:
    """The positive with NAG against the negative's text in every run that uses it; the negative with its references.

    Raises ValueError for a negative of several texts, for texts of different encoders, and for a range that ends
    before it starts.
    """
    require_range(nag.start, nag.end)
    _require_text("positive", positive)
    _require_text("negative", negative)
    if len(negative) > 1:
        raise ValueError(
            f"negative is combined of {len(negative)} conditionings; NAG reads one. "
            "Write what to avoid into one CLIP Text Encode, or use the method cfg."
        )
    (text, _), *_ = negative
    width = positive[0][0].shape[-1]
    if text.shape[-1] != width:
        raise ValueError(
            f"negative comes from a text encoder of width {text.shape[-1]}, positive from one of {width}. "
            "Use the same CLIP for both."
        )
    out = controls.with_nag(positive, text, nag)
    return out, _with_references(positive, negative), _report(positive, text.shape[1], nag)


def for_cfg(
    positive: Conditioning, negative: Conditioning, same_references: bool
) -> tuple[Conditioning, Conditioning, str]:
    """The unchanged positive, and the negative with or without the positive's references, guidance and controls.

    Raises ValueError if the positive is combined of conditionings with different references.
    """
    _require_text("positive", positive)
    _require_text("negative", negative)
    lines = ["for cfg above 1 in the sampler; at cfg 1 it has no effect"]
    if same_references:
        negative = _with_references(positive, negative)
        count = len(negative[0][1].get("reference_latents", ()))
        lines.append(f"negative has the {count} references of positive: cfg pushes away from its text alone")
    else:
        lines.append("negative has no references: cfg also pushes towards those of positive")
        negative = [[text, _without(values)] for text, values in negative]
    return positive, negative, "\n".join(lines)


def _require_text(name: str, conditioning: Conditioning) -> None:
    if not conditioning:
        raise ValueError(f"{name} is empty; connect a CLIP Text Encode.")


def _with_references(positive: Conditioning, negative: Conditioning) -> Conditioning:
    """The negative with the positive's references and their settings, and its guidance unless it has its own."""
    first = _shared(positive[0][1])
    for _, values in positive[1:]:
        if not _same(first, _shared(values)):
            raise ValueError(
                "positive is combined of conditionings with different references, so it is open which of them the "
                "negative shall have. Put Kontext Negative before the node that combines them."
            )
    guidance = {key: positive[0][1][key] for key in ("guidance",) if key in positive[0][1]}
    out = [[text, guidance | _without(values) | first] for text, values in negative]
    return controls.hooked(out) if controls.is_asked(out) else out


def _shared(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in _SHARED if key in values}


def _without(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in (*_SHARED, controls.NEGATIVE)}


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two conditionings have the same reference objects and settings."""
    a, b = first.get("reference_latents", ()), second.get("reference_latents", ())
    same_latents = len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    rest = (key for key in _SHARED if key != "reference_latents")
    return same_latents and all(first.get(key) is second.get(key) or first.get(key) == second.get(key) for key in rest)


def _report(positive: Conditioning, negative: int, nag: Nag) -> str:
    if is_neutral(nag):
        return "NAG changes nothing with these settings: the negative has no effect at cfg 1"
    text, values = positive[0]
    counts = [tokens({"samples": latent}) for latent in values.get("reference_latents", ())]
    line = f"NAG scale {nag.scale:g}, tau {nag.tau:g}, alpha {nag.alpha:g}; acts at cfg 1"
    if not counts:
        return line
    cost = relative_cost(text.shape[1], negative, counts[0], sum(counts))
    return f"{line}\na step costs {cost:.2f} x one without it, for a target of reference 1's size; cfg costs 2 x"
