"""The benchmark for a GPU runs on a CPU too, at a small size."""

import torch

from benchmarks.gpu import DECIDING, REFERENCES, measured, table


def test_every_kind_of_step_is_timed_with_one_reference_and_with_four():
    rows = measured(torch.device("cpu"), small=True)
    kinds = {"full, as the model does it", "kept references", "a quarter of the picture", "full", DECIDING}
    assert {(row["step"], row["references"]) for row in rows} == {(kind, n) for kind in kinds for n in REFERENCES}
    lines = table(rows).splitlines()
    assert lines[0].startswith("CPU, small, float32") and len(lines) == 4 + len(rows)
    assert [line.split(" | ")[3] for line in lines if "as the model" in line] == ["1.00", "1.00"]
