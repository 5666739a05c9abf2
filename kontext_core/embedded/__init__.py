"""The embedded model: a tiny Kontext that ships with the pack, trained by `training/`.

Its transformer has the names and the layout of a FLUX.1 Kontext checkpoint. Weights are sharded so that each file stays
under 8 MB.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent
SHARD_BYTES = 7_000_000

Weights = tuple[dict[str, Tensor], dict[str, str]]  # tensors by checkpoint name, and the file's metadata


def load_transformer() -> Weights:
    """The transformer's weights under FLUX.1's checkpoint names, float16.

    Metadata: geometry (JSON), world, samples (seen in training), evaluation (JSON), license.
    """
    return _load("transformer")


def load_autoencoder() -> Weights:
    """The weights of `autoencoder.Autoencoder`, float16."""
    return _load("autoencoder")


def load_text_encoder() -> Weights:
    """The weights of `text_encoder.TextEncoder`, float16. Metadata also has the vocabulary (JSON list of words)."""
    return _load("text_encoder")


def picture_path(name: str) -> Path:
    """The path of a bundled example picture."""
    return FOLDER / "pictures" / f"{name}.png"


def picture_names() -> list[str]:
    """The bundled example pictures."""
    return sorted(path.stem for path in (FOLDER / "pictures").glob("*.png"))


def save(name: str, tensors: dict[str, Tensor], metadata: dict[str, str], folder: Path = FOLDER) -> list[Path]:
    """Write weights as float16 shards for `_load`; shards of an older version are removed."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        half = tensor.detach().half().contiguous()
        if size and size + half.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = half
        size += half.nbytes
    for path in folder.glob(f"{name}-*-of-*.safetensors"):
        path.unlink()
    paths = [folder / f"{name}-{index}-of-{len(shards)}.safetensors" for index in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        save_file(shard, path, metadata)
    return paths


def _load(name: str) -> Weights:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for path in sorted(FOLDER.glob(f"{name}-*-of-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118, not a dict
    return tensors, metadata
