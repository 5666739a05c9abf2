"""The socket types that ComfyUI does not have, and the inputs that several nodes have."""

from typing import Any

from comfy_api.latest import io

FRAME = io.Custom("KONTEXT_FRAME")  # kontext_core.frames.Frame
REGION = io.Custom("KONTEXT_REGION")  # kontext_core.regions.Region
SESSION = io.Custom("KONTEXT_SESSION")  # host.sessions.Place


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, **flags: Any) -> io.Input:
    """A share, 0 to 1, of a run's steps or of an effect. `flags` are those of every input, such as `advanced`."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **flags)


def megapixels_input() -> io.Input:
    return io.Float.Input(
        "megapixels",
        default=0.0,
        min=0.0,
        max=16.0,
        step=0.001,
        tooltip="Sets the area, in 1024x1024 px. 0: what the model was trained for, 1 for Kontext and 0.016 (128x128) "
        "for the embedded model, which the vae tells. More costs time and memory.",
    )


def vae_of_sizes() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Tells which model the size is for: the embedded one works at 128x128 px. Without it, the sizes of "
        "FLUX.1 Kontext.",
    )


def size_input() -> io.Input:
    return io.DynamicCombo.Input(
        "size",
        tooltip="Sets the size the model works at. 'nearest trained size': what the model was trained for, one of 17 "
        "at about 1 megapixel for Kontext. 'keep ratio': the picture's shape at a number of megapixels. 'as is': its "
        "own size, on the next multiples of 16 px, never resampled.",
        options=[
            io.DynamicCombo.Option("nearest trained size", []),
            io.DynamicCombo.Option("keep ratio", [megapixels_input()]),
            io.DynamicCombo.Option("as is", []),
        ],
    )
