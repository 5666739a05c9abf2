"""The rules of other packs in the benchmark: which steps they compute, and what they put in place of the others."""

import math

import pytest
import torch

from benchmarks.cases import Velocity
from benchmarks.rivals import EasyCache, MagCache, TeaCache
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.solvers import euler
from kontext_core.tokens import position_ids
from kontext_core.transformer import KontextTransformer

STEPS = 20
COMPUTED = {  # by an unlimited threshold: outside the rule's range, and what it always computes
    EasyCache: [0, 1, 2, 3, 4],
    TeaCache: [0, 1, 2, 3, 4, 19],
    MagCache: [0, 1, 2, 3, 8, 11, 16],
}
SIZES = Geometry(
    hidden_size=32, num_heads=2, depth=1, depth_single_blocks=2, context_in_dim=8, vec_in_dim=4, axes_dim=(4, 6, 6)
)


def velocity(cfg=1.0, gates=1.0):
    """Of an untrained model with one reference; `gates` scales what its blocks add."""
    torch.manual_seed(0)
    tree = KontextTransformer(SIZES).requires_grad_(False)
    for block in (*tree.double_blocks, *tree.single_blocks):
        for module in (part for name, part in block.named_children() if name.endswith(("_mod", "modulation"))):
            module.lin.weight.mul_(gates)
            module.lin.bias.mul_(gates)
    ids = torch.cat((position_ids(8, 8), position_ids(8, 8, index=1)))[None]
    copies = 1 if cfg == 1 else 2
    inputs = torch.randn(copies, 3, 8), torch.randn(copies, 4), ids, torch.randn(1, 16, 64).repeat(copies, 1, 1)
    return Velocity(tree, *inputs, cfg)


def start():
    return torch.linspace(-2, 2, 1024).reshape(1, 16, 64), flow_sigmas(STEPS, 16)


def run(rule, threshold, **model):
    """The steps that are computed, and the final state."""
    skipping, computed, (x, sigmas) = rule(velocity(**model), STEPS, threshold), [], start()
    places = sigmas.tolist()

    def watched(x, sigma):
        calls = skipping.calls
        v = skipping(x, sigma)
        computed.extend([places.index(float(sigma))] * (skipping.calls - calls))
        return v

    return computed, euler(watched, x, sigmas)


@pytest.mark.parametrize("cfg", [1, 3])
@pytest.mark.parametrize("rule", COMPUTED)
def test_a_rule_that_never_skips_is_euler(rule, cfg):
    computed, x = run(rule, -1.0, cfg=cfg)
    assert computed == list(range(STEPS))
    assert torch.equal(x, euler(velocity(cfg), *start()))


@pytest.mark.parametrize("rule", COMPUTED)
def test_what_is_computed_whatever_the_threshold(rule):
    assert run(rule, math.inf)[0] == COMPUTED[rule]


@pytest.mark.parametrize("rule", [TeaCache, MagCache])
def test_blocks_that_add_nothing_can_be_skipped(rule):
    """The embedding and the last layer run in every step, on that step's x and sigma."""
    computed, x = run(rule, math.inf, gates=0.0)
    assert len(computed) < STEPS
    assert torch.allclose(x, euler(velocity(gates=0.0), *start()), atol=1e-5)


def test_easycache_is_exact_where_the_output_follows_the_input():
    class Following:
        """v = x + 1"""

        cfg = 1

        def __call__(self, x, sigma):
            return self.evaluate(x, sigma)

        def evaluate(self, x, times):
            return x + 1

    x, sigmas = start()
    skipping = EasyCache(Following(), STEPS, math.inf)
    assert torch.allclose(euler(skipping, x, sigmas), euler(Following(), x, sigmas), atol=1e-5)
    assert skipping.calls == len(COMPUTED[EasyCache])


def test_easycache_looks_at_every_eighth_place_of_the_first_conditioning():
    skipping = EasyCache(velocity(cfg=3), STEPS, 0.1)
    a, b = torch.zeros(2, 16, 64), torch.zeros(2, 16, 64)
    b[1, 0, ::4] = 2.0  # the upper left place of the first token, in every channel: the only one of 8 x 8
    assert skipping.change(a, b) == 2.0
    assert skipping.change(a, b.flip(0)) == 0.0


@pytest.mark.parametrize("rule", [EasyCache, TeaCache])
def test_a_larger_threshold_skips_more(rule):
    counts = [len(run(rule, threshold)[0]) for threshold in (0.0, 0.02, 0.1, 1.0)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
