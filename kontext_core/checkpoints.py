"""What a model file holds, read from its header before anything is loaded.

A header is small, so a wrong or damaged file is named at once and costs no memory. The tensors themselves are
left to whoever loads them. Format: huggingface/safetensors, `README.md` (Format); sharded folders: diffusers,
`utils/hub_utils.py`, `_get_checkpoint_shard_files`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .geometry import DIFFUSERS, Geometry, Shapes, layers, looks_like, norms, read_geometry, without_prefix
from .names import names

INDEX = ".safetensors.index.json"  # ends the name of a sharded model's table of contents
MOST_TENSORS = 50_000  # a FLUX.1 with both text encoders and every quantisation has under 5000
KONTEXT_SHA256 = "843a26dc765d3105dba081c30bce7b14c65b0988f9e8d14e9fbc8856a6deebd5"  # flux1-kontext-dev.safetensors

_LARGEST_HEADER = 100_000_000  # safetensors' own limit
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
    """A tensor as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes, from the end of the header
    end: int


class Header(NamedTuple):
    tensors: dict[str, Entry]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.tensors.items()}


class Checkpoint(NamedTuple):
    """A transformer's file or files, checked."""

    paths: list[str]
    geometry: Geometry
    metadata: dict[str, str]
    foreign: list[str]  # tensors that are no part of the transformer


# Files


def read_header(path: str | Path) -> Header:
    """A safetensors file's header.

    ValueError if the file is cut short or too long, is no safetensors file, or if its header contradicts
    itself: a loader that maps the file trusts it.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("this is no safetensors file, or it is cut short. Download it again.")
        header = _parse(file.read(length))
    end = 0
    for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].begin):
        _require_consistent(name, entry, end)
        end = entry.end
    if size != 8 + length + end:
        fault = "cut short" if size < 8 + length + end else "longer than its header says"
        raise ValueError(f"the file is {fault}: {size:,} of {8 + length + end:,} bytes. Download it again.")
    return header


def _parse(header: bytes) -> Header:
    if (count := header.count(b'"dtype"')) > MOST_TENSORS:  # before they are parsed, which takes a gigabyte
        raise ValueError(f"the file has {count:,} tensors; a model has at most {MOST_TENSORS:,}.")
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", None) or {}
        tensors = {
            name: Entry(entry["dtype"], tuple(map(_whole, entry["shape"])), *map(_whole, entry["data_offsets"]))
            for name, entry in entries.items()
        }
        if not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata are texts")
        return Header(tensors, metadata)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("this is no safetensors file: its header cannot be read.") from error


class _Refused(ValueError):
    """A header that can be read and is wrong."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that stands twice would hide what the first one meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused(f"the header is wrong: it has {twice} twice. Download the file again.")
    return found


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number} is no size")
    return number


def _require_consistent(name: str, entry: Entry, begin: int) -> None:
    """One tensor follows the other without gap, each as large as its type and shape say."""
    if entry.dtype not in _BYTES:
        raise ValueError(f"{name} holds {str(entry.dtype)[:20]}, a type that is not known. The file is damaged.")
    needed = math.prod(entry.shape) * _BYTES[entry.dtype]
    if entry.begin != begin or entry.end - entry.begin != needed:
        raise ValueError(
            f"the header is wrong: {name} has bytes {entry.begin:,} to {entry.end:,}, but {entry.dtype} "
            f"{list(entry.shape)} after byte {begin:,} needs {needed:,}. Download the file again."
        )


def read_shards(index: str | Path) -> tuple[list[str], Header]:
    """The files that a sharded model's table of contents names, and their tensors as of one file.

    ValueError for a table that cannot be read, for shards that are not there (by name), and for tensors that
    are not where the table says.
    """
    try:
        table = json.loads(Path(index).read_bytes())["weight_map"]
        shards = sorted(set(table.values()))
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise ValueError("shards lie beside their table")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the index of a sharded model cannot be read. Download it again.") from error
    folder = Path(index).parent
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ValueError(f"{len(absent)} of {len(shards)} shards are missing: {_some(absent)}. Download them.")
    tensors: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        try:
            header = read_header(folder / shard)
        except ValueError as error:
            raise ValueError(f"{shard}: {error}") from error
        promised = [name for name, place in table.items() if place == shard]
        if absent := [name for name in promised if name not in header.tensors]:
            raise ValueError(f"{shard} lacks {_some(absent)}, which the index promises. Download it again.")
        tensors.update({name: header.tensors[name] for name in promised})
        metadata |= header.metadata
    return [str(folder / shard) for shard in shards], Header(tensors, metadata)


# The transformer


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A FLUX.1 transformer in any layout: BFL's or diffusers' names, one file or shards (their index),
    all-in-one.

    ValueError for another model (by name), for a part of one (what is missing is named), and for a
    quantisation that would be read as plain numbers.
    """
    sharded = str(path).endswith(INDEX)
    paths, header = read_shards(path) if sharded else ([str(path)], read_header(path))
    shapes = without_prefix(header.shapes)
    found = looks_like(shapes)
    if found and found[0] == DIFFUSERS:
        if scale := next((name for name in shapes if name.endswith(_SCALES)), None):
            raise ValueError(
                f"this is a quantised file in diffusers layout ({scale}), which ComfyUI reads wrongly. "
                "Choose one "
                "with BFL's names, such as flux1-dev-kontext_fp8_scaled.safetensors."
            )
        shapes = _from_diffusers(shapes)
    geometry = read_geometry(shapes)
    expected = dict(_parameters(geometry, shapes))
    _require_whole(shapes, expected)
    _require_known_types(header, expected)
    return Checkpoint(paths, geometry, header.metadata, _foreign(header, shapes, expected))


def _from_diffusers(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of a FLUX.1 in diffusers layout under BFL's names. ValueError names what is missing.

    Parts of a fused layer make one weight; what has no name in BFL's tree stays as it is.
    """
    known = names(_diffusers_geometry(shapes))
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
        fused = {n.place.first: name for name, n in known.items() if n.place.layer == layer and "transformer_" in name}
        if absent := [f"{name}.{parameter}" for first, name in fused.items() if first not in found]:
            raise ValueError(f"{len(absent)} tensors are missing: {_some(absent)}. The file is not whole.")
        pieces = [shapes[found[first]] for first in sorted(found)]
        made[target] = (sum(piece[0] for piece in pieces), *pieces[0][1:])
    return made


def _diffusers_geometry(shapes: Shapes) -> Geometry:
    """Enough of the geometry to know the names. ValueError if the tensors that tell the sizes are missing."""
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
    return Geometry(hidden_size=hidden, depth=len(blocks), depth_single_blocks=len(single), mlp_ratio=mlp / hidden)


def _parameters(geometry: Geometry, shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of the tree by its name in the file; a norm's is called scale or weight."""
    for layer, rows, columns in layers(geometry):
        yield f"{layer}.weight", (rows, columns)
        yield f"{layer}.bias", (rows,)
    for norm, width in norms(geometry):
        yield (f"{norm}.weight" if f"{norm}.weight" in shapes else f"{norm}.scale"), (width,)


def _require_whole(shapes: Shapes, expected: dict[str, tuple[int, ...]]) -> None:
    if absent := [name for name in expected if name not in shapes]:
        raise ValueError(
            f"this is a part of FLUX.1: {len(absent)} of {len(expected)} tensors are missing "
            f"({_some(absent)}). "
            "Download the whole file."
        )
    for name, needed in expected.items():
        found = tuple(shapes[name])
        packed = (needed[0], needed[1] // 2) if len(needed) == 2 else needed  # two 4-bit weights in a byte
        if found not in (needed, packed):
            raise ValueError(f"{name} has the shape {list(found)}, but {list(needed)} is needed. The file is damaged.")


def _require_known_types(header: Header, expected: dict[str, tuple[int, ...]]) -> None:
    """ValueError for weights that would be taken for plain numbers and are not."""
    entries = {name.removeprefix("model.diffusion_model."): entry for name, entry in header.tensors.items()}
    if "scaled_fp8" in entries or "_quantization_metadata" in header.metadata:
        return
    for name in expected:
        layer, _, parameter = name.rpartition(".")
        if name not in entries or f"{layer}.comfy_quant" in entries:
            continue
        if parameter == "weight" and any(f"{layer}{scale}" in entries for scale in _SCALES):
            raise ValueError(
                f"{layer} is quantised in a form that ComfyUI does not know: it has a scale, and nothing "
                "tells "
                "the format (scaled_fp8, comfy_quant or _quantization_metadata). Choose another file."
            )
        if entries[name].dtype not in _WEIGHTS:
            raise ValueError(f"{name} holds {entries[name].dtype}, not weights. Choose another file.")


def _foreign(header: Header, shapes: Shapes, expected: dict[str, tuple[int, ...]]) -> list[str]:
    """Tensors of the transformer's part of the file that nothing reads."""
    quantised = (*_SCALES, ".weight_scale_2", ".comfy_quant", ".pre_quant_scale", "scaled_fp8")
    return [name for name in shapes if name not in expected and not name.endswith(quantised)]


# Kontext or [dev]


def identify(path: str | Path, name: str, metadata: dict[str, str]) -> str:
    """Which FLUX.1 a file is, and how that is known. The tensors of Kontext and of [dev] are alike.

    `name` is the file's as the user chose it, with its folders. The hash is read where it costs nothing: from
    the metadata, and from Hugging Face's cache, where a file is named by its hash.
    """
    if KONTEXT_SHA256 in (
        Path(path).resolve().name,
        metadata.get("modelspec.hash_sha256", "").removeprefix("0x"),
    ):
        return "FLUX.1 Kontext, by its hash"
    stated = " ".join(value for key, value in metadata.items() if key.startswith(("modelspec.", "general.")))
    for text, source in ((stated, "metadata"), (name, "name")):
        if kind := _kind(text):
            return f"{kind}, by its {source}"
    return "FLUX.1 Kontext or FLUX.1 [dev]: their tensors are alike, and neither name nor metadata tells"


def _kind(text: str) -> str | None:
    plain = text.lower().replace("-", "").replace("_", "").replace(".", "").replace(" ", "")
    if "kontext" in plain:
        return "FLUX.1 Kontext"
    if "flux1dev" in plain or "fluxdev" in plain:
        return "FLUX.1 [dev], which has not learned to edit"
    return None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
