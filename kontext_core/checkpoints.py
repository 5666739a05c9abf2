"""Identify and check a model file from its header, before any tensor is loaded.

A header is small, so a wrong or damaged file is reported at once and costs no memory. Format:
huggingface/safetensors, `README.md` (Format); sharded folders: diffusers, `utils/hub_utils.py`,
`_get_checkpoint_shard_files`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .geometry import (
    DIFFUSERS,
    Geometry,
    Shapes,
    layers,
    looks_like,
    norms,
    prefix_of,
    read_geometry,
    without_prefix,
)
from .names import DIFFUSERS as DIFFUSERS_NAMES
from .names import names

MOST_TENSORS = 20_000  # FLUX.1 with both text encoders has under 5000, in any quantisation
KONTEXT, DEV = "FLUX.1 Kontext", "FLUX.1 [dev], which has not learned to edit"
DUTIES = (  # section 2 (d) and (e) of the licence of [dev] and Kontext [dev]
    "FLUX.1 [dev] Non-Commercial License: filter or review results; disclose AI where the law requires it"
)
SCHNELL = "FLUX.1 [schnell] or a model made from it: it takes no guidance and has not learned to edit"
SHA256 = {  # of BFL's own files; black-forest-labs/flux, docs
    "843a26dc765d3105dba081c30bce7b14c65b0988f9e8d14e9fbc8856a6deebd5": KONTEXT,  # flux1-kontext-dev.safetensors
    "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7": DEV,  # flux1-dev.safetensors
}

_INDEX = re.compile(r"\.safetensors\.index(\.[^./]+)?\.json$")  # how the name of a sharded model's index ends
_SHARD = re.compile(r"(?P<variant>\.[^./-]+)?-\d{5}-of-(?P<count>\d{5})\.safetensors$")
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_LARGEST_INDEX = 20_000_000
_MOST_MARKS = 2_000_000  # brackets and commas; each may cost 60 bytes once parsed
_LONGEST_NAME = 300  # characters
_MOST_BLOCKS = 200  # of one kind; FLUX.1 has 19 and 38
_LARGEST_FORMAT = 4096  # bytes of JSON that describe the quantisation of a layer
_SIZES = (
    (8, "F64 I64 U64 C64"),
    (4, "F32 I32 U32"),
    (2, "F16 BF16 I16 U16"),
    (1, "F8_E4M3 F8_E5M2 F8_E8M0 I8 U8 BOOL"),
)
_BYTES = {dtype: size for size, dtypes in _SIZES for dtype in dtypes.split()}
_WEIGHTS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_SCALES = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale")


class Entry(NamedTuple):
    """A tensor's entry in the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes, from the end of the header
    end: int


class Header(NamedTuple):
    tensors: dict[str, Entry]
    metadata: dict[str, str]
    formats: dict[str, str]  # layer -> quantisation format, from the tensors that ComfyUI calls comfy_quant

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.tensors.items()}


class Checkpoint(NamedTuple):
    """A transformer's file or files, checked."""

    paths: list[str]
    geometry: Geometry
    metadata: dict[str, str]
    foreign: list[str]  # tensors that are not part of the transformer
    formats: frozenset[str]  # quantisation formats, by ComfyUI's names
    unscaled: list[str]  # plain fp8 layers in a file with scaled layers: intended, or the scale was lost


# Files


def read_header(path: str | Path) -> Header:
    """A safetensors file's header.

    ValueError if the file is truncated or too long, is not a safetensors file, or has an inconsistent header: loaders
    that memory-map the file trust its header.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(_no_safetensors(file))
        header = _parse(file.read(length))
        end = 0
        for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].begin):
            _require_consistent(name, entry, end)
            end = entry.end
        if size != 8 + length + end:
            fault = "cut short" if size < 8 + length + end else "longer than its header says"
            raise ValueError(f"the file is {fault}: {size:,} of {8 + length + end:,} bytes. Download it again.")
        return header._replace(formats=_formats(file, 8 + length, header.tensors))


def _no_safetensors(file: BinaryIO) -> str:
    """The error message for another file format, recognised by its first bytes."""
    file.seek(0)
    start = file.read(64).lstrip().lower()
    return next((said for magic, said in _OTHER_FILES.items() if start.startswith(magic)), _CUT_SHORT)


_CUT_SHORT = "this is no safetensors file, or it is cut short. Download it again."
_PICKLE = "this is a file of PyTorch's pickle format under another name, which may run code. Choose a safetensors file."
_PAGE = "this is a web page or a message of the server, not the file. Accept the licence there, then download it again."
_OTHER_FILES = {  # first bytes, in lower case
    b"gguf": "this is a GGUF file under another name. Choose a safetensors file, or rename it and use ComfyUI-GGUF.",
    b"pk\x03\x04": _PICKLE,
    b"\x80": _PICKLE,
    b"version https://git-lfs": "this is a Git LFS pointer, not the file itself. Run git lfs pull.",
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml", b"{"), _PAGE),
}


def _parse(header: bytes) -> Header:
    """Limits are checked before parsing: a hostile header of 100 MB would take gigabytes."""
    if (count := header.count(b'"dtype"')) > MOST_TENSORS:
        raise ValueError(f"the file has {count:,} tensors; a model has at most {MOST_TENSORS:,}.")
    if sum(map(header.count, (b"[", b"{", b","))) > _MOST_MARKS:
        raise ValueError("this is no safetensors file of a model: its header has millions of parts.")
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", None) or {}
        tensors = {
            name: Entry(entry["dtype"], _shape(entry["shape"]), *map(_whole, entry["data_offsets"]))
            for name, entry in entries.items()
        }
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata are texts")
        return Header(tensors, metadata, {})
    except _Refused as error:
        raise ValueError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("this is no safetensors file: its header cannot be read.") from error


class _Refused(ValueError):
    """The header is readable but invalid."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without duplicate names: a duplicate would silently replace the first entry."""
    found = dict(pairs)
    if longest := max((name for name in found if len(name) > _LONGEST_NAME), key=len, default=""):
        raise _Refused(f"the header is wrong: it has a name of {len(longest):,} letters ({_short(longest)}).")
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused(f"the header is wrong: it has {_short(twice)} twice. Download the file again.")
    return found


def _shape(sizes: Any) -> tuple[int, ...]:
    if len(sizes) > 8:
        raise ValueError("a tensor of a model has a few dimensions")
    return tuple(map(_whole, sizes))


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError("this is no size")
    return number


def _formats(file: BinaryIO, start: int, tensors: dict[str, Entry]) -> dict[str, str]:
    """The quantisation format of each layer; `start` is the offset of the first tensor in the file."""
    found = {}
    for name, entry in tensors.items():
        if name.endswith(".comfy_quant"):
            file.seek(start + entry.begin)
            found[name.removesuffix(".comfy_quant")] = _format(file.read(min(entry.end - entry.begin, _LARGEST_FORMAT)))
    return found


def _format(text: bytes) -> str:
    try:
        found = json.loads(text)["format"]
        if not isinstance(found, str):
            raise TypeError("a format is a word")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("how a layer is quantised (comfy_quant) cannot be read. The file is damaged.") from error


def _require_consistent(name: str, entry: Entry, begin: int) -> None:
    """Tensors must be contiguous, and each as large as its dtype and shape say."""
    if not isinstance(entry.dtype, str) or entry.dtype not in _BYTES:
        raise ValueError(
            f"{_short(name)} holds {str(entry.dtype)[:20]}, a type that is not known. The file is damaged."
        )
    needed = math.prod(entry.shape) * _BYTES[entry.dtype]
    if entry.begin != begin or entry.end - entry.begin != needed:
        raise ValueError(
            f"the header is wrong: {_short(name)} has bytes {entry.begin:,} to {entry.end:,}, but {entry.dtype} "
            f"{list(entry.shape)} after byte {begin:,} needs {needed:,}. Download the file again."
        )


def index_of(shard: str) -> list[str]:
    """The possible index file names of a shard, from the shard's name; empty if it is not a shard.

    diffusers puts a variant (fp16, bf16) after the stem of a shard, and after the word "index" in the index name.
    """
    if not (match := _SHARD.search(shard)):
        return []
    variant = match["variant"] or ""
    stem = shard[: match.start()]
    return [f"{stem}{variant}.safetensors.index.json", f"{stem}.safetensors.index{variant}.json"]


def read_shards(index: str | Path) -> tuple[list[str], Header]:
    """The shards that an index names, and their tensors as if in one file.

    ValueError for an unreadable index, for missing shards (by name), and for tensors that are not in the shard that
    the index names.
    """
    table = _read_index(Path(index))
    folder = Path(index).parent
    promised: dict[str, list[str]] = {}
    for name, shard in table.items():
        promised.setdefault(shard, []).append(name)
    if absent := [shard for shard in sorted(promised) if not (folder / shard).is_file()]:
        raise ValueError(f"{len(absent)} of {len(promised)} shards are missing: {_some(absent)}. Download them.")
    whole = Header({}, {}, {})
    for shard, names_of_it in sorted(promised.items()):
        try:
            header = read_header(folder / shard)
        except ValueError as error:
            raise ValueError(f"{_short(shard)}: {error}") from error
        if absent := [name for name in names_of_it if name not in header.tensors]:
            raise ValueError(f"{_short(shard)} lacks {_some(absent)}, which the index promises. Download it again.")
        if twice := header.tensors.keys() & whole.tensors.keys():
            raise ValueError(f"{_short(shard)} has {_some(sorted(twice))}, as another shard. Download both again.")
        whole.tensors.update(header.tensors)
        whole.metadata.update(header.metadata)
        whole.formats.update(header.formats)
    return [str(folder / shard) for shard in sorted(promised)], whole


def _read_index(index: Path) -> dict[str, str]:
    """Tensor -> shard. Shards must lie in the folder of the index."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError("an index has a line for each tensor")
        table = json.loads(index.read_bytes())["weight_map"]
        if not table or any(not _is_file_name(shard) for shard in table.values()):
            raise ValueError("shards lie beside their table")
        return table
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the index of a sharded model cannot be read. Download it again.") from error


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and len(name.encode()) < 256 and name.isprintable()


# The transformer


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A FLUX.1 transformer in any layout: BFL's or diffusers' names, one file or shards (their index),
    all-in-one.

    ValueError for another model (named), for an incomplete one (missing tensors are named), and for a quantisation
    that would be read as plain numbers.
    """
    _require_no_shard(Path(path).name)
    paths, header = read_shards(path) if _INDEX.search(str(path)) else ([str(path)], read_header(path))
    shapes = without_prefix(header.shapes)
    found = looks_like(shapes)
    if found and found[0] == DIFFUSERS:
        if scale := next((name for name in shapes if name.endswith(_SCALES)), None):
            raise ValueError(
                f"this is a quantised file in diffusers layout ({scale}), which ComfyUI reads wrongly. Choose one "
                "with BFL's names, such as flux1-dev-kontext_fp8_scaled.safetensors."
            )
        shapes = _from_diffusers(shapes)
    geometry = read_geometry(shapes)
    expected = dict(_parameters(geometry, shapes))
    _require_whole(shapes, expected)
    prefix = prefix_of(header.tensors)
    entries = {name.removeprefix(prefix): entry for name, entry in header.tensors.items()}
    formats = _told_formats(header, entries, prefix)
    _require_known_types(entries, expected, formats)
    foreign, unscaled = _foreign(shapes, expected), _unscaled(entries, formats)
    return Checkpoint(paths, geometry, header.metadata, foreign, frozenset(formats.values()), unscaled)


def _require_no_shard(name: str) -> None:
    if (match := _SHARD.search(name)) and int(match["count"]) > 1:
        raise ValueError(
            f"this is one of {int(match['count'])} shards of a model. Put all of them and their index, "
            f"{index_of(name)[-1]}, into one folder; then choose the index from the list."
        )


def _from_diffusers(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of a FLUX.1 in diffusers layout under BFL's names. ValueError names what is missing.

    Parts of a fused layer are joined to one weight; tensors without a name in BFL's tree keep their name.
    """
    table = names(_diffusers_geometry(shapes))
    known = {name: found for name, found in table.items() if found.naming == DIFFUSERS_NAMES}
    parts: dict[str, dict[int, str]] = {}
    made: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        if module not in known:
            made[name] = tuple(shape)
            continue
        place = known[module].place
        target = f"{place.layer}.{parameter}"
        if place.part:
            parts.setdefault(target, {})[place.first] = name
        else:
            made[target] = tuple(shape)
    for target, found in parts.items():
        layer, _, parameter = target.rpartition(".")
        fused = {n.place.first: name for name, n in known.items() if n.place.layer == layer}
        if absent := [f"{name}.{parameter}" for first, name in fused.items() if first not in found]:
            raise ValueError(f"{len(absent)} tensors are missing: {_some(absent)}. The file is not whole.")
        pieces = [shapes[found[first]] for first in sorted(found)]
        made[target] = (sum(piece[0] for piece in pieces), *pieces[0][1:])
    return made


def _diffusers_geometry(shapes: Shapes) -> Geometry:
    """The parts of the geometry that determine the names. ValueError if the tensors that give the sizes are missing."""
    sizes = {}
    for what in ("x_embedder.weight", "transformer_blocks.0.ff.net.0.proj.weight"):
        if len(shapes.get(what, ())) != 2:
            raise ValueError(f"{what} is missing, or no matrix. The file is a part of FLUX.1, or damaged.")
        sizes[what] = shapes[what][0]
    hidden, mlp = sizes.values()
    if not hidden:
        raise ValueError("x_embedder.weight is empty. The file is damaged.")
    blocks = {name.split(".")[1] for name in shapes if name.startswith("transformer_blocks.")}
    single = {name.split(".")[1] for name in shapes if name.startswith("single_transformer_blocks.")}
    if max(len(blocks), len(single)) > _MOST_BLOCKS:
        raise ValueError(f"this has {len(blocks)} and {len(single)} blocks; FLUX.1 has 19 and 38. The file is damaged.")
    return Geometry(hidden_size=hidden, depth=len(blocks), depth_single_blocks=len(single), mlp_ratio=mlp / hidden)


def _parameters(geometry: Geometry, shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name in the file and shape of every parameter; the weight of a norm is called scale or weight."""
    for layer, rows, columns in layers(geometry):
        yield f"{layer}.weight", (rows, columns)
        yield f"{layer}.bias", (rows,)
    for norm, width in norms(geometry):
        yield (f"{norm}.weight" if f"{norm}.weight" in shapes else f"{norm}.scale"), (width,)


def _require_whole(shapes: Shapes, expected: dict[str, tuple[int, ...]]) -> None:
    if absent := [name for name in expected if name not in shapes]:
        raise ValueError(
            f"this is a part of FLUX.1: {len(absent)} of {len(expected)} tensors are missing ({_some(absent)}). "
            "Download the whole file."
        )
    for name, needed in expected.items():
        found = tuple(shapes[name])
        packed = (needed[0], needed[1] // 2) if len(needed) == 2 else needed  # two 4-bit weights in a byte
        if found not in (needed, packed):
            raise ValueError(f"{name} has the shape {list(found)}, but {list(needed)} is needed. The file is damaged.")


def _require_known_types(entries: dict[str, Entry], expected: Iterable[str], formats: dict[str, str]) -> None:
    """ValueError for quantised weights that would be read as plain numbers, and for a missing scale."""
    for name in expected:
        layer, _, parameter = name.rpartition(".")
        if name not in entries:
            continue
        if parameter == "weight" and layer in formats:
            if not any(f"{layer}{scale}" in entries for scale in _SCALES[:2]):
                raise ValueError(f"the scale of {layer} is missing, which is quantised. The file is not whole.")
            continue
        if parameter == "weight" and any(f"{layer}{scale}" in entries for scale in _SCALES):
            raise ValueError(
                f"{layer} is quantised in a form that ComfyUI does not know: it has a scale, and nothing tells the "
                "format (scaled_fp8, comfy_quant or _quantization_metadata). Choose another file."
            )
        if entries[name].dtype not in _WEIGHTS:
            raise ValueError(f"{name} holds {entries[name].dtype}, not weights. Choose another file.")


def _unscaled(entries: dict[str, Entry], formats: dict[str, str]) -> list[str]:
    plain = (name.removesuffix(".weight") for name, entry in entries.items() if entry.dtype.startswith("F8_"))
    return [layer for layer in plain if formats and f"{layer}.weight" in entries and layer not in formats]


def _told_formats(header: Header, entries: dict[str, Entry], prefix: str) -> dict[str, str]:
    """Quantisation format by layer: stated next to the layer, in the metadata, or by one marker tensor."""
    formats = {layer.removeprefix(prefix): found for layer, found in header.formats.items()}
    if "_quantization_metadata" in header.metadata:
        return formats | _formats_in(header.metadata["_quantization_metadata"], prefix)
    if "scaled_fp8" in entries:
        for layer in (name.removesuffix(".scale_weight") for name in entries if name.endswith(".scale_weight")):
            if (weight := entries.get(f"{layer}.weight")) and weight.dtype == "F8_E5M2":
                raise ValueError(
                    f"{layer} is e5m2 with a scale_weight, which ComfyUI reads as e4m3. Choose another file."
                )
            formats[layer] = "float8_e4m3fn"
    return formats


def _formats_in(text: str, prefix: str) -> dict[str, str]:
    try:
        layers = json.loads(text)["layers"]
        return {layer.removeprefix(prefix): _format(json.dumps(how).encode()) for layer, how in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the metadata _quantization_metadata cannot be read. The file is damaged.") from error


def _foreign(shapes: Shapes, expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Tensors below the transformer's prefix that no loader reads."""
    quantised = (*_SCALES, ".weight_scale_2", ".comfy_quant", ".pre_quant_scale", "scaled_fp8")
    return [name for name in shapes if name not in expected and not name.endswith(quantised)]


# Kontext or [dev]


def account(name: str, checkpoint: Checkpoint) -> list[str]:
    """The identified model, its licence terms, and the parts of the file that were not used; one line each."""
    kind = identify(checkpoint.paths[0], name, checkpoint)
    lines = [kind] if kind.startswith(SCHNELL) else [kind, DUTIES]
    if checkpoint.foreign:
        some = ", ".join(checkpoint.foreign[:3])
        lines.append(f"{len(checkpoint.foreign)} tensors of the file are no part of the model ({some})")
    if checkpoint.unscaled:
        some = ", ".join(checkpoint.unscaled[:3])
        lines.append(f"{len(checkpoint.unscaled)} layers are plain fp8 among others with scales ({some})")
    return lines


def identify(path: str | Path, name: str, checkpoint: Checkpoint) -> str:
    """Which FLUX.1 variant a file is, and the evidence. Tensors of Kontext and [dev] have the same names and shapes.

    [schnell] differs: it has no guidance layers. A file named Kontext without guidance layers may be a distilled model,
    so its name is believed.

    `name` is the file name as the user chose it, with folders. The hash is used only where it is free: Hugging Face's
    cache names a file by its hash. (The hash in `modelspec` metadata does not cover the header.)
    """
    if kind := SHA256.get(Path(path).resolve().name):
        return ", ".join((kind, "known by its hash"))
    metadata, guided = checkpoint.metadata, checkpoint.geometry.guidance_embed
    stated = " ".join(value for key, value in metadata.items() if key.startswith(("modelspec.", "general.")))
    for text, source in ((stated, "known by its metadata"), (name, "known by its name")):
        if (kind := _kind(text)) and (guided or kind == KONTEXT):
            return f"{kind}, {source}" + ("" if guided else "; it has no layers for the guidance")
    if not guided:
        return ", ".join((SCHNELL, "known by its layers"))
    return "FLUX.1 Kontext or FLUX.1 [dev]: their tensors are alike, and neither name nor metadata tells"


def _kind(text: str) -> str | None:
    plain = text.lower().replace("-", "").replace("_", "").replace(".", "").replace(" ", "")
    if "kontext" in plain:
        return KONTEXT
    if "flux1dev" in plain or "fluxdev" in plain:
        return DEV
    return None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(_short, listed[:3])) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}..."
