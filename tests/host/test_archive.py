"""The archive that the node registry serves: installed into a ComfyUI, it lists its templates and runs one."""

import io
import json
import os
import shutil
import subprocess
import urllib.request
import zipfile

import pytest
from PIL import Image

from batch import graphs
from published_files import listed, needs_git
from tools import ROOT
from tools.client import Client
from tools.server import PACK, Server

pytestmark = needs_git


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """As `comfy node pack` makes it: the files that git tracks, without those of .comfyignore."""
    path = tmp_path_factory.mktemp("archive") / "node.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(listed() - listed("--ignored", "--exclude-from=.comfyignore")):
            file.write(ROOT / name, name)
    return path


@pytest.fixture
def packed(tmp_path):
    """The archive that comfy-cli itself makes, in a repository with the files of this one."""
    if shutil.which("comfy") is None:
        pytest.skip("needs the program comfy: pip install comfy-cli (CONTRIBUTING.md, Rings of tests)")
    for name in listed():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    quiet = os.environ | {"DO_NOT_TRACK": "1", "HOME": str(tmp_path / "home")}
    for command in ("git init --quiet", "git add --all --force", "comfy --skip-prompt node pack"):
        subprocess.run(command.split(), cwd=tmp_path, env=quiet, check=True)
    return tmp_path / "node.zip"


def test_comfy_cli_makes_the_same_archive(archive, packed):
    """Tried with 1.23.0, without a network."""
    assert checksums(archive) == checksums(packed)


def checksums(path):
    with zipfile.ZipFile(path) as file:
        return {entry.filename: entry.CRC for entry in file.infolist()}


def test_it_is_small_and_holds_neither_links_nor_bytecode(archive):
    """ComfyUI's later versions refuse packs with either."""
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    assert archive.stat().st_size < 60e6
    assert not [name for name in names if (ROOT / name).is_symlink() or "__pycache__" in name or name.endswith(".pyc")]


def test_an_installed_archive_runs_a_template(archive, tmp_path):
    pack = tmp_path / "custom_nodes" / PACK
    with zipfile.ZipFile(archive) as file:
        file.extractall(pack)
    with Server(tmp_path) as server, Client(server.url) as client:
        assert not pack.is_symlink()
        templates = json.load(urllib.request.urlopen(f"{server.url}/api/workflow_templates"))[PACK]
        assert "A first edit" in templates
        graph = json.load(urllib.request.urlopen(f"{server.url}/api/workflow_templates/{PACK}/A%20first%20edit.json"))
        prompt = graphs.with_input(graphs.to_prompt(graph), "KontextSampler", "steps", 2)
        (image,) = client.run(prompt)[graphs.find(prompt, "SaveImage")]["images"]
        assert Image.open(io.BytesIO(client.view(image))).size == (128, 128)
