"""Damaged files that pass our checks load completely in the host: nothing fails there or is left out."""

import logging

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

import damage
import model_files
from batch import inprocess
from kontext_core.checkpoints import read_checkpoint
from kontext_core.geometry import Geometry
from kontext_core.transformer import checkpoint_shapes

FILES = 260  # of each kind, the same as in the core ring


@pytest.fixture(scope="module")
def loading(pack):
    return inprocess.pack_module("host.loading")


@pytest.fixture(scope="module")
def plain(recorder):
    """A MODEL of the size that the LoRA files are for."""
    return comfy.sd.load_diffusion_model_state_dict(model_files.random_weights(damage.GEOMETRY))


def same(a, b):
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a.float()), torch.nan_to_num(b.float()))


def test_a_checkpoint_loads_completely_or_not_at_all(loading, tmp_path, caplog):
    path = tmp_path / "damaged.safetensors"
    loaded = 0
    for layout, what in damage.files("checkpoint", FILES, path):
        try:
            paths = read_checkpoint(path).paths
        except ValueError:
            continue
        caplog.clear()
        with caplog.at_level(logging.INFO):
            weights = loading.load_transformer(paths, {}).model.diffusion_model.state_dict()
        assert "missing" not in caplog.text, what
        for name in checkpoint_shapes(damage.GEOMETRY):
            assert name.replace("_norm.scale", "_norm.weight") in weights, what
        if layout.startswith("BFL"):
            for name, tensor in load_file(path).items():
                found = weights.get(name.replace("_norm.scale", "_norm.weight"))
                assert found is None or same(found, tensor), (what, name)
        loaded += 1
    assert loaded > 5


def test_a_lora_is_applied_completely_or_not_at_all(pack, plain, model_folder, caplog):
    path = model_folder("loras") / "damaged.safetensors"
    applied = 0
    for _, what in damage.files("LoRA", FILES, path):
        try:
            changed, _ = pack["KontextLora"].execute(plain, path.name, 1.0).result
        except ValueError:
            continue
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for key in changed.patches:
                assert changed.patch_weight_to_device(key, return_weight=True).isfinite().all(), (what, key)
        assert "ERROR" not in caplog.text and "MISMATCH" not in caplog.text, what
        applied += 1
    path.unlink()
    assert applied > 5


REAL_TEXT = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1)


def test_a_quantisation_that_the_host_does_not_know_is_named(pack, model_folder):
    """The host itself would fail on this word without an explanation."""
    weights = model_files.scaled_fp8_new(model_files.random_weights(REAL_TEXT))
    text = b'{"format": "float3_of_tomorrow"}'
    weights["single_blocks.0.linear1.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    path = model_folder("diffusion_models") / "tomorrow.safetensors"
    path.write_bytes(damage.joined(*damage.parts(weights)))
    files = {"clip_l": "no", "t5xxl": "no", "vae": "no", "weight_dtype": "default"}
    with pytest.raises(ValueError, match="tomorrow.safetensors: .*float3_of_tomorrow, which this ComfyUI does"):
        pack["KontextLoader"].execute({"source": "files", "diffusion_model": path.name, **files})
    path.unlink()
