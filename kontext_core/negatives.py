"""Negatives without a second pass: normalised attention guidance (NAG), arXiv 2505.21179.

Positive and negative text share one evaluation over [positive, negative, target, references]. The positive text, the
references and the target see everything but the negative; the negative text sees itself and the picture. The target's
rows attend a second time with the negative in place of the positive, and the two results are combined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .transformer import Attention

_TINY = 1e-6


class Nag(NamedTuple):
    """The paper's three numbers (section 3.3), and where in the run it acts."""

    scale: float = 5.0  # how far to go from the negative's result towards the positive's; 1: no further
    tau: float = 2.5  # the largest ratio of the result's L1 norm to the positive's
    alpha: float = 0.25  # share of the guided result that is blended in; 0: none
    start: float = 0.0  # shares of the run
    end: float = 1.0


def is_neutral(nag: Nag) -> bool:
    """Whether the result is the positive's alone: nothing needs to be computed."""
    return nag.scale == 1 or nag.alpha == 0 or nag.start >= nag.end


def combine(positive: Tensor, negative: Tensor, nag: Nag) -> Tensor:
    """Attention outputs (b, n, d) of the same rows -> the guided output (b, n, d).

    Extrapolated by `scale`, its L1 norm clamped to `tau` times the positive's, blended by `alpha`. Source: the authors'
    repository, `NAGFluxAttnProcessor2_0`.
    """
    guided = nag.scale * positive - (nag.scale - 1) * negative
    ratio = _l1(guided) / _l1(positive)
    guided = guided * (ratio.clamp(max=nag.tau) / ratio).to(guided)
    return torch.lerp(positive, guided, nag.alpha)


def _l1(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)  # a norm cannot be computed in fewer bits than float64 has
    return torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True, dtype=wide).clamp_min(_TINY)


def relative_cost(positive: int, negative: int, target: int, references: int, hidden_size: int = 3072) -> float:
    """What a step with NAG costs, relative to one without; token counts. CFG costs 2.

    Multiplications of a FLUX.1 transformer as in `references.relative_cost`: every token of the negative goes through
    the layers too, and the rows of negative and target attend once more.
    """
    seen = target + references
    plain = positive + seen
    once_more = 6 * hidden_size * negative + (negative + target) * (negative + seen)
    return 1 + once_more / (plain * (6 * hidden_size + plain))


def guided(
    attention_over: Callable[[int], Attention], positive: int, negative: int, target: int, nag: Nag
) -> Attention:
    """Attention over [positive, negative, target, references], for `transformer.forward`.

    `attention_over(text)` attends over [text, target, references] for so many text tokens, and takes a q that lacks
    the references' rows (`references.controlled` is one). The other arguments are token counts.
    """
    with_positive, with_negative = attention_over(positive), attention_over(negative)
    picture = positive + negative

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        without = (torch.cat((x[:, :, :positive], x[:, :, picture:]), dim=2) for x in (q, k, v))
        plus = with_positive(*without)
        minus = with_negative(*(x[:, :, positive:] for x in (q[:, :, : picture + target], k, v)))
        end = positive + target
        drawn = combine(plus[:, positive:end], minus[:, negative:], nag)
        return torch.cat((plus[:, :positive], minus[:, :negative], drawn, plus[:, end:]), dim=1)

    return attention
