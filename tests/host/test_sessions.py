"""Sessions through the real executor: continuing, keeping and refusals."""

import copy
import json

import comfy.cli_args
import numpy as np
import pytest
import torch
from PIL import Image

from batch import graphs
from batch.events import ExecutionFailed


@pytest.fixture
def turn_graph(input_picture):
    """`turn_graph(name, **save)`: a session, an edit without a model, and the node that stores it."""
    picture = input_picture(np.random.default_rng(0).random((48, 64, 3)), "session.png")

    def build(name, edit="flip", **save):
        edits = {
            "flip": graphs.node("ImageFlip", image=["open", 0], flip_method="x-axis: vertically"),
            "invert": graphs.node("ImageInvert", image=["open", 0]),
            "patch": graphs.node(
                "ImageCompositeMasked",
                destination=["open", 0],
                source=["patch colour", 0],
                x=8,
                y=8,
                resize_source=False,
            ),
        }
        return {
            "picture": graphs.node("LoadImage", image=picture),
            "open": graphs.node(
                "KontextSession", session=name, continue_from="the pointer", first_picture=["picture", 0]
            ),
            "patch colour": graphs.node("EmptyImage", width=16, height=16, batch_size=1, color=0xFF0000),
            "edit": edits[edit],
            "save": graphs.node(
                "KontextSaveTurn",
                **{"session": ["open", 3], "instruction": edit, "keep": False, "image": ["edit", 0], **save},
            ),
        }

    return build


def with_value(graph, node, **values):
    changed = copy.deepcopy(graph)
    changed[node]["inputs"].update(values)
    return changed


def run(executor, graph):
    return executor(copy.deepcopy(graph))  # the host writes into the graph that it is given


def texts(run, node):
    return "\n".join(run.shown[node]["text"])


def notices(run):
    return [event.data["text"] for event in run.events if event.type == "text"]


# The chain


def test_each_run_goes_on_from_the_last(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    values = [run(run_graph, graph).values for _ in range(3)]
    session = store.find(store.name)
    turns = store.turns(session.id)
    assert [turn.parent for turn in turns] == [None, *[turn.id for turn in turns[:-1]]]
    assert session.pointer == turns[-1].id
    for before, after in zip(values, values[1:], strict=False):
        torch.testing.assert_close(after["open"][0], before["save"][0], rtol=0, atol=0)
    torch.testing.assert_close(values[0]["open"][0], values[1]["edit"][0], rtol=0, atol=0)  # flipped twice
    assert values[2]["open"][4] == "0: the first picture\n1: flip\n2: flip"


def test_the_pointer_decides_what_runs_again(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    run(run_graph, graph)
    session = store.find(store.name)
    root, first = store.turns(session.id)
    fixed = with_value(graph, "open", **{"continue_from": "a turn", "continue_from.turn": 0})
    run(run_graph, fixed)
    assert not executed(run(run_graph, fixed), "open", "edit", "save")  # nothing has moved: all from the cache
    elsewhere = with_value(fixed, "patch colour", color=0)  # another graph for the metadata
    assert not executed(run(run_graph, elsewhere), "open", "edit", "save")
    store.move(root.id)
    assert executed(run(run_graph, fixed), "open", "edit", "save") == ["save"]  # to run is to go there again
    assert store.session(session.id).pointer == first.id
    assert len(store.turns(session.id)) == 2


def executed(ran, *names):
    done = {event.data["node"] for event in ran.events if event.type == "executing"}
    return [name for name in names if name in done]


def test_a_branch_begins_where_the_pointer_was_put(run_graph, store, turn_graph):
    run(run_graph, turn_graph(store.name))
    session = store.find(store.name)
    root, first = store.turns(session.id)
    store.move(root.id)
    run(run_graph, turn_graph(store.name, "invert"))
    *_, branch = store.turns(session.id)
    assert (branch.parent, branch.number, branch.instruction) == (root.id, 2, "invert")
    np.testing.assert_array_equal(store.picture(branch), 255 - store.picture(root))


def test_two_turns_in_one_run(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    graph["edit again"] = graphs.node("ImageInvert", image=["save", 0])
    graph["save again"] = graphs.node(
        "KontextSaveTurn", session=["save", 2], instruction="invert", keep=True, image=["edit again", 0]
    )
    run(run_graph, graph)
    turns = store.turns(store.find(store.name).id)
    assert [turn.instruction for turn in turns] == ["", "flip", "invert"]
    assert turns[2].parent == turns[1].id


# What is kept


def test_what_did_not_change_is_the_first_pictures_bit_for_bit(run_graph, store, turn_graph):
    graph = turn_graph(store.name, "patch", keep=True)
    noise = graphs.node("ImageAddNoise", image=["edit", 0], seed=1, strength=0.01)  # what a model does to the rest
    graph["drift"], graph["save"]["inputs"]["image"] = noise, ["drift", 0]
    masks = []
    for number in range(8):
        place = with_value(graph, "edit", x=(number * 7) % 40, y=(number * 5) % 28)
        masks.append(run(run_graph, with_value(place, "drift", seed=number)).values["save"][1][0].numpy())
    session = store.find(store.name)
    root, *turns = store.turns(session.id)
    assert len(turns) == 8
    touched = np.zeros(masks[0].shape, bool)
    for turn, mask in zip(turns, masks, strict=True):
        assert not turn.is_global
        np.testing.assert_array_equal(store.mask(turn) > 0, mask > 0)
        touched |= mask > 0
        np.testing.assert_array_equal(store.picture(turn)[~touched], store.picture(root)[~touched])
    assert 0.2 < (~touched).mean() < 1


def test_without_keeping_a_turn_is_stored_as_it_is(run_graph, store, turn_graph):
    graph = turn_graph(store.name, "patch", keep=False)
    graph["drift"] = graphs.node("ImageAddNoise", image=["edit", 0], seed=1, strength=0.01)
    graph["save"]["inputs"]["image"] = ["drift", 0]
    ran = run(run_graph, graph)
    root, turn = store.turns(store.find(store.name).id)
    assert (store.picture(turn) != store.picture(root)).any(-1).mean() > 0.5
    assert texts(ran, "save")


def test_an_edit_of_the_whole_picture_passes_and_is_marked(run_graph, store, turn_graph):
    ran = run(run_graph, turn_graph(store.name, "invert", keep=True))
    root, turn = store.turns(store.find(store.name).id)
    assert turn.is_global
    assert "whole picture" in texts(ran, "save")
    np.testing.assert_array_equal(store.picture(turn), 255 - store.picture(root))
    assert (store.mask(turn) == 255).all()


def test_a_batch_becomes_siblings(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    graph["batch"] = graphs.node("ImageBatch", image1=["edit", 0], image2=["open", 0])
    ran = run(run_graph, with_value(graph, "save", image=["batch", 0]))
    root, *turns = store.turns(store.find(store.name).id)
    assert [turn.parent for turn in turns] == [root.id] * 2
    assert store.find(store.name).pointer == turns[0].id
    assert ran.values["save"][0].shape == (2, 48, 64, 3)


def test_a_latent_is_decoded_and_comes_back(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    graph["loader"] = graphs.node("KontextLoader", source="embedded")
    graph["encode"] = graphs.node("VAEEncode", pixels=["open", 0], vae=["loader", 2])
    del graph["save"]["inputs"]["image"]
    run(run_graph, with_value(graph, "save", latent=["encode", 0], vae=["loader", 2]))
    turn = store.turns(store.find(store.name).id)[1]
    assert turn.latent
    del graph["save"], graph["edit"]
    graph["decode"] = graphs.node("VAEDecode", samples=["open", 2], vae=["loader", 2])
    decoded = run(run_graph, graph).values["decode"][0][0]
    np.testing.assert_array_equal((decoded.numpy() * 255).round().astype(np.uint8), store.picture(turn))


def test_how_a_turn_was_made_is_stored_with_it(run_graph, store, edit_graph):
    graph = edit_graph(seed=(1 << 64) - 1, steps=1)
    graph["open"] = graphs.node(
        "KontextSession", session=store.name, continue_from="the pointer", first_picture=["picture", 0]
    )
    graph["reference"]["inputs"]["image"] = ["open", 0]
    graph["save"] = graphs.node(
        "KontextSaveTurn", session=["open", 3], instruction="make the circle red", keep=True, image=["picture_out", 0]
    )
    run(run_graph, graph)
    turn = store.turns(store.find(store.name).id)[1]
    assert (turn.seed, turn.model, turn.instruction) == (str((1 << 64) - 1), "embedded", "make the circle red")
    assert turn.settings["sampler"] == {
        "type": "KontextSampler",
        "inputs": {"seed": (1 << 64) - 1, "steps": 1, "guidance": 2.5, "cfg": 1.0, "solver": "euler", "denoise": 1.0},
    }
    assert not {"open", "picture"} & set(turn.settings)
    with Image.open(store.file(turn, ".png")) as file:
        assert json.loads(file.text["prompt"])["text"]["inputs"]["text"] == "make the circle red"


def test_no_file_has_metadata_where_the_user_wants_none(run_graph, store, turn_graph, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    run(run_graph, turn_graph(store.name))
    for turn in store.turns(store.find(store.name).id):
        with Image.open(store.file(turn, ".png")) as file:
            assert not file.text


# What is refused, and what is said

WRONG = {
    "no picture": ({"open": {"first_picture": None}}, "none is called .* Connect first_picture"),
    "no name": ({"open": {"session": " "}}, "name of 1 to 200 characters"),
    "no such turn": ({"open": {"continue_from": "a turn", "continue_from.turn": 9}}, "has no turn 9; it has 0"),
    "nothing to store": ({"save": {"image": None}}, "image is not connected"),
    "another size": (
        {"save": {"image": ["patch colour", 0], "keep": True}},
        "image is 16x16 px, the turn before 64x48 px.*Restore Frame",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_said_on_the_node(run_graph, store, turn_graph, changes, message):
    graph = turn_graph(store.name)
    for node, values in changes.items():
        for name, value in values.items():
            graph[node]["inputs"].pop(name) if value is None else graph[node]["inputs"].update({name: value})
    with pytest.raises(ExecutionFailed, match=f"(?s){message}"):
        run(run_graph, graph)


def test_a_turn_without_a_latent_says_so_where_one_is_used(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    graph["loader"] = graphs.node("KontextLoader", source="embedded")
    graph["decode"] = graphs.node("VAEDecode", samples=["open", 2], vae=["loader", 2])
    ran = run(run_graph, graph)
    (error,) = [event.data for event in ran.events if event.type == "execution_error"]
    assert "turn 0 of" in error["exception_message"] and "has no latent" in error["exception_message"]
    assert error["node_id"] == "decode"
    assert len(store.turns(store.find(store.name).id)) == 2  # the rest of the graph ran


@pytest.mark.parametrize("content", [None, b"rubbish"], ids=["deleted", "damaged"])
def test_a_lost_latent_fails_only_where_it_is_used(run_graph, store, turn_graph, content):
    graph = turn_graph(store.name)
    graph["latent"] = graphs.node("EmptySD3LatentImage", width=64, height=48, batch_size=1)
    run(run_graph, with_value(graph, "save", latent=["latent", 0]))
    turn = store.turns(store.find(store.name).id)[1]
    file = store.file(turn, ".safetensors")
    file.unlink() if content is None else file.write_bytes(content)
    graph["use"] = graphs.node("PreviewAny", source=["open", 2])
    ran = run(run_graph, graph)
    (error,) = [event.data for event in ran.events if event.type == "execution_error"]
    assert f"the latent of turn 1: the file {file}" in error["exception_message"]
    assert error["node_id"] == "use"
    assert store.turns(store.find(store.name).id)[2].parent == turn.id  # the rest of the graph ran


def test_a_lost_first_picture_leaves_the_other_turns_usable(run_graph, store, turn_graph):
    graph = turn_graph(store.name)
    run(run_graph, graph)
    root, turn = store.turns(store.find(store.name).id)
    store.file(root, ".png").unlink()
    run(run_graph, graph)
    assert store.turns(store.find(store.name).id)[2].parent == turn.id
    store.move(root.id)
    with pytest.raises(ExecutionFailed, match="turn 0: the file .* is missing"):
        run(run_graph, graph)


def test_another_first_picture_is_not_used_silently(run_graph, store, turn_graph, input_picture):
    graph = turn_graph(store.name)
    run(run_graph, graph)
    other = input_picture(np.zeros((48, 64, 3)), "other.png")
    ran = run(run_graph, with_value(graph, "picture", image=other))
    assert any("is not used. Type a new session name" in text for text in notices(ran))
    again = run(run_graph, with_value(graph, "picture", image="session.png"))
    assert notices(again) == []


def test_a_store_above_its_limit_is_said(run_graph, store, turn_graph):
    store.set_limit(1)
    try:
        ran = run(run_graph, turn_graph(store.name))
    finally:
        store.set_limit(10**10)
    assert any("more than the limit" in text for text in notices(ran))


def test_a_run_tells_the_browsers(run_graph, store, turn_graph):
    ran = run(run_graph, turn_graph(store.name))
    changed = [event.data for event in ran.events if event.type == "kontext.sessions"]
    (start,) = [event.data for event in ran.events if event.type == "execution_start"]
    of_this_run = {"session": store.find(store.name).id, "prompt_id": start["prompt_id"]}
    assert changed == [of_this_run] * 2  # begun, and a turn more
