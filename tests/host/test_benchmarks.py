"""The setup of the quality benchmarks, and the contents of their rows; nothing is measured here."""

import pytest
import torch

from batch import inprocess


@pytest.fixture(scope="module")
def quality(pack):
    """`benchmarks.quality`, which needs ComfyUI's modules."""
    from benchmarks import quality

    return quality


@pytest.fixture(scope="module")
def model(pack):
    return inprocess.pack_module("host.loading").load_embedded_model()


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "whole"])
def test_every_table_has_the_presets_and_the_solvers_with_few_calls(quality, model, quick):
    for case in quality.cases(model, quick, 28):
        assert case.edits, case.name
        assert case.ways[0].kind == "host"
        for solver in ("euler", "multistep"):
            rivals = {way.steps for way in case.ways if way.kind in quality.RIVALS and way.solver == solver}
            assert set(quality.FEW) <= rivals, (case.name, solver)
        assert {"quality", "balanced", "fast"} <= {way.name for way in case.ways}, case.name


def test_rows_hold_what_the_table_and_other_readers_need(quality, model):
    case = quality.Case("one edit", [], 8, [])
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    host, mine = (quality.Result(pictures[i], seconds, 28, True) for i, seconds in enumerate((8.0, 2.0)))
    same = quality.row(case, quality.Way("host", "host", model), [host], [host])
    row = quality.row(case, quality.Way("balanced", "preset", model), [mine._replace(calls=7, success=False)], [host])
    assert {"preset", "geometry", "ratio", "psnr", "ssim", "success", "model calls"} <= row.keys()
    assert (same["psnr"], same["ratio"], same["ssim"], same["max_difference"]) == (100, 1, 1, 0)
    assert (row["ratio"], row["model calls"], row["success"]) == (4, 7, 0)
    assert row["psnr"] == pytest.approx(-10 * (pictures[0] - pictures[1]).square().mean().log10().item(), abs=1e-3)


def test_easycache_is_given_a_latent_that_it_may_change(quality, model):
    """It adds to its input in place: if that were the sampler's latent, its picture would be noise (8 dB)."""
    host, *others = quality.ways_of(model, quick=True)
    easy = [way for way in others if way.kind == "EasyCache"]
    editor, calls = quality.Editor.shipped(), quality.Calls(model)
    with torch.inference_mode():
        one = quality.inputs_of(editor, quality.chosen_edits(1, 64)[0], 0, 64)
        theirs = quality.evaluate(host, one, editor, calls)
        assert easy
        for way in easy:
            mine = quality.evaluate(way, one, editor, calls)
            assert mine.calls < theirs.calls
            assert quality.psnr(mine.picture, theirs.picture) > 20


def test_parts_of_a_full_run_are_the_full_run(quality, model):
    from benchmarks import parts

    with torch.inference_mode():
        one = quality.inputs_of(quality.Editor.shipped(), quality.chosen_edits(1, 64)[0], 0, 64)
        whole, cut = (parts.in_parts(model, one, cuts) for cuts in ((), (7, 20)))
    torch.testing.assert_close(cut, whole, atol=1e-4, rtol=0)
    assert whole.std() > 0.1


def test_scale_times_every_way_on_weights_of_a_size(pack):
    from benchmarks import gpu, scale

    rows = scale.measured(scale.Size(gpu.SMALL, 64, 8, torch.float32), 1)
    assert [row["preset"] for row in rows] == ["host", *scale.WAYS]
    assert rows[0]["ratio"] == 1
    assert rows[0]["geometry"] == "9 M weights, 16 + 16 + 8 tokens"
    assert len(scale.table(rows).splitlines()) == 4 + len(rows)
