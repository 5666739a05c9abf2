"""Conditionings made by our nodes, and cfg on them: laws that hold for each picture of a batch."""

import weakref

import comfy.sd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batch.events import ExecutionFailed
from batch.graphs import node
from batch.inprocess import pack_module

CLIP, VAE = ["loader", 1], ["loader", 2]


def test_cfg_is_rescaled_by_each_picture_alone(random_model):
    rescaled = pack_module("host.sampling").rescaled(random_model, 0.7)
    combine = rescaled.model_options["sampler_cfg_function"]
    draw = torch.Generator().manual_seed(0)
    contrast = torch.tensor([0.2, 5.0])[:, None, None, None]
    positive, negative = (contrast * torch.randn(2, 16, 4, 4, generator=draw) for _ in range(2))
    both = combine({"cond": positive, "uncond": negative, "cond_scale": 3.0})
    for row in (slice(0, 1), slice(1, 2)):
        alone = combine({"cond": positive[row], "uncond": negative[row], "cond_scale": 3.0})
        torch.testing.assert_close(both[row], alone)


@pytest.fixture
def random_model(pack):
    return pack["KontextLoader"].execute({"source": "embedded"}).result[0]


@pytest.mark.parametrize("own", [None, 4.0], ids=["without guidance", "with guidance of its own"])
def test_a_negative_has_the_positives_guidance_unless_it_has_its_own(host_edit, run, own):
    nodes = {
        "guided": node("FluxGuidance", conditioning=["context", 0], guidance=7.0),
        "other guided": node("FluxGuidance", conditioning=["other text", 0], guidance=own or 0.0),
        "negative": node(
            "KontextNegative",
            positive=["guided", 0],
            negative=["other guided" if own else "other text", 0],
            method="cfg",
            **{"method.same_references": True},
        ),
    }
    ((_, values),) = run(host_edit | nodes).values["negative"][1]
    assert values["guidance"] == (own or 7.0)


@pytest.mark.parametrize(("counts", "accepted"), [((1, 2), True), ((2, 2), True), ((2, 3), False)], ids=str)
def test_references_hold_one_picture_or_all_the_same_number(pack, counts, accepted):
    conditioning = [[torch.zeros(1, 4, 8), {}]]
    references = {f"reference{n}": {"samples": torch.zeros(count, 16, 4, 4)} for n, count in enumerate(counts)}
    if accepted:
        out, _ = pack["KontextContext"].execute(conditioning, references, "offset").result, None
        assert [len(latent) for latent in out[0][0][1]["reference_latents"]] == list(counts)
        return
    with pytest.raises(ValueError, match="the references hold different numbers of pictures .2, 3."):
        pack["KontextContext"].execute(conditioning, references, "offset")


def test_a_cap_below_a_frames_size_is_refused(host_edit, run):
    nodes = {
        "frame": node("KontextFitFrame", image=["one", 0], size="as is", fit="pad", margin="edge"),
        "capped": node(
            "KontextReference", image=["one", 0], vae=VAE, size="as is", fit="pad", frame=["frame", 1],
            max_megapixels=0.004,
        ),
    }  # fmt: skip
    with pytest.raises(ExecutionFailed, match="max_megapixels is 0.004, but the frame makes the reference"):
        run({name: host_edit[name] for name in ("loader", "one")} | nodes)


def test_wrappers_of_a_model_are_there_once(random_model):
    controls = pack_module("host.controls")
    conditioning = controls.with_control(
        [[torch.zeros(1, 4, 8), {}]], 1, pack_module("kontext_core.controls").Control(0.5)
    )
    once, _ = controls.install(random_model, {"positive": conditioning})
    twice, _ = controls.install(once, {"positive": conditioning})
    for kinds in twice.wrappers.values():
        assert len(kinds.get(controls.KEY, ())) <= 1
    assert sum(len(kinds.get(controls.KEY, ())) for kinds in twice.wrappers.values()) == len(controls._WRAPPERS)


class Peak(TorchDispatchMode):
    """The peak of the bytes of live float32 tensors."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (weakref.ref(tensor), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if entry[0]() is not None}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize("side", [256, 512])
def test_the_vae_asks_for_the_memory_that_it_takes(side):
    """Between the bytes alive at once and four times that, because a device needs workspace too."""
    vae: comfy.sd.VAE = pack_module("host.autoencoder").load_vae()
    picture, latent = torch.rand(1, 3, side, side), torch.rand(1, 16, side // 8, side // 8)
    for run, estimate, given in (
        (vae.first_stage_model.encode, vae.memory_used_encode, picture),
        (vae.first_stage_model.decode, vae.memory_used_decode, latent),
    ):
        with torch.no_grad(), Peak() as peak:
            run(given)
        assert peak.peak <= estimate(given.shape, torch.float32) <= 4 * peak.peak
