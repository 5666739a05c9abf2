"""The embedded model's files and its parts."""

import json

import pytest
import torch

from kontext_core import embedded
from kontext_core.embedded.autoencoder import Autoencoder
from kontext_core.embedded.text_encoder import END, PAD, TOKENS, TextEncoder, Vocabulary
from kontext_core.geometry import Geometry, read_geometry

LOADERS = {
    "transformer": embedded.load_transformer,
    "autoencoder": embedded.load_autoencoder,
    "text_encoder": embedded.load_text_encoder,
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(json.loads(embedded.load_text_encoder()[1]["vocabulary"]))


def test_the_transformer_is_a_flux_checkpoint_of_the_stated_geometry():
    weights, metadata = embedded.load_transformer()
    stated = json.loads(metadata["geometry"])
    expected = Geometry(**stated | {"axes_dim": tuple(stated["axes_dim"])})
    assert read_geometry({name: tuple(tensor.shape) for name, tensor in weights.items()}) == expected


@pytest.mark.parametrize("name", LOADERS)
def test_weights_are_finite_halves_with_their_history(name):
    weights, metadata = LOADERS[name]()
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in weights.values())
    assert int(metadata["samples"]) > 50_000
    assert metadata["world"] and metadata["license"] == "GPL-3.0-or-later"
    assert set(json.loads(metadata["evaluation"])) >= {"background", "global", "recolour", "remove"}


def test_no_file_is_larger_than_8_mb_and_all_together_40():
    sizes = [path.stat().st_size for path in embedded.FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) <= 8_000_000
    assert sum(sizes) <= 40_000_000


def test_saved_shards_are_joined_again_and_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SHARD_BYTES", 100)
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    tensors = {f"t{i}": torch.full((30,), float(i)) for i in range(5)}
    embedded.save("thing", {"old": torch.zeros(500)} | tensors, {"samples": "1"}, tmp_path)
    paths = embedded.save("thing", tensors, {"samples": "2"}, tmp_path)
    assert len(paths) == 5 and sorted(tmp_path.iterdir()) == sorted(paths)
    loaded, metadata = embedded._load("thing")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {n: t.tolist() for n, t in tensors.items()}
    assert metadata == {"samples": "2"}


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 160), (8, 8)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_autoencoder_maps_pictures_to_an_eighth_and_back(size):
    model = Autoencoder()
    model.load_state_dict(embedded.load_autoencoder()[0])
    z = model.encode(torch.zeros(2, 3, *size))
    assert z.shape == (2, 16, size[0] // 8, size[1] // 8)
    assert model.decode(z).shape == (2, 3, *size)


def test_autoencoder_keeps_a_picture():
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    model = Autoencoder()
    model.load_state_dict(embedded.load_autoencoder()[0])
    with Image.open(embedded.picture_path("scene")) as file:
        x = pil_to_tensor(file.convert("RGB"))[None] / 127.5 - 1
    error = (model.decode(model.encode(x)) - x).square().mean() / 4
    assert -10 * torch.log10(error) > 28


@pytest.mark.parametrize(
    ("text", "words", "unknown"),
    [
        ("Make the circle blue.", ["make", "circle", "blue"], []),
        ("make the CENTER gray", ["make", "centre", "grey"], []),
        ("replace 'K' with 'X'", ["replace", "k", "with", "x"], []),
        ("add a purple dragon, please", ["add", "purple"], ["dragon"]),
        ("a dragon and a dragon", ["and"], ["dragon"]),
        ("", [], []),
        ("?!", [], []),
    ],
    ids=["plain", "american", "quotes", "unknown word", "named once", "empty", "no words"],
)
def test_vocabulary(vocabulary, text, words, unknown):
    ids, found_unknown, dropped = vocabulary.encode(text)
    assert len(ids) == TOKENS
    assert [vocabulary.words[id - 2] for id in ids if id > END] == words
    assert ids[len(words)] == END and set(ids[len(words) + 1 :]) == {PAD}
    assert (found_unknown, dropped) == (unknown, 0)


def test_a_long_text_says_how_many_words_it_lost(vocabulary):
    ids, _, dropped = vocabulary.encode("blue " * 25)
    assert dropped == 25 - (TOKENS - 1)
    assert len(ids) == TOKENS and ids[-1] == END


def test_text_encoder_pads_with_zeros_and_reads_the_order(vocabulary):
    encoder = TextEncoder(len(vocabulary))
    encoder.load_state_dict(embedded.load_text_encoder()[0])
    ids = torch.tensor([vocabulary.encode(text)[0] for text in ("red to blue", "blue to red", "")])
    context, pooled = encoder(ids)
    assert context.shape == (3, TOKENS, 128) and pooled.shape == (3, 128)
    assert torch.all(context[0, 3:] == 0) and torch.all(context[2, 1:] == 0)
    assert (context[0, 0] - context[1, 1]).abs().max() > 1e-2
    torch.testing.assert_close(pooled[0], context[0, :3].mean(0))
    alone, _ = encoder(ids[:1])
    torch.testing.assert_close(alone, context[:1], rtol=0, atol=1e-5)
