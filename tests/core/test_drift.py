"""Ways to pass a turn's result on, with a model whose autoencoder loses nothing."""

import argparse
import json

import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from kontext_core import embedded
from training.drift import MEMORY, WAYS, Chain, aligned, identity, low_statistics, still, stored
from training.evaluate import psnr

SIDE = 64  # px
SHIFT = 1.6 / 255  # what an edit adds to every pixel: too little to be a change, and no step of 8 bits
PATCH = (..., slice(1, 3), slice(1, 3))  # of the latent: what an edit repaints
FAR = (..., slice(40, SIDE), slice(None))  # of the picture: beyond the patch


class Painter:
    """Repaints a patch and shifts the rest; `given` holds the references of every edit."""

    def __init__(self, repaints=True):
        self.repaints, self.given = repaints, []

    def encode(self, pictures):
        return pixel_unshuffle(pictures, 8)

    def decode(self, latents):
        return pixel_shuffle(latents, 8)

    def edit(self, references, instructions, size, *, in_latents):
        assert in_latents
        self.given.append(references)
        latent = references[0] + SHIFT
        if self.repaints:
            latent[PATCH] = 1 - latent[PATCH]
        return latent


@pytest.fixture
def picture():
    """A batch of one, of 8 bits and far from black and white."""
    ramp = torch.linspace(0.2, 0.4, SIDE).expand(1, 3, SIDE, SIDE)
    return (ramp * 255).round() / 255


def turn(chain, pictures):
    return chain.edit([pictures], ["make it red"], (SIDE, SIDE))


def test_a_latent_of_the_same_statistics_stays_as_it_is(picture):
    latent = Painter().encode(picture)
    same, statistics = aligned(latent, low_statistics(latent))
    torch.testing.assert_close(same, latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(statistics, low_statistics(latent))


def test_a_shift_is_taken_back_and_remembered_a_little(picture):
    latent = Painter().encode(picture)
    mean, deviation = low_statistics(latent)
    back, statistics = aligned(latent + 0.1, (mean, deviation))
    torch.testing.assert_close(back, latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(statistics, (mean + (1 - MEMORY) * 0.1, deviation))


@pytest.mark.parametrize("way", WAYS)
def test_keep_leaves_unchanged_pixels_equal_bit_for_bit(picture, way):
    painter = Painter()
    chain = Chain(painter, way)
    after = turn(chain, picture)
    assert torch.equal(after[FAR], picture[FAR]) == ("keep" in way)
    assert torch.equal(chain.latent[..., 5:, :], painter.encode(picture)[..., 5:, :]) == ("keep" in way)
    assert (painter.encode(after)[PATCH] > 0.5).all()


@pytest.mark.parametrize("way", WAYS)
def test_the_model_gets_what_the_way_passes_on(picture, way):
    painter = Painter()
    chain = Chain(painter, way)
    second = turn(chain, picture)
    passed = chain.latent
    turn(chain, second)
    source, *others = painter.given[1]
    assert not torch.equal(passed, painter.encode(second))
    assert torch.equal(source, passed if "latent" in way else painter.encode(second))
    assert [torch.equal(each, painter.encode(picture)) for each in others] == [True] * ("first" in way)


LEVELS = {  # of 255, by which a picture is off after each of three turns that ask for no change
    "as it is": (2, 4, 6),
    "latent": (2, 3, 5),
    "latent, aligned": (0, 0, 1),
    "keep": (0, 0, 0),
}


@pytest.mark.parametrize("way", LEVELS)
def test_without_a_change_only_the_drift_is_measured(picture, way):
    rows = still(Painter(repaints=False), picture, way, "make everything unchanged", 3)
    assert rows == pytest.approx([psnr(picture, picture + level / 255) for level in LEVELS[way]], abs=0.01)


def test_rows_of_another_run_are_refused(tmp_path, monkeypatch):
    """Another number of scenes, say, or other weights."""
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    weights, path = tmp_path / "transformer-1-of-1.safetensors", tmp_path / "drift.json"
    weights.write_bytes(b"old")
    chosen = {"seed": 1, "steps": 2, "scenes": 3, "turns": 4}
    run = identity(argparse.Namespace(**chosen))
    assert stored(path, run) == {"run": run}
    path.write_text(json.dumps({"run": run, "keep": []}))
    assert stored(path, run) == {"run": run, "keep": []}
    others = [identity(argparse.Namespace(**chosen | {name: 9})) for name in chosen]
    weights.write_bytes(b"new")
    for other in (*others, identity(argparse.Namespace(**chosen))):
        with pytest.raises(SystemExit, match="results of another run"):
            stored(path, other)
