"""Every file in workflows/ runs in ComfyUI as it is saved, with fewer steps."""

import json
import shutil

import comfy.taesd.taesd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kontext_core import embedded
from tools import ROOT, graphs, inprocess
from tools.client import PromptRefused
from tools.server import comfyui_folder

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
DEV = "kontext_dev_files"
DEV_FILES = {
    "flux1-dev-kontext_fp8_scaled.safetensors",
    "clip_l.safetensors",
    "t5xxl_fp8_e4m3fn_scaled.safetensors",
    "ae.safetensors",
}


def prompt_of(name):
    return graphs.to_prompt(json.loads(WORKFLOWS[name].read_text(encoding="utf-8")))


def saved_picture(run, prompt):
    (image,) = run.shown[graphs.find(prompt, "SaveImage")]["images"]
    with Image.open(inprocess.BASE / "output" / image["subfolder"] / image["filename"]) as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name != DEV])
def test_it_runs_at_once(run_graph, name):
    prompt = graphs.with_input(prompt_of(name), "KontextSampler", "steps", 2)
    picture = saved_picture(run_graph(prompt), prompt)
    assert picture.size == (128, 128)
    assert len(picture.getcolors(maxcolors=128 * 128)) > 100  # no flat picture


@pytest.fixture
def dev_prompt():
    """The graph for the real files, with the picture that it names and that every ComfyUI has."""
    shutil.copy(comfyui_folder() / "input" / "example.png", inprocess.BASE / "input")
    return prompt_of(DEV)


def test_only_the_real_files_are_missing(run_graph, dev_prompt):
    with pytest.raises(PromptRefused) as refused:
        run_graph(dev_prompt)
    errors = [error for report in refused.value.node_errors.values() for error in report["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == DEV_FILES


@pytest.fixture
def small_files(model_folder):
    """What ComfyUI's loaders accept, under the real names: the embedded transformer, a random autoencoder."""
    unet = model_folder("diffusion_models") / "flux1-dev-kontext_fp8_scaled.safetensors"
    vae = model_folder("vae") / "ae.safetensors"
    torch.manual_seed(0)
    autoencoder = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
    save_file({name: torch.randn(weight.shape) / 20 for name, weight in autoencoder.items()}, vae)
    save_file(embedded.load_transformer()[0], unet)
    yield
    unet.unlink()
    vae.unlink()


def test_it_runs_with_small_files_of_the_real_names(run_graph, dev_prompt, small_files):
    """At 128x128 px. ComfyUI knows CLIP-L and T5-XXL at their full sizes only: the embedded text encoder stands in."""
    prompt = graphs.with_input(dev_prompt, "KontextSampler", "steps", 1)
    prompt = graphs.with_choice(prompt, "KontextReference", "size", "keep ratio", megapixels=0.016)
    prompt["text encoders"] = {"class_type": "KontextLoader", "inputs": {"source": "embedded"}}
    prompt = graphs.with_input(prompt, "CLIPTextEncode", "clip", ["text encoders", 1])
    del prompt[graphs.find(prompt, "DualCLIPLoader")]
    assert saved_picture(run_graph(prompt), prompt).size == (128, 128)
