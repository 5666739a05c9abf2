"""Kontext nodes: ComfyUI's entry point."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension with our nodes; RuntimeError on a ComfyUI that is too old for them.

    The imports are here, not above: pytest imports this file without ComfyUI.
    """
    from .host.requirements import require_host

    require_host()
    from .nodes import KontextExtension

    return KontextExtension()
