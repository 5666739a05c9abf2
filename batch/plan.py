"""The plan of a batch, made before anything runs: a task for each output file, or every fault of the manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from . import ROOT, Failure, commit, graphs
from .binding import Binding, Bound, Target, reads_alpha, title_of
from .graphs import Prompt
from .manifest import MOST_SEED, PICTURES, Row, refuse

WEIGHTS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\\]')  # characters that some file system forbids
READERS = 8  # threads that hash pictures


@dataclass(frozen=True)
class File:
    """A picture or mask that a task reads."""

    path: str
    content: str  # sha256


@dataclass(frozen=True)
class Task:
    """One output file. It contains everything that a worker needs."""

    row: int
    where: str
    prompt: Prompt  # files appear as written in the manifest
    files: Mapping[Target, File]
    result: tuple[str, int]  # node id and output slot of the picture
    output: str  # relative to the output folder
    source: str | None  # the picture to edit
    seed: int | None
    labels: Mapping[str, Any]
    shown: Mapping[str, Any]  # the row's cells, for the report
    key: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the row loads: rows with equal models are processed together."""
        values = (value for content in self.prompt.values() for value in content["inputs"].values())
        return tuple(value for value in values if isinstance(value, str) and value.lower().endswith(WEIGHTS))

    @property
    def variant(self) -> str:
        """Equal for tasks that differ only in pictures, texts and seeds: ComfyUI accepts all of them, or none."""
        return commit.key_of([sorted(self.shown["settings"].items()), sorted(map(str, self.files))])


def read_graph(name: str) -> tuple[Prompt, dict[str, Any] | None]:
    """A saved workflow or a template's name, as (prompt, the workflow as saved by Save or None). Raises Failure."""
    path = Path(name)
    if not path.is_file():
        path = ROOT / "workflows" / f"{name}.json"
    if not path.is_file():
        templates = ", ".join(sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
        raise Failure(
            f"there is no workflow {name}; give a file that the browser saved, or a template: {templates}", code=2
        )
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(graph, dict) and "nodes" in graph:
            return graphs.to_prompt(graph), graph
        if isinstance(graph, dict) and graph and all(isinstance(n, dict) and "class_type" in n for n in graph.values()):
            return graph, None
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path}: {error}", code=2) from None
    raise Failure(f"{path} is no workflow: neither the browser's Save nor its Export (API)", code=2)


def plan(
    binding: Binding, rows: Sequence[Row], *, seeds: int, name: str, suffix: str, out: Path, what: str
) -> list[Task]:
    """The tasks, without keys, grouped by the models that they load. Raises Failure with all faults at once.

    seeds  files per row, with consecutive seeds
    name   template of the outputs' names, such as "{name}_{seed}"
    out    the output folder, for the check that no output replaces a file that is read
    """
    tasks: list[Task] = []
    faults: list[str] = []
    transparent = cache(_transparent)  # a file may be in many rows
    for row in rows:
        base = row.values.get("seed", binding.own_seed)
        for number in range(seeds):
            task, found = _task(binding, row, base, number, name, suffix, transparent)
            faults += [f"{row.where}: {fault}" for fault in found]
            tasks += [task] if task else []
            if found:
                break
    faults += _collisions(tasks)
    faults += _overwritten(tasks, out)
    refuse(faults, what)
    contents = _contents({Path(file.path) for task in tasks for file in task.files.values()})
    tasks = [replace(task, files=_hashed(task.files, contents)) for task in tasks]
    return sorted(tasks, key=lambda task: task.models)


def with_keys(tasks: Iterable[Task], models: Mapping[str, Any], settings: Any) -> list[Task]:
    """The tasks with their keys. `models`: variant -> digests of the model files; `settings`: other relevant values."""
    return [replace(task, key=_key(task, models[task.variant], settings)) for task in tasks]


def pack_version() -> str:
    """The pack's version, with a digest of the embedded model, because either may change the results."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "([^"]+)"', text, re.MULTILINE)
    weights = sorted((ROOT / "kontext_core" / "embedded").glob("*.safetensors"))
    return f"{version} {commit.key_of([commit.content_hash(path) for path in weights])}"


def _key(task: Task, models: Any, settings: Any) -> str:
    inputs = {node: dict(content["inputs"]) for node, content in task.prompt.items()}
    for (node, name), file in task.files.items():
        inputs[node][name] = file.content
    graph = {node: [task.prompt[node]["class_type"], values] for node, values in inputs.items()}
    return commit.key_of([graph, task.result, models, settings])


def _task(
    binding: Binding, row: Row, base: Any, number: int, name: str, suffix: str, transparent: Callable[[Path], bool]
) -> tuple[Task | None, list[str]]:
    if number and base is None:
        return None, ["--seeds: the graph has no seed to count from"]
    seed = None if base is None else int(base) + number
    if seed is not None and seed > MOST_SEED:
        return None, [f"seed {seed} is above 2^64 - 1"]
    bound, faults = binding.bind(row, seed)
    paths = {target: row.folder / bound.prompt[target[0]]["inputs"][target[1]] for target in bound.files}
    faults += _file_faults(binding, row, bound, paths, transparent)
    try:
        output = output_name(row, seed, name) + suffix
    except ValueError as error:
        faults.append(str(error))
        output = ""
    source = row.path("picture")
    shown = {name: row.values[name] for name in ("instruction", "negative", "name") if name in row.values}
    shown["settings"] = row.settings
    files = {target: File(str(path), "") for target, path in paths.items()}
    cells = row.number, row.where, bound.prompt, files, binding.result, output, str(source) if source else None
    return (None if faults else Task(*cells, seed, row.labels, shown)), faults


def output_name(row: Row, seed: int | None, template: str) -> str:
    """The output's name without extension; "/" makes folders. Raises ValueError for a name that leaves the folder."""
    picture = row.path("picture")
    given = row.values.get("name") or (picture.stem if picture else f"row_{row.number}")
    fields = {**row.values, "name": given, "row": row.number, "seed": "" if seed is None else seed}
    fields |= {label: value for label, value in row.labels.items() if label not in fields}
    try:
        text = re.sub(r"\{([^{}]*)\}", lambda match: _field(match[1], fields[match[1]]), template)
    except KeyError as error:
        raise ValueError(f"--name: there is no column {error}; there are {', '.join(sorted(fields))}") from None
    parts = [FORBIDDEN.sub("_", part).strip().rstrip(".") for part in text.split("/")]
    if not all(parts) or any(part.startswith(".") for part in parts):
        raise ValueError(f"its output would be {text!r}; a name has no empty part and none that starts with a dot")
    return "/".join(part[:120] for part in parts).removesuffix("_")


def _field(name: str, value: Any) -> str:
    """A column's text in an output's name; only the manifest's `name` may create folders."""
    return str(value) if name == "name" else str(value).replace("/", "_")


def _collisions(tasks: Sequence[Task]) -> list[str]:
    """Outputs whose names collide on some file system."""
    first: dict[str, Task] = {}
    faults = []
    for task in tasks:
        other = first.setdefault(task.output.casefold(), task)
        if other is not task:
            faults.append(
                f"{task.where}: its output {task.output} is that of {other.where}; give --name or a column name"
            )
    return faults


def _overwritten(tasks: Sequence[Task], out: Path) -> Iterator[str]:
    """Outputs that would replace a picture or mask that the batch reads."""
    readers = {place: task for task in tasks for file in task.files.values() for place in _places(Path(file.path))}
    for task in tasks:
        path = out / task.output
        if reader := readers.get(_places(path)[0]):
            yield (
                f"{task.where}: its output would overwrite {path}, which {reader.where} reads; "
                "give another --out or --name"
            )


def _places(path: Path) -> tuple[str, str]:
    """A file's own place and that of the file it links to, for comparison on any file system."""
    return str(path.parent.resolve() / path.name).casefold(), str(path.resolve()).casefold()


def _file_faults(
    binding: Binding, row: Row, bound: Bound, paths: Mapping[Target, Path], transparent: Callable[[Path], bool]
) -> Iterator[str]:
    """Pictures and masks that cannot be read, and those without the mask that the graph reads from them."""
    for target, column in bound.files.items():
        path = paths[target]
        try:
            opaque = not transparent(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            unreadable = f"{path} is not a picture that can be read" if path.is_file() else f"there is no file {path}"
            yield f"{column}: {unreadable}"
            continue
        if opaque and reads_alpha(bound.prompt, target):
            title = title_of(bound.prompt, target[0])
            yield (
                f"{column}: {path} has no transparency, and channel of {title} is alpha, so that the mask would be "
                f"empty; set it to red, in the graph or in a column '{title}.channel'"
            )
        if opaque and column in PICTURES and "mask" not in row.values and binding.reads_mask_of(column):
            yield f"{column}: the graph reads the picture's own mask and {path} has no transparency; give a column mask"


def _transparent(path: Path) -> bool:
    """Whether a picture has transparency, from its header. Raises OSError, SyntaxError, ValueError or
    DecompressionBombError for one that cannot be read.
    """
    with Image.open(path) as picture:
        return picture.has_transparency_data


def _contents(paths: Iterable[Path]) -> dict[str, str]:
    ordered = sorted(paths)
    with ThreadPoolExecutor(READERS) as pool:
        try:
            return dict(zip(map(str, ordered), pool.map(commit.content_hash, ordered), strict=True))
        except OSError as error:
            raise Failure(f"{error.filename} cannot be read: {error.strerror}", code=2) from None


def _hashed(files: Mapping[Target, File], contents: Mapping[str, str]) -> dict[Target, File]:
    return {target: replace(file, content=contents[file.path]) for target, file in files.items()}
