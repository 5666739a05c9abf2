"""Graphs: conversion of the browser's format to the server's, and edits of single inputs."""

import copy
import json
from pathlib import Path

import pytest

from batch import ROOT, graphs

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def widget(name, link=None):
    return {"name": name, "type": "ANY", "link": link, "widget": {"name": name}}


def socket(name, link):
    return {"name": name, "type": "ANY", "link": link}


LOADER = {"id": 1, "type": "Loader", "inputs": [widget("file")], "widgets_values": ["a.safetensors"]}
SAMPLER = {
    "id": 7,
    "type": "Sampler",
    "mode": 0,
    "inputs": [
        socket("model", 3),
        widget("seed"),
        widget("size"),
        widget("size.megapixels"),
        socket("mask", None),
    ],
    "widgets_values": [5, "randomize", "keep ratio", 1.0],
}
NOTE = {"id": 9, "type": "MarkdownNote", "inputs": [], "widgets_values": ["read me"]}
GRAPH = {"nodes": [LOADER, SAMPLER, NOTE], "links": [[3, 1, 2, 7, 0, "MODEL"]]}
PROMPT = {
    "1": {"class_type": "Loader", "inputs": {"file": "a.safetensors"}},
    "7": {
        "class_type": "Sampler",
        "inputs": {"model": ["1", 2], "seed": 5, "size": "keep ratio", "size.megapixels": 1.0},
    },
}


def changed(node_id, **values):
    """GRAPH with some of a node's entries replaced."""
    graph = copy.deepcopy(GRAPH)
    next(node for node in graph["nodes"] if node["id"] == node_id).update(values)
    return graph


def test_widgets_links_and_notes():
    assert graphs.to_prompt(GRAPH) == PROMPT


@pytest.mark.parametrize(
    ("values", "seed"),
    [([5, "fixed", "as is", 1.0], 5), ([6, "as is", 1.0], 6)],
    ids=["with what happens after a run", "without"],
)
def test_the_value_after_a_seed_is_the_browsers(values, seed):
    inputs = graphs.to_prompt(changed(7, widgets_values=values))["7"]["inputs"]
    assert (inputs["seed"], inputs["size"], inputs["size.megapixels"]) == (seed, "as is", 1.0)


def test_a_link_wins_over_the_value_of_its_widget():
    inputs = [widget("seed"), widget("size", link=3), widget("size.megapixels")]
    assert graphs.to_prompt(changed(7, inputs=inputs))["7"]["inputs"]["size"] == ["1", 2]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (PROMPT, "no graph as the browser saves it"),
        (changed(7, mode=2), r"Sampler \(node 7\) is muted"),
        (changed(1, mode=4), r"Loader \(node 1\) is bypassed"),
        (GRAPH | {"definitions": {"subgraphs": [{"id": "Loader"}]}}, r"Loader \(node 1\) is a subgraph"),
        (changed(7, widgets_values=[5, "fixed", "as is"]), "2 widget values for 3 widgets"),
        (changed(1, widgets_values=["a", "b"]), "2 widget values for 1 widgets"),
        (GRAPH | {"links": []}, "link 3 of input 'model' comes from no node"),
        (GRAPH | {"links": [[3, 9, 0, 7, 0, "MODEL"]]}, "link 3 of input 'model' comes from no node"),
    ],
    ids=["API format", "muted", "bypassed", "subgraph", "too few", "too many", "no such link", "from a note"],
)
def test_what_cannot_be_converted_is_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        graphs.to_prompt(graph)


def test_edits_change_one_thing_and_leave_the_original():
    before = copy.deepcopy(PROMPT)
    edited = graphs.with_input(PROMPT, "Sampler", "seed", 8)
    assert edited["7"]["inputs"] == PROMPT["7"]["inputs"] | {"seed": 8}
    assert edited["1"] == PROMPT["1"]
    assert before == PROMPT


def test_a_choice_brings_its_own_inputs_and_drops_those_of_the_last():
    edited = graphs.with_choice(PROMPT, "Sampler", "size", "width x height", width=64, height=32)
    sizes = {name: value for name, value in edited["7"]["inputs"].items() if name.startswith("size")}
    assert sizes == {"size": "width x height", "size.width": 64, "size.height": 32}


def test_a_replaced_node_keeps_its_place():
    edited = graphs.with_node(PROMPT, "Loader", "OtherLoader", path="b")
    assert edited == PROMPT | {"1": {"class_type": "OtherLoader", "inputs": {"path": "b"}}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: graphs.with_input(PROMPT, "Sampler", "sed", 8), r"Sampler \(node 7\) has no input 'sed'"),
        (lambda: graphs.with_input(PROMPT, "Nothing", "seed", 8), "has 0 nodes of type Nothing"),
        (
            lambda: graphs.with_node(PROMPT | {"8": PROMPT["1"]}, "Loader", "Other"),
            "has 2 nodes of type Loader",
        ),
        (lambda: graphs.with_choice(PROMPT, "Sampler", "sise", "as is"), "has no input 'sise'"),
    ],
    ids=["unknown input", "unknown type", "ambiguous type", "unknown choice"],
)
def test_edits_of_what_is_not_there_are_refused(edit, message):
    with pytest.raises(ValueError, match=message):
        edit()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_converts(path: Path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = graphs.to_prompt(graph)
    links = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert len(links) == len(graph["links"])
