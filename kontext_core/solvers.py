"""From noise to picture: solvers of the flow dx/dsigma = velocity(x, sigma).

All have one signature and return the state at sigmas[-1]:

    velocity    (x, sigma) -> v, of x's shape; sigma is a 0-d tensor and never 0
    x           the state at sigmas[0], of any shape
    sigmas      (steps + 1,), decreasing
    callback    (step, sigma, x, denoised), called before each step; denoised = x - sigma v is the current estimate
                of the clean picture

`h` is the step size in sigma; it is negative.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """First order, one evaluation a step: `denoise` in black-forest-labs/flux `src/flux/sampling.py`."""
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        v = velocity(x, sigma)
        _report(callback, step, sigma, x, v)
        x = x + (following - sigma) * v
    return x


def heun(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order, two evaluations a step; the step to sigma 0 is Euler's. arXiv 2206.00364, algorithm 1."""
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        v = velocity(x, sigma)
        _report(callback, step, sigma, x, v)
        h = following - sigma
        if following > 0:
            v = (v + velocity(x + h * v, following)) / 2
        x = x + h * v
    return x


def multistep(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Second order, one evaluation a step: extrapolates the velocity linearly from its last two values.

    The two-step Adams-Bashforth method with variable steps (Hairer, Norsett, Wanner: Solving Ordinary
    Differential Equations I, section III.5). The first step is Euler's.
    """
    before: tuple[Tensor, Tensor] | None = None
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        v = velocity(x, sigma)
        _report(callback, step, sigma, x, v)
        h = following - sigma
        slope = (v - before[0]) / before[1] if before else 0
        x = x + h * (v + h / 2 * slope)
        before = v, h
    return x


SOLVERS = {"euler": euler, "heun": heun, "multistep": multistep}


def _report(callback: Callback | None, step: int, sigma: Tensor, x: Tensor, v: Tensor) -> None:
    if callback is not None:
        callback(step, sigma, x, x - sigma * v)
