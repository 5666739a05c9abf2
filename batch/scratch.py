"""Temporary folders that are removed even if their process was killed: creating the next one removes them.

A folder is in use while its file LOCK is locked; the system releases the lock when the process ends for any reason.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "kontext-nodes-"
LOCK = ".owner"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, removed at the end of the context or, after a kill, when the next one is created."""
    _clear()
    folder, lock = _owned()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _owned() -> tuple[Path, FileLock]:
    """A new folder and its acquired lock; retries if another process removed the folder before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(folder / LOCK)
        lock.acquire()
        if (folder / LOCK).exists():
            return folder, lock


def _clear() -> None:
    """Remove leftovers of killed processes. Folders that cannot be removed, such as other users', stay."""
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            with FileLock(owner, timeout=0):
                shutil.rmtree(owner.parent, ignore_errors=True)
                if owner.parent.is_dir():  # a child of the killed process still writes there: left to the next one
                    owner.touch()
        except (Timeout, OSError):
            continue
