"""The measurements of the autoencoder's evaluation."""

import pytest
import torch

from kontext_core import embedded
from kontext_core.embedded.autoencoder import Autoencoder
from training.evaluate_autoencoder import decibels, held_out_pictures, moved_decibels


@pytest.fixture(scope="module")
def model():
    model = Autoencoder().eval()
    model.load_state_dict(embedded.load_autoencoder()[0])
    return model


def test_scenes_come_back_better_than_photographs(model):
    means = [sum(decibels(model, held_out_pictures(kind, 3, 6))) / 6 for kind in ("scenes", "photographs")]
    assert means[0] > 33 and 22 < means[1] < means[0]


def test_latents_move_exactly_by_whole_latent_pixels_and_less_well_between_them(model):
    pictures = held_out_pictures("photographs", 3, 3)
    none, part, whole = (min(moved_decibels(model, pictures, pixels)) for pixels in (0, 4, 8))
    assert none > 60 and whole > 45 and part < 40


def test_pictures_are_the_same_every_time():
    for kind in ("scenes", "photographs"):
        assert all(torch.equal(*pair) for pair in zip(*(held_out_pictures(kind, 4, 3) for _ in range(2)), strict=True))
