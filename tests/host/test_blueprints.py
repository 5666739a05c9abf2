"""Every blueprint in subgraphs/ runs in ComfyUI, and keeps what it promises."""

import json

import numpy as np
import pytest
import torch
from blueprint_graphs import prompt_of
from PIL import Image

from batch import ROOT, graphs
from batch.events import PromptRefused
from stand_in import png
from tools import blueprints

SIZE = 200, 120  # px


@pytest.fixture
def pictures(input_picture):
    """Nodes: a picture of shapes that is not square, and a mask of its middle."""
    with Image.open(ROOT / "kontext_core" / "embedded" / "pictures" / "scene.png") as scene:
        pixels = np.asarray(scene.convert("RGB").resize(SIZE)) / 255
    middle = np.zeros(SIZE[::-1])
    middle[40:80, 60:140] = 1
    return {
        "image": graphs.node("LoadImage", image=input_picture(pixels, "picture.png")),
        "mask": graphs.node("LoadImageMask", image=input_picture(middle, "middle.png"), channel="red"),
    }


def expanded(name, pictures, **values):
    """A blueprint with every picture and mask connected, in four steps."""
    (blueprint,) = (one for one in blueprints.ALL if one.name == name)
    links = dict.fromkeys(blueprint.pictures, ["image", 0]) | dict.fromkeys(blueprint.masks, ["mask", 0])
    connected = {node: pictures[node] for node, _ in links.values()}
    return connected | prompt_of(name, **{"steps": 4, **links, **values})


@pytest.mark.parametrize("name", [blueprint.name for blueprint in blueprints.ALL])
def test_it_runs_at_once(run_graph, pictures, name):
    prompt = expanded(name, pictures)
    values = run_graph(prompt).values
    assert values[graphs.find(prompt, "KontextSampler")]
    assert not any(content["class_type"] == "KontextHosted" for node, content in prompt.items() if node in values)


KEEPS = {"Kontext Edit": "KontextPreserve", "Kontext Edit Region": "KontextStitchRegion"}  # what ends it: picture, mask


@pytest.mark.parametrize(("name", "last"), KEEPS.items(), ids=KEEPS)
def test_a_picture_keeps_its_size_and_what_the_edit_left_alone(run_graph, pictures, name, last):
    prompt = expanded(name, pictures)
    values = run_graph(prompt).values
    (original, *_), (result, mask, *_) = values["image"], values[graphs.find(prompt, last)]
    kept = mask == 0
    assert result.shape == original.shape == (1, SIZE[1], SIZE[0], 3)
    assert torch.equal(result[kept], original[kept]) and 0.2 < kept.float().mean() < 1
    assert not torch.equal(result, original)


@pytest.mark.parametrize("switch", [False, True], ids=["local", "hosted"])
def test_a_switch_decides_who_makes_the_picture(hosted, pictures, run_graph, switch):
    """The result has the picture's own size and pixels, whoever makes it, and the other branch does not run."""
    prompt = expanded("Kontext Edit", pictures, instruction="make it grey", hosted=switch, seed=9)
    hosted.picture = png(1328, 800)
    values = run_graph(prompt).values
    original, (result, mask, *_) = values["image"][0], values[graphs.find(prompt, "KontextPreserve")]
    assert result.shape == original.shape and torch.equal(result[mask == 0], original[mask == 0])
    assert (graphs.find(prompt, "KontextLoader") in values) == (not switch)
    posted = [json.loads(request.body) for request in hosted.of("POST")]
    assert [(body["prompt"], body["seed"]) for body in posted] == switch * [("make it grey", 9)]


def test_the_files_chosen_inside_count_when_files_is_chosen_outside(run_graph, pictures):
    prompt = expanded("Kontext Edit", pictures, model="files")
    prompt[graphs.find(prompt, "KontextLoader")]["inputs"]["source.vae"] = "mine.safetensors"
    with pytest.raises(PromptRefused) as refused:
        run_graph(prompt)
    ((_, report),) = refused.value.node_errors.items()
    missing = {error["extra_info"]["input_name"]: error["extra_info"]["received_value"] for error in report["errors"]}
    assert missing.keys() == {f"source.{name}" for name in ("diffusion_model", "clip_l", "t5xxl", "vae")}
    assert missing["source.vae"] == "mine.safetensors"
