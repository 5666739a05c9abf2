"""The published pack is complete: no page in it links to a file that is not published."""

import re
from urllib.parse import unquote

import pytest

from published_files import ROOT, listed, needs_git

pytestmark = needs_git


@pytest.fixture(scope="module")
def excluded():
    """The files excluded by .comfyignore; its patterns are those of .gitignore."""
    return listed("--ignored", "--exclude-from=.comfyignore")


@pytest.fixture(scope="module")
def pages(excluded):
    """Path -> text of every page that is published."""
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in listed("*.md") - excluded}


def test_the_pack_is_published_and_its_workshop_is_not(excluded):
    published = listed() - excluded
    assert {"__init__.py", "README.md", "web/docs/KontextLora.md", "nodes/adapters.py"} <= published
    assert not [path for path in published if path.startswith(("tests/", "tools/")) or path == "manage.py"]
    python = {path for path in published if path.startswith(("benchmarks/", "training/")) and path.endswith(".py")}
    assert python == set()


def test_every_link_leads_to_a_published_file(pages, excluded):
    published = listed() - excluded
    for path, text in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                found = (ROOT / path).parent.joinpath(unquote(target)).resolve().relative_to(ROOT).as_posix()
                assert found in published, f"{path} links to {target}"


def test_no_help_page_names_a_file_that_stays_behind(pages, excluded):
    """Developers' pages do: they are only in a clone."""
    folders = {path.split("/")[0] for path in excluded if "/" in path}
    for path, text in pages.items():
        if path.startswith("web/"):
            named = re.findall(rf"\b(?:{'|'.join(folders)})/[\w./-]+", text)
            assert not set(named) & excluded, path
            assert not [name for name in named if name not in listed() - excluded], path


def test_a_clone_is_shallow(pages):
    """The history holds every generation of the weights."""
    clones = [line for text in pages.values() for line in re.findall(r"git clone .*?`", text)]
    assert clones
    assert not [line for line in clones if "--depth 1 " not in line]
