"""The required ComfyUI version."""

import re

from comfyui_version import __version__

NEEDED = (0, 30, 0)  # DynamicCombo and Autogrow in V3 nodes; FLUX sizes read from the weights


def require_host(version: str = __version__) -> None:
    """RuntimeError on a ComfyUI older than 0.30.0: the host does not enforce `requires-comfyui`."""
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < NEEDED:
        needed = ".".join(map(str, NEEDED))
        raise RuntimeError(f"kontext-nodes needs ComfyUI {needed} or newer; this is {version}. Update ComfyUI.")
