"""The table of goals and reached values."""

import json

import torch

from training import goals
from training.editor import Editor
from training.goals import EDITING, ROWS, in_world, share, table
from training.instructions import TASKS


class Copier:
    """Returns the last reference, or grey without one."""

    autoencoder = Editor.shipped().autoencoder
    encode, decode = Editor.encode, Editor.decode

    def edit(self, references, instructions, size, **options):
        grey = torch.full((len(instructions), 3, size[1], size[0]), 0.5)
        return references[-1] if references else grey


def test_doing_nothing_reaches_nothing_in_any_row():
    asked = goals.Asked(Copier(), seed=5, cases=1)
    names = ["plain 128", "free 128", "grid 128", "light", "text 128x128", "turns free", "photographs"]
    found = {name: ROWS[name][2](asked) for name in names}
    assert all(text.startswith("0 % (") for text in found.values()), found
    assert table(found).count("\n") == 1 + len(names)


def test_editing_is_every_task_that_edits_a_scene():
    assert set(TASKS) - set(EDITING) == {"text to image", "photograph"}
    text, result = in_world(goals.Asked(Copier(), 1, 2), "free", ("remove", "recolour"), (96, 96))
    assert set(result["tasks"]) == {"remove", "recolour"} and "n=4" in text


def test_rows_are_added_to_what_has_been_measured(tmp_path, monkeypatch, capsys):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"light": share(9, 10)}), "utf-8")
    monkeypatch.setattr("sys.argv", ["goals", "--rows", "autoencoder", "--cases", "1", "--json", str(path)])
    goals.main()
    assert set(json.loads(path.read_text("utf-8"))) == {"light", "autoencoder"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| light of a photograph, 128 px | >= 90 % | 90 % (60-98, n=10) |")
    assert "dB, n=6" in lines[3]
