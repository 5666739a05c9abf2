"""The demo against a running ComfyUI: the user's own picture, and a node's error on one line."""

import io
import json

import pytest
from PIL import Image

from tools import Failure, demo


@pytest.fixture
def request_of(tmp_path):
    """`request_of((width, height), instruction)`: the demo's request for a picture of that size, in 2 steps."""

    def make(size, instruction="make it night"):
        path = tmp_path / "own.png"
        Image.new("RGBA", size, (200, 30, 30, 90)).save(path)
        return demo.request(path, instruction, 1, 2)

    return make


def test_a_large_picture_is_edited_at_the_models_scale(client, request_of, capsys):
    prompt, before, _ = request_of((900, 600))
    edited = Image.open(io.BytesIO(demo.result(client, prompt, before)))
    assert edited.size == (160, 112)
    assert json.loads(edited.info["prompt"]).keys() == prompt.keys()  # the file can be dropped on ComfyUI's canvas
    shown = capsys.readouterr().out
    assert "900x600" in shown
    assert "KontextSampler 2/2" in shown


def test_a_word_that_the_model_does_not_know_is_shown(client, request_of, capsys):
    prompt, before, _ = request_of((128, 128), "make the circle octarine")
    demo.result(client, prompt, before)
    assert "octarine" in capsys.readouterr().out


def test_a_nodes_error_names_the_node(client, request_of):
    prompt, before, _ = request_of((8, 8))
    with pytest.raises(Failure, match=r"^KontextReference \(node \d+\): image is 8x8 px"):
        demo.result(client, prompt, before)
