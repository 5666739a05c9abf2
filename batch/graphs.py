"""ComfyUI graphs: conversion from the browser's format (UI) to the server's (API), and edits.

UI format: nodes with positional `widgets_values`, and a table of links. API format: node id -> {"class_type",
"inputs"}, where an input is a value or a link [node id, output slot]. The browser converts with the nodes'
schemas; here every node's own `inputs` list names its widgets in order, which needs no schema.
"""

from __future__ import annotations

import copy
from typing import Any

Prompt = dict[str, dict[str, Any]]

NOTES = ("Note", "MarkdownNote")  # exist only in the browser
MODES = {2: "muted", 4: "bypassed"}
SEEDS = (
    "seed",
    "noise_seed",
)  # the browser stores a further value after these: the control after a run
AFTER_SEED = ("fixed", "increment", "decrement", "randomize")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node in API format."""
    return {"class_type": class_type, "inputs": inputs}


def to_prompt(graph: dict[str, Any]) -> Prompt:
    """The API format of a UI-format graph. Raises ValueError for what has no equivalent, naming the node.

    Refused are muted and bypassed nodes, subgraphs, links from nowhere, and widget values that do not match
    the node's named widgets. Notes are left out.
    """
    if not isinstance(graph.get("nodes"), list) or not isinstance(graph.get("links"), list):
        raise ValueError("this is no graph as the browser saves it: it has no lists `nodes` and `links`")
    subgraphs = {subgraph["id"] for subgraph in graph.get("definitions", {}).get("subgraphs", [])}
    nodes = {node["id"]: node for node in graph["nodes"] if node["type"] not in NOTES}
    sources = {link[0]: (link[1], link[2]) for link in graph["links"]}
    prompt: Prompt = {}
    for node in nodes.values():
        if node["type"] in subgraphs:
            raise ValueError(f"{_name(node)} is a subgraph; unpack it in the browser first")
        if node.get("mode", 0) in MODES:
            raise ValueError(f"{_name(node)} is {MODES[node['mode']]}; switch it on or take it out of the graph")
        inputs = widget_values(node)
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs[slot["name"]] = _source(node, slot, sources, nodes)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        if node.get("title"):
            prompt[str(node["id"])]["_meta"] = {"title": node["title"]}
    return prompt


def with_prompt_values(graph: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """The UI-format graph with the values of a prompt made from it. Nodes missing from the prompt stay as saved.

    A node may have another type in the prompt if all its widgets are in the prompt's inputs.
    """
    graph = copy.deepcopy(graph)
    for node in graph["nodes"]:
        content = prompt.get(str(node["id"]))
        if content is None:
            continue
        literals = {name: value for name, value in content["inputs"].items() if not isinstance(value, list)}
        if node["type"] != content["class_type"]:
            _change_type(node, content["class_type"], literals)
        widgets = widget_values(node) | literals
        names = [slot["name"] for slot in node.get("inputs", []) if "widget" in slot]
        node["inputs"] = node.get("inputs", []) + [_widget(name) for name in literals if name not in names]
        names += [name for name in literals if name not in names]
        values = [[widgets[name], "fixed"] if name in SEEDS else [widgets[name]] for name in names]
        node["widgets_values"] = [value for pair in values for value in pair]
    return graph


def _widget(name: str) -> dict[str, Any]:
    return {"name": name, "type": "*", "link": None, "widget": {"name": name}}


def _change_type(node: dict[str, Any], class_type: str, literals: dict[str, Any]) -> None:
    node["type"] = class_type
    node["properties"] = {"Node name for S&R": class_type}
    node["inputs"] = [_widget(name) for name in literals]
    node["widgets_values"] = list(literals.values())


def upstream(prompt: Prompt, node: str) -> Prompt:
    """The node and everything that it depends on."""
    found: Prompt = {}
    waiting = [node]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = prompt[name]
            waiting += [value[0] for value in prompt[name]["inputs"].values() if is_link(value)]
    return {name: content for name, content in prompt.items() if name in found}


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _name(node: dict[str, Any]) -> str:
    return f"{node['type']} (node {node['id']})"


def widget_values(node: dict[str, Any]) -> dict[str, Any]:
    """A node's widget values by name."""
    names = [slot["name"] for slot in node.get("inputs", []) if "widget" in slot]
    values = list(node.get("widgets_values") or [])
    for place, name in enumerate(names):
        if name in SEEDS and place + 1 < len(values) and values[place + 1] in AFTER_SEED:
            del values[place + 1]
    if len(names) != len(values):
        raise ValueError(f"{_name(node)} has {len(values)} widget values for {len(names)} widgets: {names}")
    return dict(zip(names, values, strict=True))


def _source(node: dict[str, Any], slot: dict[str, Any], sources: dict, nodes: dict) -> list[Any]:
    origin, output = sources.get(slot["link"], (None, 0))
    if origin not in nodes:
        raise ValueError(f"{_name(node)}: link {slot['link']} of input {slot['name']!r} comes from no node")
    return [str(origin), output]


def find(prompt: Prompt, class_type: str) -> str:
    """The id of the only node of a type. Raises ValueError unless there is exactly one."""
    ids = [node for node, content in prompt.items() if content["class_type"] == class_type]
    if len(ids) != 1:
        raise ValueError(f"the graph has {len(ids)} nodes of type {class_type}; exactly one is needed")
    return ids[0]


def with_input(prompt: Prompt, class_type: str, name: str, value: Any) -> Prompt:
    """The prompt with one input set on its only node of a type. Raises ValueError for an unknown input."""
    node = find(prompt, class_type)
    inputs = prompt[node]["inputs"]
    if name not in inputs:
        raise ValueError(f"{class_type} (node {node}) has no input {name!r}, only {sorted(inputs)}")
    return prompt | {node: prompt[node] | {"inputs": inputs | {name: value}}}


def with_choice(prompt: Prompt, class_type: str, name: str, choice: str, **inputs: Any) -> Prompt:
    """The prompt with a choice that has its own inputs: `size` = "keep ratio", `size.megapixels` = 1.

    Inputs of the previous choice are removed. Raises ValueError like `with_input`.
    """
    chosen = with_input(prompt, class_type, name, choice)
    node = find(chosen, class_type)
    kept = {key: value for key, value in chosen[node]["inputs"].items() if not key.startswith(f"{name}.")}
    own = {f"{name}.{key}": value for key, value in inputs.items()}
    return chosen | {node: chosen[node] | {"inputs": kept | own}}


def with_node(prompt: Prompt, class_type: str, new_type: str, **inputs: Any) -> Prompt:
    """The prompt with its only node of a type replaced by one of another type that has the same outputs."""
    return prompt | {find(prompt, class_type): {"class_type": new_type, "inputs": inputs}}
