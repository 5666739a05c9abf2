"""Strength, mask, visible area and range of each reference's effect on the result.

The model itself does not change: a control selects tokens and an attention function for `transformer.forward`.
Tokens that are not visible to any row leave the sequence, which is exact and makes the step cheaper. A strength is a
constant added to the logits of a reference's keys. A visible area divides the target's rows into groups
with different keys, so no row needs a mask and attention kernels without mask support stay in use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .schedule import is_during
from .transformer import Attention

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q, k, v and the logit bias, or None


class Control(NamedTuple):
    """How one reference takes part. The default changes nothing."""

    strength: float = 1.0  # factor on the unnormalised attention weight of its tokens; 0 removes the reference
    masks: tuple[Tensor, ...] = ()  # (h, w) each, 0..1 over the reference: visible where white in all of them
    areas: tuple[Tensor, ...] = ()  # (h, w) each, 0..1 over the target: rows white in all of them see the reference
    start: float = 0.0  # fraction of the run at which the reference becomes active
    end: float = 1.0  # fraction at which it stops; 1 includes the last step


Controls = Mapping[int, Control]  # reference number, counted from 1, -> control


def both(first: Control, second: Control) -> Control:
    """One control with the effect of both; their order does not matter.

    Strengths multiply; masks, areas and ranges intersect.
    """
    start, end = max(first.start, second.start), min(first.end, second.end)
    masks, areas = first.masks + second.masks, first.areas + second.areas
    return Control(first.strength * second.strength, masks, areas, start, end)


def is_neutral(control: Control) -> bool:
    """Whether it changes nothing, so that the model's own forward may run."""
    white = all(bool((mask >= 1).all()) for mask in (*control.masks, *control.areas))
    return control.strength == 1 and white and control.start <= 0 and control.end >= 1


def is_active(control: Control, progress: float) -> bool:
    """Whether the reference is visible at `progress`, the completed fraction of the run (0 at the first step)."""
    return control.strength > 0 and is_during(progress, control.start, control.end)


def covered(masks: Sequence[Tensor], height: int, width: int) -> Tensor | None:
    """The tokens of a latent that every mask covers by half or more: (n,) bool; None for all of them.

    `height` and `width` are those of the latent; a token is 2x2 latent pixels, the last one of an odd side half
    padding. Masks (h, w) may have any size.
    """
    grid = ((height + 1) // 2, (width + 1) // 2)
    inside = torch.ones(grid, dtype=torch.bool)
    for mask in masks:
        inside &= _on_tokens(mask[None, None].float().cpu(), height, width) >= 0.5
    return None if inside.all() else inside.flatten()


def _on_tokens(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask (1, 1, h, w) over a latent, averaged over the area of each token: (rows, columns)."""
    if height % 2 or width % 2:
        latent = F.interpolate(mask, (height, width), mode="area")
        mask = F.pad(latent, (0, width % 2, 0, height % 2), mode="replicate")
    return F.interpolate(mask, ((height + 1) // 2, (width + 1) // 2), mode="area")[0, 0]


class View(NamedTuple):
    """The visible parts of the references in one evaluation, one entry per reference."""

    kept: tuple[Tensor | None, ...]  # indices of the tokens that stay in the sequence; None: all
    strengths: tuple[float, ...]
    areas: tuple[Tensor | None, ...]  # (target tokens,) bool: rows that see the reference; None: all


_ALL, _NOTHING = (None, 1.0, None), (torch.zeros(0, dtype=torch.long), 1.0, None)


def look(
    controls: Controls, references: Sequence[tuple[int, int]], target: tuple[int, int], progress: float
) -> View | None:
    """The view at `progress`; None if no control has an effect there.

    `references` and `target` are sizes (height, width) in latent pixels; the controls' areas lie over `target`.
    """
    rows = [_look(controls.get(number), size, target, progress) for number, size in enumerate(references, 1)]
    if all(row is _ALL for row in rows):
        return None
    kept, strengths, areas = zip(*rows, strict=True)
    return View(kept, strengths, areas)


def _look(
    control: Control | None, reference: tuple[int, int], target: tuple[int, int], progress: float
) -> tuple[Tensor | None, float, Tensor | None]:
    if control is None:
        return _ALL
    if not is_active(control, progress):
        return _NOTHING
    seen, area = covered(control.masks, *reference), covered(control.areas, *target)
    if area is not None and not area.any():
        return _NOTHING
    if seen is None and area is None and control.strength == 1:
        return _ALL
    return None if seen is None else seen.nonzero()[:, 0], control.strength, area


def select(view: View, parts: Sequence[Tensor], dim: int) -> list[Tensor]:
    """The kept tokens of each reference; `parts` are its tokens, or their position ids, along `dim`."""
    return [
        part if rows is None else part.index_select(dim, rows.to(part.device))
        for rows, part in zip(view.kept, parts, strict=True)
    ]


# Attention


def biased_sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Plain attention with `bias` added to the logits: (b, heads, n, d) each -> (b, n, heads * d)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def controlled(view: View, attend: Attend, text: int, target: int, counts: Sequence[int]) -> Attention:
    """Attention over [text, target, references] under `view`, for `transformer.forward`.

    `text` and `target` are token counts, `counts` those of each reference's kept tokens. A target row sees the
    references whose area contains it; text and references see everything. q may lack the references' rows.
    """
    first = text + target
    spans = list(pairwise(accumulate(counts, initial=first)))
    everything = tuple(index for index, count in enumerate(counts) if count)
    groups = _groups(view.areas, everything)

    def seen(q: Tensor, k: Tensor, v: Tensor, visible: tuple[int, ...]) -> Tensor:
        if visible != everything:
            parts = [slice(0, first), *(slice(*spans[index]) for index in visible)]
            k, v = (torch.cat([x[:, :, part] for part in parts], dim=2) for x in (k, v))
        weights = [(view.strengths[index], counts[index]) for index in visible]
        return attend(q, k, v, _bias(first, weights, like=q))

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not groups:
            return seen(q, k, v, everything)
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])
        for rows, visible in _with_the_rest(groups, text, q.shape[2], everything):
            rows = rows.to(q.device)
            out[:, rows] = seen(q[:, :, rows], k, v, visible)
        return out

    return attention


def _bias(first: int, weights: Sequence[tuple[float, int]], like: Tensor) -> Tensor | None:
    """log(strength) on the keys of each reference, (1, 1, 1, m), after `first` zeros; None if every strength is 1."""
    if all(strength == 1 for strength, _ in weights):
        return None
    parts = [like.new_zeros(first), *(like.new_full((count,), math.log(strength)) for strength, count in weights)]
    return torch.cat(parts)[None, None, None]


Groups = list[tuple[Tensor, tuple[int, ...]]]  # rows, and the references visible to them


def _groups(areas: Sequence[Tensor | None], references: tuple[int, ...]) -> Groups:
    """The target's rows that do not see every reference, grouped by the references that they see."""
    limited = [index for index in references if areas[index] is not None]
    if not limited:
        return []
    looks = torch.stack([areas[index] for index in limited], dim=1)  # pyright: ignore[reportArgumentType]
    patterns, of_row = looks.unique(dim=0, return_inverse=True)
    groups = []
    for number, pattern in enumerate(patterns.tolist()):
        hidden = {index for index, sees in zip(limited, pattern, strict=True) if not sees}
        if hidden:
            rows = (of_row == number).nonzero()[:, 0]
            groups.append((rows, tuple(index for index in references if index not in hidden)))
    return groups


def _with_the_rest(groups: Groups, text: int, rows: int, everything: tuple[int, ...]) -> Groups:
    """The groups with rows counted from the start of the text, plus all other rows, which see everything."""
    rest = torch.ones(rows, dtype=torch.bool)
    found = [(text + group, visible) for group, visible in groups]
    for group, _ in found:
        rest[group] = False
    return [*found, (rest.nonzero()[:, 0], everything)]


# Cost


def relative_cost(text: int, target: int, references: Sequence[float], single: float, hidden_size: int = 3072) -> float:
    """The cost of a step with these reference tokens, relative to one with a single reference of `single` tokens.

    All are token counts; `references` may be fractions for a reference that is active in a part of the run. Counts the
    multiplications of a FLUX.1 transformer of `hidden_size`: 24 h^2 per token in a block and 4 h per pair of tokens in
    its attention, so n tokens cost n (6 h + n), up to a factor.
    """

    def cost(tokens: float) -> float:
        return tokens * (6 * hidden_size + tokens)

    return cost(text + target + sum(references)) / cost(text + target + single)
