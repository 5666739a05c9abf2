"""What a model file holds, read from its header before anything is loaded."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import comfy.sd
import torch

from .latents import CHANNELS

Shapes = dict[str, tuple[int, ...]]

SUFFIXES = (".safetensors", ".sft")
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_SIZES = (
    (8, "F64 I64 U64"),
    (4, "F32 I32 U32"),
    (2, "F16 BF16 I16 U16"),
    (1, "F8_E4M3 F8_E5M2 F8_E8M0 I8 U8 BOOL"),
)
_BYTES = {dtype: size for size, dtypes in _SIZES for dtype in dtypes.split()}
_TEXT_ENCODERS = {  # role: (what the host detects, a tensor that tells the size, its rows, an example)
    "clip_l": ("CLIP_L", "text_model.encoder.layers.0.mlp.fc1.weight", 3072, "clip_l.safetensors"),
    "t5xxl": ("T5_XXL", "shared.weight", 32128, "t5xxl_fp16.safetensors"),  # UMT5-XXL has more words
}


class Entry(NamedTuple):
    """A tensor as the header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes, from the end of the header
    end: int


def read_shapes(path: str) -> Shapes:
    """Tensor shapes by name, from a safetensors header.

    ValueError if the file is cut short, is no safetensors file, or if its header contradicts itself: the
    host's fast loader maps the file and trusts the header.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("this is no safetensors file, or it is cut short. Download it again.")
        entries = _parse(file.read(length))
    for entry in entries:
        _require_consistent(entry)
    needed = 8 + length + max((entry.end for entry in entries), default=0)
    if size < needed:
        raise ValueError(f"the file is cut short: {size:,} of {needed:,} bytes. Download it again.")
    return {entry.name: entry.shape for entry in entries}


def _parse(header: bytes) -> list[Entry]:
    try:
        return [
            Entry(name, entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("this is no safetensors file: its header cannot be read.") from error


def _require_consistent(entry: Entry) -> None:
    name, dtype, shape, begin, end = entry
    needed = math.prod(shape) * _BYTES[dtype] if dtype in _BYTES else end - begin
    if begin < 0 or end - begin != needed:
        raise ValueError(
            f"the header is wrong: {name} has {end - begin:,} bytes, but {dtype} {list(shape)} needs {needed:,}. "
            "Download the file again."
        )


def require_text_encoder(role: str, shapes: Shapes) -> None:
    """ValueError unless the tensors are those of CLIP-L (role "clip_l") or T5-XXL (role "t5xxl")."""
    wanted, tensor, rows, example = _TEXT_ENCODERS[role]
    found = comfy.sd.detect_te_model({name: torch.empty(s, device="meta") for name, s in shapes.items()})
    if found is None:
        problem = "this is no text encoder"
    elif found.name != wanted:
        problem = f"this is a text encoder of the kind {found.name}"
    elif shapes.get(tensor, (rows,))[0] != rows:
        problem = f"this is a relative of {wanted}: {tensor} has {shapes[tensor][0]} rows, not {rows}"
    else:
        return
    raise ValueError(f"{problem}; {wanted} is needed. Choose FLUX.1's {example} or its like.")


def require_autoencoder(shapes: Shapes) -> None:
    """ValueError unless the tensors are those of a 2-D autoencoder with FLUX.1's 16 latent channels."""
    first = shapes.get("decoder.conv_in.weight") or shapes.get("taesd_decoder.1.weight")
    needed = f"FLUX.1 needs one with {CHANNELS} latent channels. Choose ae.safetensors."
    if first is None or len(first) != 4:
        raise ValueError(f"this is no picture autoencoder; {needed}")
    if first[1] != CHANNELS:
        raise ValueError(f"this autoencoder has {first[1]} latent channels; {needed}")
