"""Solvers, measured on flows with a known solution."""

import math

import pytest
import torch
from torch.testing import assert_close

from kontext_core.schedule import flow_sigmas, time_shift
from kontext_core.solvers import SOLVERS

MEAN, SPREAD = 0.7, 0.3
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)


def variance(sigma):
    return (1 - sigma) ** 2 * SPREAD**2 + sigma**2


def gaussian_velocity(x, sigma):
    """The exact velocity, E[noise - data | x], when the data are normal with MEAN and SPREAD."""
    slope = (sigma - (1 - sigma) * SPREAD**2) / variance(sigma)
    return slope * (x - (1 - sigma) * MEAN) - MEAN


def gaussian_solution(noise, sigma):
    return (1 - sigma) * MEAN + math.sqrt(variance(sigma)) * noise


def shifted_sigmas(steps, end=0.0):
    return time_shift(1.15, torch.linspace(1, end, steps + 1, dtype=torch.float64))


@pytest.mark.parametrize("end", [0.0, 0.2], ids=["to the picture", "to a noisy state"])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("multistep", 2)])
def test_order_of_convergence(name, order, end):
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def error(steps):
        sigmas = shifted_sigmas(steps, end)
        result = SOLVERS[name](gaussian_velocity, noise, sigmas)
        return (result - gaussian_solution(noise, float(sigmas[-1]))).abs().max()

    assert math.log2(error(128) / error(256)) == pytest.approx(order, abs=0.15)


@every_solver
def test_a_constant_velocity_is_solved_exactly(solve):
    noise, velocity = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    result = solve(lambda x, sigma: velocity, noise, flow_sigmas(5, 4096))
    assert_close(result, noise - velocity)


def test_multistep_is_exact_on_a_line_after_its_first_step():
    sigmas = torch.tensor([1, 0.9, 0.6, 0.55, 0.1, 0.0], dtype=torch.float64)
    states = []

    def velocity(x, sigma):
        states.append(x)
        return 3 + 2 * sigma + 0 * x

    states.append(SOLVERS["multistep"](velocity, torch.zeros(1, dtype=torch.float64), sigmas))
    antiderivative = 3 * sigmas + sigmas**2
    assert_close(torch.cat(states[1:]).diff(), antiderivative[1:].diff())


@every_solver
def test_a_flow_towards_one_picture_ends_there(solve):
    noise, picture = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    result = solve(lambda x, sigma: (x - picture) / sigma, noise, flow_sigmas(8, 4096))
    assert_close(result, picture)


@every_solver
def test_a_batch_is_solved_like_its_members(solve):
    noise = torch.randn(3, 4, 3, 3)
    sigmas = flow_sigmas(6, 1024)
    one_by_one = [solve(gaussian_velocity, one, sigmas) for one in noise.split(1)]
    assert torch.equal(solve(gaussian_velocity, noise, sigmas), torch.cat(one_by_one))


@pytest.mark.parametrize(
    ("name", "end", "expected"),
    [("euler", 0.0, 6), ("heun", 0.0, 11), ("heun", 0.2, 12), ("multistep", 0.0, 6)],
)
def test_evaluations_are_counted_and_none_is_at_sigma_0(name, end, expected):
    seen = []

    def velocity(x, sigma):
        seen.append(float(sigma))
        return gaussian_velocity(x, sigma)

    SOLVERS[name](velocity, torch.randn(4, dtype=torch.float64), shifted_sigmas(6, end))
    assert len(seen) == expected
    assert min(seen) > 0


@every_solver
def test_the_callback_sees_every_step_before_it_is_taken(solve):
    noise, sigmas, calls = torch.randn(1, 4, 3, 3), flow_sigmas(5, 4096), []
    result = solve(gaussian_velocity, noise, sigmas, lambda *call: calls.append(call))
    assert [step for step, *_ in calls] == [0, 1, 2, 3, 4]
    assert torch.equal(torch.stack([sigma for _, sigma, _, _ in calls]), sigmas[:-1])
    assert torch.equal(calls[0][2], noise)
    for _, sigma, x, denoised in calls:
        assert torch.equal(denoised, x - sigma * gaussian_velocity(x, sigma))
    assert torch.equal(result, solve(gaussian_velocity, noise, sigmas))


@every_solver
def test_the_dtype_of_the_state_is_kept(solve):
    noise = torch.randn(1, 4, 3, 3, dtype=torch.bfloat16)
    assert solve(lambda x, sigma: x, noise, flow_sigmas(3, 4096)).dtype == torch.bfloat16
