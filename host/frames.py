"""IMAGE to the model's grid and back, with a report."""

from typing import Any

from torch import Tensor

from ..kontext_core.frames import Frame, frame_for
from ..kontext_core.resolutions import Trained
from .images import given, require_size, rgb
from .trained import trained_for, warn_beyond_vae


def fit(image: Tensor, size: dict[str, Any], mode: str, margin: str, vae: Any = None) -> tuple[Tensor, Frame, str]:
    """A picture on the model's grid, its frame, and a report.

    image   (b, h, w, c) in 0..1; c is 3, or 1 (grey), or 4, whose alpha is not read
    size    {"size": one of `kontext_core.frames.SIZES`}, with "megapixels" for "keep ratio"
    vae     VAE of the model whose sizes apply; None: FLUX.1 Kontext

    Raises ValueError for a picture that is too small, has NaN or other channels.
    """
    pixels = rgb(image, "image")
    source = pixels.shape[2], pixels.shape[1]
    frame = frame_of(source, size, mode, margin, trained_for(vae))
    warn_beyond_vae(vae, "The fitted picture", frame.grid)
    return given(frame.fit(pixels)), frame, describe(frame)


def frame_of(
    source: tuple[int, int], size: dict[str, Any], mode: str, margin: str, trained: Trained, most: float = 0
) -> Frame:
    """`kontext_core.frames.frame_for` with a node's choice of a size. Raises ValueError for too small a size."""
    require_size("image", source)
    frame = frame_for(source, size["size"], mode, margin, size.get("megapixels", 0), trained, most)
    require_size(f"image ({source[0]}x{source[1]} px) with size '{size['size']}'", frame.grid)
    return frame


def restore(image: Tensor, frame: Frame, original: Tensor | None) -> tuple[Tensor, str]:
    """A picture on the grid restored to the size and position that the frame was made for, and a report."""
    restored = frame.restore(rgb(image, "image"), None if original is None else rgb(original, "original"))
    same = (image.shape[2], image.shape[1]) == frame.grid and not frame.resamples
    way = "not resampled" if same else "resampled once"
    rest = "" if frame.whole else "; the rest is the original's"
    size = "{}x{} px -> {}x{} px".format(image.shape[2], image.shape[1], *frame.source)
    return given(restored), f"{size}, {way}{rest}"


def describe(frame: Frame) -> str:
    """For example '1920x1080 px -> 1392x752 px; the picture is 1337x752 px of it'."""
    return "\n".join(["{}x{} px -> {}x{} px, {}".format(*frame.source, *frame.grid, _way(frame)), *places(frame)])


def places(frame: Frame) -> list[str]:
    """The parts that are cropped from a picture and the margins that are added to it, one line each."""
    lines = []
    if not frame.whole:
        lines.append(f"shows {frame.part.width}x{frame.part.height} px of the picture; the rest is cut off")
    if frame.window.size != frame.grid:
        lines.append(f"the picture is {frame.window.width}x{frame.window.height} px of it; margin: {frame.margin}")
    return lines


def _way(frame: Frame) -> str:
    if not frame.resamples:
        return "not resampled"
    across, down = frame.window.width / frame.part.width, frame.window.height / frame.part.height
    return f"scaled by {across:.3f}" if abs(across / down - 1) < 0.01 else f"scaled by {across:.3f} x {down:.3f}"
