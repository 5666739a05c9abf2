"""Temporary folders that go away also where their process was killed: whoever makes the next one clears them.

A folder has an owner as long as the file LOCK in it is locked, which ends with the process however that ends.
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
    """An empty folder that goes with the context or, after a kill, when the next one is made."""
    _clear()
    folder, lock = _owned()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _owned() -> tuple[Path, FileLock]:
    """A new folder and its lock, held; made again if it was taken for a leftover before the lock was held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(folder / LOCK)
        lock.acquire()
        if (folder / LOCK).exists():
            return folder, lock


def _clear() -> None:
    """Take away what killed processes have left. A folder of somebody else stays."""
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            with FileLock(owner, timeout=0):
                shutil.rmtree(owner.parent, ignore_errors=True)
        except (Timeout, OSError):
            continue
