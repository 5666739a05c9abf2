"""The boundary for IMAGE and MASK.

Inputs are checked and converted to float32 on the CPU; outputs get the host's dtype and device. Code behind this
boundary handles only that dtype and device, whatever flags the host was started with.
"""

import comfy.model_management
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..kontext_core.regions import EMPTY
from ..kontext_core.resolutions import SMALLEST

# In


def rgb(image: Tensor, what: str) -> Tensor:
    """(b, h, w, 1 | 3 | 4) -> (b, h, w, 3) in float32 on the CPU.

    Grey is repeated and alpha dropped, as in the host's VAE; uint8 means 0..255. ValueError for other shapes and
    types, for an empty batch and for NaN; `what` names the input.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        channels = f"{image.shape[-1]} channels" if image.ndim == 4 else f"the shape {tuple(image.shape)}"
        raise ValueError(f"{what} has {channels}; (pictures, height, width, 1 (grey), 3 (RGB) or 4 (RGBA)) is needed.")
    if not image.numel():
        raise ValueError(f"{what} holds no picture, its shape is {tuple(image.shape)}. Look at the node that made it.")
    pixels = _numbers(image, what)
    if not torch.isfinite(pixels).all():
        raise ValueError(f"{what} has pixels that are not finite (NaN or infinite). Look at the node that made it.")
    return pixels.expand(-1, -1, -1, 3) if pixels.shape[-1] == 1 else pixels[..., :3]


def masks(mask: Tensor, what: str) -> Tensor:
    """(h, w), (m, h, w) or (m, 1, h, w) -> (m, h, w) in 0..1, float32 on the CPU.

    bool and uint8 of 0 and 1 keep their values, other uint8 means 0..255. ValueError for other shapes and types, for
    NaN, and for a mask without marked pixels, which is always a mistake; `what` names the input.
    """
    shape = tuple(mask.shape)
    usual = len(shape) in (2, 3) or (len(shape) == 4 and shape[1] == 1)
    if not usual or not mask.numel():
        raise ValueError(
            f"{what} has the shape {shape}; (masks, height, width) is needed. Make a mask of a picture with Convert "
            "Image to Mask."
        )
    as_numbers = mask.bool() if mask.dtype == torch.uint8 and mask.max() <= 1 else mask
    values = _numbers(as_numbers, what).reshape(-1, *shape[-2:])
    if not torch.isfinite(values).all():
        raise ValueError(f"{what} has values that are not finite (NaN or infinite). Look at the node that made it.")
    if values.max() < EMPTY:
        raise ValueError(
            f"{what} is empty: it is black everywhere and marks nothing, as Load Image's mask of a picture without "
            "alpha. Draw one in the mask editor of Load Image, or connect another node's mask. Where a mask is "
            "optional, connect none to do without."
        )
    return values.clamp(0, 1)


def one_mask(name: str, mask: Tensor) -> Tensor:
    """(h, w) of a MASK that contains one mask; see `masks`."""
    values = masks(mask, name)
    if len(values) != 1:
        raise ValueError(
            f"{name} holds {len(values)} masks; one is needed, which counts for every picture of a batch. "
            "Take one of them out, or add them up."
        )
    return values[0]


def require_size(what: str, size: tuple[int, int]) -> None:
    """ValueError unless both sides are large enough to be edited."""
    if min(size) < SMALLEST:
        raise ValueError(
            f"{what} is {size[0]}x{size[1]} px; the smallest side must have {SMALLEST} px. "
            "Use a larger or less narrow picture."
        )


def require_batch(name: str, count: int, others: str, wanted: int) -> None:
    """ValueError unless there is one of `name`, used for all `others`, or an equal number."""
    if count not in (1, wanted):
        raise ValueError(
            f"{name} is a batch of {count}, {others} one of {wanted}; give one, or as many. Image From Batch takes "
            "some out of a batch."
        )


def fitted_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks or other maps (m, h, w) to (m, height, width); `size` is (height, width)."""
    if tuple(mask.shape[1:]) == tuple(size):
        return mask
    return interpolate(mask[:, None], tuple(size), mode="bilinear", antialias=True)[:, 0]


def _numbers(values: Tensor, what: str) -> Tensor:
    if values.dtype == torch.uint8:
        return values.cpu().float() / 255
    if not (values.dtype == torch.bool or values.is_floating_point()):
        raise ValueError(f"{what} holds {values.dtype}; numbers in 0..1 (float) or uint8 are needed.")
    return values.to("cpu", torch.float32)


# Out


def given(picture: Tensor) -> Tensor:
    """An IMAGE or a MASK on the device and in the dtype that the host uses between nodes."""
    host = comfy.model_management
    return picture.to(host.intermediate_device(), host.intermediate_dtype())
