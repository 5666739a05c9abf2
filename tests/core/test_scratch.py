"""Temporary folders: gone with their context, and after a kill when the next one is made; nobody else's is touched."""

import subprocess
import sys
import tempfile

import pytest

from batch import ROOT, scratch
from batch.scratch import PREFIX, scratch_folder

HOLDS = (
    "from batch.scratch import scratch_folder\nwith scratch_folder() as folder:\n print(folder, flush=True)\n input()"
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for temporary files that other tests do not use."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder():
    """Another process that holds a folder: (process, name of the folder)."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDS], cwd=ROOT, text=True, **pipes) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def names(place):
    return sorted(str(path) for path in place.iterdir())


def test_it_is_empty_and_goes_with_its_context(place):
    with scratch_folder() as one, scratch_folder() as other:
        assert names(place) == sorted((str(one), str(other)))
        assert [path.name for path in one.iterdir()] == [scratch.LOCK]
        (one / "output").mkdir()
    assert not names(place)
    with pytest.raises(RuntimeError), scratch_folder():
        raise RuntimeError
    assert not names(place)


def test_what_a_killed_process_left_goes_when_the_next_folder_is_made(place, holder):
    process, left = holder
    with scratch_folder() as folder:
        assert names(place) == sorted((left, str(folder)))  # its owner lives
    process.kill()
    process.wait()
    assert names(place) == [left]
    with scratch_folder() as folder:
        assert names(place) == [str(folder)]


def test_a_folder_without_our_mark_stays(place):
    (place / f"{PREFIX}abc").mkdir()
    (place / "others").mkdir()
    (place / "others" / scratch.LOCK).touch()
    with scratch_folder():
        pass
    assert names(place) == sorted((str(place / f"{PREFIX}abc"), str(place / "others")))


def test_what_cannot_be_taken_away_yet_stays_marked(place, holder, monkeypatch):
    """A child of the killed process may write for another moment."""
    process, left = holder
    process.kill()
    process.wait()
    with monkeypatch.context() as busy:
        busy.setattr(scratch.shutil, "rmtree", lambda folder, **options: (folder / scratch.LOCK).unlink())
        scratch._clear()
    assert names(place) == [left]
    with scratch_folder() as folder:
        assert names(place) == [str(folder)]
