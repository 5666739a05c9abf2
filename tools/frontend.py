"""Another version of ComfyUI's frontend than the one that it brings, for the browser ring and `tools.arrange`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import Failure
from .provision import cache_folder, remove

PACKAGE, STATIC = "comfyui-frontend-package", Path("comfyui_frontend_package") / "static"
VARIABLE = "KONTEXT_FRONTEND"  # names the version


def arguments() -> tuple[str, ...]:
    """ComfyUI's arguments for the version that VARIABLE names, fetched on first use; or none. Raises Failure."""
    version = os.environ.get(VARIABLE)
    if not version:
        return ()
    folder = cache_folder() / f"frontend-{version}"
    if not (folder / STATIC / "index.html").is_file():
        remove(folder)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        if subprocess.call([*command, f"{PACKAGE}=={version}"]):
            raise Failure(f"{VARIABLE} is {version}, and pip could not install {PACKAGE}=={version}", code=2)
    return ("--front-end-root", str(folder / STATIC))
