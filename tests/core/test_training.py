"""Laws of the training code, on small parts."""

import random

import pytest
import torch

from kontext_core import embedded
from kontext_core.embedded.autoencoder import Autoencoder
from kontext_core.tokens import position_ids
from kontext_core.transformer import apply_rope, rotary_table, sdpa
from training import recipe
from training.binding import CLASSES as NOUN_CLASSES
from training.blend import blended
from training.data import edit_batch, make_batch
from training.editor import Editor
from training.muon import muon_update, orthogonalise
from training.semantics import CLASSES
from training.train import Optimiser, Student, attention, encode, guided, image_ids, load_shipped, losses
from training.train_autoencoder import Trainee, moved, picture_batch

SIZE = (64, 64)  # smallest canvas, (width, height)


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)], ids=str)
def test_muon_makes_updates_nearly_orthogonal(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.max() < 1.4 and (values > 0.5).float().mean() > 0.95  # a square matrix has one near zero


def test_muon_treats_a_fused_qkv_as_three_matrices():
    torch.manual_seed(0)
    gradient = torch.randn(3, 64, 64) * torch.tensor([1.0, 10.0, 0.1])[:, None, None]
    together = muon_update(gradient.reshape(192, 64), torch.zeros(192, 64))
    apart = torch.cat([muon_update(part, torch.zeros(64, 64)) for part in gradient])
    torch.testing.assert_close(together, apart)


def test_a_fresh_student_predicts_nothing_and_looks_at_its_own_place_in_the_reference():
    torch.manual_seed(0)
    student = Student()
    size = (8, 8)
    target, reference = position_ids(*size)[None], position_ids(*size, index=1)[None]
    geometry = recipe.GEOMETRY
    bias = student.transformer.double_blocks[0].img_attn.qkv.bias.view(3, geometry.num_heads, 128)
    tables = [
        rotary_table(ids, geometry.axes_dim, geometry.theta) for ids in (target, torch.cat((target, reference), 1))
    ]
    query, key = (apply_rope(bias[i, 0].expand(1, 1, table.shape[2], 128), table) for i, table in enumerate(tables))
    best = (query @ key.transpose(-1, -2))[0, 0].argmax(-1)
    assert torch.equal(best, torch.arange(16) + 16)
    ids = student.ids(["make the circle blue"])
    one = torch.ones(1)
    velocity = student(torch.randn(1, 32, 64), image_ids(SIZE, 1), ids, one, 0.5 * one, 2.5 * one)
    assert torch.equal(velocity, torch.zeros_like(velocity))


@pytest.mark.parametrize("references", [0, 1, 2])
def test_losses_of_a_fresh_student_are_those_of_knowing_nothing_and_fall(references):
    torch.manual_seed(0)
    student, autoencoder, rng = Student(), Autoencoder(), random.Random(0)
    optimiser = Optimiser(student, rank=0, processes=1)
    batch = make_batch(rng, student.vocabulary, edit_batch(rng, 4, SIZE, references), SIZE)

    def all_three() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            return losses(student, autoencoder, batch)

    found = []
    for _ in range(8):
        student.zero_grad(set_to_none=False)
        parts = all_three()
        found.append(torch.stack(parts).tolist())
        sum(parts).backward()
        optimiser.step(0.5)
    data = encode(autoencoder, batch.target)
    knowing_nothing = [torch.tensor(classes).float().log().mean().item() for classes in (CLASSES, NOUN_CLASSES)]
    assert found[0][0] == pytest.approx(1 + data.square().mean().item(), rel=0.2)
    assert found[0][1:] == [pytest.approx(loss, rel=0.25) for loss in knowing_nothing]
    assert all(after < 0.95 * before for before, after in zip(found[0], found[-1], strict=True))


def test_training_attends_as_the_model_does():
    q, k, v = torch.randn(3, 2, 2, 9, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(q, k, v), sdpa(q, k, v))


def test_a_text_that_is_not_heard_is_zeros():
    """The unconditional pass of the workflows is the host's ConditioningZeroOut."""
    torch.manual_seed(0)
    student = Student()
    torch.nn.init.normal_(student.transformer.final_layer.linear.weight)
    x, ids, sigma = torch.randn(2, 32, 64), image_ids(SIZE, 1), torch.full((2,), 0.5)
    given = x, ids.expand(2, -1, -1), student.ids(["make it night", "make it grey"])
    with_text = student(*given, torch.tensor([1.0, 0.0]), sigma, sigma)
    zeros = torch.zeros(2, 20, 128), torch.zeros(2, 20, 3)
    without_text = student.transformer(x, given[1], *zeros, sigma, torch.zeros(2, 128), sigma)
    torch.testing.assert_close(with_text[1], without_text[1], atol=1e-4, rtol=1e-4)
    assert (with_text[0] - without_text[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("guidance", "heard", "scale"), [(1.0, 1, 0), (2.5, 1, 1), (4.0, 1, 2), (4.0, 0, 0)])
def test_a_distilled_target_goes_as_far_beyond_the_teacher_as_its_guidance_says(guidance, heard, scale):
    """Half of the rest is the data's velocity, half the teacher's."""
    torch.manual_seed(0)
    teacher, one = Student().requires_grad_(False), torch.ones(1)
    for layer in (teacher.transformer.final_layer.linear, teacher.transformer.guidance_in.out_layer):
        torch.nn.init.normal_(layer.weight)
    given = torch.randn(1, 32, 64), image_ids(SIZE, 1), teacher.ids(["make it night"])
    velocity, guidance = torch.randn(1, 16, 64), guidance * one
    with_text, without = (teacher(*given, on * one, 0.5 * one, one)[:, :16] for on in (heard, 0.0))
    target = guided(teacher, velocity, (*given, heard * one, 0.5 * one), guidance)
    torch.testing.assert_close(target, (velocity + with_text) / 2 + scale * (with_text - without), atol=1e-4, rtol=1e-4)
    assert (with_text - without).abs().max() > 1e-3 or not heard


def test_folding_moves_the_normalisation_into_the_encoder():
    torch.manual_seed(0)
    trainee = Trainee(Autoencoder())
    x, _ = picture_batch(random.Random(0), 8, 64, 0.5)
    for _ in range(300):
        trainee.norm(trainee.model.encoder(x).detach())
    trainee.eval()
    before = trainee.norm(trainee.model.encoder(x))
    trainee.fold()
    torch.testing.assert_close(trainee.model.encoder(x), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(trainee.norm(before), before, rtol=1e-4, atol=1e-4)


def test_from_a_checkpoint_latents_are_what_the_encoder_gives():
    trainee = Trainee(Autoencoder())
    trainee.go_on()
    x, scenes = picture_batch(random.Random(0), 12, 64, 0.5)
    latents, _ = trainee(x)
    torch.testing.assert_close(latents, trainee.model.encoder(x))
    assert 0 < scenes.sum() < 12


def test_latents_of_scenes_are_held_more_than_those_of_photographs():
    z, before = torch.ones(2, 16, 4, 4), torch.zeros(2, 16, 4, 4)
    both, none = torch.tensor([True, True]), torch.tensor([False, False])
    assert moved(before, before, both) == 0
    assert moved(z, before, both) > moved(z, before, torch.tensor([True, False])) > moved(z, before, none) > 0


def test_a_new_run_goes_on_from_the_shipped_weights():
    student = Student()
    assert load_shipped(student) == int(embedded.load_transformer()[1]["samples"])
    for name, weight in embedded.load_transformer()[0].items():
        assert torch.equal(student.transformer.state_dict()[name], weight.float())


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_a_blend_lies_on_the_line_between_the_weights_before_and_after(fraction, expected):
    before = {"layer": torch.tensor([1.0], dtype=torch.float16), "not trained": torch.tensor([9.0])}
    assert blended(before, {"layer": torch.tensor([5.0])}, fraction) == {"layer": torch.tensor([expected])}


def test_a_text_means_to_a_new_run_what_it_meant_to_the_shipped_weights():
    """New words in between have shifted the ids of the others."""
    student, editor = Student(), Editor.shipped()
    load_shipped(student)
    assert len(student.vocabulary) >= len(editor.vocabulary)
    for text in ("make the small red star bigger", "replace the letter B with X"):
        here, there = (
            model.text_encoder(torch.tensor([model.vocabulary.encode(text)[0]])) for model in (student, editor)
        )
        for ours, shipped in zip(here, there, strict=True):
            torch.testing.assert_close(ours, shipped)
