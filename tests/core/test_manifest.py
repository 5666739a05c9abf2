"""Manifests: every fault is named with its row before anything runs."""

import json

import pytest
from PIL import Image

from batch import Failure, manifest


@pytest.fixture
def folder(tmp_path):
    """A folder with the pictures a.png and b.png."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    return tmp_path


def read(folder, text, name="edits.jsonl", **defaults):
    (folder / name).write_text(text, encoding="utf-8")
    return manifest.read_manifest(folder / name, defaults)


def test_csv_and_jsonl_say_the_same(folder):
    cells = [{"picture": "a.png", "instruction": "make it, quite, red", "seed": "7"}, {"picture": "b.png"}]
    table = 'picture,instruction,seed\na.png,"make it, quite, red",7\n\nb.png,,\n'
    lines = "\n\n".join(json.dumps(row) for row in cells)
    rows = [read(folder, table, "edits.csv"), read(folder, "\ufeff" + lines)]
    assert [[dict(row.values) for row in each] for each in rows] == [cells, cells]
    assert [row.number for row in rows[0]] == [1, 2]
    assert rows[0][1].where == "row 2 (edits.csv, line 4)"


def test_only_the_end_of_a_line_ends_a_row(folder):
    """Instructions from documents hold other ends of lines."""
    text = "make it\u2028red\x85now\x0cplease"
    rows = [read(folder, json.dumps({"picture": "a.png", "instruction": text}, ensure_ascii=False) + "\r\n")]
    rows += [read(folder, f"picture,instruction\r\na.png,{text}\r\n", "edits.csv")]
    assert [[row.values["instruction"] for row in each] for each in rows] == [[text], [text]]


def test_a_row_wins_over_the_command_line(folder):
    rows = read(
        folder, '{"picture": "a.png"}\n{"picture": "b.png", "instruction": "own", "seed": null}', instruction="all"
    )
    assert [row.values["instruction"] for row in rows] == ["all", "own"]
    assert "seed" not in rows[1].values


def test_a_folder_gives_a_row_a_picture_by_name(folder):
    (folder / "notes.txt").write_text("no picture")
    rows = manifest.read_folder(folder, {"instruction": "make it night"})
    assert [row.values["picture"] for row in rows] == ["a.png", "b.png"]
    assert rows[1].path("picture") == folder / "b.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"picture": "c.png"}', r"row 2 \(edits.jsonl, line 2\): picture: there is no file .*c.png"),
        ('{"picture": 3}', "picture is 3; text is needed"),
        ('{"pictures": "a.png"}', "unknown column 'pictures'; there are picture, reference_2"),
        ('{"picture": "a.png", "seed": -1}', "seed is -1; a whole number"),
        ('{"picture": "a.png", "seed": 1.5}', "seed is 1.5"),
        ('{"picture": "a.png", "seed": true}', "seed is True"),
        ('{"picture": "a.png", "seed": 18446744073709551616}', "seed is 18446744073709551616"),
        ('{"picture": "a.png", "instruction": "  "}', "instruction is empty"),
        ('{"picture": "a.png", "mask": "none.png"}', "mask: there is no file"),
        ('{"picture": ', "this is no JSON"),
        ('["a.png"]', "a row is an object"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_row(folder, line, message):
    with pytest.raises(Failure, match=message) as failure:
        read(folder, '{"picture": "a.png"}\n' + line)
    assert "nothing was run" in str(failure.value)
    assert failure.value.code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,picture\na.png,a.png\n", "names 'picture' twice"),
        ("picture,seed\na.png,1,2\n", "line 2.: 3 cells for 2 columns"),
        ('picture\n"a.png\n', "this is no CSV"),
        ("picture\n", "has no rows"),
    ],
    ids=["header", "too many cells", "open quote", "no rows"],
)
def test_a_csv_is_read_strictly(folder, text, message):
    with pytest.raises(Failure, match=message):
        read(folder, text, "edits.csv")


def test_all_faults_come_at_once(folder):
    with pytest.raises(Failure) as failure:
        read(folder, "\n".join('{"picture": "c.png"}' for _ in range(30)))
    assert str(failure.value).count("there is no file") == manifest.SHOWN
    assert "and 10 more" in str(failure.value)


@pytest.mark.parametrize("name", ["edits.txt", "none.csv", "nowhere"])
def test_what_is_no_manifest_is_refused(folder, name):
    with pytest.raises(Failure, match=name):
        manifest.read_manifest(folder / name, {})
    with pytest.raises(Failure, match="no folder"):
        manifest.read_folder(folder / name, {})
