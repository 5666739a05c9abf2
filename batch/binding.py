"""Bind a row's values to a graph: the places are found once by following the graph's links, then set for each row.

The columns `picture` and `reference_2` and so on are the loaders behind the graph's references, in the order of their
sockets. The instruction is the text that leads to the output; the negative leads there through an input `negative`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import graphs
from .graphs import Prompt, is_link
from .manifest import FILES, PICTURES, Row

LOADERS = {"LoadImage": "image", "LoadImageMask": "image", "KontextExample": "picture"}  # -> input with the file name
IMAGE_LOADERS = ("LoadImage", "KontextExample")
IMAGE, MASK = 0, 1  # their outputs
PRIMITIVES = ("PrimitiveString", "PrimitiveStringMultiline", "PrimitiveInt", "PrimitiveNode")
TEXT_INPUTS = ("text", "instruction", "prompt", "clip_l", "t5xxl")
SAVERS = ("SaveImage", "PreviewImage")  # the first type that the graph contains determines its result
ADDED_MASK = "batch mask"  # id of a node that is inserted to replace a loader's own mask

Target = tuple[str, str]  # node id, input


@dataclass(frozen=True)
class Bound:
    """A row's graph. `files`: the places in it that hold a file's path, as written in the manifest."""

    prompt: Prompt
    files: dict[Target, str]  # -> the row's column


@dataclass(frozen=True)
class Binding:
    """A graph reduced to what its result needs, and the places of the columns. Raises ValueError without one result."""

    prompt: Prompt
    result: tuple[str, int]  # node id and output slot of the picture
    pictures: dict[str, str] = field(default_factory=dict)  # column -> loader's id
    masks: tuple[Target, ...] = ()  # the input of the only mask loader, or all inputs that read a picture's own mask
    texts: dict[str, tuple[Target, ...]] = field(default_factory=dict)
    seeds: tuple[Target, ...] = ()

    @classmethod
    def of(cls, prompt: Prompt) -> Binding:
        node, slot = result_of(prompt)
        prompt = graphs.upstream(prompt, node)
        return cls(prompt, (node, slot), _pictures(prompt), _masks(prompt), _texts(prompt, node), _seeds(prompt))

    def bind(self, row: Row, seed: int | None) -> tuple[Bound, list[str]]:
        """The row's graph, and the row's values that have no place in the graph."""
        prompt = {node: content | {"inputs": dict(content["inputs"])} for node, content in self.prompt.items()}
        faults: list[str] = []
        files: dict[Target, str] = {}
        for column in (name for name in row.values if name in FILES):
            try:
                for target in self._file_targets(prompt, column):
                    files[target] = column
                    prompt[target[0]]["inputs"][target[1]] = row.values[column]
            except ValueError as error:
                faults.append(str(error))
        for column in ("instruction", "negative"):
            if column in row.values:
                faults += self._set_texts(prompt, column, row.values[column])
        if seed is not None:
            faults += [] if self.seeds else ["seed: the graph has no input named seed or noise_seed"]
            for node, name in self.seeds:
                prompt[node]["inputs"][name] = seed
        for column, value in row.settings.items():
            try:
                target = self._set(prompt, column, value)
            except ValueError as error:
                faults.append(f"{column}: {error}")
                continue
            if LOADERS.get(target_type(prompt, target)) == target[1] and "LoadImage" in target_type(prompt, target):
                files[target] = column
        return Bound(prompt, files), faults

    @property
    def own_seed(self) -> int | None:
        """The seed that the graph was saved with."""
        return int(self.prompt[self.seeds[0][0]]["inputs"][self.seeds[0][1]]) if self.seeds else None

    def reads_mask_of(self, column: str) -> bool:
        """Whether the graph reads a picture's own mask, and no column provides another."""
        loader = self.pictures.get(column)
        return any(self.prompt[node]["inputs"][name] == [loader, MASK] for node, name in self.masks)

    def _file_targets(self, prompt: Prompt, column: str) -> list[Target]:
        if column == "mask":
            return self._mask_target(prompt)
        if column not in self.pictures:
            has = ", ".join(f"{name} ({title_of(prompt, node)})" for name, node in self.pictures.items())
            ways = [f"'{title_of(prompt, node)}.image'" for node in _loaders(prompt, "LoadImage")]
            hint = f" Use columns such as {', '.join(ways[:2])}." if ways and not has else ""
            raise ValueError(f"{column}: the graph has no place for it, it has {has or 'none that is clear'}.{hint}")
        node = self.pictures[column]
        prompt[node] |= {"class_type": "LoadImage", "inputs": {"image": ""}}  # also replaces KontextExample
        return [(node, "image")]

    def _mask_target(self, prompt: Prompt) -> list[Target]:
        if not self.masks:
            raise ValueError(
                "mask: the graph reads no mask, or several. Connect one LoadImageMask, or use 'Title.image'"
            )
        (node, name), *_ = self.masks
        if prompt[node]["class_type"] == "LoadImageMask":
            return [(node, name)]
        prompt[ADDED_MASK] = graphs.node("LoadImageMask", image="", channel="red")
        for node, name in self.masks:
            prompt[node]["inputs"][name] = [ADDED_MASK, 0]
        return [(ADDED_MASK, "image")]

    def _set_texts(self, prompt: Prompt, column: str, value: str) -> list[str]:
        targets = self.texts.get(column, ())
        if not targets:
            what = "no text" if column == "instruction" else "no negative prompt"
            return [f"{column}: the graph has {what} that a row could set; name the input as 'Node title.input'"]
        nodes = {node for node, _ in targets}
        if len(nodes) > 1:
            titles = ", ".join(sorted(repr(title_of(prompt, node)) for node in nodes))
            return [f"{column}: the graph has {len(nodes)} such texts ({titles}); use 'Title.input' for each"]
        for node, name in targets:
            prompt[node]["inputs"][name] = value
        return []

    def _set(self, prompt: Prompt, column: str, value: Any) -> Target:
        """Set `Node title.input`. Raises ValueError for an unknown input or a value of the wrong type."""
        matches = {
            (node, column[len(title) + 1 :])
            for node in prompt
            for title in names_of(prompt, node)
            if column.lower().startswith(title.lower() + ".")
        }
        if not matches:
            titles = sorted({title_of(prompt, node) for node in prompt})
            raise ValueError(f"no node has this title; the graph has {', '.join(titles)}")
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} nodes have this title; give them titles of their own in the browser")
        ((node, name),) = matches
        inputs = prompt[node]["inputs"]
        choice = name.split(".")[0]
        if name not in inputs and choice not in inputs:
            raise ValueError(f"{title_of(prompt, node)} has no input {name!r}, only {', '.join(sorted(inputs))}")
        if is_link(inputs.get(name)):
            source = title_of(prompt, inputs[name][0])
            raise ValueError(f"it is connected to {source}; set an input of {source} instead")
        inputs[name] = _like(inputs[name], value) if name in inputs else _parsed(value)
        return node, name


def reads_alpha(prompt: Prompt, target: Target) -> bool:
    """Whether a file becomes a mask by its transparency: in a LoadImageMask whose channel is alpha."""
    node = prompt[target[0]]
    return node["class_type"] == "LoadImageMask" and node["inputs"].get("channel") == "alpha"


def target_type(prompt: Prompt, target: Target) -> str:
    return str(prompt[target[0]]["class_type"])


def title_of(prompt: Prompt, node: str) -> str:
    """The user's name for a node: its title, or its type."""
    return prompt[node].get("_meta", {}).get("title") or prompt[node]["class_type"]


def names_of(prompt: Prompt, node: str) -> set[str]:
    """The names that a column may use for a node: title, type, type with spaces, id."""
    kind = prompt[node]["class_type"]
    return {title_of(prompt, node), kind, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind), node}


def result_of(prompt: Prompt) -> tuple[str, int]:
    """Node and slot of the graph's result. Raises ValueError if it is ambiguous."""
    for kind in SAVERS:
        links = [content["inputs"].get("images") for content in prompt.values() if content["class_type"] == kind]
        if len(links) > 1:
            raise ValueError(f"the graph has {len(links)} nodes {kind}; a batch needs one result: keep one SaveImage")
        if links:
            if not is_link(links[0]):
                raise ValueError(f"nothing is connected to {kind}; connect the result's picture")
            return links[0][0], links[0][1]
    raise ValueError("the graph has no output: connect a Save Image node to the picture that it makes")


def _like(old: Any, value: Any) -> Any:
    """A cell converted to the type of the graph's value. Raises ValueError."""
    if isinstance(old, str):
        if isinstance(value, str):
            return value
        raise ValueError(f"it is {value!r}; text is needed, as {old!r}")
    value = _parsed(value)
    truth = isinstance(old, bool)
    if not isinstance(value, (bool, int, float)) or isinstance(value, bool) != truth:
        raise ValueError(f"it is {value!r}; {'true or false' if truth else 'a number'} is needed, as {old!r}")
    return float(value) if isinstance(old, float) else value


def _parsed(value: Any) -> Any:
    """A CSV cell as the number or boolean that it looks like."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value.lower())
    except ValueError:
        return value
    return parsed if isinstance(parsed, (bool, int, float)) else value


# Places


def _loaders(prompt: Prompt, *kinds: str) -> list[str]:
    return [node for node, content in prompt.items() if content["class_type"] in kinds]


def _read(prompt: Prompt, slot: int) -> set[str]:
    """The picture loaders whose output `slot` is used."""
    links = [tuple(value) for content in prompt.values() for value in content["inputs"].values() if is_link(value)]
    return {node for node in _loaders(prompt, *IMAGE_LOADERS) if (node, slot) in links}


def _pictures(prompt: Prompt) -> dict[str, str]:
    """Column -> loader. Empty if there are several without an order."""
    loaders = _read(prompt, IMAGE)
    if len(loaders) <= 1:
        return dict(zip(PICTURES, loaders, strict=False))
    for content in prompt.values():
        numbered = sorted(
            (int(match[1]), value[0])
            for name, value in content["inputs"].items()
            if is_link(value) and (match := re.search(r"(?:reference|image)_?(\d+)$", name))
        )
        found = [next((n for n in _nearest(prompt, node) if n in loaders), None) for _, node in numbered]
        if set(found) == loaders and len(found) == len(loaders):
            return {column: loader for column, loader in zip(PICTURES, found, strict=False) if loader}
    return {}


def _nearest(prompt: Prompt, node: str) -> Iterator[str]:
    """The node and its sources, nearest first."""
    waiting, seen = [node], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        yield name
        waiting += [value[0] for value in prompt[name]["inputs"].values() if is_link(value)]


def _masks(prompt: Prompt) -> tuple[Target, ...]:
    """One loader of masks, or the inputs that read the mask of one picture's loader; empty if there is not exactly
    one.
    """
    loaders = _loaders(prompt, "LoadImageMask")
    if len(loaders) == 1:
        return ((loaders[0], "image"),)
    readers: dict[str, list[Target]] = {}
    for node, content in prompt.items():
        for name, value in content["inputs"].items():
            if is_link(value) and value[1] == MASK and prompt[value[0]]["class_type"] in IMAGE_LOADERS:
                readers.setdefault(value[0], []).append((node, name))
    return tuple(next(iter(readers.values()))) if len(readers) == 1 and not loaders else ()


def _texts(prompt: Prompt, result: str) -> dict[str, tuple[Target, ...]]:
    roles: dict[str, set[str]] = {}
    _walk(prompt, result, "instruction", roles)
    found: dict[str, dict[Target, None]] = {"instruction": {}, "negative": {}}
    for node, reached in roles.items():
        role = "instruction" if "instruction" in reached else "negative"
        for target in _text_targets(prompt, node):
            found[role][target] = None
    titled = [t for t in found["instruction"] if title_of(prompt, t[0]).lower() == "instruction"]
    texts = {role: tuple(targets) for role, targets in found.items() if targets}
    return texts | ({"instruction": tuple(titled)} if titled else {})


def _walk(prompt: Prompt, node: str, role: str, roles: dict[str, set[str]]) -> None:
    waiting = [(node, role)]
    while waiting:
        name, role = waiting.pop()
        if role in roles.setdefault(name, set()):
            continue
        roles[name].add(role)
        for key, value in prompt[name]["inputs"].items():
            if is_link(value):
                waiting.append((value[0], "negative" if key.split(".")[-1].startswith("negative") else role))


def _text_targets(prompt: Prompt, node: str) -> Iterator[Target]:
    for name in TEXT_INPUTS:
        value = prompt[node]["inputs"].get(name)
        if isinstance(value, str) and prompt[node]["class_type"] not in PRIMITIVES:
            yield node, name
        elif is_link(value) and prompt[value[0]]["class_type"] in PRIMITIVES:
            yield value[0], "value"


def _seeds(prompt: Prompt) -> tuple[Target, ...]:
    targets: dict[Target, None] = {}
    for node, content in prompt.items():
        for name in graphs.SEEDS:
            value = content["inputs"].get(name)
            if isinstance(value, int):
                targets[node, name] = None
            elif is_link(value) and prompt[value[0]]["class_type"] in PRIMITIVES:
                targets[value[0], "value"] = None
    return tuple(targets)
