"""What a graph says about how a turn was made."""

import pytest

from kontext_core.sessions.graph import how_made

GRAPH = {
    "1": {"class_type": "KontextLoader", "inputs": {"source": "files", "source.diffusion_model": "dev.safetensors"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "first.png"}},
    "3": {"class_type": "KontextSession", "inputs": {"session": "a", "first_picture": ["2", 0]}},
    "4": {"class_type": "PrimitiveInt", "inputs": {"value": 7}},
    "5": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "image": ["3", 0], "seed": ["4", 0], "steps": 3}},
    "6": {"class_type": "Upscaler", "inputs": {"image": ["5", 0], "model_name": "esrgan.pth"}},
    "7": {"class_type": "KontextSaveTurn", "inputs": {"session": ["3", 3], "image": ["5", 0], "keep": True}},
    "8": {"class_type": "Sampler", "inputs": {"image": ["7", 0], "seed": 9}},
    "9": {"class_type": "KontextSaveTurn", "inputs": {"session": ["7", 2], "image": ["8", 0], "keep": True}},
    "10": {"class_type": "KontextHosted", "inputs": {"provider": "fal", "provider.model": "pro", "seed": 1}},
    "11": {"class_type": "KontextSaveTurn", "inputs": {"session": ["3", 3], "image": ["10", 0]}},
    "12": {"class_type": "KontextSaveTurn", "inputs": {"session": ["3", 3], "image": ["2", 0], "instruction": "x"}},
}
MADE = {
    "7": ("7", "dev.safetensors", {"7", "5", "1", "4"}),
    "9": ("9", "", {"9", "8"}),
    "11": ("1", "fal pro", {"10"}),
    "12": (None, "", {"12", "2"}),
}


@pytest.mark.parametrize("node", MADE)
def test_a_graph_says_how_a_turn_was_made(node):
    seed, settings, model = how_made(GRAPH, node)
    assert (seed, model, set(settings)) == MADE[node]
    for each, values in settings.items():
        typed = {name: value for name, value in GRAPH[each]["inputs"].items() if not isinstance(value, list)}
        assert values == {"type": GRAPH[each]["class_type"], "inputs": typed}
