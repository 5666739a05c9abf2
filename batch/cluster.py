"""Workers as Ray actors, on this machine or on a cluster: the same editor, placed and started by Ray.

Each actor uses one GPU, or one CPU core if the cluster has no GPU, and loads its own models. The pack, ComfyUI, models,
pictures and the output folder must have the same paths on every machine.
"""

from __future__ import annotations

import os
import platform
import shutil
from typing import Any

from . import ROOT, Failure
from .local import Report, Setup, open_editor, temporary_folder, use_temporary

VERSION = "2.60.0"
PASSED_ON = ("COMFYUI_PATH", "OMP_NUM_THREADS", "SSL_CERT_FILE")


class RayWorkers:
    """Actors 0 to `count` - 1; by default one per GPU of the cluster, at least one. Raises Failure without Ray."""

    def __init__(self, setup: Setup, count: int | None, address: str | None):
        try:
            import ray  # type: ignore[import-not-found]
        except ImportError as error:
            install = f"pip install 'ray=={VERSION}'"
            raise Failure(f"--ray needs Ray, which this Python cannot import ({error}): {install}", code=2) from None
        self._ray = ray
        try:
            ray.init(address, log_to_driver=False, include_dashboard=False if address is None else None)
        except ConnectionError as error:
            raise Failure(f"there is no Ray cluster at {address}: {error}", code=2) from None
        except Exception as error:  # Ray raises plain exceptions when its own processes do not start in time
            ray.shutdown()
            place = f"the cluster at {address}" if address else "this machine"
            raise Failure(f"Ray did not start on {place}: {error}") from None
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.count = count or max(1, gpus)
        resources = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._actor = ray.remote(**resources, runtime_env={"env_vars": environment})(Actor)
        self._setup = setup
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, tuple[int, str]] = {}  # reference -> worker, meaning of its result
        self._places: dict[int, str] = {}

    def start(self, worker: int) -> None:
        self._actors[worker] = self._actor.remote(self._setup, worker)
        self._pending[self._actors[worker].where.remote()] = worker, "ready"

    def send(self, worker: int, name: str, argument: Any) -> None:
        """Call `Editor.name(argument)` in the worker. A dead worker is reported by `reports`."""
        self._pending[self._actors[worker].call.remote(name, argument)] = worker, "answer"

    def reports(self, seconds: float) -> list[Report]:
        """The events since the last call; waits for one up to `seconds`."""
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds) if self._pending else ([], [])
        return [report for reference in ready if (report := self._report(reference))]

    def where(self, worker: int) -> str:
        return self._places.get(worker, f"actor {worker}")

    def last_words(self, worker: int) -> str:
        return "The worker's own output is in Ray's logs, /tmp/ray/session_latest/logs on its machine."

    def stop(self) -> None:
        """End all actors at once. Files being written have only temporary names."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors, self._pending = {}, {}
        self._ray.shutdown()
        shutil.rmtree(temporary_folder(self._setup.folder), ignore_errors=True)  # of the actors on this machine

    def _report(self, reference: Any) -> Report | None:
        worker, kind = self._pending.pop(reference)
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            self._pending = {other: what for other, what in self._pending.items() if what[0] != worker}
            self._actors.pop(worker, None)
            return Report(worker, "died", "ended")
        except self._ray.exceptions.RayError as error:
            return Report(worker, "error", str(error))
        if kind == "ready":
            self._places[worker] = said
        return Report(worker, kind, said)


class Actor:
    """The class that becomes a Ray actor."""

    def __init__(self, setup: Setup, worker: int):
        use_temporary(setup.folder, worker)
        self._editor = open_editor(setup)

    def where(self) -> str:
        """Machine and process, once the editor is ready."""
        return f"{platform.node()} {os.getpid()}"

    def call(self, name: str, argument: Any) -> Any:
        return getattr(self._editor, name)(argument)
