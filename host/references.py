"""IMAGE to reference LATENT, fitted to a size the model knows and encoded."""

from typing import Any

import torch
from torch import Tensor

from ..kontext_core.frames import Frame, make_frame, resample
from ..kontext_core.resolutions import MEGAPIXEL, keep_ratio, nearest_trained
from .images import one_mask, require_size, rgb
from .latents import CHANNELS, PIXELS, Latent, describe


def encode(
    image: Tensor,
    vae: Any,
    size: dict[str, Any],
    mode: str,
    frame: Frame | None = None,
    mask: Tensor | None = None,
    max_megapixels: float = 0,
) -> tuple[Latent, Tensor, str]:
    """A reference, the mask in its frame (1, h, w), and what was done to it.

    image           (b, h, w, c) in 0..1; c is 3, or 1 (grey), or 4, whose alpha is not read
    size            {"size": "nearest trained size" | "keep ratio" | "as is"}, with "megapixels" for "keep ratio"
    mode            "pad", "crop" or "stretch", see `kontext_core.frames.make_frame`
    frame           decides instead of `size` and `mode`; the image may have the frame's grid already
    mask            (1, h, w) over the picture, fitted as the picture is; None: white
    max_megapixels  a picture that would become larger is made so small, of 1024x1024 px; 0: no limit

    Raises ValueError for a picture that is too small, has NaN or other channels, does not belong to the frame, and for
    another model's VAE.
    """
    _require_vae(vae)
    pixels = rgb(image, "image")
    before = pixels.shape[2], pixels.shape[1]
    require_size("image", before)
    if frame is None:
        frame, how = _own_frame(before, size, mode, max_megapixels)
    else:
        _require_within(frame, max_megapixels)
        how = "by its frame"
    latent = {"samples": vae.encode(pixels if before == frame.grid else frame.fit(pixels))}
    return latent, _fitted_mask(mask, before, frame), f"{before[0]}x{before[1]} px, {how}: {describe(latent)}"


def _own_frame(before: tuple[int, int], size: dict[str, Any], mode: str, max_megapixels: float) -> tuple[Frame, str]:
    """The frame that `size`, `mode` and the cap ask for, and how it is called."""
    after, how = _fitted_size(before, size), size["size"]
    capped = 0 < max_megapixels * MEGAPIXEL < after[0] * after[1]
    if capped:
        after = keep_ratio(*after, max_megapixels)
    require_size(f"image ({before[0]}x{before[1]} px) with size '{size['size']}'", after)
    if how != "as is" or capped:
        how += f", {mode}"
    return make_frame(before, after, mode, "edge"), how + f", at most {max_megapixels:g} megapixels" * capped


def _require_within(frame: Frame, max_megapixels: float) -> None:
    width, height = frame.grid
    if 0 < max_megapixels * MEGAPIXEL < width * height:
        raise ValueError(
            f"max_megapixels is {max_megapixels:g}, but the frame makes the reference {width}x{height} px. Set it to "
            "0, or choose a smaller size in the node that makes the frame."
        )


def _fitted_mask(mask: Tensor | None, before: tuple[int, int], frame: Frame) -> Tensor:
    if mask is None:
        return torch.ones(1, frame.grid[1], frame.grid[0])
    whole = resample(one_mask("mask", mask)[None, ..., None].float(), before)  # as large as its picture
    return (whole if before == frame.grid else frame.fit(whole)).clamp(0, 1)[..., 0]


def _fitted_size(before: tuple[int, int], size: dict[str, Any]) -> tuple[int, int]:
    if size["size"] == "nearest trained size":
        return nearest_trained(*before)
    if size["size"] == "keep ratio":
        return keep_ratio(*before, size["megapixels"])
    return before


def _require_vae(vae: Any) -> None:
    if vae.latent_channels != CHANNELS or vae.spacial_compression_encode() != PIXELS:
        raise ValueError(
            f"vae has {vae.latent_channels} latent channels; FLUX.1 needs {CHANNELS}. "
            "Use the VAE of Kontext Loader, or load FLUX.1's ae.safetensors."
        )
