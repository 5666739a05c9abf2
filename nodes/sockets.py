"""The pack's own socket types, and inputs shared by several nodes."""

from typing import Any

from comfy_api.latest import io

FRAME = io.Custom("KONTEXT_FRAME")  # kontext_core.frames.Frame
REGION = io.Custom("KONTEXT_REGION")  # kontext_core.regions.Region
SESSION = io.Custom("KONTEXT_SESSION")  # host.sessions.Place


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, **flags: Any) -> io.Input:
    """A fraction, 0 to 1, of a run's steps or of an effect. `flags` are general input options, such as `advanced`."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **flags)


def megapixels_input() -> io.Input:
    return io.Float.Input(
        "megapixels",
        default=0.0,
        min=0.0,
        max=16.0,
        step=0.001,
        tooltip="Sets the area, in 1024x1024 px. 0: the model's training size, 1 for Kontext and 0.016 (128x128) for "
        "the embedded model, which is recognised by its vae. More costs time and memory.",
    )


def vae_of_sizes() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Selects the model that the size is for: the embedded one works at 128x128 px. Without it, the sizes "
        "of FLUX.1 Kontext.",
    )


def size_input() -> io.Input:
    return io.DynamicCombo.Input(
        "size",
        tooltip="Sets the working size. 'nearest trained size': a training size of the model, one of 17 at about "
        "1 megapixel for Kontext. 'keep ratio': the picture's aspect ratio at a number of megapixels. 'as is': its "
        "own size, on the next multiples of 16 px, never resampled.",
        options=[
            io.DynamicCombo.Option("nearest trained size", []),
            io.DynamicCombo.Option("keep ratio", [megapixels_input()]),
            io.DynamicCombo.Option("as is", []),
        ],
    )
