"""Many edits unattended: a saved graph over a folder or a manifest, one output file per row. A program, not a node.

It is published with the pack, runs a ComfyUI in its own processes, and is used by tools, benchmarks and tests.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Failure(Exception):
    """An error that a command reports on one line instead of a traceback; code 2 means invalid input."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code
