"""`manage.py test`: static checks, then the rings of tests in one pytest run of two processes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import ROOT, Failure
from .browser import find_browser

TESTS = ROOT / "tests"
OUTER_RINGS = ("host", "browser")  # one folder each; everything else below tests/ is core
PROCESSES = 2  # each with a ComfyUI and perhaps a browser


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Run all rings, the named ones, or only the test files in pytest_arguments. Raises Failure."""
    require_tools()
    named = names_tests(pytest_arguments)
    rings = options.rings or ([] if named else ["static", "core", *OUTER_RINGS])
    if "static" in rings and not static_checks():
        return 1
    if "browser" in rings and not browser_is_there():
        rings = [ring for ring in rings if ring != "browser"]
    folders = [] if named else [str(path) for ring in rings for path in ring_paths(ring)]
    if not named and not folders:
        return 0
    return python("-m", "pytest", *([] if named else side_by_side()), *folders, *pytest_arguments)


def python(*arguments: str) -> int:
    return subprocess.call([sys.executable, *arguments], cwd=ROOT)


def side_by_side() -> list[str]:
    """pytest's options for two processes that share the cores; another `-n` after them replaces theirs.

    The tests of a file stay in one process, which then loads its models and starts its servers once.
    """
    cores = os.cpu_count() or 1
    if cores < PROCESSES or importlib.util.find_spec("xdist") is None:
        return []
    os.environ["OMP_NUM_THREADS"] = str(cores // PROCESSES)
    return ["-n", str(PROCESSES), "--dist", "loadfile"]


def require_tools() -> None:
    missing = [tool for tool in ("pytest", "ruff", "pyright") if importlib.util.find_spec(tool) is None]
    if missing:
        install = f"{sys.executable} -m pip install {' '.join(missing)}"
        raise Failure(f"this ComfyUI's Python lacks {', '.join(missing)}: {install}")


def names_tests(arguments: list[str]) -> bool:
    """Whether an argument is a path in tests/. A word such as batch after -k is none, though a folder has this name."""
    paths = [(ROOT / argument.split("::")[0]).resolve() for argument in arguments]
    return any(path.is_relative_to(TESTS) and path.exists() for path in paths)


def static_checks() -> bool:
    """ruff, then pyright with the packages of this interpreter."""
    return python("-m", "ruff", "check") == 0 and python("-m", "pyright", "--pythonpath", sys.executable) == 0


def ring_paths(ring: str) -> list[Path]:
    if ring in OUTER_RINGS:
        return [TESTS / ring] if (TESTS / ring).is_dir() else []
    if ring == "core":
        inner = [path for path in TESTS.iterdir() if path.name not in OUTER_RINGS]
        return sorted(path for path in inner if path.name.startswith("test_") or any(path.glob("test_*.py")))
    return []


def browser_is_there() -> bool:
    """On CI installs Debian's Chromium, because this ring must run there; elsewhere says how to install one."""
    if find_browser() is None and os.environ.get("CI") == "true" and shutil.which("apt-get"):
        print("Installing chromium for the browser ring", flush=True)
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *command], check=True, stdin=subprocess.DEVNULL)
    if find_browser() is None:
        print(
            "The browser ring is NOT run: there is no Chromium, Chrome or Edge on PATH. Install one (Debian: "
            "apt-get install chromium), then: python3 manage.py test browser",
            flush=True,
        )
        return False
    return True
