"""The location of ComfyUI on this machine, and the arguments it needs here."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from . import ROOT, Failure

ARGUMENTS = "KONTEXT_NODES_COMFYUI_ARGUMENTS"  # environment variable: a JSON list, for an in-process ComfyUI
CPU = ("--cpu", "--use-pytorch-cross-attention")  # the host's own default attention is slower on a CPU
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")


def comfyui_folder() -> Path:
    """The host's folder: COMFYUI_PATH, or the ComfyUI whose custom_nodes/ contains this pack. Raises Failure."""
    if "COMFYUI_PATH" in os.environ:
        return Path(os.environ["COMFYUI_PATH"])
    if ROOT.parent.name == "custom_nodes" and (ROOT.parents[1] / "comfyui_version.py").is_file():
        return ROOT.parents[1]
    raise Failure("COMFYUI_PATH is not set: start this through manage.py, or set it to a ComfyUI's folder", code=2)


def device_arguments() -> tuple[str, ...]:
    """The arguments that ComfyUI needs on this machine: none with an accelerator that torch can use."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    return () if accelerated else CPU
