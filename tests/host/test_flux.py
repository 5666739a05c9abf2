"""Whether a MODEL is FLUX.1: one answer for all nodes."""

import comfy.sd
import pytest
import torch
from safetensors.torch import save_file

from batch import inprocess
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer

SIZES = {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}


def weights(**sizes):
    tree = KontextTransformer(Geometry(**SIZES, **sizes))
    return {name: torch.zeros_like(weight) for name, weight in tree.state_dict().items()}


@pytest.fixture(scope="module")
def long_cat(pack):
    """LongCat Image: a flow model with 16 latent channels in the host's FLUX classes, which is not FLUX.1."""
    theirs = {n: w for n, w in weights(context_in_dim=3584).items() if not n.startswith(("vector_in", "guidance_in"))}
    return comfy.sd.load_diffusion_model_state_dict(theirs)


@pytest.fixture(scope="module")
def flux_1(pack):
    return comfy.sd.load_diffusion_model_state_dict(weights(context_in_dim=64, vec_in_dim=32))


ASKED = {
    "sampling": lambda pack, model: pack["KontextSampler"].execute(
        model, [[torch.zeros(1, 4, 3584), {}]], {"samples": torch.zeros(1, 16, 8, 8)}, 0, 1, 2.5, 1.0, "euler", 1.0
    ),
    "LoRA": lambda pack, model: pack["KontextLora"].execute(model, "any.safetensors", 1.0),
    "acceleration": lambda pack, model: pack["KontextAccelerate"].execute(model, {"preset": "exact"}, 1.0, False),
    "controls and NAG": lambda pack, model: inprocess.pack_module("host.forward").require_flux(model),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_relative_of_flux_1_is_refused_everywhere(pack, long_cat, model_folder, asked):
    save_file({"any": torch.zeros(1)}, model_folder("loras") / "any.safetensors")
    with pytest.raises(ValueError, match=r"model is LongCatImage; a FLUX\.1 model is needed"):
        ASKED[asked](pack, long_cat)


RELATIVES = {  # a setting, and a value that FLUX.1 does not have
    "image_model": "chroma",
    "vec_in_dim": None,
    "out_channels": 32,
    "patch_size": 1,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "yak_mlp": True,
    "txt_norm": True,
}


@pytest.mark.parametrize(("name", "value"), RELATIVES.items(), ids=RELATIVES)
def test_each_setting_of_a_relative_is_enough(flux_1, monkeypatch, name, value):
    monkeypatch.setitem(flux_1.model.model_config.unet_config, name, value)
    with pytest.raises(ValueError, match=r"a FLUX\.1 model is needed"):
        inprocess.pack_module("host.flux").require_flux_1(flux_1)


def test_its_sizes_are_read(flux_1):
    found = inprocess.pack_module("host.flux").require_flux_1(flux_1)
    assert (found.hidden_size, found.context_in_dim, found.vec_in_dim, found.guidance_embed) == (128, 64, 32, True)
