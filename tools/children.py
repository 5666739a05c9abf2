"""Child processes that end with their parent, however it ends: also by SIGKILL, or with its terminal.

A guard, which is this file run as a program, stands between the two. It reads a pipe that only the parent can write to;
when the pipe closes, the guard ends the child and all its descendants. Standard library only.
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

PATIENCE = 5  # seconds between the request to stop and the kill


def start(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a process under a guard; `options` are those of Popen. The guard exits with the process's code."""
    guard = [sys.executable, "-I", os.path.abspath(__file__), *command]
    return subprocess.Popen(guard, stdin=subprocess.PIPE, **options)


def stop(guard: subprocess.Popen) -> None:
    """End the process of a guard and wait for it. No effect if it has ended already."""
    if guard.stdin:
        guard.stdin.close()
    try:
        guard.wait(timeout=2 * PATIENCE)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def run(command: list[str]) -> int:
    """The guard: runs the command until it ends, the parent is gone, or a signal arrives."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_the_parent, args=[ended], daemon=True).start()
    for name in ("SIGINT", "SIGHUP"):  # the parent gets them too, and decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # inherited: a lock that the parent passed on is held until the child has ended, too
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, start_new_session=True)
    while child.poll() is None:
        if ended.wait(0.1):
            _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait_for_the_parent(ended: threading.Event) -> None:
    while os.read(0, 4096):  # sys.stdin cannot be read during interpreter shutdown
        pass
    ended.set()


def _end(child: subprocess.Popen) -> None:
    _signal(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=PATIENCE)
    _signal(child, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    child.wait()


def _signal(child: subprocess.Popen, number: int) -> None:
    """Signal the child and its descendants. Windows has no process groups; there only the child is signalled."""
    if sys.platform == "win32":
        child.terminate()
        return
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
