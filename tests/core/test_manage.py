"""manage.py reports errors of the machine on one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.serve import has_screen

ROOT = Path(__file__).parents[2]


def manage(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=120)


def is_one_line(done, *words):
    lines = done.stderr.splitlines()
    return len(lines) == 1 and lines[0].startswith("manage.py: ") and all(word in lines[0] for word in words)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other errors for these")
@pytest.mark.parametrize(("place", "words"), [("file", "Not a directory"), ("/proc/none", "No such file")])
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, place, words):
    (tmp_path / "file").touch()
    done = manage("exec", "--", "true", XDG_CACHE_HOME=str(tmp_path / place))
    assert done.returncode == 1
    assert is_one_line(done, words, place), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such errors")
def test_an_output_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "out").touch()
    handed_over = {"KONTEXT_NODES_HANDED_OVER": "1", "COMFYUI_PATH": os.environ.get("COMFYUI_PATH", "")}
    for command in (["demo", "--output", str(tmp_path / "out")], ["weights", str(tmp_path / "out")]):
        done = manage(*command, **handed_over)
        assert is_one_line(done, "out", "File exists"), done.stderr


SCREENS = {  # platform, environment: is a browser opened
    "Windows": ("win32", {}, True),
    "macOS": ("darwin", {}, True),
    "Linux with X": ("linux", {"DISPLAY": ":0"}, True),
    "Linux with Wayland": ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
    "Linux over ssh": ("linux", {"DISPLAY": ""}, False),
    "a container": ("linux", {}, False),
}


def test_named_tests_are_run_in_place_of_the_whole_ring():
    handed_over = {"KONTEXT_NODES_HANDED_OVER": "1", "COMFYUI_PATH": os.environ.get("COMFYUI_PATH", "")}
    done = manage("test", "host", "tests/core/test_tokens.py", "--collect-only", "-q", **handed_over)
    files = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert files == {"tests/core/test_tokens.py"}, done.stdout + done.stderr


@pytest.mark.parametrize(("platform", "environment", "opened"), SCREENS.values(), ids=SCREENS)
def test_a_browser_is_opened_where_there_is_a_screen(platform, environment, opened):
    assert has_screen(platform, environment) == opened
