"""Child processes that end with the one that started them, however it ends: also by SIGKILL, or with its terminal.

Between the two stands a guard, which is this file run as a program. It reads a pipe that the parent alone can write to;
when the pipe closes, it ends the child and all that the child has started. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

PATIENCE = 5  # seconds from the request to the end


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """The guard of a new process; `options` are those of Popen. It returns what the process returns."""
    guard = [sys.executable, "-I", os.path.abspath(__file__), *command]
    return subprocess.Popen(guard, stdin=subprocess.PIPE, **options)


def stop(guard: subprocess.Popen) -> None:
    """End the process of a guard, and wait for that. No effect on one that has ended."""
    if guard.stdin:
        guard.stdin.close()
    try:
        guard.wait(timeout=2 * PATIENCE)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def run(command: list[str]) -> int:
    """The guard itself: runs the command until it ends, the parent has gone, or a signal says so."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_the_parent, args=[ended], daemon=True).start()
    for name in ("SIGINT", "SIGHUP"):  # they reach the parent too, which decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # inherited: a lock that the parent passed on is held until the child has ended too
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, start_new_session=True)
    while child.poll() is None:
        if ended.wait(0.1):
            _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait_for_the_parent(ended: threading.Event) -> None:
    while os.read(0, 4096):  # sys.stdin cannot be read while the interpreter ends
        pass
    ended.set()


def _end(child: subprocess.Popen) -> None:
    _signal(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=PATIENCE)
    _signal(child, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    child.wait()


def _signal(child: subprocess.Popen, number: int) -> None:
    """To the child and what it has started. Windows has no groups of processes; there it is the child alone."""
    if sys.platform == "win32":
        child.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
