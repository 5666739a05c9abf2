"""The socket types that ComfyUI does not have, and the input that several nodes have."""

from typing import Any

from comfy_api.latest import io

FRAME = io.Custom("KONTEXT_FRAME")  # kontext_core.frames.Frame
REGION = io.Custom("KONTEXT_REGION")  # kontext_core.regions.Region


def share_input(name: str, default: float, tooltip: str, step: float = 0.01, **flags: Any) -> io.Input:
    """A share, 0 to 1, of a run's steps or of an effect. `flags` are those of every input, such as `advanced`."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **flags)
