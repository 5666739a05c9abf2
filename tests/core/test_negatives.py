"""NAG: closed forms, the limits in which it is vanilla, and that it affects only the target."""

import pytest
import torch

from kontext_core.controls import Control, biased_sdpa, controlled, look
from kontext_core.geometry import Geometry
from kontext_core.negatives import Nag, combine, guided, is_neutral, relative_cost
from kontext_core.tokens import position_ids
from kontext_core.transformer import KontextTransformer, forward, sdpa

SIZES = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=48, vec_in_dim=32)
POSITIVE, NEGATIVE, TARGET, REFERENCE = 5, 7, 12, 6  # tokens


def over(text):
    return sdpa


@pytest.fixture(scope="module")
def tree():
    torch.manual_seed(0)
    tree = KontextTransformer(SIZES).requires_grad_(False)
    for parameter in tree.parameters():
        parameter.normal_(std=0.05)
    return tree


@pytest.fixture(scope="module")
def texts():
    noise = torch.Generator().manual_seed(1)
    return [torch.randn(2, tokens, 48, generator=noise) for tokens in (POSITIVE, NEGATIVE)]


def evaluate(tree, texts, attention):
    noise = torch.Generator().manual_seed(2)
    img = torch.randn(2, TARGET + REFERENCE, 64, generator=noise)
    ids = torch.cat((position_ids(6, 8), position_ids(4, 6, index=1)))[None]
    txt, pooled = torch.cat(texts, dim=1), torch.randn(2, 32, generator=noise)
    txt_ids, ones = torch.zeros(1, txt.shape[1], 3), torch.ones(2)
    return forward(tree, img, ids, txt, txt_ids, ones, pooled, ones, attention=attention)[:, :TARGET]


def guide(tree, texts, nag, attention_over=over):
    return evaluate(tree, texts, guided(attention_over, texts[0].shape[1], texts[1].shape[1], TARGET, nag))


COMBINED = {  # positive, negative, settings, result
    "no further": ([3.0, 1.0], [1.0, 1.0], Nag(1.0, 9.0, 1.0), [3.0, 1.0]),
    "away from the negative": ([3.0, 1.0], [1.0, 1.0], Nag(2.0, 9.0, 1.0), [5.0, 1.0]),
    "clamped to tau": ([3.0, 1.0], [1.0, -1.0], Nag(3.0, 1.5, 1.0), [7 * 0.5, 5 * 0.5]),
    "blended by alpha": ([3.0, 1.0], [1.0, 1.0], Nag(2.0, 9.0, 0.25), [3.5, 1.0]),
    "the same text": ([3.0, 1.0], [3.0, 1.0], Nag(8.0, 1.0, 1.0), [3.0, 1.0]),
    "nothing to scale by": ([0.0, 0.0], [0.0, 0.0], Nag(8.0, 1.5, 1.0), [0.0, 0.0]),
}


@pytest.mark.parametrize(("positive", "negative", "nag", "result"), COMBINED.values(), ids=COMBINED)
def test_the_formula(positive, negative, nag, result):
    out = combine(torch.tensor([[positive]]), torch.tensor([[negative]]), nag)
    torch.testing.assert_close(out, torch.tensor([[result]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_formula_in_every_precision(dtype):
    """In float64 it has the precision of float64."""
    noise = torch.Generator().manual_seed(3)
    positive, negative = (torch.randn(1, 4, 16, generator=noise, dtype=torch.float64).to(dtype) for _ in range(2))
    nag = Nag(scale=4.0, tau=1.5, alpha=0.5)
    guided = 4 * positive.double() - 3 * negative.double()
    ratio = guided.abs().sum(-1, keepdim=True) / positive.double().abs().sum(-1, keepdim=True)
    wanted = 0.5 * positive.double() + 0.5 * guided * ratio.clamp(max=1.5) / ratio
    out = combine(positive, negative, nag)
    assert out.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), wanted, atol=8 * tolerance, rtol=tolerance)


NEUTRAL = {
    "scale 1": Nag(scale=1.0),
    "alpha 0": Nag(alpha=0.0),
    "no steps": Nag(start=0.4, end=0.4),
}


@pytest.mark.parametrize("nag", NEUTRAL.values(), ids=NEUTRAL)
def test_settings_that_change_nothing_need_no_pass(nag):
    assert is_neutral(nag)
    assert not is_neutral(Nag())


@pytest.mark.parametrize("nag", [Nag(scale=1.0, alpha=1.0), Nag(alpha=0.0)], ids=["scale 1", "alpha 0"])
def test_the_negative_leaves_no_trace_at_neutral_settings(tree, texts, nag):
    """The positive text, target and references do not see it, even when NAG runs."""
    plain = evaluate(tree, texts[:1], sdpa)
    torch.testing.assert_close(guide(tree, texts, nag), plain, atol=1e-5, rtol=0)


def test_a_negative_that_is_the_positive_changes_nothing(tree, texts):
    plain = evaluate(tree, texts[:1], sdpa)
    torch.testing.assert_close(guide(tree, [texts[0], texts[0]], Nag(8.0)), plain, atol=1e-5, rtol=0)


def test_another_negative_does(tree, texts):
    plain = evaluate(tree, texts[:1], sdpa)
    near, far = (guide(tree, texts, Nag(scale, 2.5, 0.5)) for scale in (1.5, 5.0))
    assert 1e-4 < (near - plain).abs().mean() < (far - plain).abs().mean()


def test_only_rows_of_the_target_are_guided():
    """After one attention, text and references are as they would be without the other text."""
    generator = torch.Generator().manual_seed(3)
    rows = POSITIVE + NEGATIVE + TARGET + REFERENCE
    q, k, v = (torch.randn(1, 2, rows, 8, generator=generator) for _ in range(3))
    out = guided(over, POSITIVE, NEGATIVE, TARGET, Nag())(q, k, v)
    picture = POSITIVE + NEGATIVE
    keep = [*range(POSITIVE), *range(picture, rows)]
    plus = sdpa(*(x[:, :, keep] for x in (q, k, v)))
    minus = sdpa(*(x[:, :, POSITIVE:] for x in (q, k, v)))
    end = picture + TARGET
    torch.testing.assert_close(out[:, :POSITIVE], plus[:, :POSITIVE])
    torch.testing.assert_close(out[:, POSITIVE:picture], minus[:, :NEGATIVE])
    torch.testing.assert_close(out[:, end:], plus[:, POSITIVE + TARGET :])
    target = combine(plus[:, POSITIVE : POSITIVE + TARGET], minus[:, NEGATIVE : NEGATIVE + TARGET], Nag())
    torch.testing.assert_close(out[:, picture:end], target)


def test_it_goes_together_with_controls_of_references(tree, texts):
    """With the reference removed and a negative equal to the positive, only text and target remain."""
    region = torch.zeros(6, 8)
    region[:, :4] = 1
    view = look({1: Control(strength=0.5, areas=(region,))}, [(4, 6)], (6, 8), 0.0)

    def limited(text):
        return controlled(view, biased_sdpa, text, TARGET, [REFERENCE])

    expected = evaluate(tree, texts[:1], limited(POSITIVE))
    torch.testing.assert_close(guide(tree, [texts[0], texts[0]], Nag(8.0), limited), expected, atol=1e-5, rtol=0)
    assert (guide(tree, texts, Nag(8.0), limited) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("text", "references", "cost"), [(256, 4096, 1.183), (512, 4096, 1.210), (256, 8192, 1.153)], ids=str
)
def test_a_step_costs_less_than_with_cfg(text, references, cost):
    """FLUX.1 at one megapixel, counted in multiplications; measurements are in benchmarks/RESULTS.md."""
    assert relative_cost(text, text, 4096, references) == pytest.approx(cost, abs=1e-3)


def test_cost_counts_the_rows_that_are_computed():
    """Without layers the cost of a step is its attention: 4 rows by 4 keys, and 3 by 4 more with NAG."""
    assert relative_cost(1, 1, 2, 1, hidden_size=0) == pytest.approx(1 + 3 * 4 / 16)
