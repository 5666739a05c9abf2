"""Every file in workflows/ runs in ComfyUI as it is saved, with fewer steps."""

import json
import shutil

import comfy.taesd.taesd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from batch import ROOT, graphs, inprocess
from batch.comfyui import comfyui_folder
from batch.events import PromptRefused
from kontext_core import embedded

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
DEV, LORA = "Real model with your files", "Real model with a LoRA"
MEASURE = "Measure the presets"  # several pictures and no sampler node: test_measure.py
HOSTED, SWITCH = "Hosted edit with pro or max", "Local or hosted"  # the hosted branch: test_hosted.py
DEV_FILES = {
    "flux1-dev-kontext_fp8_scaled.safetensors",
    "clip_l.safetensors",
    "t5xxl_fp8_e4m3fn_scaled.safetensors",
    "ae.safetensors",
}
KEEP = "Keep the rest with any editor"
LORA_FILE = "your_lora.safetensors"


def prompt_of(name):
    return graphs.to_prompt(json.loads(WORKFLOWS[name].read_text(encoding="utf-8")))


def saved_picture(run, prompt):
    (image,) = run.shown[graphs.find(prompt, "SaveImage")]["images"]
    with Image.open(inprocess.BASE / "output" / image["subfolder"] / image["filename"]) as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in (DEV, LORA, HOSTED, MEASURE)])
def test_it_runs_at_once(run_graph, name):
    prompt = prompt_of(name)
    if name != KEEP:  # it needs no model
        prompt = graphs.with_input(prompt, "KontextSampler", "steps", 2)
    picture = saved_picture(run_graph(prompt), prompt)
    assert picture.size == ((192, 192) if name in ("Change the light of a photograph", KEEP) else (128, 128))
    assert len(picture.getcolors(picture.width * picture.height)) > 100  # no flat picture


@pytest.fixture(params=[DEV, LORA])
def dev_prompt(request):
    """A graph for the real files, with the picture that it names and that every ComfyUI has."""
    shutil.copy(comfyui_folder() / "input" / "example.png", inprocess.BASE / "input")
    return prompt_of(request.param)


def test_only_the_real_files_are_missing(run_graph, dev_prompt):
    with pytest.raises(PromptRefused) as refused:
        run_graph(dev_prompt)
    errors = [error for report in refused.value.node_errors.values() for error in report["errors"]]
    lora = {LORA_FILE} if "KontextLora" in {node["class_type"] for node in dev_prompt.values()} else set()
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == DEV_FILES | lora


@pytest.fixture
def small_files(model_folder):
    """What ComfyUI's loaders accept, under the real names: the embedded transformer, random weights besides."""
    torch.manual_seed(0)
    autoencoder = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
    layer = "base_model.model.double_blocks.0.img_attn.proj"
    files = {
        ("diffusion_models", "flux1-dev-kontext_fp8_scaled.safetensors"): embedded.load_transformer()[0],
        ("vae", "ae.safetensors"): {name: torch.randn(w.shape) / 20 for name, w in autoencoder.items()},
        ("loras", LORA_FILE): {
            f"{layer}.lora_A.weight": torch.randn(4, 256),
            f"{layer}.lora_B.weight": torch.randn(256, 4) / 100,
        },
    }
    for (kind, name), tensors in files.items():
        save_file(tensors, model_folder(kind) / name)
    yield
    for kind, name in files:
        (model_folder(kind) / name).unlink()


def test_it_runs_with_small_files_of_the_real_names(run_graph, dev_prompt, small_files):
    """At 128x128 px. ComfyUI knows CLIP-L and T5-XXL at full size only: the embedded text encoder stands in."""
    prompt = graphs.with_input(dev_prompt, "KontextSampler", "steps", 1)
    prompt = graphs.with_choice(prompt, "KontextReference", "size", "keep ratio", megapixels=0.016)
    prompt["text encoders"] = {"class_type": "KontextLoader", "inputs": {"source": "embedded"}}
    prompt = graphs.with_input(prompt, "CLIPTextEncode", "clip", ["text encoders", 1])
    del prompt[graphs.find(prompt, "DualCLIPLoader")]
    assert saved_picture(run_graph(prompt), prompt).size == (128, 128)
