"""The socket types that ComfyUI does not have."""

from comfy_api.latest import io

FRAME = io.Custom("KONTEXT_FRAME")  # kontext_core.frames.Frame
REGION = io.Custom("KONTEXT_REGION")  # kontext_core.regions.Region
