"""A model file is identified from its header: every layout, every fault, Kontext or not."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import save_file

import model_files
from kontext_core.checkpoints import (
    DEV,
    DUTIES,
    KONTEXT,
    SHA256,
    Checkpoint,
    account,
    identify,
    index_of,
    read_checkpoint,
    read_header,
)
from kontext_core.geometry import Geometry

TINY = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)
WEIGHTS = model_files.random_weights(TINY)
DIFFUSERS = model_files.to_diffusers(WEIGHTS, TINY)

PREFIXES = ("model.", "net.", "model.model.")
LAYOUTS = {
    "BFL": WEIGHTS,
    "BFL, bf16": model_files.cast(torch.bfloat16)(WEIGHTS),
    "BFL, fp16": model_files.cast(torch.float16)(WEIGHTS),
    "BFL, fp8 e4m3": model_files.cast(torch.float8_e4m3fn)(WEIGHTS),
    "BFL, fp8 e5m2": model_files.cast(torch.float8_e5m2)(WEIGHTS),
    "scaled fp8, old": model_files.scaled_fp8_old(WEIGHTS),
    "scaled fp8, new": model_files.scaled_fp8_new(WEIGHTS),
    "scaled fp8, new, e5m2": model_files.scaled_fp8_new(WEIGHTS, torch.float8_e5m2),
    "all in one, scaled fp8, old": model_files.all_in_one(model_files.scaled_fp8_old(WEIGHTS)),
    "all in one, scaled fp8, new": model_files.all_in_one(model_files.scaled_fp8_new(WEIGHTS)),
    "all in one": model_files.all_in_one(WEIGHTS),
    "diffusers": DIFFUSERS,
    **{f"prefix {prefix}": model_files.prefixed(prefix)(WEIGHTS) for prefix in PREFIXES},
    **{f"prefix {prefix}, scaled fp8": model_files.prefixed(prefix)(model_files.scaled_fp8_new(WEIGHTS)) for prefix in
       PREFIXES},
    "prefix model., diffusers": model_files.prefixed("model.")(DIFFUSERS),
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """`write(tensors, metadata=None)`: the path of a file with these tensors."""

    def save(tensors, metadata=None):
        path = tmp_path / "model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
        return path

    return save


@pytest.mark.parametrize("weights", LAYOUTS.values(), ids=LAYOUTS)
def test_a_single_file_of_any_layout(write, weights):
    checkpoint = read_checkpoint(write(weights))
    assert checkpoint.geometry == TINY
    assert checkpoint.foreign == []


def test_quantisation_told_in_the_metadata(write):
    metadata = model_files.quantisation_metadata(WEIGHTS)
    assert read_checkpoint(write(model_files.scaled_fp8_metadata(WEIGHTS), metadata)).geometry == TINY


@pytest.mark.parametrize("variant", ["", "bf16"])
@pytest.mark.parametrize("weights", [WEIGHTS, DIFFUSERS], ids=["BFL", "diffusers"])
def test_a_sharded_folder(tmp_path, weights, variant):
    index = model_files.write_shards(weights, tmp_path, variant=variant)
    checkpoint = read_checkpoint(index)
    assert checkpoint.geometry == TINY
    assert [path.rsplit("-", 3)[1] for path in checkpoint.paths] == ["00001", "00002", "00003"]
    assert all(index.name in index_of(path.rpartition("/")[2]) for path in checkpoint.paths)


def test_a_shard_alone_says_what_else_is_needed(tmp_path):
    index = model_files.write_shards(WEIGHTS, tmp_path)
    shard = next(tmp_path.glob("*-00002-of-*"))
    with pytest.raises(ValueError, match=f"one of 3 shards of a model. Put .* {index.name}"):
        read_checkpoint(shard)


FORMATS = {  # quantisation of a file's layers, and the formats that are recognised
    "plain": ({}, None, set()),
    "comfy_quant": (model_files.scaled_fp8_new(WEIGHTS), None, {"float8_e4m3fn"}),
    "comfy_quant, e5m2": (model_files.scaled_fp8_new(WEIGHTS, torch.float8_e5m2), None, {"float8_e5m2"}),
    "scaled_fp8": (model_files.scaled_fp8_old(WEIGHTS), None, {"float8_e4m3fn"}),
    "metadata": (
        model_files.scaled_fp8_metadata(WEIGHTS),
        model_files.quantisation_metadata(WEIGHTS),
        {"float8_e4m3fn"},
    ),
}


@pytest.mark.parametrize(("weights", "metadata", "formats"), FORMATS.values(), ids=FORMATS)
def test_the_formats_of_quantised_layers_are_read(write, weights, metadata, formats):
    assert read_checkpoint(write(weights or WEIGHTS, metadata)).formats == formats


def test_tensors_that_nothing_reads_are_named(write):
    assert read_checkpoint(write(WEIGHTS | {"extra.weight": torch.zeros(2)})).foreign == ["extra.weight"]


def test_plain_fp8_among_scaled_layers_is_told(write):
    layer = "single_blocks.0.linear1"
    weights = without(without(model_files.scaled_fp8_old(WEIGHTS), f"{layer}.scale_weight"), f"{layer}.scale_input")
    assert read_checkpoint(write(weights)).unscaled == [layer]
    assert read_checkpoint(write(model_files.scaled_fp8_old(WEIGHTS))).unscaled == []
    assert read_checkpoint(write(model_files.cast(torch.float8_e4m3fn)(WEIGHTS))).unscaled == []


def without(weights, name):
    assert name in weights
    return {key: weight for key, weight in weights.items() if key != name}


def changed(name, tensor):
    return WEIGHTS | {name: tensor}


UNMARKED = {name: w for name, w in model_files.scaled_fp8_old(WEIGHTS).items() if name != "scaled_fp8"}
REFUSED = {
    "a bias missing": (without(WEIGHTS, "txt_in.bias"), r"1 of 60 tensors are missing \(txt_in.bias\)"),
    "a norm missing": (
        without(WEIGHTS, "single_blocks.1.norm.query_norm.scale"),
        r"missing \(single_blocks.1.norm.query_norm.scale\)",
    ),
    "to_k missing": (
        without(DIFFUSERS, "single_transformer_blocks.1.attn.to_k.weight"),
        "missing: single_transformer_blocks.1.attn.to_k.weight",
    ),
    "x_embedder missing": (without(DIFFUSERS, "x_embedder.weight"), "x_embedder.weight is missing"),
    "columns": (
        changed("single_blocks.0.linear2.weight", torch.zeros(128, 600)),
        r"shape \[128, 600\], but \[128, 640\]",
    ),
    "integers": (
        changed("img_in.weight", torch.zeros(128, 64, dtype=torch.int32)),
        "img_in.weight holds I32",
    ),
    "a format that is no JSON": (
        model_files.scaled_fp8_new(WEIGHTS) | {"single_blocks.0.linear1.comfy_quant": torch.zeros(9).byte()},
        r"\(comfy_quant\) cannot be read",
    ),
    "a format of one layer missing": (
        without(model_files.scaled_fp8_new(WEIGHTS), "single_blocks.0.linear1.comfy_quant"),
        "single_blocks.0.linear1 is quantised in a form that ComfyUI does not know",
    ),
    "a scale of one layer missing": (
        without(model_files.scaled_fp8_new(WEIGHTS), "single_blocks.0.linear1.weight_scale"),
        "the scale of single_blocks.0.linear1 is missing",
    ),
    "e5m2 with the old marker": (
        model_files.scaled_fp8_old(WEIGHTS)
        | {"single_blocks.0.linear1.weight": WEIGHTS["single_blocks.0.linear1.weight"].to(torch.float8_e5m2)},
        "single_blocks.0.linear1 is e5m2 with a scale_weight",
    ),
    "more blocks than any model": (
        DIFFUSERS | {f"transformer_blocks.{n}.x": torch.zeros(1) for n in range(1000)},
        "1000 and 2 blocks",
    ),
    "scales without a format": (UNMARKED, "quantised in a form that ComfyUI does not know"),
    "quantised diffusers": (DIFFUSERS | {"proj_out.weight_scale": torch.ones(1)}, "in diffusers layout"),
    "Chroma in diffusers layout": (
        DIFFUSERS | {"distilled_guidance_layer.in_proj.bias": torch.ones(1)},
        "Chroma",
    ),
}


@pytest.mark.parametrize(("weights", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_would_load_in_part_or_as_nonsense_is_refused(write, weights, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_checkpoint(write(weights))


BAD_SETTINGS = ["{", "[]", '{"layers": 1}', '{"layers": {"a": {}}}', "[" * 100_000]


@pytest.mark.parametrize("text", BAD_SETTINGS, ids=range(len(BAD_SETTINGS)))
def test_quantisation_that_cannot_be_read_is_refused(write, text):
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(write(model_files.scaled_fp8_metadata(WEIGHTS), {"_quantization_metadata": text}))


def break_index(index, **table):
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | table}))


SHARDS = {
    "a shard missing": (
        lambda index: next(index.parent.glob("*-00002-of*")).unlink(),
        "1 of 3 shards .*00002-of",
    ),
    "a tensor missing": (
        lambda index: break_index(
            index, more=f"{index.name.removesuffix('.safetensors.index.json')}-00001-of-00003.safetensors"
        ),
        "lacks more, which the index promises",
    ),
    "a shard cut short": (
        lambda index: (path := next(index.parent.glob("*-00003-of*"))).write_bytes(path.read_bytes()[:-9]),
        "00003-of-00003.safetensors: the file is cut short",
    ),
    "no JSON": (lambda index: index.write_text("{"), "index of a sharded model cannot be read"),
    "a list": (lambda index: index.write_text("[]"), "index of a sharded model cannot be read"),
    "a name of 5000 letters": (lambda index: break_index(index, a="a" * 5000), "index .* cannot be read"),
    "a number for a shard": (lambda index: break_index(index, a=1), "index .* cannot be read"),
    "20 MB": (lambda index: index.write_bytes(bytes(20_000_001)), "index .* cannot be read"),
    "one tensor in two shards": (
        lambda index: save_file(WEIGHTS, next(index.parent.glob("*-00003-of*"))),
        "00003-of-00003.safetensors has .* as another shard",
    ),
    "out of the folder": (
        lambda index: break_index(index, a="../other.safetensors"),
        "index .* cannot be read",
    ),
}


@pytest.mark.parametrize(("damage", "complaint"), SHARDS.values(), ids=SHARDS)
def test_a_damaged_folder_is_refused(tmp_path, damage, complaint):
    index = model_files.write_shards(WEIGHTS, tmp_path)
    damage(index)
    with pytest.raises(ValueError, match=complaint):
        read_checkpoint(index)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {  # header, bytes after it, message
    "no JSON": (b"{", 0, "header cannot be read"),
    "a list": (b"[]", 0, "header cannot be read"),
    "deep": (b"[" * 100_000, 0, "header cannot be read"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8, "header cannot be read"),
    "a negative size": ({"a": ENTRY | {"shape": [-2]}}, 8, "header cannot be read"),
    "a truth value": ({"a": ENTRY | {"shape": [True]}}, 8, "header cannot be read"),
    "a name twice": (f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}'.encode(), 8, "has a twice"),
    "an overlap": ({"a": ENTRY, "b": ENTRY}, 8, "header is wrong"),
    "a gap": ({"a": ENTRY | {"data_offsets": [8, 16]}}, 16, "header is wrong"),
    "a lie about the size": ({"a": ENTRY | {"shape": [2**40]}}, 8, "header is wrong"),
    "too short": ({"a": ENTRY}, 7, "cut short"),
    "too long": ({"a": ENTRY}, 9, "longer than its header says"),
    "a list for a type": ({"a": ENTRY | {"dtype": []}}, 8, "a type that is not known"),
    "a million dimensions": ({"a": ENTRY | {"shape": [2**62] * 1_000_000}}, 8, "header"),
    "a size of 4000 digits": ({"a": ENTRY | {"shape": [10**4000]}}, 8, "header cannot be read"),
    "a long name": ({"a" * 5000: ENTRY}, 8, "a name of 5,000 letters"),
    "millions of lists": (b'{"a": [' + b"[]," * 3_000_000 + b"[]]}", 0, "millions of parts"),
    "too many": ({f"k{n}": ENTRY for n in range(20_001)}, 8, "20,001 tensors"),
}


@pytest.mark.parametrize(("header", "behind", "complaint"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, header, behind, complaint):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "lie.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(behind))
    with pytest.raises(ValueError, match=complaint):
        read_header(path)


OTHER_FILES = {
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file under another name"),
    "PyTorch": (b"PK\x03\x04\0\0\x08\x08" + bytes(100), "pickle .* Choose a safetensors file"),
    "old PyTorch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle .* Choose a safetensors file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.* git lfs pull"),
    "a page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page or .* Accept the licence"),
    "a message": (b'{"error": "Access to this model is restricted."}', "a web page or .* Accept the licence"),
    "noise": (b"\xff" * 100, "no safetensors file, or it is cut short"),
    "a few bytes": (b"GG", "no safetensors file, or it is cut short"),
    "nothing": (b"", "no safetensors file, or it is cut short"),
}


@pytest.mark.parametrize(("content", "complaint"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_another_file_under_this_name_is_called_what_it_is(tmp_path, content, complaint):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_checkpoint(tmp_path / "model.safetensors")


HASHES = {kind: digest for digest, kind in SHA256.items()}
WHO = {  # name as chosen, metadata, result
    "by its name": ("flux1-dev-kontext_fp8_scaled.safetensors", {}, "FLUX.1 Kontext, known by its name"),
    "by its folder": ("FLUX.1-Kontext-dev/transformer/model.safetensors", {}, "FLUX.1 Kontext, known by its name"),
    "dev by its name": (
        "flux1-dev.safetensors",
        {},
        r"FLUX.1 \[dev\], which has not learned to edit, known by its name",
    ),
    "by its metadata": (
        "a.safetensors",
        {"modelspec.title": "Flux.1 Kontext dev"},
        "Kontext, known by its metadata",
    ),
    "metadata before name": (
        "kontext.safetensors",
        {"modelspec.architecture": "flux-1-dev"},
        "learned to edit, known by its metadata",
    ),
    "by nothing": ("model.safetensors", {"format": "pt"}, "neither name nor metadata tells"),
}


def checkpoint(metadata, guided=True):
    return Checkpoint(["a"], dataclasses.replace(TINY, guidance_embed=guided), metadata, [], frozenset(), [])


@pytest.mark.parametrize(("name", "metadata", "said"), WHO.values(), ids=WHO)
def test_kontext_or_dev(name, metadata, said):
    assert re.search(said, identify(f"/models/{name}", name, checkpoint(metadata)))


WITHOUT_GUIDANCE = {
    "by its layers": ("model.safetensors", {}, r"^FLUX.1 \[schnell\] .* has not learned to edit, known by its layers$"),
    "by its name": ("flux1-schnell.safetensors", {}, r"^FLUX.1 \[schnell\] .*, known by its layers$"),
    "a name that cannot be": ("flux1-dev.safetensors", {}, r"^FLUX.1 \[schnell\] .*, known by its layers$"),
    "metadata that cannot be": ("a", {"modelspec.architecture": "flux-1-dev"}, r"^FLUX.1 \[schnell\]"),
    "a distilled Kontext": (
        "kontext-fast.safetensors",
        {},
        "^FLUX.1 Kontext, known by its name; it has no layers for the gui",
    ),
}


@pytest.mark.parametrize(("name", "metadata", "said"), WITHOUT_GUIDANCE.values(), ids=WITHOUT_GUIDANCE)
def test_a_model_without_guidance_is_no_dev(name, metadata, said):
    assert re.search(said, identify(f"/models/{name}", name, checkpoint(metadata, guided=False)))


@pytest.mark.parametrize(("name", "guided"), [("kontext", True), ("a", True), ("kontext", False), ("schnell", False)])
def test_the_duties_of_the_licence_are_said_but_for_schnell(name, guided):
    assert (DUTIES in account(name, checkpoint({}, guided))) == (name != "schnell")


def test_the_layers_of_schnell_are_read(write):
    weights = {name: weight for name, weight in WEIGHTS.items() if not name.startswith("guidance_in")}
    assert not read_checkpoint(write(weights)).geometry.guidance_embed


@pytest.mark.parametrize(("kind", "said"), [(KONTEXT, "Kontext"), (DEV, "learned to edit")], ids=["Kontext", "dev"])
def test_a_file_in_hugging_faces_cache_is_named_by_its_hash(tmp_path, kind, said):
    blob = tmp_path / HASHES[kind]
    blob.touch()
    link = tmp_path / "kontext-or-flux1-dev.safetensors"
    link.symlink_to(blob)
    assert f"{said}, known by its hash" in identify(link, link.name, checkpoint({}))
