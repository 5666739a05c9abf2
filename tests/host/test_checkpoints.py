"""Every layout of a transformer file loads in the host and gives the numbers of its weights."""

import itertools
import logging
import subprocess
import sys
import unicodedata
from pathlib import Path

import comfy.sd
import comfy.text_encoders.flux
import pytest
import torch
from safetensors.torch import save_file

import model_files
from batch import inprocess
from batch.graphs import node
from kontext_core.checkpoints import read_checkpoint
from kontext_core.geometry import Geometry
from kontext_core.instructions import unreadable
from kontext_core.transformer import checkpoint_shapes, forward

ROOT = Path(__file__).parents[2]
SMALL = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)


@pytest.fixture(scope="module")
def room(pack):
    """`room("loading")`: a module of host/, as ComfyUI loaded it with the pack."""
    return lambda name: inprocess.pack_module(f"host.{name}")


@pytest.fixture(scope="module")
def weights():
    return model_files.random_weights(SMALL)


def velocity(tree, dtype=torch.float32):
    """Our forward over a tree, on fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"img": (1, 6, 64), "txt": (1, 3, tree.params.context_in_dim), "y": (1, tree.params.vec_in_dim)}
    given = {name: torch.randn(size, generator=generator).to(dtype) for name, size in sizes.items()}
    ids = {"img_ids": torch.arange(18.0).reshape(1, 6, 3), "txt_ids": torch.zeros(1, 3, 3)}
    scalars = {"timesteps": torch.tensor([0.6]), "guidance": torch.tensor([2.5])}
    with torch.no_grad():
        return forward(tree, **given, **ids, **scalars)


EXACT = {  # layout: how it stores the weights, and the effect on the numbers
    "BFL, fp32": lambda weights: weights,
    "all in one": model_files.all_in_one,
    "diffusers": lambda weights: model_files.to_diffusers(weights, SMALL),
    "prefix model.": model_files.prefixed("model."),
    "prefix net.": model_files.prefixed("net."),
    "prefix model.model.": model_files.prefixed("model.model."),
    "prefix model., diffusers": lambda weights: model_files.prefixed("model.")(
        model_files.to_diffusers(weights, SMALL)
    ),
}
ROUNDED = {
    "bf16": model_files.cast(torch.bfloat16),
    "fp16": model_files.cast(torch.float16),
    "fp8 e4m3": model_files.cast(torch.float8_e4m3fn),
    "fp8 e5m2": model_files.cast(torch.float8_e5m2),
    "scaled fp8, old": model_files.scaled_fp8_old,
    "scaled fp8, new": model_files.scaled_fp8_new,
    "scaled fp8, new, e5m2": lambda weights: model_files.scaled_fp8_new(weights, torch.float8_e5m2),
    "scaled fp8, metadata": model_files.scaled_fp8_metadata,
    "all in one, scaled fp8, old": lambda weights: model_files.all_in_one(model_files.scaled_fp8_old(weights)),
    "all in one, scaled fp8, new": lambda weights: model_files.all_in_one(model_files.scaled_fp8_new(weights)),
    "prefix net., scaled fp8, old": lambda weights: model_files.prefixed("net.")(model_files.scaled_fp8_old(weights)),
    "prefix model., scaled fp8, new": lambda weights: model_files.prefixed("model.")(
        model_files.scaled_fp8_new(weights)
    ),
    "all in one, scaled fp8, metadata": lambda weights: model_files.all_in_one(
        model_files.scaled_fp8_metadata(weights)
    ),
}


def load(room, path, **options):
    return room("loading").load_transformer(read_checkpoint(path).paths, options).model.diffusion_model


@pytest.mark.parametrize("layout", EXACT)
def test_a_layout_loads_bit_for_bit(room, weights, tmp_path, layout):
    path = tmp_path / "model.safetensors"
    save_file(EXACT[layout](weights), path)
    loaded = load(room, path).state_dict()
    for name, weight in weights.items():
        assert torch.equal(loaded[name.replace("_norm.scale", "_norm.weight")], weight), name


@pytest.mark.parametrize("layout", ROUNDED)
def test_a_precision_loads_as_well_as_it_can(room, weights, tmp_path, layout):
    """fp8 has 3 or 2 mantissa bits; a scale read as a plain number would give nonsense."""
    path = tmp_path / "model.safetensors"
    metadata = model_files.quantisation_metadata(weights) if "metadata" in layout else None
    save_file(ROUNDED[layout](weights), path, metadata)
    exact = velocity(comfy.sd.load_diffusion_model_state_dict(dict(weights)).model.diffusion_model)
    error = (velocity(load(room, path)).float() - exact).norm() / exact.norm()
    assert error < (0.3 if "fp8" in layout else 0.02)


@pytest.mark.parametrize("make", [model_files.scaled_fp8_old, model_files.scaled_fp8_new], ids=["old", "new"])
def test_scaled_fp8_in_shards_is_the_single_file(room, weights, tmp_path, make):
    save_file(make(weights), tmp_path / "model.safetensors")
    single, shards = (
        load(room, tmp_path / "model.safetensors"),
        load(room, model_files.write_shards(make(weights), tmp_path)),
    )
    torch.testing.assert_close(velocity(single), velocity(shards), atol=1e-5, rtol=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory is read from Linux's /proc")
def test_shards_are_mapped_and_not_held_twice(tmp_path):
    """A process's own memory grows by the model and not by a second copy of the files, even at the peak of loading.

    In a separate process, because memory freed by others would hide it. One file: benchmarks/full_geometry.py.
    """
    large = Geometry(hidden_size=512, num_heads=4, depth=4, depth_single_blocks=4)
    weights = {name: torch.zeros(shape) for name, shape in checkpoint_shapes(large).items()}
    path = model_files.write_shards(weights, tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    command = [sys.executable, "-c", LOAD, str(path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    before, peak = map(int, output.stdout.splitlines()[-1].split())
    assert size > 150_000_000
    assert 0.9 * size < peak - before < 1.4 * size


LOAD = """
import sys
from pathlib import Path
from benchmarks.full_geometry import GB, Peak, loader
load = loader("ours")
with Peak() as idle:
    pass
with Peak() as peak:
    model = load(Path(sys.argv[1]))
print(int(idle.anonymous * GB), int(peak.anonymous * GB))
"""


@pytest.mark.parametrize("layout", ["BFL", "diffusers"])
def test_a_folder_of_shards_is_the_single_file(room, weights, tmp_path, layout):
    tensors = weights if layout == "BFL" else model_files.to_diffusers(weights, SMALL)
    patcher = room("loading").load_transformer(read_checkpoint(model_files.write_shards(tensors, tmp_path)).paths, {})
    loaded = patcher.model.diffusion_model.state_dict()
    for name, weight in weights.items():
        assert torch.equal(loaded[name.replace("_norm.scale", "_norm.weight")], weight), name
    make, arguments = patcher.cached_patcher_init
    twin = make(*arguments, disable_dynamic=True)  # as the host copies a model to another device
    assert torch.equal(twin.model.diffusion_model.img_in.weight, patcher.model.diffusion_model.img_in.weight)


def test_shards_are_one_entry_of_the_list(room, weights, model_folder):
    folder = model_folder("diffusion_models") / "FLUX.1-Kontext-dev"
    index = model_files.write_shards(weights, folder / "transformer")
    lonely = folder / "lonely-00001-of-00002.safetensors"
    save_file({"img_in.bias": torch.zeros(1)}, lonely)
    listed = [name for name in room("loading").model_files("diffusion_models") if name.startswith(folder.name)]
    for path in (*index.parent.iterdir(), lonely):
        path.unlink()
    assert listed == [
        "FLUX.1-Kontext-dev/lonely-00001-of-00002.safetensors",
        "FLUX.1-Kontext-dev/transformer/diffusion_pytorch_model.safetensors.index.json",
    ]


def test_all_in_one_files_are_in_the_list_and_load(room, weights, model_folder, monkeypatch):
    """The layers after the transformer's blocks are tested with other files."""
    path = model_folder("checkpoints") / "all_in_one.safetensors"
    widths = SMALL.context_in_dim, SMALL.vec_in_dim
    save_file(model_files.all_in_one(weights), path)
    try:
        loading = room("loading")
        assert path.name in loading.transformer_files()
        monkeypatch.setattr(loading, "_TEXT_WIDTHS", widths)
        found = loading._checked("diffusion_model", loading.TRANSFORMER_FOLDERS, path.name, loading._read_transformer)
        assert found.paths == [str(path)]
    finally:
        path.unlink()


# Text


@pytest.fixture
def clip():
    """The host's FLUX tokenizer behind a CLIP; nothing is encoded here, so it needs no encoder."""

    class Encoderless(comfy.sd.CLIP):
        def __init__(self):
            self.tokenizer = comfy.text_encoders.flux.FluxTokenizer()
            self.tokenizer_options = {}

    return Encoderless()


class GivenClip:
    """A loader of the `clip` of a subclass."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load"
    CATEGORY = "test"

    def load(self):
        return (self.clip,)


@pytest.mark.parametrize("length", [256, 512])
def test_t5_is_padded_to_the_length_asked_for(room, clip, length):
    room("text_length").set_text_length(clip, length)
    (section,) = clip.tokenize("make the sky red")["t5xxl"]
    assert len(section) == length


@pytest.mark.parametrize(("words", "told"), [(500, False), (511, False), (512, True), (600, True)])
def test_more_than_512_tokens_are_told(room, clip, caplog, words, told):
    """Each `the` is one token, and the end is another."""
    room("text_length").set_text_length(clip, 512)
    with caplog.at_level(logging.WARNING):
        clip.tokenize("the " * words)
    assert (f"The text has {words + 1} tokens" in caplog.text) == told


def test_the_signs_that_t5_reads_are_those_of_its_vocabulary(clip):
    """Every visible character of Unicode's first plane and of the emoji, between two letters."""
    planes = itertools.chain(range(0xD800), range(0xE000, 0x10000), range(0x1F000, 0x1FB00))
    signs = [sign for sign in map(chr, planes) if unicodedata.category(sign) not in ("Cc", "Cf", "Cn", "Co")]
    tokens = clip.tokenizer.t5xxl.tokenizer([f"a{sign}a" for sign in signs])["input_ids"]
    wrong = {sign for sign, ids in zip(signs, tokens, strict=True) if (2 in ids) != bool(unreadable(f"a{sign}a"))}
    assert wrong == set("▁ꟲꟳꟴ\ufffd🅬")  # T5's own space; characters normalised by newer Unicode; the unknown token


SAID = {  # text, warnings
    "English": ("make the sky red", None),
    "Korean": ("하늘을 빨간색으로", "T5 cannot read 8 of 8 letters and signs"),
    "some of it": ("make the sky 빨간", "T5 cannot read 2 of 12 letters and signs"),
}


@pytest.mark.parametrize(("text", "said"), SAID.values(), ids=SAID)
def test_what_t5_cannot_read_is_said_where_it_is_read_and_where_it_is_written(
    room, pack, run_graph, clip, monkeypatch, text, said
):
    """As a notice on CLIP Text Encode, and in the report of Kontext Instruction, with the CLIP and without."""
    room("text_length").set_text_length(clip, 512)
    clip.encode_from_tokens_scheduled = lambda tokens: []
    monkeypatch.setitem(pack, "GivenClip", type("GivenClip", (GivenClip,), {"clip": clip}))
    fields = {"kind": "global", "kind.result": "x", "kind.keep": ""}
    graph = {
        "clip": node("GivenClip"),
        "read": node("CLIPTextEncode", clip=["clip", 0], text=text),
        "counted": node("KontextInstruction", **fields, more=text, clip=["clip", 0]),
        "estimated": node("KontextInstruction", **fields, more=text),
    }
    run = run_graph(graph)
    notices = {event.data["node"]: event.data["text"] for event in run.events if event.type == "text"}
    assert set(notices) == ({"read"} if said else set())
    assert said is None or notices["read"].startswith(said)
    for name in ("counted", "estimated"):
        report = run.shown[name]["text"][0]
        assert ("T5 cannot read" in report) == (said is not None)
        assert said is None or said.split(" of ")[0] in report


def test_the_count_of_a_long_text_stands_on_the_node_that_reads_it(room, pack, run_graph, clip, monkeypatch):
    """ComfyUI's own CLIP Text Encode, with a CLIP as Kontext Loader leaves it."""

    room("text_length").set_text_length(clip, 512)
    monkeypatch.setitem(pack, "GivenClip", type("GivenClip", (GivenClip,), {"clip": clip}))
    clip.encode_from_tokens_scheduled = lambda tokens: []
    graph = {"clip": node("GivenClip"), "text": node("CLIPTextEncode", clip=["clip", 0], text="the " * 600)}
    told = [event.data for event in run_graph(graph).events if event.type == "text"]
    assert [data["node"] for data in told] == ["text"]
    assert told[0]["text"].startswith("The text has 601 tokens; FLUX.1 was trained on 512 at most.")
