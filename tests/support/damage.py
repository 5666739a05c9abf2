"""Damaged safetensors files for tests: each kind of damage draws its details from a seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import lora_files
import model_files
from kontext_core.geometry import Geometry

GEOMETRY = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=16, vec_in_dim=16)

Header = dict[str, Any]


def parts(tensors: dict[str, Tensor]) -> tuple[Header, bytes]:
    """A file's header and data."""
    whole = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header: Header | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensors(header: Header) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def cut(draw: Random, header: Header, data: bytes) -> bytes:
    whole = joined(header, data)
    return whole[: draw.randrange(len(whole))]


def length_lies(draw: Random, header: Header, data: bytes) -> bytes:
    whole = joined(header, data)
    return draw.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(whole)]).to_bytes(8, "little") + whole[8:]


def shape_lies(draw: Random, header: Header, data: bytes) -> bytes:
    entry = header[draw.choice(_tensors(header))]
    shapes = [[], [0], [-1, 4], [2**62, 4], [2**62] * 1000, entry["shape"][::-1], [1, *entry["shape"]], "ab", None]
    entry["shape"] = draw.choice(shapes)
    return joined(header, data)


def type_lies(draw: Random, header: Header, data: bytes) -> bytes:
    header[draw.choice(_tensors(header))]["dtype"] = draw.choice(
        ["F64", "BF16", "I32", "BOOL", "F8_E4M3", "F99", 3, None, []]
    )
    return joined(header, data)


def offsets_lie(draw: Random, header: Header, data: bytes) -> bytes:
    entry = header[draw.choice(_tensors(header))]
    other = header[draw.choice(_tensors(header))]
    entry["data_offsets"] = draw.choice(
        [other["data_offsets"], [0, 2**63], [-8, 8], entry["data_offsets"][::-1], [1.5, 2], [0], "no"]
    )
    return joined(header, data)


def tensor_missing(draw: Random, header: Header, data: bytes) -> bytes:
    """One tensor is missing, with its bytes."""
    name = draw.choice(_tensors(header))
    begin, end = header.pop(name)["data_offsets"]
    for entry in (header[name] for name in _tensors(header)):
        if entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return joined(header, data[:begin] + data[end:])


def name_twice(draw: Random, header: Header, data: bytes) -> bytes:
    name = draw.choice(_tensors(header))
    return joined(f"{json.dumps(header)[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}".encode(), data)


HOSTILE = [
    "",
    ".",
    "\0",
    "../../etc/passwd",
    "__class__",
    "a" * 100_000,
    "." * 50_000,
    "x.lora_A." * 5000,
    "\u202e",
    "💥",
]


def hostile_name(draw: Random, header: Header, data: bytes) -> bytes:
    header[draw.choice(HOSTILE)] = header.pop(draw.choice(_tensors(header)))
    return joined(header, data)


def hostile_json(draw: Random, header: Header, data: bytes) -> bytes:
    return joined(
        draw.choice([b"[" * 50_000, b"null", b"[]", b"{}", b'{"a": {}}', b"\xff\xfe", b'{"a": 1e999}', b""]),
        data,
    )


def header_rots(draw: Random, header: Header, data: bytes) -> bytes:
    text = bytearray(json.dumps(header).encode())
    for _ in range(draw.randrange(1, 4)):
        text[draw.randrange(len(text))] = draw.randrange(256)
    return joined(bytes(text), data)


def numbers_rot(draw: Random, header: Header, data: bytes) -> bytes:
    """NaN in one tensor."""
    begin, end = header[draw.choice(_tensors(header))]["data_offsets"]
    return joined(header, data[:begin] + b"\xff" * (end - begin) + data[end:])


def rank_lies(draw: Random, header: Header, data: bytes) -> bytes:
    """The rank of one matrix is halved, with its bytes, so that it does not fit the other half."""
    names = [name for name in _tensors(header) if len(header[name]["shape"]) == 2 and header[name]["shape"][0] > 1]
    entry = header[draw.choice(names)]
    entry["shape"] = [entry["shape"][0] * 2, math.ceil(entry["shape"][1] / 2)]
    return joined(header, data)


def metadata_lies(draw: Random, header: Header, data: bytes) -> bytes:
    """Nonsense in the settings that tools write into the metadata."""
    text = draw.choice(["", "{", "[]", "null", "[" * 50_000, '{"layers": 1}', '{"lora_alpha": 1e999}', "9" * 5000])
    header["__metadata__"] = {"_quantization_metadata": text, "lora_adapter_metadata": text}
    return joined(header, data)


DAMAGES = [
    cut, length_lies, shape_lies, type_lies, offsets_lie, tensor_missing, name_twice, hostile_name,
    hostile_json, header_rots, numbers_rot, rank_lies, metadata_lies,
]  # fmt: skip


def bases() -> dict[str, dict[str, dict[str, Tensor]]]:
    """Intact files to damage: "checkpoint" and "LoRA" -> layout -> tensors."""
    weights = model_files.cast(torch.bfloat16)(model_files.random_weights(GEOMETRY))
    checkpoints = {
        "BFL, fp8": model_files.cast(torch.float8_e4m3fn)(weights),
        "BFL, bf16": weights,
        "diffusers": model_files.to_diffusers(weights, GEOMETRY),
        "all in one": model_files.all_in_one(weights),
        "scaled fp8, old": model_files.scaled_fp8_old(weights),
        "scaled fp8, new": model_files.scaled_fp8_new(weights),
    }
    return {
        "checkpoint": checkpoints,
        "LoRA": {name: lora_files.make(name, GEOMETRY, ranks=[2, 4]).tensors for name in LORAS},
    }


LORAS = ("OneTrainer", "kohya", "fal's Kontext trainer", "LoKr, BFL names", "LoHa, kohya", "DoRA, PEFT")


def files(kind: str, count: int, path: Path) -> Iterator[tuple[str, str]]:
    """Write `count` damaged files of a kind to `path`, one after the other: yields the original and the damage."""
    whole = {layout: parts(tensors) for layout, tensors in bases()[kind].items()}
    for seed in range(count):
        damage: Callable[..., bytes] = DAMAGES[seed % len(DAMAGES)]
        layout = list(whole)[seed // len(DAMAGES) % len(whole)]
        header, data = whole[layout]
        path.write_bytes(damage(Random(seed), json.loads(json.dumps(header)), data))
        yield layout, f"{damage.__name__}, seed {seed}"
