"""Pictures and masks as inputs: every dtype, every device, and refused values."""

import json

import comfy.cli_args
import pytest
import torch

from batch import ROOT, graphs
from kontext_core.frames import frame_for

AS_IS, KEEP = {"size": "as is"}, {"size": "keep ratio", "megapixels": 0.02}
FINDING = {"sensitivity": 1.0, "grow": 0.5, "feather": 1.0}


def scene(seed, height=96, width=128):
    """A smooth picture (1, h, w, 3) with a square of a seeded colour."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    picture = torch.stack((x, y, 1 - x * y), -1)
    picture[24:56, 40:80] = torch.rand(3, generator=torch.Generator().manual_seed(seed))
    return picture[None]


def square(height=96, width=128):
    mask = torch.zeros(1, height, width)
    mask[:, 20:60, 36:84] = 1
    return mask


BEFORE, AFTER, MASK = scene(1), scene(2), square()
LATENTS = {name: torch.randn(1, 16, 12, 16, generator=torch.manual_seed(4)) for name in ("reference", "result")}


def run_node(pack, name, *inputs, **named):
    with torch.inference_mode():
        return pack[name].execute(*inputs, **named).result


@pytest.fixture(scope="module")
def embedded(pack):
    return run_node(pack, "KontextLoader", {"source": "embedded"})


@pytest.fixture(scope="module")
def results(pack, embedded):
    """`results(change)`: the outputs of every node with a picture or mask input, for inputs modified by `change`."""

    def of(change):
        before, after, mask = change(BEFORE), change(AFTER), change(MASK)
        conditioning = [[torch.zeros(1, 20, 128), {"reference_latents": [torch.zeros(1, 16, 12, 16)]}]]
        fitted, frame = run_node(pack, "KontextFitFrame", before, KEEP, "pad", "reflect")
        _, cut = run_node(pack, "KontextFitFrame", before, {"size": "nearest trained size"}, "crop", "edge")
        cropped, crop_mask, region = run_node(pack, "KontextCropRegion", before, mask, KEEP, 0.5, "one crop")
        control = {"strength": 1.0, "start": 0.0, "end": 1.0, "mask": mask, "region": mask}
        (controlled,) = run_node(pack, "KontextReferenceControl", conditioning, 1, **control)
        said = controlled[0][1]["kontext_references"][1]
        finding = FINDING | {"smallest": 0.05, "align": True, "join": "limit", "mask": mask}
        latents = {f"{name}_latent": {"samples": floats(change, latent)} for name, latent in LATENTS.items()}
        reference, reference_mask = run_node(pack, "KontextReference", before, embedded[2], KEEP, "pad", mask=mask)
        return {
            "fit": fitted,
            "restore": run_node(pack, "KontextRestoreFrame", change(fitted), frame)[0],
            "restore a cut": run_node(pack, "KontextRestoreFrame", change(scene(3, 500, 700)), cut, before)[0],
            "restore between pixels": run_node(pack, "KontextRestoreFrame", change(scene(3, 181, 226)), frame)[0],
            "crop": cropped,
            "crop's mask": crop_mask,
            "stitch": run_node(pack, "KontextStitchRegion", before, change(cropped), region, 8)[0],
            "stitch's mask": run_node(pack, "KontextStitchRegion", before, change(cropped), region, 8)[1],
            "change mask": run_node(pack, "KontextChangeMask", before, after, **finding)[0],
            "change mask by latents": run_node(pack, "KontextChangeMask", before, after, **finding, **latents)[0],
            "preserve": run_node(pack, "KontextPreserve", before, after, "shift and scale", True, True, **FINDING)[0],
            "preserve in a mask": run_node(
                pack, "KontextPreserve", before, after, "off", True, True, **FINDING, mask=mask
            )[1],
            "reference": reference["samples"],
            "reference's mask": reference_mask,
            "control's mask": said.masks[0],
            "control's region": said.areas[0],
        }

    return of


def floats(change, latent):
    """A latent as changed, unless it would become whole numbers."""
    changed = change(latent)
    return changed if changed.is_floating_point() else latent


def differing(first, second):
    """The names of results that differ in value or dtype."""
    assert first.keys() == second.keys()
    return [n for n in first if first[n].dtype != second[n].dtype or not torch.equal(first[n], second[n])]


TYPES = {
    "float16": lambda values: values.half(),
    "bfloat16": lambda values: values.bfloat16(),
    "float64": lambda values: values.double(),
    "uint8": lambda values: (255 * values).round().to(torch.uint8),
}
AS_FLOAT = {"uint8": lambda values: values.float() / 255}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_number_is_computed_in_float32(results, kind):
    """The result equals that of the same values in float32, bit for bit."""
    in_float = AS_FLOAT.get(kind, lambda values: values.float())
    assert differing(results(TYPES[kind]), results(lambda values: in_float(TYPES[kind](values)))) == []


def test_pictures_of_different_types_go_together(pack):
    mixed = run_node(
        pack, "KontextPreserve", BEFORE.half(), AFTER.double(), "off", True, True, **FINDING, mask=MASK > 0
    )
    plain = (BEFORE.half().float(), AFTER)
    assert torch.equal(mixed[0], run_node(pack, "KontextPreserve", *plain, "off", True, True, **FINDING, mask=MASK)[0])


def test_what_goes_out_has_the_hosts_type_of_number(results, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    found = results(lambda values: values.half())
    inside = {name for name in found if name.startswith("control")}  # carried to the sampler
    assert {found[name].dtype for name in found.keys() - inside} == {torch.float16}


def test_pixels_outside_the_mask_are_the_originals_in_half_precision(pack, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    before = BEFORE.half()
    picture, mask, _ = run_node(pack, "KontextPreserve", before, AFTER.half(), "off", True, True, **FINDING)
    assert torch.equal(picture[mask == 0], before[mask == 0])
    assert 0.5 < (mask == 0).float().mean() < 1


HALVED = {"Edit and keep the rest": "KontextSampler", "Turn after turn": "KontextSampler"}
HALVED |= {"Measure the presets": "KontextMeasure"}


@pytest.mark.parametrize(("name", "sampler"), HALVED.items(), ids=HALVED)
def test_saved_graphs_run_with_intermediates_in_half_precision(pack, run_graph, monkeypatch, name, sampler):
    """Every picture, mask and latent that our nodes give has that precision."""
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    prompt = graphs.to_prompt(json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8")))
    prompt = graphs.with_input(prompt, sampler, "steps", 1)
    values, wrong, seen = run_graph(prompt).values, [], set()
    for node, outputs in values.items():
        kind = prompt.get(node, {}).get("class_type", "")
        for output, value in zip(pack[kind].RETURN_TYPES if kind.startswith("Kontext") else (), outputs, strict=False):
            tensor = value["samples"] if output == "LATENT" and isinstance(value, dict) else value
            if isinstance(tensor, torch.Tensor):
                seen.add(kind)
                wrong += [f"{kind}'s {output}"] if tensor.dtype != torch.float16 else []
    assert sampler in seen
    assert wrong == []


class Elsewhere(torch.Tensor):
    """Simulates a GPU tensor: numpy cannot read it, it does not mix with CPU tensors, and results are on its device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert a tensor of another device to numpy; copy it to the CPU first")
        if any(type(value) is torch.Tensor and value.ndim for value in args):
            raise RuntimeError("expected all tensors to be on the same device")
        out = super().__torch_function__(func, types, args, kwargs or {})
        comes_here = func is torch.Tensor.cpu or (func is torch.Tensor.to and "cpu" in args)
        return out.as_subclass(torch.Tensor) if comes_here else out


def elsewhere(values):
    """Pictures and latents as they are, masks as uint8: each kind of number has a way to the CPU of its own."""
    return (TYPES["uint8"](values) if values.ndim == 3 else values).as_subclass(Elsewhere)


def test_what_lies_on_another_device_is_brought_to_the_cpu(results):
    with pytest.raises(TypeError, match="another device"):
        elsewhere(BEFORE).numpy()
    assert differing(results(elsewhere), results(lambda values: values)) == []


NO_MASK = torch.zeros(1, 64, 64)  # what the host's LoadImage gives with a picture without alpha
REFUSED_MASKS = {
    "black": (NO_MASK, "mask is empty: it is black everywhere"),
    "NaN": (torch.full((1, 96, 128), float("nan")), "mask has values that are not finite"),
    "no mask in it": (torch.ones(0, 96, 128), "mask has the shape (0, 96, 128); (masks, height, width) is needed"),
    "channels last": (torch.ones(1, 96, 128, 1), "mask has the shape (1, 96, 128, 1)"),
    "whole numbers": (torch.ones(1, 96, 128, dtype=torch.int64), "mask holds torch.int64"),
}
TAKES_MASK = {
    "preserve": lambda run, vae, mask: run("KontextPreserve", BEFORE, AFTER, "off", True, True, **FINDING, mask=mask),
    "change mask": lambda run, vae, mask: run(
        "KontextChangeMask", BEFORE, AFTER, **FINDING, smallest=0.05, align=False, join="union", mask=mask
    ),
    "crop": lambda run, vae, mask: run("KontextCropRegion", BEFORE, mask, KEEP, 0.5, "one crop"),
    "reference": lambda run, vae, mask: run("KontextReference", BEFORE, vae, AS_IS, "pad", mask=mask),
    "control": lambda run, vae, mask: run(
        "KontextReferenceControl", [[torch.zeros(1, 20, 128), {}]], 1, 1.0, 0.0, 1.0, mask=mask
    ),
}


@pytest.mark.parametrize("node", TAKES_MASK)
@pytest.mark.parametrize(("mask", "message"), REFUSED_MASKS.values(), ids=REFUSED_MASKS)
def test_a_mask_that_cannot_be_meant_is_refused(pack, embedded, node, mask, message):
    with pytest.raises(ValueError) as failure:
        TAKES_MASK[node](lambda *inputs, **named: run_node(pack, *inputs, **named), embedded[2], mask)
    assert message in str(failure.value)


def test_a_black_region_is_named(pack):
    with pytest.raises(ValueError, match="region is empty"):
        run_node(pack, "KontextReferenceControl", [[torch.zeros(1, 20, 128), {}]], 1, 1.0, 0.0, 1.0, region=NO_MASK)


@pytest.mark.parametrize("shape", [(96, 128), (1, 96, 128), (1, 1, 96, 128)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_a_mask_of_any_usual_shape_and_type_is_the_same_mask(pack, shape, kind):
    """0 and 1 in a uint8 mask mean 0 and 1, not 1/255."""
    whole = run_node(pack, "KontextCropRegion", BEFORE, MASK, KEEP, 0.5, "one crop")
    other = run_node(pack, "KontextCropRegion", BEFORE, MASK.to(kind).reshape(shape), KEEP, 0.5, "one crop")
    assert torch.equal(whole[0], other[0])
    assert torch.equal(whole[1], other[1])


REFUSED_PICTURES = {
    "no picture in it": (torch.ones(0, 96, 128, 3), "image holds no picture"),
    "channels first": (torch.ones(1, 3, 96, 128), "image has 128 channels"),
    "one picture without a batch": (torch.ones(96, 128, 3), "image has the shape (96, 128, 3)"),
    "whole numbers": (torch.ones(1, 96, 128, 3, dtype=torch.int64), "image holds torch.int64"),
}


@pytest.mark.parametrize(("image", "message"), REFUSED_PICTURES.values(), ids=REFUSED_PICTURES)
def test_a_picture_that_is_none_is_refused(pack, image, message):
    with pytest.raises(ValueError) as failure:
        run_node(pack, "KontextFitFrame", image, KEEP, "pad", "reflect")
    assert message in str(failure.value)


def test_a_picture_that_is_none_is_refused_beside_a_mask_too(pack):
    flat = torch.ones(96, 128)
    with pytest.raises(ValueError, match=r"edited has the shape \(96, 128\)"):
        run_node(pack, "KontextPreserve", BEFORE, flat, "off", True, True, **FINDING, mask=MASK)


def test_as_many_originals_as_edits_or_one(pack):
    """Restore Frame with a cropping frame, and Stitch Region: errors name batches that do not match."""
    three, two = BEFORE.repeat(3, 1, 1, 1), AFTER.repeat(2, 1, 1, 1)
    fitted, frame = run_node(pack, "KontextFitFrame", two, AS_IS | {"size": "nearest trained size"}, "crop", "edge")
    with pytest.raises(ValueError, match="original holds 3 pictures and image 2; give one original, or as many"):
        run_node(pack, "KontextRestoreFrame", fitted, frame, three)
    assert len(run_node(pack, "KontextRestoreFrame", fitted, frame, BEFORE)[0]) == 2
    crop, _, region = run_node(pack, "KontextCropRegion", AFTER, MASK, KEEP, 0.5, "one crop")
    with pytest.raises(ValueError, match="edited holds 2 pictures; 3 crops were cut from 3 in original"):
        run_node(pack, "KontextStitchRegion", three, crop.repeat(2, 1, 1, 1), region, 8)
    assert len(run_node(pack, "KontextStitchRegion", BEFORE, crop.repeat(2, 1, 1, 1), region, 8)[0]) == 2


BACKWARDS = {
    "control": ("KontextReferenceControl", (1, 1.0, 0.6, 0.4)),
    "NAG": (
        "KontextNegative",
        (
            [[torch.zeros(1, 20, 128), {}]],
            {"method": "nag", "scale": 5.0, "tau": 2.5, "alpha": 0.25, "start": 0.6, "end": 0.4},
        ),
    ),
}


@pytest.mark.parametrize(("node", "inputs"), BACKWARDS.values(), ids=BACKWARDS)
def test_a_range_that_ends_before_it_starts_is_refused(pack, node, inputs):
    """As Kontext Sampler does for cfg."""
    with pytest.raises(ValueError, match="start is 0.6 and end 0.4, so it would have no effect"):
        run_node(pack, node, [[torch.zeros(1, 20, 128), {}]], *inputs)


OFF_THE_GRID = {  # size, fit: what is encoded, and what is said
    "101x77": ((101, 77), "pad", (112, 80), "the picture is 101x77 px of it"),
    "134x94": ((134, 94), "pad", (144, 96), "the picture is 134x94 px of it"),
    "120x88": ((120, 88), "pad", (128, 96), "the picture is 120x88 px of it"),
    "134x94, cropped": ((134, 94), "crop", (128, 80), "shows 128x80 px of the picture; the rest is cut off"),
    "134x94, stretched": ((134, 94), "stretch", (144, 96), "as is, stretch: 144x96 px"),
}


@pytest.mark.parametrize(("size", "fit", "grid", "said"), OFF_THE_GRID.values(), ids=OFF_THE_GRID)
def test_a_reference_as_it_is_lies_on_the_models_grid(pack, embedded, size, fit, grid, said):
    """The VAE has nothing to crop, and the mask is moved like the pixels."""
    width, height = size
    picture = scene(1, height, width)
    mask = (picture[..., 0] > 0.5).float()  # the right half
    with torch.inference_mode():
        out = pack["KontextReference"].execute(picture, embedded[2], AS_IS, fit, mask=mask)
        frame = frame_for(size, "as is", fit, "edge")
        expected = embedded[2].encode(frame.fit(picture))
    latent, fitted = out.result
    assert torch.equal(latent["samples"], expected)
    assert latent["samples"].shape[-2:] == (grid[1] // 8, grid[0] // 8)
    assert fitted.shape == (1, grid[1], grid[0])
    assert torch.equal(fitted, frame.fit(mask[..., None])[..., 0])
    assert said in out.ui.as_dict()["text"][0]


def test_a_picture_on_the_grid_is_encoded_as_it_is(pack, embedded):
    with torch.inference_mode():
        out = pack["KontextReference"].execute(BEFORE, embedded[2], AS_IS, "pad")
        assert torch.equal(out.result[0]["samples"], embedded[2].encode(BEFORE))
    assert out.ui.as_dict()["text"] == ("128x96 px, as is: 128x96 px, 48 tokens",)
