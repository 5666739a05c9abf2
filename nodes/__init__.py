"""The nodes: schemas, and a short `execute` each. The implementation is in `host/` and `kontext_core/`."""

from comfy_api.latest import ComfyExtension, io

from ..host import session_routes, templates
from ..host.inputs import checked
from . import (
    acceleration,
    adapters,
    frames,
    hosted,
    instructions,
    loaders,
    negatives,
    pictures,
    preservation,
    references,
    regions,
    sampling,
    sessions,
    targets,
)


class KontextExtension(ComfyExtension):
    """Every node of the pack."""

    async def on_load(self) -> None:
        session_routes.install()
        templates.install()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [
            *loaders.NODES,
            *adapters.NODES,
            *pictures.NODES,
            *frames.NODES,
            *references.NODES,
            *negatives.NODES,
            *instructions.NODES,
            *targets.NODES,
            *acceleration.NODES,
            *sampling.NODES,
            *preservation.NODES,
            *regions.NODES,
            *hosted.NODES,
            *sessions.NODES,
        ]
        return [checked(node) for node in nodes]
