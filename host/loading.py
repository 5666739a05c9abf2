"""MODEL, CLIP and VAE, embedded or from the host's model folders, loaded by the host's own loaders."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QUANT_ALGOS

from ..kontext_core import embedded
from ..kontext_core.checkpoints import Checkpoint, account, index_of, read_checkpoint, read_header
from .autoencoder import embedded_latent_format, load_vae
from .files import SUFFIXES, require_autoencoder, require_text_encoder
from .finite import watch
from .text_encoder import load_clip
from .text_length import LENGTHS, set_text_length

WEIGHT_DTYPES: dict[str, dict[str, Any]] = {  # the host's names -> options of its loader
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
TRANSFORMER_FOLDERS = ("diffusion_models", "checkpoints")  # searched in this order
_TEXT_WIDTHS = (4096, 768)  # of T5-XXL's tokens and CLIP-L's pooled vector


class Loaded(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    report: str  # sizes, types, bytes


def model_files(folder: str) -> list[str]:
    """The safetensors files in one of the host's model folders.

    The shards of one model are listed as one entry, their index, which the host itself does not list.
    """
    entries = {}
    for name in folder_paths.get_filename_list(folder):
        if name.lower().endswith(SUFFIXES):
            indices = (index for index in index_of(name) if folder_paths.get_full_path(folder, index))
            entries[next(indices, name)] = None
    return list(entries)


def transformer_files() -> list[str]:
    """The files of models/diffusion_models and of models/checkpoints: an all-in-one file contains a transformer too."""
    return list(dict.fromkeys(name for folder in TRANSFORMER_FOLDERS for name in model_files(folder)))


def load_embedded() -> Loaded:
    """The tiny Kontext that ships with the pack."""
    model, clip, vae = load_embedded_model(), load_clip(), load_vae()
    names = (
        "embedded Kontext",
        f"text encoder of {len(clip.tokenizer.vocabulary.words)} words",
        "embedded autoencoder",
    )
    return Loaded(model, clip, vae, _report(names, model, clip, vae))


def load_embedded_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The embedded transformer; the host calls this again for a copy, such as one without dynamic memory management."""
    weights, _ = embedded.load_transformer()
    model = comfy.sd.load_diffusion_model_state_dict(weights, disable_dynamic=disable_dynamic)
    model.model.latent_format = embedded_latent_format()
    model.cached_patcher_init = (load_embedded_model, ())
    return _guarded(model)


def _guarded(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """Adds the safeguards that every run of a newly loaded model needs.

    A run stops when its result is not finite. And wrappers of an evaluation get their own copy of the latent: the
    host's EasyCache adds to it in place, which in float32 would destroy the sampler's latent.
    """
    watch(model)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "kontext_latent", _with_own_latent)
    return model


def _with_own_latent(executor: Any, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    return executor(x.clone(), *args, **options)


def load_files(
    diffusion_model: str, clip_l: str, t5xxl: str, vae: str, weight_dtype: str, text_length: str = LENGTHS[0]
) -> Loaded:
    """Files by their names in the host's model folders.

    All four are checked by their headers before the first is loaded. ValueError names the input, the file, what it is
    and what is needed.
    """
    length = int(text_length)
    checkpoint = _checked("diffusion_model", TRANSFORMER_FOLDERS, diffusion_model, _read_transformer)
    clip_path = _checked("clip_l", ("text_encoders",), clip_l, partial(_require, require_text_encoder, "clip_l"))
    t5_path = _checked("t5xxl", ("text_encoders",), t5xxl, partial(_require, require_text_encoder, "t5xxl"))
    vae_path = _checked("vae", ("vae",), vae, partial(_require, require_autoencoder))

    model = load_transformer(checkpoint.paths, dict(WEIGHT_DTYPES[weight_dtype]))
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.load_clip([clip_path, t5_path], embedding_directory=embeddings, clip_type=comfy.sd.CLIPType.FLUX)
    set_text_length(clip, length)
    autoencoder = _load_vae(vae_path)
    names = (diffusion_model, f"{clip_l} + {t5xxl}", vae)
    lines = account(diffusion_model, checkpoint)
    return Loaded(model, clip, autoencoder, "\n".join((*lines, _report(names, model, clip, autoencoder))))


def load_transformer(
    paths: list[str], model_options: dict[str, Any], disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """A transformer from one file or from shards, memory-mapped; the host calls this again for a copy."""
    if len(paths) == 1:
        return _guarded(comfy.sd.load_diffusion_model(paths[0], model_options, disable_dynamic=disable_dynamic))
    weights, metadata = {}, {}
    for path in paths:
        tensors, stated = comfy.utils.load_torch_file(path, return_metadata=True)
        weights.update(tensors)
        metadata.update(stated or {})
    model = comfy.sd.load_diffusion_model_state_dict(
        weights, model_options, metadata=metadata, disable_dynamic=disable_dynamic
    )
    model.cached_patcher_init = (load_transformer, (paths, model_options))
    return _guarded(model)


def _load_vae(path: str) -> comfy.sd.VAE:
    """A VAE as from the host's VAELoader."""
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (path, metadata, None))
    return vae


def _checked(role: str, folders: tuple[str, ...], name: str, read: Callable[[str], Any]) -> Any:
    """The result of `read` for a file; ValueError with input, file and reason if it holds something else."""
    paths = (folder_paths.get_full_path(folder, name) for folder in folders)
    path = next(filter(None, paths), None) or folder_paths.get_full_path_or_raise(folders[0], name)
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{role}: {name}: {error}") from error


def _require(*require_and_path: Any) -> str:
    """The path of a file whose shapes satisfy the requirement."""
    *require, path = require_and_path
    require[0](*require[1:], read_header(path).shapes)
    return path


def _read_transformer(path: str) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    widths = checkpoint.geometry.context_in_dim, checkpoint.geometry.vec_in_dim
    if widths != _TEXT_WIDTHS:
        raise ValueError(
            f"this model reads text of the widths {widths}; CLIP-L and T5-XXL give {_TEXT_WIDTHS}. "
            "Choose FLUX.1 Kontext [dev], or the source 'embedded'."
        )
    if unknown := sorted(checkpoint.formats - QUANT_ALGOS.keys()):
        raise ValueError(
            f"this file is quantised as {unknown[0][:40]}, which this ComfyUI does not know. Update ComfyUI, or choose "
            "another file."
        )
    return checkpoint


def _report(names: tuple[str, str, str], model: Any, clip: Any, vae: Any) -> str:
    config = model.model.model_config.unet_config
    sizes = "{depth} + {depth_single_blocks} blocks, width {hidden_size}, {num_heads} heads".format(**config)
    return "\n".join(
        (
            f"{names[0]}: {sizes}, {_weight(model.model_size(), model.model_dtype())}",
            f"{names[1]}: {_weight(clip.patcher.model_size())}",
            f"{names[2]}: {vae.latent_channels} channels, {_weight(vae.model_size(), vae.vae_dtype)}",
        )
    )


def _weight(size: int, dtype: torch.dtype | None = None) -> str:
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    return amount if dtype is None else f"{amount} as {str(dtype).removeprefix('torch.')}"
