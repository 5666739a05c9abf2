"""The code behind manage.py: setting up a ComfyUI, running it, talking to it. Not part of the node pack."""

from batch import ROOT, Failure

__all__ = ["ROOT", "Failure"]
