"""manage.py reports errors of the machine on one line, and runs on the Pythons that are promised."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import webbrowser
from pathlib import Path

import pytest

from manage import command_line
from tools.serve import has_screen, open_browser
from tools.test import names_tests

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


OLD = "import runpy, sys; sys.version_info = (3, 10, 9, 'final', 0); runpy.run_path('manage.py', run_name='__main__')"


def test_an_older_python_is_told_what_is_needed():
    ast.parse((ROOT / "manage.py").read_text("utf-8"), feature_version=(3, 8))  # else it would be a syntax error there
    done = subprocess.run([sys.executable, "-c", OLD], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, is_one_line(done, "Python 3.11 or newer is needed")) == (1, True), done.stderr


def test_all_pages_promise_the_same_pythons():
    """Those that static checks and core ring have passed on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["project"]["classifiers"]))
    first, *_ = promised
    assert project["project"]["requires-python"] == f">={first}"
    assert project["tool"]["pyright"]["pythonVersion"] == first
    assert project["tool"]["ruff"]["target-version"] == f"py{first.replace('.', '')}"
    for page in ("README.md", "README.ko.md", "CONTRIBUTING.md"):
        (said,) = re.findall(r"^.*Python 3\.\d.*$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        assert re.findall(r"\b3\.\d+", said) == promised, page


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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["tests/core/test_tokens.py"], True),
        (["-q", "tests/core/test_tokens.py::test_packing"], True),
        (["tests/host"], True),
        ([str(ROOT / "tests" / "core")], True),
        (["-k", "batch"], False),
        (["-k", "training or host"], False),
        (["-x", "manage.py"], False),
        (["tests/core/test_nothing.py"], False),
        ([], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_only_paths_in_tests_name_tests(arguments, named):
    assert names_tests(arguments) == named


@pytest.mark.parametrize(("platform", "environment", "opened"), SCREENS.values(), ids=SCREENS)
def test_a_browser_is_opened_where_there_is_a_screen(platform, environment, opened):
    assert has_screen(platform, environment) == opened


@pytest.mark.parametrize(("words", "addresses"), [([], ["http://here"]), (["--no-browser"], [])], ids=["bare", "told"])
def test_serve_opens_a_browser_unless_told_not_to(monkeypatch, words, addresses):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    open_browser("http://here", command_line().parse_args(["serve", *words]))
    assert opened == addresses
