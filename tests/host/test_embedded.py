"""The embedded model behind the host's MODEL, CLIP and VAE: its reports, and its warnings about prompts."""

import importlib

import numpy as np
import pytest
import torch

from batch.graphs import node
from kontext_core import embedded


@pytest.fixture(scope="module")
def words(pack):
    """Four words that the text encoder knows."""
    _, clip, _ = pack["KontextLoader"].execute({"source": "embedded"}).result
    return clip.tokenizer.vocabulary.words[:4]


@pytest.fixture
def encode(run_graph):
    """`encode(text)`: the embedding, the pooled vector, and what the node shows."""

    def encode(text, node="CLIPTextEncode", **inputs):
        inputs = inputs or {"text": text}
        graph = {
            "loader": {"class_type": "KontextLoader", "inputs": {"source": "embedded"}},
            "text": {"class_type": node, "inputs": {"clip": ["loader", 1], **inputs}},
        }
        run = run_graph(graph)
        ((embedding, values),) = run.values["text"][0]
        shown = [event.data["text"] for event in run.events if event.type == "text" and event.data["node"] == "text"]
        return embedding, values["pooled_output"], "\n".join(shown)

    return encode


def same(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_known_text_is_encoded_without_a_word(encode, words):
    embedding, pooled, shown = encode(" ".join(words))
    assert embedding.shape == (1, 20, 128)
    assert pooled.shape == (1, 128)
    assert shown == ""


def test_the_order_of_words_counts(encode, words):
    assert not same(encode(" ".join(words)), encode(" ".join(reversed(words))))


def test_an_unknown_word_is_named_on_the_node_and_has_no_effect(encode, words):
    plain, strange = encode(" ".join(words)), encode(f"{' '.join(words)} quagga")
    assert "quagga" in strange[2]
    assert same(plain, strange)


PROBLEMS = {  # text, warnings
    "all known": ("make the circle red", None),
    "punctuation": ("make the circle red, please!", None),
    "Korean": ("원을 빨간색으로 바꿔", "does not know 3 of 3 words (원을, 빨간색으로, 바꿔): they have no effect"),
    "some of it": ("make the circle 빨간색", "does not know 1 of 4 words (빨간색)"),
    "twice": ("zebra zebra circle", "does not know 2 of 3 words (zebra)"),
    "emoji and braces": ("make {circle} red 😀", "reads no signs: {, }, 😀 have no effect"),
}


@pytest.mark.parametrize(("text", "said"), PROBLEMS.values(), ids=PROBLEMS)
def test_how_much_cannot_be_read_is_said(encode, run_graph, text, said):
    """On CLIP Text Encode, and in the report of Kontext Instruction, once."""
    fields = {"kind": "local", "kind.action": "remove", "kind.subject": "the circle"}
    fields |= {"kind.result": "", "kind.keep": ""}
    shown = encode(text)[2]
    assert shown == "" if said is None else said in shown
    graph = {
        "loader": {"class_type": "KontextLoader", "inputs": {"source": "embedded"}},
        "written": {
            "class_type": "KontextInstruction",
            "inputs": {**fields, "more": text, "clip": ["loader", 1]},
        },
    }
    run = run_graph(graph)
    report = run.shown["written"]["text"][0]
    assert ("does not know" in report or "no signs" in report) == (said is not None)
    assert "T5" not in report
    assert not [event for event in run.events if event.type == "text"]


def test_the_unknown_word_is_also_logged(encode, caplog):
    encode("quagga")
    assert any("quagga" in record.message for record in caplog.records if record.levelname == "WARNING")


@pytest.mark.parametrize("form", ["({}:1.5)", "(({}))", "({}:0.5)"], ids=["weight", "brackets", "less"])
def test_prompt_weights_have_no_effect_and_the_node_says_so(encode, words, form):
    plain = encode(" ".join(words))
    weighted = encode(" ".join([form.format(words[0]), *words[1:]]))
    assert same(plain, weighted)
    assert "no prompt weights" in weighted[2]


def test_words_beyond_the_end_are_counted(encode, words):
    assert "its last 1 words have no effect" in encode(" ".join(words * 5))[2]


def test_the_hosts_flux_text_node_works(encode, words):
    text = " ".join(words)
    flux = encode(None, "CLIPTextEncodeFlux", clip_l="", t5xxl=text, guidance=3.0)
    assert same(flux, encode(text))


def test_the_loader_says_what_it_found(run_graph):
    graph = {"loader": {"class_type": "KontextLoader", "inputs": {"source": "embedded"}}}
    (report,) = run_graph(graph).shown["loader"]["text"]
    assert "2 + 4 blocks, width 256, 2 heads" in report
    assert "16 channels" in report
    assert report.count(" MB") == 3
    weights, _ = embedded.load_autoencoder()
    assert f"16 channels, {4 * sum(w.numel() for w in weights.values()) / 1e6:.1f} MB" in report


def test_every_example_picture_can_be_edited(pack, run_graph):
    """All are RGB with a mask and differ; their sizes suit the autoencoder without resizing."""
    names = pack["KontextExample"].GET_NODE_INFO_V1()["input"]["required"]["picture"][1]["options"]
    assert names
    seen = set()
    for name in names:
        graph = {"picture": {"class_type": "KontextExample", "inputs": {"picture": name}}}
        image, mask = run_graph(graph).values["picture"]
        assert image.shape[0] == 1
        assert image.shape[3] == 3
        assert mask.shape == image.shape[:3]
        assert image.shape[1] % 16 == image.shape[2] % 16 == 0
        assert 0 <= image.min() < image.max() <= 1
        seen.add(image.numpy().tobytes())
    assert len(seen) == len(names)


def test_the_last_preview_has_the_colours_of_the_picture(edit_graph, run_graph):
    run = run_graph(edit_graph())
    *_, last = [event.data["image"] for event in run.events if event.type == "preview"]
    picture = run.values["picture_out"][0][0]
    assert np.abs(np.asarray(last) / 255 - picture.numpy()).mean() < 0.02  # 0.2 by a matrix that was fitted


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.29.9", False), ("0.3.75", False), ("0.30.0", True), ("0.31.0rc1", True), ("1.0", True)],
)
def test_an_old_comfyui_is_named(pack, version, accepted):
    package = pack["KontextLoader"].__module__.removesuffix(".nodes.loaders")
    requirements = importlib.import_module(f"{package}.host.requirements")
    if accepted:
        requirements.require_host(version)
        return
    with pytest.raises(RuntimeError, match=f"needs ComfyUI 0.30.0 or newer; this is {version}"):
        requirements.require_host(version)


VAE = {"vae": ["loader", 2]}
BEYOND = {  # size for a picture of 400x320 px, the model of the sizes: resulting size, and the nodes that warn
    "nearest trained size": ("nearest trained size", VAE, "144x112", []),
    "as is": ("as is", VAE, "400x320", ["crop", "frame", "reference", "sampler", "target"]),
    "as is, without the vae": ("as is", {}, "400x320", ["reference", "sampler"]),
}


@pytest.mark.parametrize(("size", "vae", "made", "warned"), BEYOND.values(), ids=BEYOND)
def test_a_picture_beyond_what_the_model_was_trained_for_is_named(
    edit_graph, run_graph, input_picture, size, vae, made, warned
):
    """On each node that makes one, once; a frame or a crop without the vae may be for any model."""
    graph = edit_graph(steps=1)
    graph["picture"]["inputs"]["image"] = input_picture(np.random.default_rng(1).random((320, 400, 3)))
    graph["reference"]["inputs"]["size"] = size
    graph["target"]["inputs"] |= vae
    given = {"image": ["picture", 0], "size": size, **vae}
    graph["frame"] = node("KontextFitFrame", fit="pad", margin="reflect", **given)
    graph["everywhere"] = node("SolidMask", value=1.0, width=400, height=320)
    graph["crop"] = node("KontextCropRegion", mask=["everywhere", 0], context=0.0, islands="one crop", **given)
    run = run_graph(graph)
    notices = [event.data for event in run.events if event.type == "text"]
    assert sorted(notice["node"] for notice in notices if "fall apart" in notice["text"]) == warned
    assert all(f"{made} px" in run.shown[name]["text"][0] for name in ("crop", "frame", "reference", "target"))
