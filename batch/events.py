"""ComfyUI's events during a run, and the ways a run can fail: the same in-process and over the socket."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

PREVIEW = 1  # the type of binary frame that a client without feature flags gets
NOTICE = "kontext.notice"  # event of `host/notices.py`


class Event(NamedTuple):
    """A message of the server: its own types, "preview" {"image"}, or "text" {"node", "text"} for a notice."""

    type: str
    data: dict[str, Any]


class PromptRefused(Exception):
    """The graph failed the server's validation and nothing ran. `node_errors`: the server's report."""

    def __init__(self, answer: dict[str, Any]):
        self.node_errors: dict[str, Any] = answer.get("node_errors") or {}
        lines = [
            f"{report['class_type']} (node {node}): {error['message']} {error['details']}".strip()
            for node, report in self.node_errors.items()
            for error in report["errors"]
        ]
        super().__init__("\n".join(lines) or answer["error"]["message"])


class ExecutionFailed(Exception):
    """A node raised an error while the graph ran."""

    def __init__(self, data: dict[str, Any]):
        self.node, self.node_type = data["node_id"], data["node_type"]
        self.error_type, self.error = data["exception_type"], data["exception_message"].strip()
        self.traceback = "".join(data["traceback"])
        super().__init__(f"{self.node_type} (node {self.node}): {self.error}")


class Interrupted(Exception):
    """The run was stopped by a user."""


def json_event(kind: str, data: dict[str, Any]) -> Event:
    return Event("text" if kind == NOTICE else kind, data)


def binary_event(frame: bytes) -> Event | None:
    """A binary frame (layout: ComfyUI's server.py) as an event; None for types that are not used here."""
    if struct.unpack_from(">I", frame) != (PREVIEW,):
        return None
    return Event("preview", {"image": frame[8:]})  # 4 bytes of event type, 4 bytes of image type
