"""The pack's own socket types, short forms of the schema's inputs and outputs, and inputs shared by several nodes."""

from typing import Any

from comfy_api.latest import io

FRAME = io.Custom("KONTEXT_FRAME")  # kontext_core.frames.Frame
REGION = io.Custom("KONTEXT_REGION")  # kontext_core.regions.Region
SESSION = io.Custom("KONTEXT_SESSION")  # host.sessions.Place


def number(
    name: str, default: float, limits: tuple[float, float, float], tooltip: str, **options: Any
) -> io.Float.Input:
    """A Float input. `limits`: smallest, largest, step. `options` are the schema's, such as `advanced`."""
    smallest, largest, step = limits
    return io.Float.Input(name, default=default, min=smallest, max=largest, step=step, tooltip=tooltip, **options)


def integer(name: str, default: int, limits: tuple[int, ...], tooltip: str, **options: Any) -> io.Int.Input:
    """An Int input. `limits`: smallest, largest and perhaps a step. `options` are the schema's, such as `advanced`."""
    given = dict(zip(("min", "max", "step"), limits, strict=False))
    return io.Int.Input(name, default=default, tooltip=tooltip, **given, **options)


def fraction(name: str, default: float, tooltip: str, step: float = 0.01, **options: Any) -> io.Float.Input:
    """A fraction, 0 to 1, of a run's steps or of an effect."""
    return number(name, default, (0.0, 1.0, step), tooltip, **options)


def output(kind: Any, name: str, tooltip: str, **options: Any) -> io.Output:
    """An output of a type, such as `io.Image`, whose label is its id."""
    return kind.Output(name, display_name=name, tooltip=tooltip, **options)


def megapixels_input() -> io.Input:
    return number(
        "megapixels",
        0.0,
        (0.0, 16.0, 0.001),
        "Sets the area, in 1024x1024 px. 0: the model's training size, 1 for Kontext and 0.016 (128x128) for "
        "the embedded model, which is recognised by its vae. More costs time and memory.",
    )


def vae_of_sizes() -> io.Input:
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Selects the model that the size is for: the embedded one works at 128x128 px. Without it, the sizes "
        "of FLUX.1 Kontext.",
    )


def cfg_details() -> list[io.Input]:
    """Where in a run cfg acts, and how much of its contrast is removed."""
    return [
        fraction(
            "cfg_start",
            0.0,
            "Starts cfg at this fraction of the steps. Before it the negative costs nothing.",
            optional=True,
            advanced=True,
        ),
        fraction(
            "cfg_end",
            1.0,
            "Ends cfg at this fraction of the steps. 0.5 halves the cost of the negative; "
            "its effect on shape and colour is mostly there by then.",
            optional=True,
            advanced=True,
        ),
        fraction(
            "cfg_rescale",
            0.0,
            "Removes the contrast that a high cfg adds: 0 not at all, 1 all of it. 0.7 is usual "
            "where cfg makes colours harsh.",
            step=0.05,
            optional=True,
            advanced=True,
        ),
    ]


def size_input() -> io.Input:
    return io.DynamicCombo.Input(
        "size",
        tooltip="Sets the working size. 'nearest trained size': a training size of the model, one of 17 at about "
        "1 megapixel for Kontext. 'keep ratio': the picture's aspect ratio at a number of megapixels. 'as is': its "
        "own size, rounded up to multiples of 16 px, never resampled.",
        options=[
            io.DynamicCombo.Option("nearest trained size", []),
            io.DynamicCombo.Option("keep ratio", [megapixels_input()]),
            io.DynamicCombo.Option("as is", []),
        ],
    )
