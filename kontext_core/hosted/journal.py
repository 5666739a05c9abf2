"""Requests that were accepted and not yet delivered: one small file each, gone when the picture is there.

So that a run after a crash, a restart or a cancelled run asks for the finished result instead of paying again. A
file holds the provider's id and address of the task; neither key, nor words, nor pictures, from which its name is
made by a one-way function.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .files import write_private
from .wire import Task

LIFETIME = 600  # s, as long as BFL keeps a result; with others it may be longer


class Journal:
    """The files in a folder, which is made when it is needed. `now` gives seconds since 1970."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time):
        self.folder = folder
        self.now = now
        self._forget_old()

    def remember(self, mark: str, task: Task) -> None:
        content = {"accepted": self.now(), **task._asdict()}
        write_private(self._path(mark), json.dumps(content))

    def find(self, mark: str) -> Task | None:
        """The task of this mark, if it is young enough to have a result. What is damaged is left out."""
        try:
            content = json.loads(self._path(mark).read_text(encoding="utf-8"))
            accepted = content.pop("accepted")
            return Task(**content) if 0 <= self.now() - accepted < LIFETIME else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def forget(self, mark: str) -> None:
        with suppress(OSError):
            self._path(mark).unlink()

    def _path(self, mark: str) -> Path:
        return self.folder / f"{mark}.json"

    def _forget_old(self) -> None:
        for path in self.folder.glob("*.json"):
            with suppress(OSError):
                if self.now() - os.stat(path).st_mtime > LIFETIME:
                    path.unlink()
