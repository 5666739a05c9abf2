"""A real ComfyUI inside this process: its nodes, its validation and its executor, without a listening server.

Import this module before anything that imports ComfyUI's modules: they read their command line on import, and our own
folder nodes/ would hide ComfyUI's nodes.py. The environment variable ARGUMENTS holds that command line; without it
ComfyUI runs on the CPU, with its own empty folders that are removed with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import os
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from . import ROOT
from .comfyui import ARGUMENTS, CPU, FOLDERS, comfyui_folder
from .events import Event, ExecutionFailed, Interrupted, PromptRefused, json_event
from .scratch import scratch_folder

_scratch = ExitStack()
BASE = _scratch.enter_context(scratch_folder())  # models, input, output, temp, user
atexit.register(_scratch.close)
for _folder in FOLDERS:
    (BASE / _folder).mkdir()
_alone = [*CPU, "--base-directory", str(BASE), "--preview-method", "latent2rgb"]

sys.path.insert(0, str(comfyui_folder()))
_argv, sys.argv = sys.argv, ["main.py", *json.loads(os.environ.get(ARGUMENTS, json.dumps(_alone)))]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.utils  # noqa: E402
import execution  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
import server  # noqa: E402
import utils.extra_config  # noqa: E402
from comfy.cli_args import args  # noqa: E402
from protocol import BinaryEventTypes  # noqa: E402

sys.argv = _argv


class Run(NamedTuple):
    """The result of one execution of a graph."""

    values: dict[str, list[Any]]  # node id -> its output values
    shown: dict[str, dict[str, Any]]  # node id -> its display in the browser
    events: list[Event]


class Recorder(server.PromptServer):
    """ComfyUI's own server object, which passes its messages to a function instead of to sockets."""

    def __init__(self) -> None:
        super().__init__(asyncio.new_event_loop())
        self.receive: Callable[[Event], object] = lambda event: None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        if isinstance(event, str):
            self.receive(json_event(event, data))
        elif event == BinaryEventTypes.UNENCODED_PREVIEW_IMAGE:
            self.receive(Event("preview", {"image": data[1]}))  # (format, picture, largest side)


@functools.cache
def start(custom_nodes: bool = False) -> Recorder:
    """Load ComfyUI's own nodes and this pack, as ComfyUI does, once. Raises the pack's exception if loading fails.

    custom_nodes  also load other installed packs, and use the model folders that the user has configured; outputs of
                  nodes still go to folders of this process
    """
    recorder = Recorder()
    if custom_nodes:
        for name in FOLDERS:
            (Path(folder_paths.base_path) / name).mkdir(parents=True, exist_ok=True)
        folder_paths.set_temp_directory(str(BASE / "temp"))
        folder_paths.set_output_directory(str(BASE / "output"))
        main = comfyui_folder() / "extra_model_paths.yaml"
        for path in [*([str(main)] if main.is_file() else []), *sum(args.extra_model_paths_config or [], [])]:
            utils.extra_config.load_extra_path_config(path)
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=custom_nodes, init_api_nodes=False))
    if "KontextLoader" not in nodes.NODE_CLASS_MAPPINGS and not asyncio.run(nodes.load_custom_node(str(ROOT))):
        asyncio.run(sys.modules[str(ROOT).replace(".", "_x_")].comfy_entrypoint())  # raises what ComfyUI only logged
        raise RuntimeError("ComfyUI refused the pack; its log says why")
    comfy.utils.set_progress_bar_global_hook(progress_hook(recorder))
    return recorder


def pack_module(name: str) -> ModuleType:
    """A module of this pack, such as "host.forward", as ComfyUI loaded it; call `start` first."""
    package = nodes.NODE_CLASS_MAPPINGS["KontextLoader"].__module__.rsplit(".", 2)[0]
    return importlib.import_module(f"{package}.{name}")


def progress_hook(recorder: Recorder) -> Callable[..., None]:
    """The hook that ComfyUI's main.py installs: samplers report steps and previews to it, and stop when asked to."""

    def report(value: float, total: float, preview: Any, prompt_id: Any = None, node_id: str | None = None):
        comfy.model_management.throw_exception_if_processing_interrupted()
        node = node_id or recorder.last_node_id
        recorder.receive(Event("progress", {"value": value, "max": total, "node": node}))
        if preview is not None:
            recorder.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, preview)

    return report


class Executor:
    """Runs graphs in API format. Nodes stay cached from one run to the next, as in ComfyUI."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        sizes = {"lru": 0, "ram": 0, "ram_inactive": 0}
        self.executor = execution.PromptExecutor(recorder, execution.CacheType.CLASSIC, sizes)

    def __call__(self, graph: dict[str, Any], on_event: Callable[[Event], object] | None = None) -> Run:
        """Raises PromptRefused, ExecutionFailed or Interrupted. A graph needs no output node."""
        graph = with_outputs(graph)
        prompt_id = str(uuid.uuid4())
        outputs = validate(graph, prompt_id)
        events: list[Event] = []

        def receive(event: Event) -> None:
            events.append(event)
            if on_event:
                on_event(event)

        self.recorder.receive = receive
        self.executor.execute(graph, prompt_id, {"client_id": "in process"}, outputs)
        ending, data = self.executor.status_messages[-1]
        if ending == "execution_error":
            raise ExecutionFailed(data)
        if ending == "execution_interrupted":
            raise Interrupted(f"stopped in {data['node_type']} (node {data['node_id']})")
        return Run(self._values(graph), self.executor.history_result["outputs"], events)

    def _values(self, graph: dict[str, Any]) -> dict[str, list[Any]]:
        entries = {node: asyncio.run(self.executor.caches.outputs.get(node)) for node in graph}
        return {
            node: [values[0] if len(values) == 1 else values for values in entry.outputs]
            for node, entry in entries.items()
            if entry is not None
        }


def validate(graph: dict[str, Any], prompt_id: str = "") -> list[str]:
    """The output nodes of a valid graph. Raises PromptRefused."""
    ok, error, outputs, node_errors = asyncio.run(execution.validate_prompt(prompt_id, graph, None))
    if not ok:
        raise PromptRefused({"error": error, "node_errors": node_errors})
    return outputs


def with_outputs(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with a PreviewAny behind every unused output: ComfyUI runs only nodes that lead to an output node."""
    read = {value[0] for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)}
    added = {}
    for name, node in graph.items():
        kind = nodes.NODE_CLASS_MAPPINGS.get(node["class_type"])
        if name not in read and kind is not None and not getattr(kind, "OUTPUT_NODE", False):
            added[f"{name}:shown"] = {"class_type": "PreviewAny", "inputs": {"source": [name, 0]}}
    return graph | added


def interrupt() -> None:
    """Ask the running graph to stop, as the browser's button does."""
    nodes.interrupt_processing()


class ModelCalls:
    """Counts evaluations of diffusion models in this process, by any node."""

    def __init__(self) -> None:
        self.count = 0
        evaluate = comfy.model_base.BaseModel.apply_model

        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            return evaluate(*arguments, **named)

        comfy.model_base.BaseModel.apply_model = counted


def temp_folder() -> Path:
    """The folder of pictures named "file [temp]"."""
    return Path(folder_paths.get_temp_directory())


def input_path(name: str) -> Path | None:
    """The file that LoadImage reads for a name, if it exists."""
    return Path(folder_paths.get_annotated_filepath(name)) if folder_paths.exists_annotated_filepath(name) else None


def model_path(name: str) -> Path | None:
    """The file with this name in any of ComfyUI's model folders."""
    for kind in folder_paths.folder_names_and_paths:
        if kind not in ("custom_nodes", "configs") and (path := folder_paths.get_full_path(kind, name)):
            return Path(path)
    return None
