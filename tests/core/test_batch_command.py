"""The command line of a batch, what it refuses before anything is read, and the GPUs that it takes."""

import argparse

import pytest
from PIL import Image

from batch import Failure, command, local
from batch.options import add_benchmark_options, add_options

WAYS = {  # how to add the options, and the arguments that are needed
    "batch": (add_options, ["graph", "--pictures", "photos", "--out", "out"]),
    "kontextbench": (add_benchmark_options, ["folder"]),
}


def parsed(way, *arguments):
    add, needed = WAYS[way]
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args([*needed, *map(str, arguments)])


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e3", ""])
def test_a_limit_of_money_is_an_amount(value, capsys):
    with pytest.raises(SystemExit):
        parsed("batch", "--spend", value)
    assert "an amount from 0 is needed" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "all", ""])
@pytest.mark.parametrize(
    ("way", "name"),
    [("batch", name) for name in ("--limit", "--seeds", "--workers")]
    + [("kontextbench", name) for name in ("--limit", "--workers")],
)
def test_counts_begin_at_one(way, name, value, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(way, name, value)
    assert ended.value.code == 2
    assert f"argument {name}: it is {value!r}; a whole number from 1 is needed" in capsys.readouterr().err
    assert vars(parsed(way, name, "3"))[name.strip("-")] == 3


@pytest.fixture
def photos(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path)
    return tmp_path


INTO_PHOTOS = {  # --out, relative to the pictures, and --name
    "the same folder": (".", "{name}_{seed}"),
    "the originals' names": (".", "{name}"),
    "by a link": ("link", "{name}_{seed}"),
    "by the name": ("..", "FOLDER/{name}_{seed}"),
}


@pytest.mark.parametrize(("out", "name"), INTO_PHOTOS.values(), ids=INTO_PHOTOS)
def test_results_do_not_go_among_the_pictures_of_the_next_run(photos, out, name):
    name = name.replace("FOLDER", photos.name)
    options = parsed("batch", "--pictures", photos, "--out", photos / out, "--name", name)
    with pytest.raises(Failure, match="--out: the results would be written into .*Give another --out") as failure:
        command.run(options, [])
    assert failure.value.code == 2
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.png", "link"]


@pytest.mark.parametrize(("out", "name"), [("edits", "{name}"), (".", "edits/{name}"), ("..", "{name}_{seed}")])
def test_results_may_go_into_a_folder_of_their_own(photos, out, name):
    (photos / "edits").mkdir()
    rows = command.wanted_rows(parsed("batch", "--pictures", photos, "--out", photos / out, "--name", name))
    assert [row.values["picture"] for row in rows] == ["a.png", "b.png"]


GPUS = {  # CUDA_VISIBLE_DEVICES, the number that torch sees, those of four workers
    "all": (None, 2, ["0", "1", "0", "1"]),
    "numbers": ("2,3", 2, ["2", "3", "2", "3"]),
    "UUIDs": ("GPU-8f1b, GPU-77aa", 2, ["GPU-8f1b", "GPU-77aa"] * 2),
    "CUDA ends at the first that it does not know": ("5,-1,1", 1, ["5"] * 4),
    "a MIG device": ("MIG-8f1b", 1, ["MIG-8f1b"] * 4),
    "MIG devices, of which a process sees one": ("MIG-8f1b,MIG-77aa", 1, ["MIG-8f1b", "MIG-77aa"] * 2),
    "none": ("", 0, [None] * 4),
    "hidden": ("-1", 0, [None] * 4),
}


@pytest.mark.parametrize(("visible", "count", "expected"), GPUS.values(), ids=GPUS)
def test_workers_take_gpus_of_the_users_own_list(visible, count, expected, monkeypatch):
    monkeypatch.delenv(local.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(local.VISIBLE, visible)
    gpus = local.gpu_names(count)
    assert [local.own_environment(worker, gpus).get(local.VISIBLE) for worker in range(4)] == expected


def test_a_worker_without_a_gpu_computes_on_one_thread_unless_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local.own_environment(0, []) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert local.own_environment(0, []) == {}
