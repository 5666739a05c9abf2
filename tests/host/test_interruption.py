"""An interrupted run leaves nothing behind, and the next run is unaffected."""

import gc
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from batch import inprocess
from batch.events import Interrupted


def tensors():
    """Bytes of all tensors that Python knows. Those of torch.compile's tracing (other tests) have no bytes."""
    gc.collect()
    kinds = ((item, type(item)) for item in gc.get_objects())
    found = (item for item, kind in kinds if issubclass(kind, torch.Tensor) and not issubclass(kind, FakeTensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in map(torch.Tensor.untyped_storage, found)}.values())


def files(folder: Path):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_interrupted_in_the_middle_then_run_again(edit_graph, run_graph, solver):
    settings = {"steps": 6, "solver": solver}
    whole = run_graph(edit_graph(seed=7, **settings)).values["sampler"][0]["samples"].clone()
    bytes_before, files_before = tensors(), files(inprocess.BASE)
    steps = []

    def stop(event):
        if event.type == "progress" and event.data["node"] == "sampler":
            steps.append(event.data["value"])
            if len(steps) == 3:
                inprocess.interrupt()

    with pytest.raises(Interrupted):
        run_graph(edit_graph(seed=8, **settings), on_event=stop)
    assert steps == [1, 2, 3]
    assert files(inprocess.BASE) == files_before

    again = run_graph(edit_graph(seed=7, **settings)).values["sampler"][0]["samples"]
    torch.testing.assert_close(again, whole, atol=0, rtol=0)
    assert tensors() == bytes_before  # the executor keeps the same results as before the stopped run
