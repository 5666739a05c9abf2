"""Messages that the user sees on the running node, not only in the console.

`web/notices.js` shows them and decides when to remove them.
"""

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer

logger = logging.getLogger(__name__)

EVENT = "kontext.notice"  # of the server's websocket: {"node", "prompt_id", "kind", "text"}
NOTICE, PROGRESS = "notice", "progress"


def notify(text: str) -> None:
    """Log `text` as a warning and show it on the executing node."""
    logger.warning(text)
    _send(NOTICE, text)


def show(text: str) -> None:
    """Show `text` on the executing node, in place of what was shown before."""
    _send(PROGRESS, text)


def _send(kind: str, text: str) -> None:
    """Send to the client whose prompt runs; no effect without a server, as in in-process use."""
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        data = {"node": context.node_id, "prompt_id": context.prompt_id, "kind": kind, "text": text}
        server.send_sync(EVENT, data, server.client_id)
