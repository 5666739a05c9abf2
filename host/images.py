"""IMAGE and MASK as the nodes take them: what is refused, and what the rest of the room reads."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

SMALLEST = 64  # px; below, a side has fewer than 4 tokens and nothing to edit


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


def one_mask(name: str, mask: Tensor) -> Tensor:
    """(h, w) of a MASK (1, h, w) or (h, w)."""
    if mask.ndim == 3 and mask.shape[0] != 1:
        raise ValueError(
            f"{name} holds {mask.shape[0]} masks; one is needed, which counts for every picture of a batch. "
            "Take one of them out, or add them up."
        )
    return mask.reshape(mask.shape[-2:]).cpu()


def fitted_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A MASK (m, h, w) or (h, w) at (height, width), (m, height, width) in 0..1."""
    mask = mask.reshape(-1, *mask.shape[-2:]).float().clamp(0, 1)
    if tuple(mask.shape[1:]) == tuple(size):
        return mask
    return interpolate(mask[:, None], tuple(size), mode="bilinear", antialias=True)[:, 0]
