"""What the user sees on the node that is running, not only in the console."""

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer

logger = logging.getLogger(__name__)


def notify(text: str) -> None:
    """Log `text` as a warning and show it on the executing node."""
    logger.warning(text)
    show(text)


def show(text: str) -> None:
    """Show `text` on the executing node, if a server runs one, in place of what was shown before."""
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)  # set when a server starts; absent in in-process use
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
