"""All modulations of a run at once: they depend only on sigma, guidance and pooled text, never on the picture.

The modulation layers hold 27 % of FLUX.1's weights. If they are evaluated once for the complete schedule, they need not
be read, cast or streamed in later steps. Source: argmaxinc/DiffusionKit, `mlx/mmdit.py: cache_modulation_params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..transformer import Modulate, ModulationOut, conditioning_vector

EVERY = slice(None)


class ModulationTable:
    """The output of every modulation layer of `tree` at each of `sigmas`; layers are called on first use.

    y (b, vec_in_dim) or None, guidance (b,) or None: as in `transformer.forward`. Equal batch rows are computed once.
    `like` gives batch size, device and dtype. One batched call is not bit-equal to single ones: it differs by the
    rounding of the layer's dtype.
    """

    def __init__(self, tree: Any, sigmas: Sequence[float], y: Tensor | None, guidance: Tensor | None, like: Tensor):
        chosen, self._kinds = _distinct_rows(y, guidance, like.shape[0])
        self._steps = {sigma: step for step, sigma in enumerate(sigmas)}
        self.rows = len(chosen)  # distinct rows, computed for each sigma
        times = torch.tensor(sigmas, dtype=torch.float32, device=like.device).repeat_interleave(self.rows)
        repeats = len(sigmas)
        self._vectors = conditioning_vector(
            tree,
            times,
            None if y is None else y[chosen].repeat(repeats, 1),
            None if guidance is None else guidance[chosen].repeat(repeats),
            like=like.new_empty(len(times), 0),
        )
        self._results: dict[Any, list[Any]] = {}

    def at(self, sigma: float, rows: slice = EVERY) -> Modulate | None:
        """The modulations at `sigma` for `rows` of the batch; None for a sigma that is not in the table."""
        step = self._steps.get(sigma)
        if step is None:
            return None
        chosen = self._kinds[rows]
        plain = self.rows == 1 or chosen == list(range(self.rows))

        def modulate(module: Any) -> Any:
            result = self._of(module)[step]
            return result if plain else _rows_of(result, chosen)

        return modulate

    def _of(self, module: Any) -> list[Any]:
        """The layer's outputs, one per step."""
        if module not in self._results:
            every = module(self._vectors)
            starts = range(0, len(self._vectors), self.rows)
            self._results[module] = [_rows_of(every, slice(start, start + self.rows)) for start in starts]
        return self._results[module]


def _distinct_rows(y: Tensor | None, guidance: Tensor | None, batch: int) -> tuple[list[int], list[int]]:
    """The first row of each distinct kind, and for every batch row the index of its kind."""
    conditions = [part.reshape(batch, -1).float() for part in (y, guidance) if part is not None]
    values = torch.cat(conditions, dim=1).tolist() if conditions else [()] * batch
    first: dict[tuple[float, ...], int] = {}
    kinds = [first.setdefault(tuple(row), len(first)) for row in values]
    return [kinds.index(kind) for kind in range(len(first))], kinds


def _rows_of(result: Any, rows: slice | list[int]) -> Any:
    """Batch rows of a layer's output: a tensor, or a pair of modulations of which the second may be None."""
    if isinstance(result, Tensor):
        return result[rows]
    if isinstance(result, tuple) and not isinstance(result, ModulationOut):
        return tuple(None if part is None else _rows_of(part, rows) for part in result)
    return ModulationOut(result.shift[rows], result.scale[rows], result.gate[rows])
