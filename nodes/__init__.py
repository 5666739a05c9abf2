"""The nodes: schemas, and a short `execute` each. What they do is in `host/` and `kontext_core/`."""

from comfy_api.latest import ComfyExtension, io

from . import adapters, hosted, instructions, loaders, negatives, pictures, references, sampling, targets


class KontextExtension(ComfyExtension):
    """Every node of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            *loaders.NODES,
            *adapters.NODES,
            *pictures.NODES,
            *references.NODES,
            *negatives.NODES,
            *instructions.NODES,
            *targets.NODES,
            *sampling.NODES,
            *hosted.NODES,
        ]
