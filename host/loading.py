"""MODEL, CLIP and VAE, embedded or from the host's model folders. The host's own loaders do the work."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..kontext_core import embedded
from ..kontext_core.geometry import read_geometry
from .autoencoder import load_vae
from .files import SUFFIXES, Shapes, read_shapes, require_autoencoder, require_text_encoder
from .text_encoder import load_clip

WEIGHT_DTYPES: dict[str, dict[str, Any]] = {  # the host's names, and what its loader is told
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
_TEXT_WIDTHS = (4096, 768)  # of T5-XXL's tokens and CLIP-L's pooled vector


class Loaded(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    report: str  # what was found: sizes, types, bytes


def model_files(folder: str) -> list[str]:
    """The safetensors files that the host knows in one of its model folders."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(SUFFIXES)]


def load_embedded() -> Loaded:
    """The tiny Kontext that ships with the pack."""
    model, clip, vae = load_embedded_model(), load_clip(), load_vae()
    names = (
        "embedded Kontext",
        f"text encoder of {len(clip.tokenizer.vocabulary.words)} words",
        "autoencoder",
    )
    return Loaded(model, clip, vae, _report(names, model, clip, vae))


def load_embedded_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The embedded transformer; the host calls it again for a copy, such as one without dynamic memory."""
    weights, _ = embedded.load_transformer()
    model = comfy.sd.load_diffusion_model_state_dict(weights, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (load_embedded_model, ())
    return model


def load_files(diffusion_model: str, clip_l: str, t5xxl: str, vae: str, weight_dtype: str) -> Loaded:
    """Files by their names in the host's model folders.

    All four are checked by their headers before the first is loaded. ValueError names the input, the file,
    what it is and what is needed.
    """
    model_path = _checked("diffusion_model", "diffusion_models", diffusion_model, _require_transformer)
    clip_path = _checked("clip_l", "text_encoders", clip_l, partial(require_text_encoder, "clip_l"))
    t5_path = _checked("t5xxl", "text_encoders", t5xxl, partial(require_text_encoder, "t5xxl"))
    vae_path = _checked("vae", "vae", vae, require_autoencoder)

    model = comfy.sd.load_diffusion_model(model_path, model_options=dict(WEIGHT_DTYPES[weight_dtype]))
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.load_clip(
        [clip_path, t5_path], embedding_directory=embeddings, clip_type=comfy.sd.CLIPType.FLUX
    )
    autoencoder = _load_vae(vae_path)
    names = (diffusion_model, f"{clip_l} + {t5xxl}", vae)
    return Loaded(model, clip, autoencoder, _report(names, model, clip, autoencoder))


def _load_vae(path: str) -> comfy.sd.VAE:
    """A VAE as the host's VAELoader makes it."""
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (path, metadata, None))
    return vae


def _checked(role: str, folder: str, name: str, require: Callable[[Shapes], None]) -> str:
    """The path of a file that holds what is required; ValueError with input, file and reason if not."""
    path = folder_paths.get_full_path_or_raise(folder, name)
    try:
        require(read_shapes(path))
    except ValueError as error:
        raise ValueError(f"{role}: {name}: {error}") from error
    return path


def _require_transformer(shapes: Shapes) -> None:
    geometry = read_geometry(shapes)
    widths = geometry.context_in_dim, geometry.vec_in_dim
    if widths != _TEXT_WIDTHS:
        raise ValueError(
            f"this model reads text of the widths {widths}; CLIP-L and T5-XXL give {_TEXT_WIDTHS}. "
            "Choose FLUX.1 Kontext [dev], or the source 'embedded'."
        )


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
