"""The commit: a file is complete and carries its key, or it does not exist."""

import subprocess
import sys

import pytest
from PIL import Image

from batch import ROOT, commit


@pytest.mark.parametrize("kind", commit.SUFFIXES)
def test_a_committed_file_carries_its_key(tmp_path, kind):
    path = tmp_path / f"x{commit.SUFFIXES[kind]}"
    assert commit.stored_key(path) is None
    for key in ("1" * 32, "2" * 32):
        commit.write_picture(path, Image.new("RGB", (8, 8), "red"), key, {"prompt": "{}"})
        assert commit.stored_key(path) == key
    with Image.open(path) as picture:
        assert picture.getpixel((0, 0))[0] > 250
        assert kind != "png" or picture.info["prompt"] == "{}"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", commit.SUFFIXES)
def test_a_file_of_another_program_has_no_key(tmp_path, kind):
    path = tmp_path / f"x{commit.SUFFIXES[kind]}"
    Image.new("RGB", (8, 8)).save(path)
    assert commit.stored_key(path) is None
    path.write_bytes(b"nothing")
    assert commit.stored_key(path) is None


def test_the_same_picture_gives_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        commit.write_picture(tmp_path / name, Image.new("RGB", (8, 8), "red"), "1" * 32, {"prompt": "{}"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        commit.write_whole(tmp_path / "x", fail, "0" * 12)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from batch import commit\n"
        "def save(file): file.write(b'half'); file.flush(); print('half', flush=True); time.sleep(60)\n"
        "commit.write_whole(Path(sys.argv[1]), save, 'a' * 12)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "x.png"], cwd=ROOT, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"half\n"
    writer.kill()
    writer.wait()
    assert not (tmp_path / "x.png").exists()
    (tmp_path / ".hidden.part").write_bytes(b"not ours")
    assert commit.sweep([tmp_path, tmp_path / "nowhere"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".hidden.part"]


def test_half_a_line_is_no_line(tmp_path):
    commit.write_lines(tmp_path / "x.jsonl", [{"a": 1}, {"a": "ü \u2028 \x85 \x0c"}])
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b'{"a": ')
    assert commit.read_lines(tmp_path / "x.jsonl") == [{"a": 1}, {"a": "ü \u2028 \x85 \x0c"}]
    assert commit.read_lines(tmp_path / "none.jsonl") == []


def test_a_key_does_not_depend_on_the_order_of_names():
    assert commit.key_of({"b": 1, "a": [2]}) == commit.key_of({"a": [2], "b": 1}) != commit.key_of({"a": [1], "b": 2})
