"""The code behind manage.py: setting up a ComfyUI, running it, talking to it. No part of the node pack."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Failure(Exception):
    """What a command says on one line instead of a traceback; code 2 is for input at fault."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code
