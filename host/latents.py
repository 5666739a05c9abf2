"""LATENT dictionaries: empty ones, their sizes, validity for FLUX.1."""

from typing import Any

import comfy.model_management
import torch

CHANNELS = 16  # of FLUX.1's autoencoder
PIXELS = 8  # px per latent pixel, in each direction

Latent = dict[str, Any]  # the host's LATENT: "samples" (b, c, h, w), perhaps "noise_mask", "batch_index"


def empty(width: int, height: int, batch_size: int) -> Latent:
    """All zeros, so that only the noise matters. Sizes in pixels, rounded down to multiples of 8."""
    samples = torch.zeros(
        (batch_size, CHANNELS, height // PIXELS, width // PIXELS),
        device=comfy.model_management.intermediate_device(),
        dtype=comfy.model_management.intermediate_dtype(),
    )
    return {"samples": samples}


def size_px(latent: Latent) -> tuple[int, int]:
    """(width, height) in pixels."""
    height, width = latent["samples"].shape[-2:]
    return width * PIXELS, height * PIXELS


def tokens(latent: Latent) -> int:
    """The transformer's tokens for one picture: 2x2 latent pixels each, odd sizes padded."""
    height, width = latent["samples"].shape[-2:]
    return ((height + 1) // 2) * ((width + 1) // 2)


def require_flux(name: str, latent: Latent) -> None:
    """ValueError unless `latent` (the input called `name`) has the shape of FLUX.1's latents."""
    shape = tuple(latent["samples"].shape)
    if len(shape) != 4 or shape[1] != CHANNELS:
        raise ValueError(
            f"{name} has the shape {shape}; FLUX.1 needs (batch, {CHANNELS}, height / 8, width / 8). "
            "Encode the picture with the VAE of Kontext Loader, or with FLUX.1's ae.safetensors."
        )


def describe(latent: Latent) -> str:
    """For example '1024x768 px, 3072 tokens', with the batch size above 1."""
    batch = latent["samples"].shape[0]
    size = "{}x{} px, {} tokens".format(*size_px(latent), tokens(latent))
    return size if batch == 1 else f"{batch} pictures of {size}"
