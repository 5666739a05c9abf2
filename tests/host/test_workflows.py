"""Every file in workflows/ runs in ComfyUI as saved, but with fewer steps."""

import json
import shutil
from pathlib import Path

import comfy.taesd.taesd
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from batch import ROOT, graphs, inprocess
from batch.comfyui import comfyui_folder
from batch.events import ExecutionFailed, PromptRefused
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
KEEP, CHANGED = "Keep the rest with any editor", "What changed, as a mask"  # they need no model
PHOTOGRAPHS = {"Change the light of a photograph", SWITCH, KEEP, CHANGED}
SCHEDULE = "Schedule and solver"
MASKED = "Your own photograph with a mask"
LORA_FILE = "your_lora.safetensors"


def prompt_of(name):
    return graphs.to_prompt(json.loads(WORKFLOWS[name].read_text(encoding="utf-8")))


def saved_picture(run, prompt):
    (image,) = run.shown[graphs.find(prompt, "SaveImage")]["images"]
    with Image.open(inprocess.BASE / "output" / image["subfolder"] / image["filename"]) as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in (DEV, LORA, HOSTED, MEASURE, MASKED)])
def test_it_runs_at_once(run_graph, name):
    prompt = prompt_of(name)
    if name not in (KEEP, CHANGED):
        prompt = graphs.with_input(prompt, "KontextSchedule" if name == SCHEDULE else "KontextSampler", "steps", 2)
    picture = saved_picture(run_graph(prompt), prompt)
    assert picture.size == ((192, 192) if name in PHOTOGRAPHS else (128, 128))
    assert len(picture.getcolors(picture.width * picture.height)) > 100  # no flat picture


def test_a_photograph_with_a_mask_stays_outside_it(run_graph, input_picture):
    """Without a mask the node's error says what to do."""
    prompt = graphs.with_input(prompt_of(MASKED), "KontextSampler", "steps", 2)
    pixels = np.random.default_rng(5).random((300, 400, 4))
    pixels[..., 3] = 1
    with pytest.raises(ExecutionFailed, match="mask is empty.*Draw one in the mask editor"):
        run_graph(graphs.with_input(prompt, "LoadImage", "image", input_picture(pixels, "bare.png")))
    pixels[100:200, 150:250, 3] = 0  # as the mask editor saves what was painted
    prompt = graphs.with_input(prompt, "LoadImage", "image", input_picture(pixels, "painted.png"))
    result = np.asarray(saved_picture(run_graph(prompt), prompt))
    before = (pixels[..., :3] * 255).round().astype(np.uint8)
    changed = (result != before).any(-1)
    assert changed[100:200, 150:250].mean() > 0.9
    assert not changed[:90].any() and not changed[210:].any() and not changed[:, :140].any()


@pytest.fixture(params=[DEV, LORA])
def dev_prompt(request):
    """A graph for the real model files, with the example picture that every ComfyUI has."""
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
    """Files that ComfyUI's loaders accept, under the real names: the embedded transformer, else random weights."""
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


@pytest.fixture
def small_prompt(dev_prompt, small_files):
    """At 128x128 px. ComfyUI supports CLIP-L and T5-XXL only at full size: the embedded text encoder replaces them."""
    prompt = graphs.with_input(dev_prompt, "KontextSampler", "steps", 1)
    prompt = graphs.with_choice(prompt, "KontextReference", "size", "keep ratio", megapixels=0.016)
    prompt["text encoders"] = {"class_type": "KontextLoader", "inputs": {"source": "embedded"}}
    prompt = graphs.with_input(prompt, "CLIPTextEncode", "clip", ["text encoders", 1])
    del prompt[graphs.find(prompt, "DualCLIPLoader")]
    return prompt


def test_it_runs_with_small_files_of_the_real_names(run_graph, small_prompt):
    assert saved_picture(run_graph(small_prompt), small_prompt).size == (128, 128)


def test_a_turn_knows_the_files_that_made_it(run_graph, small_prompt, store):
    prompt = graphs.with_input(small_prompt, "KontextSampler", "seed", 5)
    picture, decoded = ([graphs.find(prompt, kind), 0] for kind in ("LoadImage", "VAEDecode"))
    text = prompt[graphs.find(prompt, "CLIPTextEncode")]["inputs"]["text"]
    prompt["open"] = graphs.node(
        "KontextSession", session=store.name, continue_from="the pointer", first_picture=picture
    )
    prompt = graphs.with_input(prompt, "KontextReference", "image", ["open", 0])
    prompt["save"] = graphs.node("KontextSaveTurn", session=["open", 3], instruction=text, keep=False, image=decoded)
    run_graph(prompt)
    turn = store.turns(store.find(store.name).id)[1]
    assert (turn.instruction, turn.model, turn.seed) == (text, "flux1-dev-kontext_fp8_scaled.safetensors", "5")


def test_a_graph_of_an_earlier_version_still_runs(run_graph):
    """Saved when the layout was called uno and Kontext Accelerate had an input keep_from."""
    saved = json.loads((Path(__file__).parent / "saved" / "edit_and_keep.json").read_text(encoding="utf-8"))
    prompt = graphs.with_input(graphs.to_prompt(saved), "KontextSampler", "steps", 2)
    assert saved_picture(run_graph(prompt), prompt).size == (128, 128)


def test_an_unknown_layout_is_refused_before_the_run(run_graph, edit_graph):
    with pytest.raises(PromptRefused, match="choose one of offset, index, uxo"):
        run_graph(graphs.with_input(edit_graph(), "KontextContext", "layout", "stacked"))
