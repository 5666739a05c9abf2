"""Pictures whose parts do not determine a movement."""

import pytest
import torch

from kontext_core.preservation import preserve
from kontext_core.registration import Similarity, register
from training.editor import Editor
from training.evaluate import as_tensor, held_out_edits


def test_a_thing_of_another_size_is_no_movement():
    """Where little has texture, a movement can fit the edit or the autoencoder's noise slightly better than none."""
    editor = Editor.shipped()
    for edit in held_out_edits(1, 10, 128, 128):
        if edit.task == "resize":
            right = editor.decode(editor.encode(as_tensor(edit.target, 128, 128)[None]))[0]
            assert register(as_tensor(edit.sources[0], 128, 128), right).similarity == Similarity()


@pytest.mark.parametrize("side, share", [(96, 0.7), (128, 0.5), (384, 0.7)])
def test_a_bar_that_disappears_from_a_flat_picture_is_found_without_alignment(side, share):
    original = torch.full((3, side, side), 0.5)
    original[:, : int(share * side)] = 0.9
    assert not preserve(original, torch.full_like(original, 0.5)).moved
