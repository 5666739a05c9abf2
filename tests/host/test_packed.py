"""A MODEL with another pack's linear layers, as with GGUF: packed weights, unpacked at each call.

Reading the weight of such a layer is an error. Our nodes give the same results as on the unpacked values.
"""

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import pytest
import torch
from safetensors.torch import save_file

import lora_files
import model_files
from batch import inprocess
from batch.graphs import node
from kontext_core.geometry import Geometry
from kontext_core.transformer import forward

SMALL = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=2, context_in_dim=128, vec_in_dim=128)


class PackedLinear(torch.nn.Module):
    """8-bit rows, and the patches to apply after unpacking."""

    def __init__(self, in_features, out_features, bias=True, dtype=None, device=None):
        super().__init__()
        self.register_buffer("packed", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(out_features, 1))
        self.register_buffer("offset", torch.zeros(out_features))
        self.changes = []

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        self.packed, self.scale = pack_rows(state_dict.pop(f"{prefix}weight"))
        self.offset = state_dict.pop(f"{prefix}bias").float()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination |= {f"{prefix}weight": self.packed, f"{prefix}bias": self.offset}

    @property
    def weight(self):
        raise AssertionError("somebody read the weight of a packed layer")

    def forward(self, x):
        weight = comfy.lora.calculate_weight(self.changes, unpack_rows(self.packed, self.scale), "weight")
        return torch.nn.functional.linear(x, weight.to(x), self.offset.to(x))


def pack_rows(weight):
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / 127
    return (weight.float() / scale).round().to(torch.int8), scale


def unpack_rows(packed, scale):
    return packed.float() * scale


class Packed(comfy.ops.manual_cast):
    Linear = PackedLinear


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Passes weight patches to the layer, as GGUF's patcher does, instead of changing the stored weight."""

    def load(self, *arguments, **options):
        super().load(*arguments, **options)
        for name, module in self.model.named_modules():
            if isinstance(module, PackedLinear):
                module.changes = self.patches.get(f"{name}.weight", [])

    def unpatch_model(self, *arguments, **options):
        super().unpatch_model(*arguments, **options)
        for module in self.model.modules():
            if isinstance(module, PackedLinear):
                module.changes = []


def packed_model(weights):
    loaded = comfy.sd.load_diffusion_model_state_dict(dict(weights), {"custom_operations": Packed})
    return PackedPatcher(loaded.model, loaded.load_device, loaded.offload_device)


def plain_model(weights):
    """The host's own layers, with the values that packing gives."""
    left = {
        name: unpack_rows(*pack_rows(w)) if w.ndim == 2 and name.endswith("weight") else w.float()
        for name, w in weights.items()
    }
    return comfy.sd.load_diffusion_model_state_dict(left)


def velocity(tree):
    generator = torch.Generator().manual_seed(1)
    img, txt, y = (torch.randn(size, generator=generator) for size in ((1, 6, 64), (1, 3, 128), (1, 128)))
    ids = {"img_ids": torch.arange(18.0).reshape(1, 6, 3), "txt_ids": torch.zeros(1, 3, 3)}
    with torch.no_grad():
        return forward(tree, img=img, txt=txt, y=y, timesteps=torch.tensor([0.6]), guidance=torch.tensor([2.5]), **ids)


def test_our_forward_calls_modules_and_reads_no_weight(recorder):
    weights = model_files.random_weights(SMALL)
    packed, plain = (make(weights).model.diffusion_model for make in (packed_model, plain_model))
    assert isinstance(packed.double_blocks[0].img_attn.qkv, PackedLinear)
    torch.testing.assert_close(velocity(packed), velocity(plain), atol=1e-6, rtol=0)


class OtherLoader:
    """The loader of another pack: weights for the embedded text encoder, packed or not."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"packed": ("BOOLEAN", {})}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self, packed):
        return ((packed_model if packed else plain_model)(model_files.random_weights(SMALL)),)


@pytest.fixture(scope="module", autouse=True)
def loader(pack):
    pack["OtherLoader"] = OtherLoader
    yield
    del pack["OtherLoader"]


def accelerated(preset, model="unet", **numbers):
    settings = {f"preset.{name}": value for name, value in numbers.items()}
    links = {"model": [model, 0], "preset": preset, "cache_gb": 1.0, "half_precision": False}
    return {"fast": node("KontextAccelerate", **links, **settings)}, {"model": ["fast", 0]}


def controlled(**settings):
    links = {"conditioning": ["context", 0], "reference": 1, "strength": 1.0, "start": 0.0, "end": 1.0}
    return {"control": node("KontextReferenceControl", **links | settings)}, {"positive": ["control", 0]}


def guided_away(method, positive="context", **settings):
    inputs = {f"method.{name}": value for name, value in settings.items()}
    links = {"positive": [positive, 0], "negative": ["other text", 0], "method": method}
    return {"negative": node("KontextNegative", **links, **inputs)}, {"positive": ["negative", 0]}


def adapted():
    return {"lora": node("KontextLora", model=["unet", 0], lora="packed.safetensors", strength=0.5)}, {
        "model": ["lora", 0]
    }


NAG = {"scale": 5.0, "tau": 2.5, "alpha": 0.25, "start": 0.0, "end": 1.0}
KEPT = {"fidelity": 40.0, "most_steps": 0, "steps": "0, 1, 2, 3"}
NEUTRAL = ("sampler alone", "accelerate, exact")
NODES = {  # nodes between loader and sampler, and what the sampler is given of them
    "sampler alone": ({}, {}),
    "accelerate, exact": accelerated("exact"),
    "accelerate, quality": accelerated("quality"),
    "accelerate, balanced": accelerated("balanced"),
    "accelerate, fast": accelerated("fast"),
    "accelerate, a list of steps": accelerated("custom", **KEPT),
    "reference control, strength": controlled(strength=0.4),
    "reference control, mask": controlled(mask=["left", 0]),
    "reference control, region": controlled(region=["right", 0]),
    "negative, NAG": guided_away("nag", **NAG),
    "negative, cfg": (
        guided_away("cfg", same_references=True)[0],
        {"positive": ["negative", 0], "negative": ["negative", 1], "cfg": 3.0},
    ),
    "LoRA": adapted(),
    "all together": (
        adapted()[0]
        | accelerated("custom", model="lora", **KEPT)[0]
        | controlled(strength=0.4)[0]
        | guided_away("nag", positive="control", **NAG)[0],
        {"model": ["fast", 0], "positive": ["negative", 0]},
    ),
}


@pytest.fixture(scope="module")
def lora(recorder):
    """A LoRA for every layer, in Kontext LoRA's folder."""
    made = lora_files.make("diffusers, PEFT, ai-toolkit", SMALL, ranks=[4])
    folder = inprocess.BASE / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() / 4 for key, tensor in made.tensors.items()}, folder / "packed.safetensors")


@pytest.fixture(scope="module")
def sample(host_edit, run, lora):
    """`sample(packed, nodes, settings)`: the latents of KontextSampler."""

    def latents(packed, nodes, settings):
        steps = 12 if "fast" in nodes else 4  # the most exact preset computes 10
        links = {"model": ["unet", 0], "positive": ["context", 0], "latent": ["target", 0], "seed": 1, "steps": steps}
        links |= {"guidance": 2.5, "cfg": 1.0, "solver": "euler", "denoise": 1.0}
        unet = {"unet": node("OtherLoader", packed=packed), "sampler": node("KontextSampler", **links | settings)}
        return run(host_edit | nodes | unet).values["sampler"][0]["samples"]

    return latents


@pytest.fixture(scope="module")
def alone(sample):
    """The sampler's results without our other nodes, in 12 steps and in 4."""
    return {steps: sample(True, accelerated("exact")[0] if steps == 12 else {}, {}) for steps in (12, 4)}


@pytest.mark.parametrize("name", NODES)
def test_our_nodes_work_on_packed_weights(sample, alone, name):
    nodes, settings = NODES[name]
    packed, plain = (sample(packed, nodes, settings) for packed in (True, False))
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=0)
    effect = (packed - alone[12 if "fast" in nodes else 4]).abs().max()
    assert effect < 1e-4 if name in NEUTRAL else effect > 1e-3


def test_the_hosts_sampler_works_on_packed_weights_with_our_conditioning(host_edit, run):
    nodes = controlled(strength=0.4)[0] | guided_away("nag", positive="control", **NAG)[0]
    links = {"model": ["unet", 0], "positive": ["negative", 0], "negative": ["other text", 0]}
    links |= {"latent_image": ["target", 0], "seed": 1, "steps": 4, "cfg": 1.0}
    links |= {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    packed, plain = (
        run(host_edit | nodes | {"unet": node("OtherLoader", packed=packed), "sampler": node("KSampler", **links)})
        for packed in (True, False)
    )
    found, wanted = (result.values["sampler"][0]["samples"] for result in (packed, plain))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
