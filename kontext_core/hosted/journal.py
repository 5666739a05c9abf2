"""The journal of accepted requests: one small file each, named by the request hash, kept as long as the provider has
it.

A run with the same settings first asks the provider for the existing result instead of paying again: after a crash, a
restart or a cancelled run, and also if the picture was delivered already. Asking costs nothing, so entries have no
expiry time: one is dropped when the provider says that there is no result. A file contains the provider's id and
address of the task; it contains no key, text or picture, and its name is a one-way hash of them.

Only one run at a time may hold a request, in this process or another: of two equal requests the second waits, and then
finds the task of the first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..disk import write_whole
from .errors import JOURNAL, HostedError
from .wire import Task

MOST_ENTRIES = 1000  # older ones are dropped
UNUSED = 86_400.0  # s without use after which a lock without an entry is dropped
GLANCE = 0.05  # s between attempts to lock a request that another run holds


class Entry:
    """The file of one request, held exclusively. `task` is the accepted one; `unanswered` marks a request sent by a run
    that ended before the answer."""

    def __init__(self, path: Path, key: str):
        self._path = path
        self._key = hashlib.sha256((path.stem + key).encode()).hexdigest()[:16]
        content = self._read()
        self.task: Task | None = _task(content)
        self.delivered = content.get("delivered") is True
        self.same_key = content.get("key") == self._key
        self.unanswered = self.task is None and "sent" in content

    def reserve(self) -> None:
        """Record a request before it is sent. HostedError if that is not possible."""
        try:
            self._write(sent=time.strftime("%Y-%m-%d %H:%M:%S"))
        except OSError as error:
            self.forget()
            raise unwritable(self._path.parent, error) from None

    def remember(self, task: Task) -> bool:
        """Record an accepted task; False, with nothing recorded, if that is not possible."""
        try:
            self._write(**task._asdict())
        except OSError:
            self.forget()
            return False
        self.task = task
        return True

    def deliver(self) -> None:
        if self.task:
            with suppress(OSError):
                self._write(**self.task._asdict(), delivered=True)

    def forget(self) -> None:
        self.task, self.unanswered, self.delivered = None, False, False
        with suppress(OSError):
            self._path.unlink()

    def _write(self, **content: Any) -> None:
        text = json.dumps({"key": self._key, **content})
        write_whole(self._path, lambda file: file.write(text.encode()), private=True)

    def _read(self) -> dict[str, Any]:
        """The file's content; damaged parts are ignored."""
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}


class Journal:
    """The files in a folder, which is created when needed."""

    def __init__(self, folder: Path):
        self.folder = folder

    @asynccontextmanager
    async def claim(self, request_hash: str, key: str) -> AsyncIterator[Entry]:
        """The entry of a request, as soon as no other run holds it. HostedError if the folder is not writable."""
        lock = FileLock(self.folder / f"{request_hash}.lock", timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not _acquired(lock):
                await asyncio.sleep(GLANCE)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        with suppress(OSError):
            self._drop_oldest()
        try:
            yield Entry(self.folder / f"{request_hash}.json", key)
        finally:
            lock.release()

    def _drop_oldest(self) -> None:
        entries = list(self.folder.glob("*.json"))
        oldest_first = sorted(entries, key=lambda path: path.stat().st_mtime) if len(entries) > MOST_ENTRIES else []
        for path in oldest_first[:-MOST_ENTRIES]:
            lock = FileLock(path.with_suffix(".lock"), timeout=0)
            if _acquired(lock):
                path.unlink(missing_ok=True)
                _drop(lock)
        for path in self.folder.glob("*.lock"):
            lock = FileLock(path, timeout=0)
            if not path.with_suffix(".json").exists() and _age(path) > UNUSED and _acquired(lock):
                _drop(lock)


def unwritable(folder: Path, error: OSError) -> HostedError:
    """Nothing is sent without a journal."""
    return HostedError(
        JOURNAL,
        f"the journal of paid requests cannot be written ({error.strerror}): {folder}. Without it a picture that was "
        "paid for could be lost. Make room, or make the folder writable.",
    )


def _drop(lock: FileLock) -> None:
    """Remove the file of a lock that is held, before another run can wait for it."""
    with suppress(OSError):  # Windows removes it on release
        Path(lock.lock_file).unlink()
    lock.release()


def _age(path: Path) -> float:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _acquired(lock: FileLock) -> bool:
    with suppress(Timeout):
        lock.acquire()
        return True
    return False


def _task(content: dict[str, Any]) -> Task | None:
    fields = {name: content.get(name) for name in ("id", "address", "cancel")}
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    cost = content.get("cost")
    return Task(**fields, cost=cost if isinstance(cost, float) else None)  # type: ignore[arg-type]
