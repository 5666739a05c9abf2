"""Workers on this machine: a process each, which the driver talks to over a pipe. One a GPU, and one without a GPU.

A worker on a CPU computes on one thread unless OMP_NUM_THREADS says otherwise: the last bits of a picture depend on the
number of threads, so that threads divided among workers would give other files with more workers.
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
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from . import Failure

SECONDS_TO_END = 10


class Report(NamedTuple):
    """What happened to a worker: "ready", "answer", "error" (of our own code) or "died"; what it said."""

    worker: int
    kind: str
    said: Any


class Done(NamedTuple):
    """What became of a task. `error` is None if its file is there; `fatal` if no other row could be written either."""

    key: str
    seconds: float | None = None  # None: it was there already
    model_calls: int | None = None
    size: tuple[int, int] | None = None  # width, height
    outside: float | None = None  # s of `seconds` that were not spent in the graph
    text: str = ""  # what the graph's nodes showed
    error: str | None = None
    fatal: bool = False


class Setup(NamedTuple):
    """What a worker needs to know, wherever it runs."""

    folder: Path  # the outputs'
    workflow: dict[str, Any] | None
    arguments: tuple[str, ...]  # ComfyUI's


class LocalWorkers:
    """Processes 0 to `count` - 1; each is started when it is asked to."""

    def __init__(self, setup: Setup, count: int, gpus: int, logs: Path):
        self.count = count
        self._setup, self._gpus, self._logs = setup, gpus, logs
        self._temporary = temporary_folder(setup.folder)
        shutil.rmtree(self._temporary, ignore_errors=True)  # of a driver that was killed
        self._idle: set[int] = set()
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}

    def start(self, worker: int) -> None:
        environment = {}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(worker % self._gpus)
        if not self._gpus and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = "1"
        ours, theirs = self._context.Pipe()
        log = self._logs / f"worker_{worker}.log"
        arguments = (theirs, self._setup, worker, environment, log)
        process = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._processes[worker], self._pipes[worker] = process, ours

    def send(self, worker: int, name: str, argument: Any) -> None:
        """Has the worker call `Editor.name(argument)`. One that has died says so in `reports`."""
        self._idle.discard(worker)
        with suppress(OSError):
            self._pipes[worker].send((name, argument))

    def reports(self, seconds: float) -> list[Report]:
        """What has happened, waiting for something up to so many seconds."""
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
        """End all workers: idle ones end themselves, the others at once. What they were writing has no name yet."""
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
        process = self._processes.pop(worker)
        self._pipes.pop(worker).close()
        process.join()
        code = process.exitcode
        return f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def work(pipe: Connection, setup: Setup, worker: int, environment: dict[str, str], log: Path) -> None:
    """A worker's whole life. It ends with its driver, also when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
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
    """Jobs as they come; without a driver the process ends at once, in the middle of a row too."""
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        with there:
            jobs.append(job)
            there.notify()


def open_editor(setup: Setup) -> Any:
    """ComfyUI in this process, as `setup` says; it must not have been imported before."""
    from .comfyui import ARGUMENTS, device_arguments

    arguments = [*device_arguments(), "--preview-method", "none", *setup.arguments]
    os.environ[ARGUMENTS] = json.dumps(arguments)
    from . import edit, inprocess

    return edit.Editor(setup.folder, setup.workflow, inprocess.start(custom_nodes=True))


def temporary_folder(out: Path) -> Path:
    """Where the workers of an output folder put what goes with them. Its name tells the next driver what a killed one,
    which had the folder's lock, has left."""
    user = getattr(os, "getuid", int)()
    return Path(tempfile.gettempdir()) / f"kontext-batch-{hashlib.sha256(f'{user} {out}'.encode()).hexdigest()[:12]}"


def use_temporary(out: Path, worker: int) -> None:
    """Gives this process a temporary folder of its own, without what a killed worker of its number has left."""
    folder = temporary_folder(out) / str(worker)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    tempfile.tempdir = None  # look again


def available_gpus() -> int:
    """GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def require_workers(count: int | None, gpus: int) -> int:
    """How many workers to start: one a GPU, or one; more on one GPU only where asked for. Raises Failure."""
    if count is not None and count < 1:
        raise Failure(f"--workers is {count}; at least 1 is needed", code=2)
    return count or max(1, gpus)
