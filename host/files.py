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
_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_TEXT_ENCODERS = {  # input: (what the host detects, a tensor that tells the size, its shape)
    "clip_l": ("CLIP_L", "text_model.encoder.layers.0.mlp.fc1.weight", (3072, 768)),
    "t5xxl": ("T5_XXL", "encoder.block.0.layer.0.SelfAttention.q.weight", (4096, 4096)),
}


class Tensor(NamedTuple):
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
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("this is no safetensors file, or it is cut short. Download it again.")
        tensors = _parse(file.read(length))
    for tensor in tensors:
        _require_consistent(tensor)
    needed = 8 + length + max((tensor.end for tensor in tensors), default=0)
    if size < needed:
        raise ValueError(f"the file is cut short: {size:,} of {needed:,} bytes. Download it again.")
    return {tensor.name: tensor.shape for tensor in tensors}


def _parse(header: bytes) -> list[Tensor]:
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        return [
            Tensor(name, entry["dtype"], tuple(map(int, entry["shape"])), *map(int, entry["data_offsets"]))
            for name, entry in entries.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("this is no safetensors file: its header cannot be read.") from error


def _require_consistent(tensor: Tensor) -> None:
    name, dtype, shape, begin, end = tensor
    needed = math.prod(shape) * _BYTES[dtype] if dtype in _BYTES else end - begin
    if begin < 0 or end - begin != needed:
        raise ValueError(
            f"the header is wrong: {name} has {end - begin:,} bytes, but {dtype} {list(shape)} needs {needed:,}. "
            "Download the file again."
        )


def require_text_encoder(role: str, shapes: Shapes) -> None:
    """ValueError unless the tensors are those of CLIP-L (role "clip_l") or T5-XXL (role "t5xxl")."""
    wanted, tensor, shape = _TEXT_ENCODERS[role]
    found = comfy.sd.detect_te_model({name: torch.empty(s, device="meta") for name, s in shapes.items()})
    if found is None or found.name != wanted or shapes[tensor] != shape:
        looks_like = "no text encoder" if found is None else f"a text encoder of the kind {found.name}"
        example = "clip_l.safetensors" if role == "clip_l" else "t5xxl_fp16.safetensors"
        raise ValueError(f"this is {looks_like}; {wanted} is needed. Choose FLUX.1's {example} or its like.")


def require_autoencoder(shapes: Shapes) -> None:
    """ValueError unless the tensors are those of a 2-D autoencoder with FLUX.1's 16 latent channels."""
    first = shapes.get("decoder.conv_in.weight") or shapes.get("taesd_decoder.1.weight")
    needed = f"FLUX.1 needs one with {CHANNELS} latent channels. Choose ae.safetensors."
    if first is None or len(first) != 4:
        raise ValueError(f"this is no picture autoencoder; {needed}")
    if first[1] != CHANNELS:
        raise ValueError(f"this autoencoder has {first[1]} latent channels; {needed}")
