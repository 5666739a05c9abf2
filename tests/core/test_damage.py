"""Over 500 damaged files: each is refused with a reason or read completely; none crashes, hangs or exhausts memory."""

import contextlib
import json
import random
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

import damage
import model_files
from kontext_core.adapters import read_adapters
from kontext_core.checkpoints import MOST_TENSORS, read_checkpoint, read_header
from kontext_core.transformer import checkpoint_shapes

LINUX = "memory is measured and limited by Linux calls"
resource = pytest.importorskip("resource", reason=LINUX)
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason=LINUX)

FILES = 260  # of each kind
MEMORY = 500 << 20  # bytes that reading any of them may take
PATIENCE = 120  # seconds after which a file counts as hanging; none takes a hundredth of it


@contextlib.contextmanager
def bounded():
    """Limits the additional memory, and the time for one file."""

    def hang(*_):
        raise TimeoutError("a damaged file hangs")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_bound_is_one():
    with pytest.raises(MemoryError), bounded():
        bytearray(2 * MEMORY)


def is_refused(read, path, what):
    """Whether `read` refuses a file with a readable message; any other exception is a crash."""
    try:
        with bounded():
            read(path)
    except ValueError as error:
        assert 20 < len(str(error)) < 3000, what
        return True
    except Exception as error:
        raise AssertionError(what) from error
    return False


def checkpoint_is_whole(path):
    checkpoint = read_checkpoint(path)
    assert checkpoint.geometry == damage.GEOMETRY
    known = len(checkpoint_shapes(damage.GEOMETRY))
    assert len(read_header(path).tensors) - len(checkpoint.foreign) >= known


def lora_is_whole(path):
    header = read_header(path)
    tensors = load_file(path)
    reading = read_adapters(tensors, damage.GEOMETRY, header.metadata)
    told = [key for keys in reading.unmatched.values() for key in keys]
    assert sorted([*reading.matched, *told]) == sorted(tensors)


READ = {"checkpoint": checkpoint_is_whole, "LoRA": lora_is_whole}


@pytest.mark.parametrize("kind", READ)
def test_a_damaged_file_is_refused_or_read_completely(tmp_path, kind):
    path = tmp_path / "damaged.safetensors"
    refused = [is_refused(READ[kind], path, what) for what in damage.files(kind, FILES, path)]
    assert FILES / 2 < sum(refused) < FILES


@pytest.mark.parametrize("kind", READ)
def test_a_whole_file_is_read(tmp_path, kind):
    path = tmp_path / "whole.safetensors"
    for layout, tensors in damage.bases()[kind].items():
        path.write_bytes(damage.joined(*damage.parts(tensors)))
        assert not is_refused(READ[kind], path, layout)


INDICES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"weight_map": []}',
    b'{"weight_map": {}}',
    b'{"weight_map": {"a": 1}}',
    b'{"weight_map": {"a": "../b.safetensors"}}',
    b'{"weight_map": {"a": "b\\u0000"}}',
    b"\xff",
    b" " * 30_000_000,
]


def test_a_damaged_folder_is_refused_or_read_completely(tmp_path):
    """Shards with the same damage as single files, and indexes with nonsense."""
    index = model_files.write_shards(damage.bases()["checkpoint"]["BFL, bf16"], tmp_path)
    shard = next(tmp_path.glob("*-00002-of-*"))
    header, data = damage.parts(load_file(shard))
    for seed in range(4 * len(damage.DAMAGES)):
        hurt = damage.DAMAGES[seed % len(damage.DAMAGES)]
        shard.write_bytes(hurt(random.Random(seed), json.loads(json.dumps(header)), data))
        is_refused(read_checkpoint, index, (hurt.__name__, seed))
    for text in INDICES:
        index.write_bytes(text)
        assert is_refused(read_checkpoint, index, text[:40])


def test_a_million_keys_are_refused(tmp_path):
    """In any spelling: as raw text, or with letters as \\u escapes."""
    path = tmp_path / "many.safetensors"
    for word in ("dtype", "dt\\u0079pe"):
        entry = f'{{"{word}":"F16","shape":[0],"data_offsets":[0,0]}}'
        text = ("{" + ",".join(f'"k{number}":{entry}' for number in range(1_000_000)) + "}").encode()
        path.write_bytes(damage.joined(text, b""))
        assert is_refused(read_header, path, word)


NAMES = {  # reader; the maximum number of tensors, under names that are expensive to match
    "blocks of FLUX.1": ("checkpoint", "double_blocks.{}.img_attn.qkv.weight"),
    "blocks of diffusers": ("checkpoint", "transformer_blocks.{}.attn.to_q.weight"),
    "layers": ("LoRA", "lora_unet_double_blocks_{}_img_attn_qkv.lora_down.weight"),
    "prefixes": ("LoRA", "transformer." * 20 + "{}.lora_A.weight"),
    "prefixes of one's own": ("LoRA", "p{0}.transformer_blocks.{0}.lora_A.weight"),
    "wrappers": ("LoRA", "module." * 30 + "{}.lora_A.weight"),
}


@pytest.mark.parametrize(("kind", "name"), NAMES.values(), ids=NAMES)
def test_as_many_names_as_a_file_may_have_are_refused(tmp_path, kind, name):
    path = tmp_path / "many.safetensors"
    whole = {"x_embedder.weight": [128, 64], "transformer_blocks.0.ff.net.0.proj.weight": [512, 128]}
    whole |= {"single_transformer_blocks.0.norm.linear.bias": [384]} if "transformer_blocks" in name else {}
    header, end = {}, 0
    for key, shape in (whole | {name.format(number): [0] for number in range(MOST_TENSORS - 3)}).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    path.write_bytes(damage.joined(header, bytes(end)))
    assert is_refused(READ[kind], path, name)
