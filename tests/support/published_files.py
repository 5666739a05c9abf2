"""Which files are published."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="the list of files is git's"
)


def listed(*arguments):
    """The files that git tracks; with arguments of `git ls-files`, some of them."""
    command = ["git", "ls-files", "-z", "--cached", *arguments]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")) - {""}
