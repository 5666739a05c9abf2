"""Removal from a photograph compared with inpainting."""

import random

import pytest
import torch

from training.evaluate import as_tensor
from training.instructions import sample
from training.removal import Comparison, compare, summary

SIDE = 64


@pytest.fixture(scope="module")
def edit():
    return sample(random.Random(4), "remove", width=SIDE, height=SIDE, photograph=True, held_out=True)


def test_the_photograph_itself_is_nearer_than_inpainting_and_the_thing_left_there_is_not(edit):
    right, left = (as_tensor(picture, SIDE, SIDE) for picture in (edit.target, edit.sources[0]))
    assert compare(edit, right).model > 60 > compare(edit, right).inpainted
    assert compare(edit, left).model < compare(edit, left).inpainted


def test_only_the_place_of_the_thing_counts(edit):
    right = as_tensor(edit.target, SIDE, SIDE)
    source = as_tensor(edit.sources[0], SIDE, SIDE)
    elsewhere = ((source - right).abs().amax(0, keepdim=True) == 0).float()
    far = -torch.nn.functional.max_pool2d(-elsewhere[None], 5, 1, 2)[0]
    assert compare(edit, right + 0.3 * far).model > 60


def test_the_summary_counts_who_was_nearer():
    found = [Comparison(30, 20), Comparison(25, 24), Comparison(10, 22), Comparison(15, 22)]
    assert summary(found).startswith("nearer than inpainting in 50 % (15-85, n=4); 20.0 against 22.0 dB")
