"""IMAGE to reference LATENT, resized to a size that suits the model and encoded."""

from typing import Any

import torch
from torch import Tensor

from ..kontext_core.frames import Frame, resample
from ..kontext_core.resolutions import MEGAPIXEL
from . import frames
from .images import given, one_mask, require_size, rgb
from .latents import CHANNELS, PIXELS, Latent, describe
from .trained import trained_for, warn_beyond


def encode(
    image: Tensor,
    vae: Any,
    size: dict[str, Any],
    mode: str,
    frame: Frame | None = None,
    mask: Tensor | None = None,
    max_megapixels: float = 0,
) -> tuple[Latent, Tensor, str]:
    """A reference, its mask on the same grid (1, h, w), and a report.

    image           (b, h, w, c) in 0..1; c is 3, or 1 (grey), or 4, whose alpha is not read
    size            {"size": one of `kontext_core.frames.SIZES`}, with "megapixels" for "keep ratio"
    mode            "pad", "crop" or "stretch", see `kontext_core.frames.make_frame`
    frame           used instead of `size` and `mode`; the image may already have the size of the frame's grid
    mask            (1, h, w) over the picture, resized like the picture; None: white
    max_megapixels  upper limit of the reference's size, in 1024x1024 px; 0: no limit

    Raises ValueError for a picture that is too small, has NaN or other channels, does not belong to the frame, and for
    another model's VAE.
    """
    _require_vae(vae)
    pixels = rgb(image, "image")
    before = pixels.shape[2], pixels.shape[1]
    trained = trained_for(vae)
    if frame is None:
        frame = frames.frame_of(before, size, mode, "edge", trained, max_megapixels)
        how, lines = _how(size["size"], mode, frame, max_megapixels), frames.places(frame)
        if lines and size["size"] == "as is":
            lines.append("for a result of exactly the picture's size use Kontext Fit Frame and Kontext Restore Frame")
    else:
        require_size("image", before)
        _require_within(frame, max_megapixels)
        how, lines = "by its frame", []
    warn_beyond(trained, "The reference", frame.grid)
    latent = {"samples": vae.encode(pixels if before == frame.grid else frame.fit(pixels))}
    report = [f"{before[0]}x{before[1]} px, {how}: {describe(latent)}", *lines]
    return latent, given(_fitted_mask(mask, before, frame)), "\n".join(report)


def _how(size: str, mode: str, frame: Frame, max_megapixels: float) -> str:
    """How a reference gets its size, for example 'keep ratio, pad, at most 1 megapixels'."""
    fitted = size != "as is" or frame.grid != frame.source
    limit = f", at most {max_megapixels:g} megapixels" if max_megapixels else ""
    return size + f", {mode}" * fitted + limit


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
    whole = resample(one_mask("mask", mask)[None, ..., None], before)  # at its picture's size
    return (whole if before == frame.grid else frame.fit(whole)).clamp(0, 1)[..., 0]


def _require_vae(vae: Any) -> None:
    if vae.latent_channels != CHANNELS or vae.spacial_compression_encode() != PIXELS:
        raise ValueError(
            f"vae has {vae.latent_channels} latent channels; FLUX.1 needs {CHANNELS}. "
            "Use the VAE of Kontext Loader, or load FLUX.1's ae.safetensors."
        )
