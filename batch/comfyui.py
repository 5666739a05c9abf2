"""Where ComfyUI is on this machine, and which arguments it needs here."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from . import Failure

CPU = ("--cpu", "--use-pytorch-cross-attention")  # the host's own default attention is slower on a CPU
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")


def comfyui_folder() -> Path:
    """The host's folder, which manage.py names in COMFYUI_PATH. Raises Failure when it is not set."""
    if "COMFYUI_PATH" not in os.environ:
        raise Failure("COMFYUI_PATH is not set: start this through manage.py exec -- CMD", code=2)
    return Path(os.environ["COMFYUI_PATH"])


def device_arguments() -> tuple[str, ...]:
    """The arguments that ComfyUI needs on this machine: none with an accelerator that torch can use."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    return () if accelerated else CPU
