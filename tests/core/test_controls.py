"""Controls of references over the tree alone: neutral equals vanilla, hidden means absent, order does not matter."""

import itertools
from typing import NamedTuple

import pytest
import torch

from kontext_core import controls
from kontext_core.controls import Control, biased_sdpa, both, controlled, covered, is_active, is_neutral, look, select
from kontext_core.geometry import Geometry
from kontext_core.tokens import pack, place_references, position_ids
from kontext_core.transformer import KontextTransformer, forward, sdpa

SIZES = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=48, vec_in_dim=32)
TEXT, TARGET = 7, (8, 12)
REFERENCES = [(8, 12), (9, 6), (4, 10)]  # latent pixels, of three different sizes


class Inputs(NamedTuple):
    target: torch.Tensor
    references: list[torch.Tensor]
    context: torch.Tensor
    pooled: torch.Tensor
    ids: list[torch.Tensor]  # of the target and of each reference


@pytest.fixture(scope="module")
def tree():
    torch.manual_seed(0)
    tree = KontextTransformer(SIZES).requires_grad_(False)
    for parameter in tree.parameters():
        parameter.normal_(std=0.05)
    return tree


@pytest.fixture(params=[1, 2], ids=["one", "batch of two"])
def inputs(request):
    noise = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(request.param, *shape, generator=noise)

    places = place_references(REFERENCES, TARGET)
    ids = [position_ids(*TARGET), *(position_ids(*s, *p) for s, p in zip(REFERENCES, places, strict=True))]
    latents = [pack(random(16, *size)) for size in REFERENCES]
    return Inputs(pack(random(16, *TARGET)), latents, random(TEXT, 48), random(32), ids)


def evaluate(tree, inputs, tokens, ids, attention):
    batch, count = inputs.target.shape[:2]
    img, img_ids = torch.cat((inputs.target, *tokens), dim=1), torch.cat((inputs.ids[0], *ids))[None]
    sigma, guidance = torch.full((batch,), 0.7), torch.full((batch,), 2.5)
    text = inputs.context, torch.zeros(1, TEXT, 3)
    return forward(tree, img, img_ids, *text, sigma, inputs.pooled, guidance, attention=attention)[:, :count]


def vanilla(tree, inputs, numbers=(1, 2, 3)):
    tokens = [inputs.references[number - 1] for number in numbers]
    return evaluate(tree, inputs, tokens, [inputs.ids[number] for number in numbers], sdpa)


def under(tree, inputs, controls, progress=0.5):
    view = look(controls, REFERENCES, TARGET, progress)
    if view is None:
        return vanilla(tree, inputs)
    tokens, ids = select(view, inputs.references, 1), select(view, inputs.ids[1:], 0)
    counts = [part.shape[1] for part in tokens]
    attention = controlled(view, biased_sdpa, TEXT, inputs.target.shape[1], counts)
    return evaluate(tree, inputs, tokens, ids, attention)


def half(height, width, side="left"):
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask if side == "left" else 1 - mask


def white_to(end, width):
    mask = torch.zeros(16, width)
    mask[:, :end] = 1
    return mask


NEUTRAL = {
    "strength 1": Control(strength=1.0),
    "mask of ones": Control(masks=(torch.ones(64, 96),)),
    "region of ones": Control(areas=(torch.ones(5, 7),)),
    "all of the run": Control(start=0.0, end=1.0),
}


@pytest.mark.parametrize("control", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_controls_leave_the_forward_alone(control):
    assert is_neutral(control)
    assert look({1: control, 3: control}, REFERENCES, TARGET, 0.0) is None


@pytest.mark.parametrize("control", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_controls_beside_one_that_is_not_are_vanilla_bit_for_bit(tree, inputs, control):
    """Strength 1 gets no bias: it runs the same kernel as without controls."""
    silenced = {3: Control(strength=0)}
    expected = vanilla(tree, inputs, (1, 2))
    assert torch.equal(under(tree, inputs, silenced | {1: control}), expected)


GONE = {
    "strength 0": Control(strength=0),
    "mask of zeros": Control(masks=(torch.zeros(3, 3),)),
    "region of zeros": Control(areas=(torch.zeros(3, 3),)),
    "not yet": Control(start=0.6),
    "over": Control(end=0.5),
}


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("control", GONE.values(), ids=GONE)
def test_a_silenced_reference_is_not_there_and_the_others_stay_where_they_are(tree, inputs, control, number):
    others = [other for other in (1, 2, 3) if other != number]
    expected = vanilla(tree, inputs, others)
    torch.testing.assert_close(under(tree, inputs, {number: control}), expected, atol=1e-5, rtol=0)
    assert (expected - vanilla(tree, inputs)).abs().max() > 1e-3


def test_a_vanishing_strength_ends_in_silence(tree, inputs):
    """The bias and the shorter sequence agree in the limit."""
    gone = under(tree, inputs, {2: Control(strength=0)})
    distances = [(under(tree, inputs, {2: Control(strength=s)}) - gone).abs().max() for s in (1, 1e-2, 1e-4, 1e-7)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-5 < 1e-3 < distances[0]


def test_strength_is_a_number_of_copies(tree, inputs):
    """Doubling the attention weight equals a duplicate of the reference at the same position."""
    doubled = evaluate(tree, inputs, [*inputs.references, inputs.references[1]], [*inputs.ids[1:], inputs.ids[2]], sdpa)
    torch.testing.assert_close(under(tree, inputs, {2: Control(strength=2)}), doubled, atol=1e-5, rtol=0)


def test_a_hidden_half_is_the_cropped_set_of_tokens(tree, inputs):
    control = Control(masks=(half(8, 12),))
    left = [row * 6 + column for row in range(4) for column in range(3)]
    first = inputs.references[0][:, left], inputs.ids[1][left]
    cropped = evaluate(tree, inputs, [first[0], *inputs.references[1:]], [first[1], *inputs.ids[2:]], sdpa)
    assert torch.equal(under(tree, inputs, {1: control}), cropped)


def test_a_region_is_attention_with_a_mask(tree, inputs):
    """Target rows outside the region do not see the reference; the text and the references do."""
    controls = {1: Control(areas=(half(8, 12),)), 2: Control(areas=(half(8, 12, "right"),), strength=0.5)}
    counts = [TEXT, 24, *(part.shape[1] for part in inputs.references)]
    ends = list(itertools.accumulate(counts))
    bias = torch.zeros(ends[-1], ends[-1])
    left = covered([half(8, 12)], *TARGET)
    bias[:, ends[2] : ends[3]] = torch.tensor(0.5).log()
    bias[TEXT:31, ends[1] : ends[2]] = torch.where(left, 0.0, -torch.inf)[:, None]
    bias[TEXT:31, ends[2] : ends[3]] += torch.where(left, -torch.inf, 0.0)[:, None]
    expected = evaluate(tree, inputs, inputs.references, inputs.ids[1:], lambda q, k, v: biased_sdpa(q, k, v, bias))
    torch.testing.assert_close(under(tree, inputs, controls), expected, atol=1e-5, rtol=0)
    assert (expected - vanilla(tree, inputs)).abs().max() > 1e-3


def test_no_row_of_attention_gets_a_mask_for_regions_masks_and_silence():
    """Only a strength other than 0 and 1 costs a bias, and that is one number per key."""
    seen = []

    def attend(q, k, v, bias):
        seen.append(None if bias is None else tuple(bias.shape))
        return biased_sdpa(q, k, v, bias)

    def run(controls):
        seen.clear()
        view = look(controls, REFERENCES, TARGET, 0.5)
        counts = [len(rows) for rows in select(view, [torch.zeros(24, 1), torch.zeros(15, 1), torch.zeros(10, 1)], 0)]
        q = torch.randn(1, 2, TEXT + 24 + sum(counts), 8)
        controlled(view, attend, TEXT, 24, counts)(q, q, q)
        return seen

    plain = {1: Control(masks=(half(8, 12),), areas=(half(8, 12),)), 2: Control(strength=0)}
    assert run(plain) == [None, None]
    assert run({1: Control(strength=0.5)}) == [(1, 1, 1, 80)]


CONTROLS = [
    Control(strength=0.5),
    Control(masks=(half(20, 20),), end=0.8),
    Control(areas=(torch.ones(6, 6).triu(),), start=0.2),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_order_of_controls_does_not_matter(tree, inputs, order):
    first, second, third = (CONTROLS[place] for place in order)
    mixed = under(tree, inputs, {1: both(both(first, second), third)})
    torch.testing.assert_close(mixed, under(tree, inputs, {1: both(both(*CONTROLS[:2]), CONTROLS[2])}), atol=0, rtol=0)
    torch.testing.assert_close(
        under(tree, inputs, {1: both(first, second), 2: third}),
        under(tree, inputs, {2: third, 1: both(second, first)}),
        atol=0,
        rtol=0,
    )


BOTH = {
    "strengths multiply": (Control(strength=0.5), Control(strength=3), Control(strength=1.5)),
    "ranges intersect": (Control(start=0.2, end=0.9), Control(start=0.1, end=0.6), Control(start=0.2, end=0.6)),
    "with nothing": (Control(0.5, start=0.2), Control(), Control(0.5, start=0.2)),
}


@pytest.mark.parametrize(("first", "second", "together"), BOTH.values(), ids=BOTH)
def test_two_controls_of_one_reference(first, second, together):
    assert both(first, second) == both(second, first) == together


RANGES = {  # start, end, the steps of ten at which the reference is active
    "all": (0.0, 1.0, range(10)),
    "first half": (0.0, 0.5, range(5)),
    "second half": (0.5, 1.0, range(5, 10)),
    "between steps": (0.25, 0.75, range(3, 8)),
    "never": (0.5, 0.5, range(0)),
}


@pytest.mark.parametrize(("start", "end", "steps"), RANGES.values(), ids=RANGES)
def test_a_range_of_the_run(start, end, steps):
    control = Control(start=start, end=end)
    assert [step for step in range(10) if is_active(control, step / 10)] == list(steps)


COVERED = {  # masks, latent size, tokens
    "none": ([], (4, 4), None),
    "white": ([torch.ones(30, 30)], (4, 4), None),
    "left half, large": ([half(64, 64)], (4, 4), [1, 0, 1, 0]),
    "left half, small": ([half(2, 2)], (4, 8), [1, 1, 0, 0] * 2),
    "two that meet": ([half(8, 8), half(8, 8).T], (4, 4), [1, 0, 0, 0]),
    "two that do not": ([half(8, 8), half(8, 8, "right")], (4, 4), [0, 0, 0, 0]),
    "odd size": ([half(6, 6)], (3, 3), [1, 0, 1, 0]),
    "odd width: the last token lies half beyond": ([white_to(98, 120)], (2, 15), [1, 1, 1, 1, 1, 1, 0, 0]),
    "grey": ([torch.full((4, 4), 0.4)], (4, 4), [0, 0, 0, 0]),
    "half of a token": ([white_to(1, 4)], (2, 4), [1, 0]),
    "light grey": ([torch.full((4, 4), 0.6)], (4, 4), None),
}


@pytest.mark.parametrize(("masks", "size", "tokens"), COVERED.values(), ids=COVERED)
def test_masks_become_tokens(masks, size, tokens):
    found = covered(masks, *size)
    assert (found if found is None else found.int().tolist()) == tokens


def test_cost_is_relative_to_a_single_reference():
    """FLUX.1 at one megapixel: (512 + 3 * 4096) (6 * 3072 + 512 + 3 * 4096) against one reference less."""
    cost = controls.relative_cost
    assert cost(512, 4096, [4096], single=4096) == 1
    assert cost(512, 4096, [4096, 0], single=4096) == 1
    assert cost(512, 4096, [4096, 4096], single=4096) == pytest.approx(1.693, abs=1e-3)
    assert cost(512, 4096, [2048], single=4096) < 1
