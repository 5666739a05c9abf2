"""Assign tasks to workers until each has its file or an error. The state is on disk, so a driver may be killed.

A driver's own files are in the folder `.batch` in the output folder: a lock, the workers' logs, and a journal of times,
which are not in the outputs because equal work has to give equal files.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from . import Failure, commit
from .local import Report
from .plan import Task
from .progress import Progress
from .spend import Budget

OWN = ".batch"
FAILURES, RESULTS = "failures.jsonl", "results.jsonl"
TRIES = 2  # of a row whose worker dies
STARTS = 3  # of a worker that dies before it is ready
PATIENCE = 60  # s without an event of the first worker before a message is printed


class Workers(Protocol):
    """Workers 0 to count - 1 on this machine or on a cluster."""

    count: int

    def start(self, worker: int) -> None: ...
    def send(self, worker: int, name: str, argument: Any) -> None: ...
    def reports(self, seconds: float) -> list[Report]: ...
    def where(self, worker: int) -> str: ...
    def last_words(self, worker: int) -> str: ...
    def stop(self) -> None: ...


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclusive use of the output folder. Raises Failure when another batch uses it, or when it is not writable."""
    try:
        (folder / OWN).mkdir(parents=True, exist_ok=True)
        (folder / OWN / "writable").write_bytes(b"")
        (folder / OWN / "writable").unlink()
        database = sqlite3.connect(folder / OWN / "lock", timeout=0, isolation_level=None)
    except OSError as error:
        raise Failure(f"{folder} cannot be written to: {error.strerror}. Give another --out.", code=2) from None
    try:
        database.execute("BEGIN EXCLUSIVE")  # released when this process ends, however it ends
    except sqlite3.DatabaseError as error:
        database.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise Failure(f"{folder} cannot be written to: {error}. Give another --out.", code=2) from None
        raise Failure(f"another batch is writing to {folder}; wait, or give another --out", code=2) from None
    try:
        yield
    finally:
        database.close()


def first_answer(workers: Workers, name: str, argument: Any) -> Any:
    """Start worker 0 and return its answer. Raises Failure when it does not start."""
    died = ""
    for _ in range(STARTS):
        workers.start(0)
        workers.send(0, name, argument)
        kind, said = "", None
        while kind not in ("answer", "died"):
            reports = workers.reports(PATIENCE)
            if not reports:
                print("Still waiting for the first worker. On a cluster it may be waiting for a free GPU.", flush=True)
            for _, kind, said in reports:
                if kind == "error":
                    raise Failure(f"a worker could not start: {said}\n{workers.last_words(0)}")
        if kind == "answer":
            return said
        died = str(said)
    raise Failure(f"a worker {died} before it was ready, {STARTS} times:\n{workers.last_words(0)}")


class Run:
    """One run over tasks that have keys. Requires the folder's lock.

    A task is known by its output: rows of equal work have equal keys, and each has its own file.
    """

    def __init__(self, folder: Path, tasks: Sequence[Task], retry_failed: bool, budget: Budget):
        self.folder, self.tasks, self.budget = folder, tasks, budget
        commit.sweep({(folder / task.output).parent for task in tasks} | {folder})
        self.done = {task.output for task in tasks if commit.stored_key(folder / task.output) == task.key}
        self.others, known = _known_failures(folder, tasks)
        self.failures = {} if retry_failed else {name: line for name, line in known.items() if name not in self.done}
        missing = [task for task in tasks if task.output not in self.done]
        self.changed = sum((folder / task.output).exists() for task in missing)
        self.waiting = deque(task for task in missing if task.output not in self.failures)
        self.deaths: dict[str, int] = {}  # by output
        self.stopping: str | None = None  # why no more rows are assigned

    def summary(self) -> str:
        parts = [f"{len(self.tasks)} files wanted", f"{len(self.done)} done already", f"{len(self.waiting)} to do"]
        if self.changed:
            parts.append(f"{self.changed} of these changed since")
        if self.failures:
            parts.append(f"{len(self.failures)} failed before (--retry-failed tries them again)")
        return ", ".join(parts)

    def work(self, workers: Workers, ready: int = 0) -> None:
        """Run until nothing is waiting and no worker is busy. `ready`: number of workers that are started and idle.

        Raises Failure when workers cannot start or the folder is not writable; KeyboardInterrupt at the second Ctrl-C.
        """
        commit.write_lines(self.folder / FAILURES, [*self.others, *self.failures.values()])
        busy: dict[int, Task | None] = {}  # None: starting
        starts = dict.fromkeys(range(workers.count), 0)
        progress = Progress(len(self.waiting))
        idle = list(range(ready))
        try:
            with _interrupts(self._interrupted):
                for worker in range(ready, min(workers.count, len(self.waiting))):
                    workers.start(worker)
                    busy[worker] = None
                while any(busy.values()) or (self.waiting and not self.stopping):  # do not wait for a starting worker
                    while idle and (task := self._next()):
                        worker = idle.pop()
                        busy[worker] = task
                        workers.send(worker, "edit", task)
                    if not busy:
                        break
                    for report in workers.reports(1.0):
                        self._note(report, busy, idle, workers, starts, progress)
        finally:
            progress.close()
            workers.stop()
            commit.sweep({(self.folder / task.output).parent for task in self.tasks})
        if self.stopping:
            raise Failure(f"{self.stopping} {self.left()}")

    def left(self) -> str:
        missing = len(self.tasks) - len(self.done) - len(self.failures)
        done = f"{len(self.done)} of {len(self.tasks)} files are done, {missing} left"
        return f"{done}; the same command continues from here."

    def _next(self) -> Task | None:
        if self.stopping or not self.waiting:
            return None
        task = self.waiting[0]
        if fault := self.budget.reserve(task):
            self.stopping = fault
            return None
        return self.waiting.popleft()

    def _note(
        self,
        report: Report,
        busy: dict[int, Task | None],
        idle: list[int],
        workers: Workers,
        starts: dict[int, int],
        progress: Progress,
    ) -> None:
        task = busy.pop(report.worker, None)
        if report.kind == "ready":
            starts[report.worker] = 0
            idle.append(report.worker)
        elif report.kind == "answer" and task:
            self._settle(task, report.said, workers.where(report.worker), progress)
            idle.append(report.worker)
        elif report.kind == "error":
            raise Failure(f"a worker failed: {report.said}\n{workers.last_words(report.worker)}")
        elif report.kind == "died":
            if task:
                self._died(task, report.said, progress)
            elif report.worker in idle:
                idle.remove(report.worker)
            else:
                starts[report.worker] += 1
                if starts[report.worker] >= STARTS:
                    raise Failure(f"a worker {report.said} before it was ready:\n{workers.last_words(report.worker)}")
            if self.waiting and not self.stopping:
                workers.start(report.worker)
                busy[report.worker] = None

    def _settle(self, task: Task, done: Any, where: str, progress: Progress) -> None:
        if done.fatal:
            self.stopping = self.stopping or f"{done.error}."
            return
        if done.error is not None:
            self._fail(task, done.error, progress)
            return
        self.budget.settle(task, done.text)
        self.done.add(task.output)
        line = {"output": task.output, "key": task.key, "worker": where, "at": time.time(), **_journalled(done)}
        self._append(Path(OWN) / "journal.jsonl", line)
        progress.add(failed=False)

    def _died(self, task: Task, how: str, progress: Progress) -> None:
        if commit.stored_key(self.folder / task.output) == task.key:  # it died between its commit and its answer
            self.done.add(task.output)
            progress.add(failed=False)
            return
        self.deaths[task.output] = self.deaths.get(task.output, 0) + 1
        if self.deaths[task.output] < TRIES:
            self.waiting.appendleft(task)
        else:
            self._fail(task, f"the worker {how} at this row, {TRIES} times; was there too little memory?", progress)

    def _fail(self, task: Task, error: str, progress: Progress) -> None:
        line = {"row": task.row, "output": task.output, "error": error, "key": task.key, "source": task.source}
        self.failures[task.output] = line
        self._append(Path(FAILURES), line)
        progress.say(f"{task.where} failed: {error}")
        progress.add(failed=True)

    def _append(self, name: Path, line: dict[str, Any]) -> None:
        """Append to a file that may be lost. If that fails, no picture could be written either."""
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            self.stopping = self.stopping or f"{self.folder / name}: {error.strerror}."

    def _interrupted(self) -> None:
        self.stopping = "Stopped."
        print("\nStopping after the current rows; Ctrl-C again stops at once.", flush=True)


def results(folder: Path, tasks: Sequence[Task], done: set[str], failures: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcome of each task, in the manifest's order: the lines of results.jsonl.

    done, failures  by output
    """
    journal = {_work(line): line for line in commit.read_lines(folder / OWN / "journal.jsonl")}
    lines = []
    for task in sorted(tasks, key=lambda task: (task.row, task.seed or 0)):
        status = "done" if task.output in done else "failed" if task.output in failures else "missing"
        known = journal.get((task.output, task.key), {}) if status == "done" else {}
        line = {
            "row": task.row,
            "output": task.output,
            "status": status,
            "source": task.source,
            **task.shown,
            "seed": task.seed,
            "labels": dict(task.labels),
            "key": task.key,
            **{name: known.get(name) for name in ("seconds", "outside", "model_calls", "size", "worker", "text")},
        }
        lines.append(line | ({"error": failures[task.output]["error"]} if status == "failed" else {}))
    return lines


def _known_failures(folder: Path, tasks: Sequence[Task]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The lines of failures.jsonl about outputs that are not of these tasks, and by output those about their work."""
    keys = {task.output: task.key for task in tasks}
    lines = commit.read_lines(folder / FAILURES)
    others = [line for line in lines if line.get("output") not in keys]
    return others, {line["output"]: line for line in lines if _work(line) in keys.items()}


def _work(line: dict[str, Any]) -> tuple[Any, Any]:
    """What a line of the journal or of failures.jsonl is about: a file and the key of its work."""
    return line.get("output"), line.get("key")


def _journalled(done: Any) -> dict[str, Any]:
    return {name: getattr(done, name) for name in ("seconds", "outside", "model_calls", "size", "text")}


@contextmanager
def _interrupts(first: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C (and SIGTERM) calls `first`; the second one raises KeyboardInterrupt."""
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        first()

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
