"""Is this ComfyUI new enough."""

from comfyui_version import __version__ as version

NEEDED = (0, 30, 0)  # DynamicCombo and Autogrow in V3 nodes; FLUX sizes read from the weights


def require_host() -> None:
    """RuntimeError on a ComfyUI older than 0.30.0: the host does not enforce `requires-comfyui`."""
    found = tuple(int(part) for part in version.split(".")[:3])
    if found < NEEDED:
        needed = ".".join(map(str, NEEDED))
        raise RuntimeError(
            f"kontext-nodes needs ComfyUI {needed} or newer; this is {version}. Update ComfyUI."
        )
