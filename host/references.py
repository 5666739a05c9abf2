"""IMAGE to reference LATENT, fitted to a size the model knows and encoded; and what is said about a reference."""

from typing import Any

import torch
from torch import Tensor

from ..kontext_core import references
from ..kontext_core.frames import Frame, make_frame, resample
from ..kontext_core.references import Control
from ..kontext_core.resolutions import MEGAPIXEL, keep_ratio, nearest_trained
from . import controls
from .conditioning import Conditioning
from .latents import CHANNELS, PIXELS, Latent, describe, tokens

SMALLEST = 64  # px; below, a side has fewer than 4 tokens and nothing to edit


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
    whole = resample(_one_mask("mask", mask)[None, ..., None].float(), before)  # as large as its picture
    return (whole if before == frame.grid else frame.fit(whole)).clamp(0, 1)[..., 0]


def _one_mask(name: str, mask: Tensor) -> Tensor:
    """(h, w) of a MASK (1, h, w) or (h, w)."""
    if mask.ndim == 3 and mask.shape[0] != 1:
        raise ValueError(
            f"{name} holds {mask.shape[0]} masks; one is needed, which counts for every picture of a batch. "
            "Take one of them out, or add them up."
        )
    return mask.reshape(mask.shape[-2:]).cpu()


def control(
    conditioning: Conditioning,
    number: int,
    *,
    strength: float,
    start: float,
    end: float,
    mask: Tensor | None,
    region: Tensor | None,
) -> tuple[Conditioning, str]:
    """A copy of `conditioning` in which reference `number` (from 1) speaks only so; what that means and costs.

    `mask` lies over the reference, `region` over the picture to be made, (1, h, w) each in any size. Raises ValueError
    for several masks in one.
    """
    masks, regions = (
        () if given is None else (_one_mask(name, given),) for name, given in (("mask", mask), ("region", region))
    )
    new = Control(strength, masks, regions, start, end)
    out = controls.with_control(conditioning, number, new)
    return out, "\n".join(_account(out, number))


def _account(conditioning: Conditioning, number: int) -> list[str]:
    """Tokens and cost of the references as they stand, and what `number` is now allowed."""
    text, values = conditioning[0]
    latents = values.get("reference_latents", ())
    known = values.get(controls.REFERENCES, {})
    lines = [_describe_control(number, known.get(number, Control()))]
    if number > len(latents):
        return [*lines, f"the conditioning carries {len(latents)} references so far; the setting waits for this one"]
    counts = [tokens({"samples": latent}) for latent in latents]
    seen = [
        _seen(known.get(place, Control()), latent, count)
        for place, (latent, count) in enumerate(zip(latents, counts, strict=True), 1)
    ]
    lines += [
        f"reference {place}: {count} tokens, {part:g} in the sequence on average"
        for place, (count, part) in enumerate(zip(counts, seen, strict=True), 1)
    ]
    cost = references.relative_cost(text.shape[1], counts[0], seen, single=counts[0])
    return [*lines, f"a step costs {cost:.2f} x one with reference 1 alone, for a target of its size"]


def _seen(known: Control, latent: Tensor, count: int) -> float:
    """Tokens of a reference that are in the sequence, averaged over the run."""
    if known.strength == 0:
        return 0.0
    inside = references.covered(known.masks, *latent.shape[-2:])
    return (count if inside is None else int(inside.sum())) * max(0.0, known.end - known.start)


def _describe_control(number: int, known: Control) -> str:
    words = [f"strength {known.strength:g}"]
    words += ["masked"] * bool(known.masks) + ["for a region"] * bool(known.regions)
    if (known.start, known.end) != (0, 1):
        words.append(f"from {100 * known.start:g} to {100 * known.end:g} % of the run")
    return f"reference {number}: {', '.join(words)}"


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
