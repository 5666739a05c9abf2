"""Edit one row in this process, whose ComfyUI keeps the models loaded; used by local workers and Ray actors."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import commit, graphs, inprocess
from .events import ExecutionFailed, PromptRefused
from .graphs import Prompt
from .local import Done
from .plan import WEIGHTS, Task

NO_PLACE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM)  # every other row would fail too
SAMPLES, SAMPLE_BYTES = 64, 1 << 16  # of a model file; hashing all of 24 GB would take a minute


class Editor:
    """Runs graphs in a started ComfyUI. `folder`: output folder; `workflow`: the graph as the browser saved it."""

    def __init__(self, folder: Path, workflow: dict[str, Any] | None, comfyui: inprocess.Recorder):
        self.folder, self.workflow = folder, workflow
        self.executor = inprocess.Executor(comfyui)
        self.calls = inprocess.ModelCalls()

    def edit(self, task: Task) -> Done:
        """Make the task's file unless it exists. Errors of a row are returned, not raised."""
        path = self.folder / task.output
        if commit.stored_key(path) == task.key:
            return Done(task.key)
        started, calls = time.perf_counter(), self.calls.count
        try:
            with staged(task, inprocess.temp_folder()) as prompt:
                before = time.perf_counter()
                run = self.executor(prompt)
                inside = time.perf_counter() - before
            picture = one_picture(run.values.get(task.result[0]), task.result[1])
        except (ValueError, OSError, PromptRefused, ExecutionFailed) as error:
            return Done(task.key, error=str(error))
        try:
            commit.write_picture(path, picture, task.key, self._metadata(task.prompt))
        except OSError as error:
            return Done(task.key, error=f"{path}: {error.strerror or error}", fatal=error.errno in NO_PLACE)
        seconds = time.perf_counter() - started
        text = "\n".join(line for node in task.prompt for line in run.shown.get(node, {}).get("text", ()))
        return Done(task.key, seconds, self.calls.count - calls, picture.size, seconds - inside, text)

    def inspect(self, tasks: Sequence[Task]) -> list[tuple[str | None, dict[str, str]]]:
        """ComfyUI's validation errors for each task's graph, and the digests of the other files that it loads."""
        found = []
        for task in tasks:
            fault = None
            try:
                with staged(task, inprocess.temp_folder()) as prompt:
                    inprocess.validate(inprocess.with_outputs(prompt))
            except (ValueError, OSError, PromptRefused) as error:
                fault = str(error)
            found.append((fault, _loaded(task)))
        return found

    def _metadata(self, prompt: Prompt) -> dict[str, str]:
        """The metadata that ComfyUI writes into its own PNGs, with the row's values."""
        metadata = {"prompt": json.dumps(prompt)}
        ids = {str(node["id"]) for node in self.workflow["nodes"]} if self.workflow else set()
        if self.workflow and prompt.keys() <= ids:  # false if a mask loader was added, which the workflow lacks
            metadata["workflow"] = json.dumps(graphs.with_prompt_values(self.workflow, prompt))
        return metadata


@contextmanager
def staged(task: Task, folder: Path) -> Iterator[Prompt]:
    """The prompt while the task's files are in LoadImage's folder: named by their content, so that ComfyUI's cache also
    works for the next seed. Raises ValueError for a file that has changed.
    """
    prompt, copies = dict(task.prompt), []
    try:
        for (node, name), file in task.files.items():
            content = Path(file.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != file.content:
                raise ValueError(f"{file.path} has changed since the batch was started; start it again")
            _require_whole(file.path, content)
            copies.append(folder / f"{file.content}{Path(file.path).suffix}")
            copies[-1].write_bytes(content)
            prompt[node] = prompt[node] | {"inputs": prompt[node]["inputs"] | {name: f"{copies[-1].name} [temp]"}}
        yield prompt
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)


def _require_whole(path: str, content: bytes) -> None:
    """Raises ValueError for a truncated picture, which LoadImage would accept in part."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a whole picture: {error}") from None


def one_picture(values: list[Any] | None, slot: int) -> Image.Image:
    """The only picture of an IMAGE output. Raises ValueError for another number."""
    images: Any = values[slot] if values else []
    if isinstance(images, list) and len(images) == 1:
        (images,) = images
    count = len(images) if hasattr(images, "__len__") else 0
    if count != 1 or not hasattr(images, "shape"):
        raise ValueError(f"the graph made {count} pictures; a row is one file: set batch_size to 1, or use --seeds")
    pixels = (255 * images[0].float().cpu().numpy()).clip(0, 255).astype(np.uint8)  # as SaveImage does
    return Image.fromarray(pixels)


def sampled_digest(path: Path) -> str:
    """Distinguishes model files of equal size: a hash of the length and of evenly spaced pieces."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(number * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _loaded(task: Task) -> dict[str, str]:
    digests = {}
    for node, content in task.prompt.items():
        for name, value in content["inputs"].items():
            if not isinstance(value, str) or (node, name) in task.files:
                continue
            if value.lower().endswith(WEIGHTS) and (path := inprocess.model_path(value)):
                digests[value] = sampled_digest(path)
            elif content["class_type"].startswith("LoadImage") and (path := inprocess.input_path(value)):
                digests[value] = commit.content_hash(path)
    return digests
