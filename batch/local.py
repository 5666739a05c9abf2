"""Workers on this machine, one process each, connected to the driver by a pipe: one per GPU, or one without a GPU.

A worker on a CPU computes on one thread unless OMP_NUM_THREADS says otherwise: the last bits of a picture depend on the
number of threads, so dividing threads among workers would make the files depend on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

SECONDS_TO_END = 10
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Report(NamedTuple):
    """An event of a worker: "ready", "answer", "error" (in our own code) or "died"; and its message."""

    worker: int
    kind: str
    said: Any


class Done(NamedTuple):
    """The outcome of a task. `error` is None if its file exists; `fatal` if no other row could be written either."""

    key: str
    seconds: float | None = None  # None: it existed already
    model_calls: int | None = None
    size: tuple[int, int] | None = None  # width, height
    outside: float | None = None  # s of `seconds` spent outside the graph
    text: str = ""  # reports of the graph's nodes
    error: str | None = None
    fatal: bool = False


class Setup(NamedTuple):
    """Everything a worker needs to know, wherever it runs."""

    folder: Path  # output folder
    workflow: dict[str, Any] | None
    arguments: tuple[str, ...]  # ComfyUI's command line


class LocalWorkers:
    """Processes 0 to `count` - 1; each is started on demand. `gpus`: the names of the GPUs, as in `available_gpus`."""

    def __init__(self, setup: Setup, count: int, gpus: Sequence[str], logs: Path):
        self.count = count
        self._setup, self._gpus, self._logs = setup, gpus, logs
        self._temporary = temporary_folder(setup.folder)
        shutil.rmtree(self._temporary, ignore_errors=True)  # of a killed driver
        self._idle: set[int] = set()
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}

    def start(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        log = self._logs / f"worker_{worker}.log"
        arguments = (theirs, self._setup, worker, own_environment(worker, self._gpus), log)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._processes[worker], self._pipes[worker] = process, ours

    def send(self, worker: int, name: str, argument: Any) -> None:
        """Call `Editor.name(argument)` in the worker. A dead worker is reported by `reports`."""
        self._idle.discard(worker)
        with suppress(OSError):
            self._pipes[worker].send((name, argument))

    def reports(self, seconds: float) -> list[Report]:
        """The events since the last call; waits for one up to `seconds`."""
        by_pipe = {pipe: worker for worker, pipe in self._pipes.items()}
        found = []
        for pipe in wait(list(by_pipe), seconds):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                found.append(Report(worker, *self._pipes[worker].recv()))
                self._idle.add(worker)
            except (EOFError, OSError):
                found.append(Report(worker, "died", self._bury(worker)))
        return found

    def where(self, worker: int) -> str:
        return f"process {self._processes[worker].pid}"

    def last_words(self, worker: int) -> str:
        path = self._logs / f"worker_{worker}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        return "\n".join(lines[-12:])

    def stop(self) -> None:
        """End all workers: idle ones by request, the others at once. Files being written have only temporary names."""
        for worker, process in self._processes.items():
            if worker in self._idle:
                self.send(worker, "", None)
            else:
                process.kill()
        for worker in list(self._processes):
            self._processes[worker].join(SECONDS_TO_END)
            self._processes[worker].kill()
            self._bury(worker)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _bury(self, worker: int) -> str:
        self._idle.discard(worker)
        process = self._processes.pop(worker)
        self._pipes.pop(worker).close()
        process.join()
        code = process.exitcode
        return f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def work(pipe: Connection, setup: Setup, worker: int, environment: dict[str, str], log: Path) -> None:
    """The main loop of a worker. It ends with its driver, even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.environ.update(environment)
    use_temporary(setup.folder, worker)
    jobs: list[Any] = []
    there = threading.Condition()
    threading.Thread(target=_listen, args=(pipe, jobs, there), daemon=True).start()
    try:
        editor = open_editor(setup)
        pipe.send(("ready", None))
        while True:
            with there:
                there.wait_for(lambda: jobs)
                name, argument = jobs.pop(0)
            if not name:
                return
            pipe.send(("answer", getattr(editor, name)(argument)))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _listen(pipe: Connection, jobs: list[Any], there: threading.Condition) -> None:
    """Receive jobs; without a driver the process ends at once, even in the middle of a row."""
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        with there:
            jobs.append(job)
            there.notify()


def open_editor(setup: Setup) -> Any:
    """Start ComfyUI in this process with the given setup; it must not have been imported before."""
    from .comfyui import ARGUMENTS, device_arguments

    arguments = [*device_arguments(), "--preview-method", "none", *setup.arguments]
    os.environ[ARGUMENTS] = json.dumps(arguments)
    from . import edit, inprocess

    return edit.Editor(setup.folder, setup.workflow, inprocess.start(custom_nodes=True))


def temporary_folder(out: Path) -> Path:
    """The temporary folder of an output folder's workers. Its name lets the next driver, which has the folder's lock,
    find the leftovers of a killed one."""
    user = getattr(os, "getuid", int)()
    return Path(tempfile.gettempdir()) / f"kontext-batch-{hashlib.sha256(f'{user} {out}'.encode()).hexdigest()[:12]}"


def use_temporary(out: Path, worker: int) -> None:
    """Give this process its own temporary folder, without leftovers of a killed worker with the same number."""
    folder = temporary_folder(out) / str(worker)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    tempfile.tempdir = None  # forget the cached folder


def own_environment(worker: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment variables that a worker has of its own: its GPU, or one thread without a GPU."""
    if gpus:
        return {VISIBLE: gpus[worker % len(gpus)]}
    return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}


def available_gpus() -> list[str]:
    """The GPUs that torch can use here, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    return gpu_names(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def gpu_names(count: int) -> list[str]:
    """Names of the first `count` GPUs: those of the user's own CUDA_VISIBLE_DEVICES (numbers, UUIDs, MIG devices).

    CUDA shows a process only one MIG device of a list; a process for each can use them all.
    """
    listed = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if not listed:
        return [str(number) for number in range(count)]
    alone = count and all(name.startswith("MIG-") for name in listed)
    return listed if alone else listed[:count]
