"""Change masks and paste-back for the host's IMAGE, MASK and LATENT, with reports."""

from collections.abc import Collection
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..kontext_core import preservation
from ..kontext_core.frames import Frame, resample
from ..kontext_core.looks import Look
from ..kontext_core.preservation import GLOBAL_SHARE, Change, Preserved
from ..kontext_core.registration import Registration
from .images import fitted_mask, given, masks, require_batch, rgb
from .latents import Latent, size_px


def change_mask(
    original: Tensor,
    edited: Tensor,
    *,
    mask: Tensor | None,
    join: str,
    latents: tuple[Latent | None, Latent | None],
    frame: Frame | None,
    align: bool,
    sensitivity: float,
    smallest: float,
    grow: float,
    feather: float,
) -> tuple[Tensor, str]:
    """The change mask (b, h, w) of each edited picture against its original, and a report.

    smallest, grow, feather are in percent: of the picture's area, and of its longer side.
    Raises ValueError for sizes and batches that do not match, and for one latent without the other.
    """
    pairs = _pairs(original, edited)
    drawn = _drawn(mask, edited)
    evidence = _evidence(*latents, frame, edited)
    found_masks, lines = [], []
    for index, (before, after) in enumerate(pairs):
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = {"sensitivity": sensitivity, "smallest": smallest / 100, "evidence": _of(evidence, index)}
        _, inside, found, change = preservation.compare(before, after, aligned=align, **options)
        core = change.core if drawn is None else preservation.join(change.core, _of(drawn, index), join)
        found_masks.append(preservation.soft_mask(core, before.shape[1:], grow / 100, feather / 100))
        lines += [*_alignment(found, inside is not None), *_change_lines(change, found_masks[-1])]
    return given(torch.stack(found_masks)), "\n".join(lines)


def preserve(
    original: Tensor,
    edited: Tensor,
    mask: Tensor | None,
    *,
    match: Collection[str],
    paste: bool,
    **finding: float,
) -> tuple[Tensor, Tensor, str]:
    """Each edited picture with everything that did not change taken from its original; the masks (b, h, w); a report.

    match     what to match to the original, see `kontext_core.preservation.preserve`
    finding   `sensitivity`, and `grow` and `feather` in percent of the longer side; used only without a mask

    Raises ValueError for sizes and batches that do not match.
    """
    pairs = _pairs(original, edited)
    drawn = _drawn(mask, edited)
    results: list[Preserved] = []
    for index, (before, after) in enumerate(pairs):
        comfy.model_management.throw_exception_if_processing_interrupted()
        results.append(
            preservation.preserve(
                before,
                after,
                None if drawn is None else _of(drawn, index),
                match=match,
                paste=paste,
                sensitivity=finding["sensitivity"],
                grow=finding["grow"] / 100,
                feather=finding["feather"] / 100,
            )
        )
    pictures = torch.stack([result.picture for result in results]).movedim(1, -1)
    used = torch.stack([result.mask for result in results])
    return given(pictures), given(used), "\n".join(line for result in results for line in _report(result, paste))


def _pairs(original: Tensor, edited: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of pictures (3, h, w); one original is used for all edited pictures."""
    befores, afters = rgb(original, "original").movedim(-1, 1), rgb(edited, "edited").movedim(-1, 1)
    if befores.shape[2:] != afters.shape[2:]:
        raise ValueError(
            f"edited is {afters.shape[3]}x{afters.shape[2]} px, original {befores.shape[3]}x{befores.shape[2]} px; "
            "they must be equal. Use Kontext Restore Frame before this node."
        )
    require_batch("original", len(befores), "edited", len(afters))
    return [(_of(befores, index), after) for index, after in enumerate(afters)]


def _drawn(mask: Tensor | None, edited: Tensor) -> Tensor | None:
    """The user's mask at the edited pictures' size, (1 or b, h, w)."""
    if mask is None:
        return None
    fitted = fitted_mask(masks(mask, "mask"), edited.shape[1:3])
    require_batch("mask", len(fitted), "edited", len(edited))
    return fitted


def _of(batch: Any, index: int) -> Any:
    """A member of a batch; a single one is used for all."""
    return None if batch is None else batch[index if len(batch) > 1 else 0]


def _evidence(reference: Latent | None, result: Latent | None, frame: Frame | None, edited: Tensor) -> Tensor | None:
    """The difference of the latents, mapped to the edited picture, (b, h, w); None without latents."""
    if (reference is None) != (result is None):
        missing = "reference_latent" if reference is None else "result_latent"
        raise ValueError(f"{missing} is not connected; connect both latents, or none.")
    if reference is None or result is None:
        return None
    befores, afters = (latent["samples"].cpu() for latent in (reference, result))
    for name, latent in (("reference_latent", befores), ("result_latent", afters)):
        require_batch(name, len(latent), "edited", len(edited))
    pairs = [(_of(befores, index), _of(afters, index)) for index in range(max(len(befores), len(afters)))]
    maps = torch.stack([preservation.latent_evidence(*pair) for pair in pairs])
    if frame is None:
        return fitted_mask(maps, edited.shape[1:3])
    _require_frame(frame, result, edited)
    return frame.restore(resample(maps[..., None], frame.grid), torch.zeros(1, *edited.shape[1:3], 1))[..., 0]


def _require_frame(frame: Frame, latent: Latent, edited: Tensor) -> None:
    found = (edited.shape[2], edited.shape[1]), size_px(latent)
    if found != (frame.source, frame.grid):
        raise ValueError(
            "frame maps {}x{} px to {}x{} px; edited is {}x{} px and the latents {}x{} px. Use the frame that the "
            "reference was made with.".format(*frame.source, *frame.grid, *found[0], *found[1])
        )


def _report(result: Preserved, paste: bool) -> list[str]:
    if result.look is None:
        return ["the edit is global: nothing was restored, the edited picture is returned unchanged"]
    lines = [*_alignment(result.registration, result.moved), *_look_lines(result.look)]
    if result.change:
        lines += _warnings(result.change)
    if paste:
        kept = float((result.mask == 0).float().mean())
        lines.append(f"{100 * kept:.1f} % of the picture kept bit for bit")
    return lines


def _look_lines(look: Look) -> list[str]:
    lines = []
    if look.colour_error:
        lines.append("colour error where nothing changed: dE2000 {:.2f} -> {:.2f}".format(*look.colour_error))
    if look.detail:
        before, after = (100 * share for share in look.detail)
        lines.append(f"fine detail where nothing changed: {before:.0f} % -> {after:.0f} % of the original's")
    return lines


def _warnings(change: Change) -> list[str]:
    if not change.is_uncertain:
        return []
    return [
        f"{100 * change.share:.0f} % of the picture changed: drift and edit are hard to separate. Check the "
        "mask, or connect one"
    ]


def _change_lines(change: Change, mask: Tensor) -> list[str]:
    share = 100 * float((mask > 0).float().mean())
    lines = [f"{100 * change.share:.1f} % of the picture changed; the mask covers {share:.1f} %"]
    if change.drift > 1:
        lines.append(f"colours drifted by dE2000 {change.drift:.1f}")
    if change.is_global:
        lines.append(
            f"the edit is global (more than {100 * GLOBAL_SHARE:.0f} % changed, or all colours did): there is "
            "nothing to preserve"
        )
    else:
        lines += _warnings(change)
    return lines


def _alignment(found: Registration | None, moved: bool) -> list[str]:
    if found is None:
        return []
    confidence = f"confidence {found.confidence:.2f}"
    if not found.accepted:
        return [f"edited was not aligned: too little of it matches the original ({confidence})"]
    if not moved:
        return [f"edited was not moved: no movement fits the original clearly better ({confidence})"]
    where = found.similarity
    width, height = where.scale * where.stretch, where.scale
    moved = f"shift {where.x:.2f}, {where.y:.2f} px, scale {width:.4f} x {height:.4f}"
    turned = f", rotation {where.angle * 57.29578:.2f} degrees" if where.angle else ""
    return [f"edited aligned: {moved}{turned} ({confidence})"]
