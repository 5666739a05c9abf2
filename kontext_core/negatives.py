"""Negatives without a second pass: normalised attention guidance (NAG), arXiv 2505.21179.

Positive and negative text share one evaluation over [positive, negative, target, references]. Positive text,
references and target attend to everything but the negative text; the negative text attends to everything but the
positive text. The target's rows attend a second time, to the negative instead of the positive text, and the two
outputs are combined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .transformer import Attention

_TINY = 1e-6


class Nag(NamedTuple):
    """The paper's three parameters (section 3.3), and the part of the run in which they apply."""

    scale: float = 5.0  # extrapolation from the negative's output through the positive's; 1: none
    tau: float = 2.5  # upper bound of the result's L1 norm, relative to the positive's
    alpha: float = 0.25  # weight of the guided output in the blend; 0: none
    start: float = 0.0  # fractions of the run
    end: float = 1.0


def is_neutral(nag: Nag) -> bool:
    """Whether the output equals the positive's, so that nothing has to be computed."""
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
    wide = torch.promote_types(x.dtype, torch.float32)  # low precision is promoted to float32; float64 stays
    return torch.linalg.vector_norm(x, 1, dim=-1, keepdim=True, dtype=wide).clamp_min(_TINY)


def relative_cost(positive: int, negative: int, target: int, references: int, hidden_size: int = 3072) -> float:
    """The cost of a step with NAG relative to one without (CFG: 2). Arguments are token counts.

    Counts the multiplications of a FLUX.1 transformer as in `controls.relative_cost`: the negative's tokens go through
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

    `attention_over(text)` attends over [text, target, references] for `text` text tokens and accepts a q without the
    references' rows (`controls.controlled` is one). The other arguments are token counts.
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
