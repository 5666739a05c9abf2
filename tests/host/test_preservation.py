"""The preserving nodes in graphs: same size out, framing identical, what was not edited comes back bit for bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tools import ROOT, graphs, inprocess
from tools.client import ExecutionFailed

SIZES = [(1920, 1080), (1080, 1350), (3000, 2000), (511, 770), (64, 64)]


def workflow(name):
    prompt = graphs.to_prompt(json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
    return graphs.with_input(prompt, "KontextSampler", "steps", 1)


def scene(width, height):
    """Smooth colours with a disc, (h, w, 3) in 0..1."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    picture = np.stack([x, y, 1 - x * y], -1) * 0.8
    picture[(x - 0.3) ** 2 + (y - 0.25) ** 2 < 0.02] = (0.9, 0.1, 0.1)
    return picture


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_of_any_size_keeps_size_and_framing(run_graph, input_picture, size):
    prompt = workflow("kontext_edit_and_keep")
    name = input_picture(scene(*size))
    prompt = graphs.with_node(prompt, "KontextExample", "LoadImage", image=name)
    values = run_graph(prompt).values
    before = values[graphs.find(prompt, "LoadImage")][0]
    restored = values[graphs.find(prompt, "KontextRestoreFrame")][0]
    picture, mask, _ = values[graphs.find(prompt, "KontextPreserve")]
    assert restored.shape == picture.shape == before.shape == (1, size[1], size[0], 3)
    assert torch.equal(picture[mask == 0], before[mask == 0])
    fit, frame = values[graphs.find(prompt, "KontextFitFrame")]
    latent = values[graphs.find(prompt, "KontextReference")][0]["samples"]
    target = values[graphs.find(prompt, "KontextTarget")][0]["samples"]
    assert latent.shape[-2:] == target.shape[-2:] == (frame.grid[1] // 8, frame.grid[0] // 8)
    back = frame.restore(fit)
    assert (back - before).abs().mean() < 0.02  # the model's grid shows the same place


def test_a_saved_edit_inside_a_mask_keeps_the_rest(run_graph):
    prompt = workflow("kontext_edit_region")
    run = run_graph(prompt)
    before, _ = run.values[graphs.find(prompt, "KontextExample")]
    picture, mask = run.values[graphs.find(prompt, "KontextStitchRegion")]
    assert torch.equal(picture[mask == 0], before[mask == 0])
    assert (mask == 0).float().mean() > 0.7
    assert (picture - before).abs()[mask > 0].mean() > 0.01
    (file,) = run.shown[graphs.find(prompt, "SaveImage")]["images"]
    with Image.open(inprocess.BASE / "output" / file["subfolder"] / file["filename"]) as saved:
        pixels = torch.from_numpy(np.asarray(saved.convert("RGB"), np.float32) / 255)[None]
    assert torch.equal((pixels * 255).round()[mask == 0], (before * 255).round()[mask == 0])


def test_without_a_frame_nothing_is_different(edit_graph, run_graph):
    """A frame that changes nothing gives the reference and the target of before."""
    plain = run_graph(edit_graph()).values
    graph = edit_graph()
    fit = {"image": ["picture", 0], "size": "as is", "fit": "pad", "margin": "reflect"}
    graph["fit"] = {"class_type": "KontextFitFrame", "inputs": fit}
    graph["reference"]["inputs"]["frame"] = graph["target"]["inputs"]["frame"] = ["fit", 1]
    framed = run_graph(graph).values
    assert torch.equal(framed["sampler"][0]["samples"], plain["sampler"][0]["samples"])


@pytest.fixture
def pictures():
    before = torch.rand(1, 128, 160, 3, generator=torch.Generator().manual_seed(0)) / 4 + 0.3
    after = before.clone()
    after[:, 40:80, 50:100] = torch.tensor([0.9, 0.1, 0.2])
    return before, after


def preserve(pack, *pictures, **settings):
    defaults = {"align": "off", "colours": True, "paste": True, "sensitivity": 1.0, "grow": 0.5, "feather": 1.0}
    return pack["KontextPreserve"].execute(*pictures, **(defaults | settings)).result


def change(pack, *pictures, **settings):
    defaults = {"sensitivity": 1.0, "grow": 0.0, "feather": 0.0, "smallest": 0.05, "align": False, "join": "union"}
    return pack["KontextChangeMask"].execute(*pictures, **(defaults | settings)).result


def test_a_batch_is_preserved_like_its_members(pack, pictures):
    before, after = pictures
    both, masks, report = preserve(pack, before, torch.cat([after, before]))
    assert torch.equal(both[:1], preserve(pack, before, after)[0])
    assert torch.equal(both[1:], before)
    assert masks[1].max() == 0
    assert "100.0 % of the picture kept bit for bit" in report


def test_the_change_mask_marks_the_change(pack, pictures):
    (mask, report) = change(pack, *pictures)
    truth = (pictures[0] != pictures[1]).any(-1)
    assert ((mask > 0.5) & truth).sum() / ((mask > 0.5) | truth).sum() > 0.9
    assert "% of the picture changed" in report


def test_a_global_edit_is_named(pack, pictures):
    before, _ = pictures
    _, report = change(pack, before, 1 - before.flip(1))
    assert "the edit is global" in report
    picture, _, report = preserve(pack, before, 1 - before.flip(1))
    assert "the edit is global" in report
    assert torch.equal(picture, 1 - before.flip(1))


WRONG = {
    "sizes": (lambda a, b: (a, b[:, :64]), {}, "edited is 160x64 px, original 160x128 px.*Kontext Restore Frame"),
    "batches": (lambda a, b: (a.repeat(2, 1, 1, 1), b.repeat(3, 1, 1, 1)), {}, "original holds 2 pictures, edited 3"),
    "one latent": (lambda a, b: (a, b), {"result_latent": {}}, "reference_latent is not connected"),
}


@pytest.mark.parametrize(("pair", "settings", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_match_is_refused(pack, pictures, pair, settings, message):
    with pytest.raises(ValueError, match=message):
        change(pack, *pair(*pictures), **settings)


def test_an_empty_mask_is_a_clear_error_on_the_node(run_graph):
    prompt = workflow("kontext_edit_region")
    prompt["empty"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128}}
    prompt = graphs.with_input(prompt, "KontextCropRegion", "mask", ["empty", 0])
    with pytest.raises(ExecutionFailed, match="mask is empty") as failure:
        run_graph(prompt)
    assert failure.value.node_type == "KontextCropRegion"
