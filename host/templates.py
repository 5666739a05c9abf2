"""The pictures of the templates: later hosts serve only a template's graph."""

from pathlib import Path

from server import PromptServer

ROUTE = "/kontext/templates"  # web/templates.js asks here
FOLDER = Path(__file__).parents[1] / "workflows"


def install() -> None:
    """Serve the folder, from the start of the server; in-process use may have no server."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.static(ROUTE, FOLDER)
