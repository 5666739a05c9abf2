"""The embedded model without ComfyUI takes controls and negatives like the nodes."""

import pytest
import torch

from kontext_core.controls import Control
from kontext_core.negatives import Nag
from training.editor import Editor

TEXTS = ["make the circle red", "make it night"]


@pytest.fixture(scope="module")
def edit():
    """Two edits of noise at 64x64 px in one step."""
    editor, picture = Editor.shipped(), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def edit(references=1, **options):
        return editor.edit([picture] * references, TEXTS, (64, 64), steps=1, **options)

    return edit


def test_a_silenced_reference_is_none(edit):
    silenced = edit(controls={1: Control(strength=0)}, cfg=2.0)
    torch.testing.assert_close(silenced, edit(references=0, cfg=2.0), atol=1e-4, rtol=0)
    assert (silenced - edit(cfg=2.0)).abs().max() > 1e-2


def test_a_negative_counts_with_nag_and_with_cfg(edit):
    avoid = ["make the circle blue", "make it day"]
    for options in ({"nag": Nag()}, {"cfg": 3.0}):
        plain = {} if "nag" in options else options
        assert (edit(avoid=avoid, **options) - edit(**plain)).abs().max() > 1e-3
    torch.testing.assert_close(edit(avoid=TEXTS, nag=Nag()), edit(), atol=1e-4, rtol=0)
    torch.testing.assert_close(edit(avoid=TEXTS, cfg=3.0), edit(), atol=1e-4, rtol=0)
