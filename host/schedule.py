"""The position of a sampler's noise levels in a run that several sampler nodes may share."""

import math
from typing import Any

from torch import Tensor

from ..kontext_core.schedule import fractions, mu
from .latents import tokens


def run_fractions(model: Any, noise: Tensor, sigmas: Tensor) -> list[float]:
    """The completed fraction of the run at each noise level. A run that is split over several sampler nodes is one run.

    A part ends above 0, or starts below 1 without noise of its own. Its levels lie on the schedule for this size, or on
    the one that the model carries.
    """
    part = bool(sigmas[-1] > 0) or (bool(sigmas[0] < 1) and not noise.any())
    half = float(model.get_model_object("model_sampling").percent_to_sigma(0.5))
    carried = (math.log(half / (1 - half)),) if 0 < half < 1 else ()  # another node may have put no flow there
    return fractions(sigmas, part, (mu(tokens({"samples": noise})), *carried))
