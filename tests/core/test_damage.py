"""500 damaged files: each is refused with a reason or read completely; none crashes, hangs or eats memory."""

import json
import math
import random
import resource

import pytest
import torch
from safetensors.torch import load_file, save

from kontext_core.adapters import read_adapters
from kontext_core.checkpoints import read_checkpoint, read_header
from kontext_core.geometry import Geometry
from tools import lora_files, model_files

TINY = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=16, vec_in_dim=16)
FILES = 250  # of each kind
MEMORY = 400  # MB that reading them all may take


def parts(tensors):
    """A file as its header and its data."""
    whole = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def cut(draw, header, data):
    whole = joined(header, data)
    return whole[: draw.randrange(len(whole))]


def length_lies(draw, header, data):
    whole = joined(header, data)
    return draw.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(whole)]).to_bytes(8, "little") + whole[8:]


def shape_lies(draw, header, data):
    entry = header[draw.choice(list(header))]
    entry["shape"] = draw.choice([[], [0], [-1, 4], [2**62, 4], entry["shape"][::-1], [1, *entry["shape"]], "ab", None])
    return joined(header, data)


def type_lies(draw, header, data):
    header[draw.choice(list(header))]["dtype"] = draw.choice(["F64", "BF16", "I32", "BOOL", "F8_E4M3", "F99", 3, None])
    return joined(header, data)


def offsets_lie(draw, header, data):
    entry = header[draw.choice(list(header))]
    other = header[draw.choice(list(header))]
    entry["data_offsets"] = draw.choice(
        [other["data_offsets"], [0, 2**63], [-8, 8], entry["data_offsets"][::-1], [1.5, 2], [0], "no"]
    )
    return joined(header, data)


def tensor_missing(draw, header, data):
    """One tensor is gone, and its bytes with it."""
    name = draw.choice([name for name in header if name != "__metadata__"])
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return joined(header, data[:begin] + data[end:])


def name_twice(draw, header, data):
    name = draw.choice(list(header))
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


def hostile_name(draw, header, data):
    header[draw.choice(HOSTILE)] = header.pop(draw.choice(list(header)))
    return joined(header, data)


def hostile_json(draw, header, data):
    return joined(
        draw.choice([b"[" * 50_000, b"null", b"[]", b"{}", b'{"a": {}}', b"\xff\xfe", b'{"a": 1e999}', b""]),
        data,
    )


def header_rots(draw, header, data):
    text = bytearray(json.dumps(header).encode())
    for _ in range(draw.randrange(1, 4)):
        text[draw.randrange(len(text))] = draw.randrange(256)
    return joined(bytes(text), data)


def numbers_rot(draw, header, data):
    """NaN in one tensor."""
    begin, end = header[draw.choice(list(header))]["data_offsets"]
    return joined(header, data[:begin] + b"\xff" * (end - begin) + data[end:])


def rank_lies(draw, header, data):
    """The rank of one matrix is halved, and its bytes with it: a matrix that does not fit the other half."""
    names = [name for name, entry in header.items() if len(entry["shape"]) == 2 and entry["shape"][0] > 1]
    entry = header[draw.choice(names)]
    entry["shape"] = [entry["shape"][0] * 2, math.ceil(entry["shape"][1] / 2)]
    return joined(header, data)


DAMAGES = [
    cut, length_lies, shape_lies, type_lies, offsets_lie, tensor_missing, name_twice, hostile_name,
    hostile_json, header_rots, numbers_rot, rank_lies,
]  # fmt: skip


def checkpoint_is_whole(path):
    assert read_checkpoint(path).geometry == TINY
    assert not set(model_files.shapes(TINY)) - set(read_header(path).tensors)


def lora_is_whole(path):
    read_header(path)
    tensors = load_file(path)
    reading = read_adapters(tensors, TINY)
    told = [key for keys in reading.unmatched.values() for key in keys]
    assert sorted([*reading.matched, *told]) == sorted(tensors)


CHECKPOINT = model_files.cast(torch.float8_e4m3fn)(model_files.random_weights(TINY))
LORA = lora_files.make("OneTrainer", TINY, ranks=[2, 4]).tensors
KINDS = {"checkpoint": (CHECKPOINT, checkpoint_is_whole), "LoRA": (LORA, lora_is_whole)}


@pytest.mark.parametrize(("tensors", "read"), KINDS.values(), ids=KINDS)
def test_a_damaged_file_is_refused_or_read_completely(tmp_path, tensors, read):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text, data = parts(tensors)
    path = tmp_path / "damaged.safetensors"
    refused = 0
    for seed in range(FILES):
        draw = random.Random(seed)
        damage = DAMAGES[seed % len(DAMAGES)]
        path.write_bytes(damage(draw, json.loads(json.dumps(text)), data))
        try:
            read(path)
        except ValueError as error:
            assert len(str(error)) > 20, (damage.__name__, seed)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{damage.__name__}, seed {seed}") from error
    assert refused > FILES / 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEMORY


def test_a_million_keys_are_refused(tmp_path):
    entry = '{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(f'"k{number}":{entry}' for number in range(1_000_000)) + "}").encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(joined(text, b""))
    with pytest.raises(ValueError, match="1,000,000 tensors"):
        read_header(path)
