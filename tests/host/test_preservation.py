"""The preserving nodes in graphs: equal size and framing, unedited pixels restored bit for bit."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from batch import ROOT, graphs, inprocess
from batch.events import ExecutionFailed

SIZES = [(1920, 1080), (1080, 1350), (3000, 2000), (511, 770), (64, 64)]


def make_frame(*sizes):
    """A frame of the class that the loaded pack uses; its nodes accept no other."""
    return inprocess.pack_module("kontext_core.frames").make_frame(*sizes)


def template(name):
    return graphs.to_prompt(json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")))


def workflow(name):
    return graphs.with_input(template(name), "KontextSampler", "steps", 1)


def scene(width, height):
    """Smooth colours with a disc, (h, w, 3) in 0..1."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    picture = np.stack([x, y, 1 - x * y], -1) * 0.8
    picture[(x - 0.3) ** 2 + (y - 0.25) ** 2 < 0.02] = (0.9, 0.1, 0.1)
    return picture


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_of_any_size_keeps_size_and_framing(run_graph, input_picture, size):
    prompt = workflow("Edit and keep the rest")
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


def disc_of(picture):
    """The centre of the disc of `scene` in a picture (1, h, w, 3), in px: (x, y)."""
    red = ((picture[0] - torch.tensor([0.9, 0.1, 0.1])).abs().amax(-1) < 0.25).nonzero()
    return tuple((red.float().mean(0) + 0.5).flip(0).tolist())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_edit_that_changes_nothing_comes_back_in_its_place_and_is_kept(run_graph, input_picture, size):
    """The reference decoded instead of the sampler's result: the loss from the model's grid and the autoencoder."""
    prompt = workflow("Edit and keep the rest")
    prompt = graphs.with_node(prompt, "KontextExample", "LoadImage", image=input_picture(scene(*size)))
    prompt = graphs.with_input(prompt, "VAEDecode", "samples", [graphs.find(prompt, "KontextReference"), 0])
    del prompt[graphs.find(prompt, "KontextSampler")]
    values = run_graph(prompt).values
    before = values[graphs.find(prompt, "LoadImage")][0]
    restored = values[graphs.find(prompt, "KontextRestoreFrame")][0]
    frame = values[graphs.find(prompt, "KontextFitFrame")][1]
    scale = frame.part.width / frame.window.width  # px of the picture a px of the grid
    assert disc_of(restored) == pytest.approx(disc_of(before), abs=0.2 * scale)
    picture, mask, _ = values[graphs.find(prompt, "KontextPreserve")]
    assert torch.equal(picture[mask == 0], before[mask == 0])
    assert (mask == 0).float().mean() > 0.5  # not the edge of the disc, which so small a grid cannot show


def test_a_saved_edit_inside_a_mask_keeps_the_rest(run_graph):
    prompt = workflow("Edit a small region")
    run = run_graph(prompt)
    before, _ = run.values[graphs.find(prompt, "KontextExample")]
    picture, mask = run.values[graphs.find(prompt, "KontextStitchRegion")]
    assert torch.equal(picture[mask == 0], before[mask == 0])
    assert (mask == 0).float().mean() > 0.7
    red, _, blue = picture[0, 56:72, 56:72].mean((0, 1))  # of the circle, which was red
    assert blue > red + 0.3
    (file,) = run.shown[graphs.find(prompt, "SaveImage")]["images"]
    with Image.open(inprocess.BASE / "output" / file["subfolder"] / file["filename"]) as saved:
        pixels = torch.from_numpy(np.asarray(saved.convert("RGB"), np.float32) / 255)[None]
    assert torch.equal((pixels * 255).round()[mask == 0], (before * 255).round()[mask == 0])


@pytest.mark.parametrize(("islands", "crops"), [("one crop", 1), ("one each", 2)], ids=["one crop", "one each"])
def test_a_mask_of_two_islands_is_edited_in_one_crop_or_in_one_each(run_graph, input_picture, islands, crops):
    """Each edit is placed on its own island, and pixels between them do not change."""
    marked = np.zeros((128, 128))
    marked[10:40, 8:40] = marked[80:110, 90:120] = 1
    prompt = workflow("Edit a small region")
    prompt["drawn"] = graphs.node("LoadImageMask", image=input_picture(marked, "islands.png"), channel="red")
    prompt = graphs.with_input(prompt, "KontextCropRegion", "mask", ["drawn", 0])
    prompt = graphs.with_input(prompt, "KontextCropRegion", "islands", islands)
    values = run_graph(prompt).values
    before, _ = values[graphs.find(prompt, "KontextExample")]
    cut = values[graphs.find(prompt, "KontextCropRegion")][0]
    picture, mask = values[graphs.find(prompt, "KontextStitchRegion")]
    assert len(cut) == len(values[graphs.find(prompt, "VAEDecode")][0]) == crops
    assert torch.equal(picture[mask == 0], before[mask == 0])
    for part in ((slice(10, 40), slice(8, 40)), (slice(80, 110), slice(90, 120))):
        assert mask[0][part].min() == 1
        assert (picture - before).abs()[0][part].mean() > 1e-3
    assert mask[0, 50:70].max() == 0


def test_without_a_frame_nothing_is_different(edit_graph, run_graph):
    """An identity frame gives the same reference and target as no frame."""
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
    defaults = {"align": "off", "colours": True, "paste": True, "sensitivity": 1.0, "grow": 0.4, "feather": 0.6}
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


def test_the_change_mask_is_aligned_by_what_a_new_background_leaves(pack):
    """A plain thing with strokes before another background, moved by four pixels."""
    before, thing = torch.full((1, 256, 256, 3), 0.55), torch.zeros(256, 256, dtype=torch.bool)
    before[:, 60:200:25, 60:150] = before[:, 100:190, 60:200:35] = 0.25
    thing[48:210, 48:210] = True
    busy = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 0)
    after = torch.where(thing[..., None], before, busy.repeat_interleave(4, 1)).roll(4, 2)
    (mask, report) = change(pack, before, after, align=True)
    assert "edited aligned: shift 4.0" in report
    assert ((mask[0] > 0.5) == ~thing).float().mean() > 0.97


def latents_of(window, changed):
    """Latents (1, 16, 16, 32) of a reference and a result that differ in one part, and by noise."""
    reference = torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(0))
    result = reference + 0.05 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    left, top, right, bottom = (side // 8 for side in changed)
    result[:, :, top:bottom, left + window // 8 : right + window // 8] += 1
    return {"reference_latent": {"samples": reference}, "result_latent": {"samples": result}}


def test_latents_tell_what_only_looks_changed_and_a_frame_says_where_they_lie(pack, pictures):
    """160 px in the middle of 256; the pixels differ in two places, the latents in one."""
    before, two = pictures
    one = before.clone()
    one[:, 88:120, 8:24] = two[:, 88:120, 8:24] = torch.tensor([0.1, 0.8, 0.2])
    frame = make_frame((160, 128), (256, 128))
    assert frame.window.left == 48
    latents = latents_of(48, (8, 88, 24, 120))
    assert change(pack, before, two)[0][0, 45:75, 55:95].min() == 1
    assert torch.equal(change(pack, before, two, **latents, frame=frame)[0], change(pack, before, one)[0])
    assert change(pack, before, two, **latents)[0].max() == 0  # taken for those of 160 px, they lie elsewhere


def test_a_mask_is_joined_on_the_node(pack, pictures):
    """The detected mask is rows 40 to 80, columns 50 to 100; the drawn one is the left half of the picture."""
    drawn = torch.zeros(1, 128, 160)
    drawn[..., :80] = 1
    shares = {join: change(pack, *pictures, mask=drawn, join=join)[0] for join in ("union", "intersection", "limit")}
    assert shares["union"][0, :, :80].min() == 1 and shares["union"][0, 45:75, 85:95].min() == 1
    assert shares["intersection"][0, 45:75, 55:75].min() == 1 and shares["intersection"][..., 82:].max() == 0
    assert torch.equal(shares["limit"], change(pack, *pictures)[0])


def test_the_share_that_changed_is_that_of_the_change_alone(pack, pictures):
    """Not the fraction of the mask, which is wider: 40 by 50 px of 128 by 160 are 9.8 %."""
    _, report = change(pack, *pictures, grow=5.0, feather=5.0)
    share, covered = (float(number) for number in re.findall(r"([\d.]+) %", report))
    assert share == pytest.approx(9.8, abs=1)
    assert covered > 2 * share


@pytest.fixture
def textures():
    """Clouds of 192x192 px, and others."""
    noise = [torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    return [torch.nn.functional.interpolate(x, (192, 192), mode="bicubic").clamp(0, 1).movedim(1, -1) for x in noise]


def test_each_part_of_preserving_can_be_off(pack, textures):
    """An edit with a shift, colour drift and changes outside the mask; each part of the node undoes one of them."""
    original, _ = textures
    inner, mask = (slice(None), slice(8, -8), slice(8, -8)), torch.zeros(1, 192, 192)
    mask[:, 60:120, 60:120] = 1
    edited = (original.roll(3, 2) * 0.9 + 0.02).clamp(0, 1)
    off = {"align": "off", "colours": False, "paste": False, "sharpness": False, "grain": False}

    def error(**settings):
        return float((preserve(pack, original, edited, mask=mask, **off | settings)[0] - original)[inner].abs().mean())

    assert torch.equal(preserve(pack, original, edited, mask=mask, **off)[0], edited)
    aligned = error(align="shift and scale")
    assert aligned < 0.5 * error()
    assert error(align="shift and scale", colours=True) < 0.2 * aligned
    pasted, used, _ = preserve(pack, original, edited, mask=mask, **off | {"paste": True})
    assert torch.equal(pasted[used == 0], original[used == 0])
    assert torch.equal(pasted[used == 1], edited[used == 1])


def test_sharpness_and_grain_are_switched_one_by_one(pack, textures):
    """The edit has lost the original's grain: only grain brings noise back."""
    smooth = textures[0] * 0.5 + 0.25
    original = smooth + 0.04 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 192, 192)
    mask[:, 60:120, 60:120] = 1
    off = {"align": "off", "colours": False, "paste": False, "sharpness": False, "grain": False}
    sharpened, grained = (
        (preserve(pack, original, smooth, mask=mask, **off | {name: True})[0] - smooth)[mask > 0].std()
        for name in ("sharpness", "grain")
    )
    assert grained > 0.02 > 2 * sharpened


def test_the_report_says_what_was_done(pack, textures):
    original, other = textures
    mask = torch.zeros(1, 192, 192)
    mask[:, 60:120, 60:120] = 1
    aligned = preserve(pack, original, original.roll(3, 2) * 0.9, mask=mask, align="shift and scale")[2].splitlines()
    x, y, scale = (
        float(n)
        for n in re.match(r"edited aligned: shift (\S+), (\S+) px, scale (\S+) x 1.0000 \(", aligned[0]).groups()
    )
    assert (x, y, scale) == pytest.approx((3, 0, 1), abs=0.05)
    before, after = (float(n) for n in re.search(r"dE2000 (\S+) -> (\S+)", aligned[1]).groups())
    assert before > 2 > 1 > after
    contrast, matched = (int(n) for n in re.search(r"fine detail .*: (\d+) % -> (\d+) %", aligned[2]).groups())
    assert contrast < 95 < matched < 105
    assert aligned[3] == "90.2 % of the picture kept bit for bit"
    refused, _, report = preserve(pack, original, other, mask=mask, align="shift and scale", colours=False)
    assert "edited was not aligned: too little of it matches the original (confidence 0.0" in report
    assert torch.equal(refused[mask == 1], other[mask == 1])


def test_the_report_says_when_half_of_the_picture_is_new(pack, textures):
    original, other = textures
    half = torch.where(torch.arange(192)[:, None] < 100, other, original)
    for _, report in (change(pack, original, half), preserve(pack, original, half)[1:]):
        assert re.search(r"5\d % of the picture changed: .*Check the mask", report)
    assert "hard to separate" not in preserve(pack, original, original)[2]


def test_a_global_edit_is_named(pack, pictures):
    before, _ = pictures
    _, report = change(pack, before, 1 - before.flip(1))
    assert "the edit is global" in report
    picture, _, report = preserve(pack, before, 1 - before.flip(1))
    assert "the edit is global" in report
    assert torch.equal(picture, 1 - before.flip(1))
    _, _, report = preserve(pack, before, (0.6 * before + 0.35).clamp(0, 1))
    assert ("the edit is global" in report) != ("aligned" in report)


WRONG = {
    "sizes": (lambda a, b: (a, b[:, :64]), {}, "edited is 160x64 px, original 160x128 px.*Kontext Restore Frame"),
    "batches": (
        lambda a, b: (a.repeat(2, 1, 1, 1), b.repeat(3, 1, 1, 1)),
        {},
        "original is a batch of 2, edited one of 3",
    ),
    "one latent": (
        lambda a, b: (a, b),
        {"result_latent": {"samples": torch.zeros(1, 16, 16, 20)}},
        "reference_latent is not connected",
    ),
    "masks": (lambda a, b: (a, b), {"mask": torch.ones(2, 128, 160)}, "mask is a batch of 2, edited one of 1"),
    "latents": (
        lambda a, b: (a, b),
        {f"{name}_latent": {"samples": torch.zeros(2, 16, 16, 20)} for name in ("reference", "result")},
        "reference_latent is a batch of 2, edited one of 1",
    ),
    "another frame": (
        lambda a, b: (a, b),
        {**latents_of(0, (0, 0, 8, 8)), "frame": ((160, 128), (160, 128))},
        "frame maps 160x128 px to 160x128 px; edited is 160x128 px and the latents 256x128 px",
    ),
}


@pytest.mark.parametrize(("pair", "settings", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_match_is_refused(pack, pictures, pair, settings, message):
    frame = {"frame": make_frame(*settings["frame"])} if "frame" in settings else {}
    with pytest.raises(ValueError, match=message):
        change(pack, *pair(*pictures), **{**settings, **frame})


def test_an_empty_mask_is_a_clear_error_on_the_node(run_graph):
    prompt = workflow("Edit a small region")
    prompt["empty"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128}}
    prompt = graphs.with_input(prompt, "KontextCropRegion", "mask", ["empty", 0])
    with pytest.raises(ExecutionFailed, match="mask is empty") as failure:
        run_graph(prompt)
    assert failure.value.node_type == "KontextCropRegion"


def test_any_editors_result_keeps_the_rest_without_a_model(run_graph):
    """The template with two pictures: the eyes are blue, and the drift around and in them is undone."""
    prompt = template("Keep the rest with any editor")
    values, keep = run_graph(prompt).values, graphs.find(prompt, "KontextPreserve")
    original = values[prompt[keep]["inputs"]["original"][0]][0]
    picture, mask, _ = values[keep]
    assert torch.equal(picture[mask == 0], original[mask == 0])
    assert 0.9 < (mask == 0).float().mean() < 0.95
    red, _, blue = picture[0, 62:66, 36:40].mean((0, 1))  # of the left iris
    assert blue > red + 0.3
