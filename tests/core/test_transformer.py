"""The transformer without a host: laws that hold for any weights."""

import pytest
import torch

from kontext_core.geometry import Geometry, read_geometry
from kontext_core.tokens import position_ids
from kontext_core.transformer import KontextTransformer, _rotate, apply_rope, precompute, rotary_table

TINY = Geometry(hidden_size=256, num_heads=2, depth=1, depth_single_blocks=2, context_in_dim=64, vec_in_dim=32)


@pytest.fixture(scope="module")
def model() -> KontextTransformer:
    torch.manual_seed(0)
    return KontextTransformer(TINY).eval().requires_grad_(False)


def inputs(batch: int = 2, references: int = 1) -> dict:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    ids = torch.cat([position_ids(8, 6, index) for index in range(1 + references)])
    return {
        "img": random(batch, len(ids), 64),
        "img_ids": ids.expand(batch, -1, -1),
        "txt": random(batch, 5, 64),
        "txt_ids": torch.zeros(batch, 5, 3),
        "timesteps": torch.linspace(0.2, 0.9, batch),
        "y": random(batch, 32),
        "guidance": torch.full((batch,), 2.5),
    }


def test_names_and_shapes_are_a_checkpoints(model):
    assert read_geometry({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}) == TINY


@pytest.mark.parametrize("references", [0, 1, 3])
def test_constants_handed_in_change_nothing(model, references):
    given = inputs(references=references)
    target = 12  # tokens of an 8 x 6 latent
    constants = precompute(
        model, given["txt"], given["txt_ids"], given["img_ids"], given["img"][:, target:] if references else None
    )
    whole = model(**given)[:, :target]
    hoisted = model(**given | {"img": given["img"][:, :target]}, constants=constants)
    torch.testing.assert_close(hoisted, whole, rtol=0, atol=1e-6)


def test_a_batch_is_its_members_one_by_one(model):
    given = inputs(batch=3)
    one_by_one = [model(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(3)]
    torch.testing.assert_close(model(**given), torch.cat(one_by_one), rtol=0, atol=1e-5)


def test_order_of_references_does_not_matter_but_their_positions_do(model):
    given = inputs(references=2)
    order = [*range(12), *range(24, 36), *range(12, 24)]
    swapped = model(**given | {"img": given["img"][:, order], "img_ids": given["img_ids"][:, order]})
    torch.testing.assert_close(swapped[:, :12], model(**given)[:, :12], rtol=0, atol=1e-5)
    tokens_only = model(**given | {"img": given["img"][:, order]})
    assert (tokens_only[:, :12] - swapped[:, :12]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["timesteps", "guidance", "y", "txt"])
def test_every_condition_is_read(model, name):
    given = inputs()
    assert (model(**given | {name: given[name] * 0.5}) - model(**given)).abs().max() > 1e-4


def test_no_pooled_text_is_zeros_and_no_guidance_is_no_term(model):
    given = inputs()
    assert torch.equal(model(**given | {"y": None}), model(**given | {"y": torch.zeros(2, 32)}))
    assert not torch.equal(model(**given | {"guidance": None}), model(**given))


def test_attention_is_the_callers(model):
    calls = []

    def attention(q, k, v):
        calls.append(q.shape)
        return torch.zeros(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])

    given = inputs()
    target, references = given["img"].split(12, dim=1)
    constants = precompute(model, given["txt"], given["txt_ids"], given["img_ids"], references)
    model(**given | {"img": target}, attention=attention, constants=constants)
    every, finished = (2, 2, 29, 128), (2, 2, 17, 128)  # batch, heads, 5 text + 12 target + 12 reference tokens
    assert calls == [every, every, finished]  # one per block; the last skips the references


def test_rotation_depends_on_distances_alone():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 128), torch.randn(1, 1, 1, 128)

    def logit(a: list[float], b: list[float]) -> torch.Tensor:
        tables = [rotary_table(torch.tensor([[position]]), (16, 56, 56), 10000) for position in (a, b)]
        return (apply_rope(q, tables[0]) * apply_rope(k, tables[1])).sum()

    here, there = logit([0.0, 3, 5], [1.0, 7, 2]), logit([2.0, 103, 50], [3.0, 107, 47])
    torch.testing.assert_close(here, there, rtol=0, atol=1e-3)
    torch.testing.assert_close(logit([0.0, 3, 5], [0.0, 3, 5]), (q * k).sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_devices_without_complex_numbers_rotate_the_same(dtype):
    """Heads as they come from a fused projection, which are not contiguous."""
    table = rotary_table(position_ids(8, 6, 0)[None], (16, 56, 56), 10000)
    fused = torch.randn(2, 12, 3, 2, 128, generator=torch.Generator().manual_seed(2)).to(dtype)
    q = fused.permute(2, 0, 3, 1, 4)[0]
    plain = _rotate(q.float().unflatten(-1, (-1, 2)), table).flatten(-2)
    assert apply_rope(q, table).dtype == dtype
    torch.testing.assert_close(
        apply_rope(q, table), plain.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 0, atol=1e-6
    )
    assert (plain - q).abs().max() > 1


def test_far_positions_stay_exact():
    """float32 angles would be off by 1e-4 at position 4000; the table is computed in float64."""
    table = rotary_table(torch.tensor([[[0.0, 4000.0, 0.0]]]), (16, 56, 56), 10000)[0, 0, 0]
    expected = torch.cos(4000 * 10000.0 ** -(torch.arange(28, dtype=torch.float64) / 28)).float()
    torch.testing.assert_close(table[8:36, 0], expected, rtol=0, atol=1e-6)


OVERFLOWING = {  # output of a block, and the gate before it: 2 x 60000 exceeds float16
    "text": lambda model: (model.double_blocks[0].txt_attn.proj, model.double_blocks[0].txt_mod),
    "picture": lambda model: (model.double_blocks[-1].img_attn.proj, model.double_blocks[-1].img_mod),
    "both": lambda model: (model.single_blocks[0].linear2, model.single_blocks[0].modulation),
}


@pytest.mark.parametrize("added", OVERFLOWING.values(), ids=OVERFLOWING)
def test_half_precision_stays_finite(added):
    torch.manual_seed(0)
    model = KontextTransformer(TINY).half().requires_grad_(False)
    out, gate = added(model)
    out.bias.fill_(60000)
    gate.lin.bias.fill_(2)
    given = {name: value.half() if name not in ("img_ids", "txt_ids") else value for name, value in inputs().items()}
    assert torch.isfinite(model(**given)).all()
