"""The published pack runs without unpublished files: batches start in a pack without .comfyignore's entries."""

import shutil
import subprocess
import sys

import pytest

from batch import ROOT

IGNORED = [line.rstrip("/*") for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").split()]
ALWAYS_OUT = [".git", "output", "*cache*", "*.safetensors"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The pack as published, where ComfyUI's manager puts it; without weights, which are not read here."""
    pack = tmp_path_factory.mktemp("ComfyUI") / "custom_nodes" / "kontext-nodes"
    shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(*IGNORED, *ALWAYS_OUT))
    (pack.parents[1] / "comfyui_version.py").write_text('__version__ = "0.30.0"')
    return pack


def python(folder, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("module", ["batch", "batch.kontextbench"])
def test_a_published_batch_says_how_it_is_used(published, module):
    assert not (published / "tools").exists()
    said = python(published, "-m", module, "--help")
    assert said.returncode == 0, said.stderr
    assert f"usage: python -m {module}" in said.stdout


def test_it_finds_the_comfyui_that_it_lies_in(published):
    code = "import os; os.environ.pop('COMFYUI_PATH', None); from batch.comfyui import comfyui_folder as f; print(f())"
    assert python(published, "-c", code).stdout.strip() == str(published.parents[1])


def test_faults_of_the_command_line_are_one_line(published, tmp_path):
    said = python(published, "-m", "batch", "nothing", "--pictures", tmp_path, "--out", tmp_path / "out")
    assert said.returncode == 2
    assert said.stderr.startswith("batch: ")
    assert "Traceback" not in said.stderr
