"""How a turn was made, read from its graph in ComfyUI's API format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]  # node id -> {"class_type", "inputs"}

BEGINS = (
    "KontextSession",
    "KontextSaveTurn",
)  # a turn's graph begins here; nodes before it are not settings of the turn
SEEDS = ("seed", "noise_seed")
MODELS = ("diffusion_model", "unet_name", "ckpt_name", "model_name", "model")  # inputs that name a model's file


def how_made(graph: Graph, node: str) -> tuple[str | None, dict[str, Any], str]:
    """The seed in decimal (None: none found), the settings, and the model's name ("": none found).

    Settings are {node id: {"type", "inputs"}} of the node and of everything that it depends on, back to the previous
    turn, with the values that the user typed or chose. Of several seeds or models the nearest to the node counts.
    """
    settings, seed, model = {}, None, ""
    for each in _upstream(graph, node):
        kind, inputs = graph[each]["class_type"], graph[each]["inputs"]
        typed = {name: value for name, value in inputs.items() if not _is_link(value)}
        if typed:
            settings[each] = {"type": kind, "inputs": typed}
        seed = seed or _seed(graph, inputs)
        model = model or _model(typed)
    return seed, settings, model


def _upstream(graph: Graph, node: str) -> Iterator[str]:
    """The node and its dependencies, nearest first."""
    line, seen = [node], {node}
    for each in line:
        yield each
        sources = [value[0] for value in graph[each]["inputs"].values() if _is_link(value)]
        new = [s for s in sources if s in graph and s not in seen and graph[s]["class_type"] not in BEGINS]
        seen.update(new)
        line += dict.fromkeys(new)


def _seed(graph: Graph, inputs: Mapping[str, Any]) -> str | None:
    for name in SEEDS:
        value = inputs.get(name)
        if isinstance(value, list) and _is_link(value):  # to a node that holds only a number
            value = graph.get(value[0], {}).get("inputs", {}).get("value")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


def _model(typed: Mapping[str, Any]) -> str:
    names = {name.split(".")[-1]: value for name, value in typed.items()}
    found = next((names[name] for name in MODELS if isinstance(names.get(name), str)), "")
    if "provider" in names:
        return f"{names['provider']} {found}".strip()
    return found or ("embedded" if names.get("source") == "embedded" else "")


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
