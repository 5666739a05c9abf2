"""IMAGE to reference LATENT: fitted to a size the model knows, then encoded."""

from typing import Any

import torch
from torch import Tensor

from ..kontext_core.frames import Frame, fit
from ..kontext_core.resolutions import keep_ratio, nearest_trained
from .latents import CHANNELS, PIXELS, Latent, describe

SMALLEST = 64  # px; below, a side has fewer than 4 tokens and nothing to edit


def encode(image: Tensor, vae: Any, size: dict[str, Any], mode: str, frame: Frame | None = None) -> tuple[Latent, str]:
    """A reference and what was done to it.

    image  (b, h, w, c) in 0..1; c is 3, or 1 (grey), or 4, whose alpha is not read
    size   {"size": "nearest trained size" | "keep ratio" | "as is"}, with "megapixels" for "keep ratio"
    mode   "pad", "crop" or "stretch", see `kontext_core.frames.fit`
    frame  decides instead of `size` and `mode`; the image may have the frame's grid already

    Raises ValueError for a picture that is too small, has NaN or other channels, does not belong to the frame, and for
    another model's VAE.
    """
    _require_vae(vae)
    pixels = rgb(image, "image")
    before = pixels.shape[2], pixels.shape[1]
    require_size("image", before)
    if frame is not None:
        latent = {"samples": vae.encode(pixels if before == frame.grid else frame.fit(pixels))}
        return latent, f"{before[0]}x{before[1]} px, by its frame: {describe(latent)}"
    after = _fitted_size(before, size)
    require_size(f"image ({before[0]}x{before[1]} px) with size '{size['size']}'", after)
    if after != before:
        pixels = fit(pixels, after, mode)
    latent = {"samples": vae.encode(pixels)}
    how = size["size"] if size["size"] == "as is" else f"{size['size']}, {mode}"
    return latent, f"{before[0]}x{before[1]} px, {how}: {describe(latent)}"


def _fitted_size(before: tuple[int, int], size: dict[str, Any]) -> tuple[int, int]:
    if size["size"] == "nearest trained size":
        return nearest_trained(*before)
    if size["size"] == "keep ratio":
        return keep_ratio(*before, size["megapixels"])
    return before


def rgb(image: Tensor, what: str) -> Tensor:
    """(b, h, w, 1 | 3 | 4) -> (b, h, w, 3): grey is repeated, alpha is left out, as the host's VAE does.

    ValueError for other channels and for NaN; `what` names the input in it.
    """
    channels = image.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(f"{what} has {channels} channels; 1 (grey), 3 (RGB) or 4 (RGBA) are needed.")
    if not torch.isfinite(image).all():
        raise ValueError(f"{what} has pixels that are no numbers (NaN or infinite). Look at the node that made it.")
    return image.expand(-1, -1, -1, 3) if channels == 1 else image[..., :3]


def require_size(what: str, size: tuple[int, int]) -> None:
    """ValueError unless both sides are large enough to be edited."""
    if min(size) < SMALLEST:
        raise ValueError(
            f"{what} is {size[0]}x{size[1]} px; the smallest side must have {SMALLEST} px. "
            "Use a larger or less narrow picture."
        )


def _require_vae(vae: Any) -> None:
    if vae.latent_channels != CHANNELS or vae.spacial_compression_encode() != PIXELS:
        raise ValueError(
            f"vae has {vae.latent_channels} latent channels; FLUX.1 needs {CHANNELS}. "
            "Use the VAE of Kontext Loader, or load FLUX.1's ae.safetensors."
        )
