"""`manage.py serve`: ComfyUI with the pack, for use in a browser."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import webbrowser
from collections.abc import Mapping

from batch.comfyui import comfyui_folder, device_arguments

from . import ROOT, Failure
from .provision import cache_folder
from .server import Server

BASE = ROOT / "output" / "comfyui"  # models, pictures and saved graphs, kept between runs


def run(options: argparse.Namespace, passed: list[str]) -> int:
    """Run until stopped; `passed` goes to ComfyUI. Raises Failure."""
    refuse_a_busy_port(options.port)
    arguments = [*device_arguments(), *passed]
    models = BASE / "models"
    for kind in ("diffusion_models", "text_encoders", "vae", "loras"):
        (models / kind).mkdir(parents=True, exist_ok=True)
    if comfyui_folder().parent != cache_folder():
        models = comfyui_folder() / "models"  # the user's own ComfyUI: with its models
        arguments += ["--models-directory", str(models)]
    if options.listen:
        arguments += ["--listen", "0.0.0.0"]
    with Server(BASE, options.port, arguments, foreground=True) as server:
        print(
            f"\nComfyUI is ready: open http://127.0.0.1:{server.port}\n"
            "Then click Templates (left edge), FLUX.1 Kontext, A first edit, and Run.\n"
            f"Pictures go to {BASE / 'output'}; real FLUX.1 Kontext files go below {models}\n"
            "Ctrl-C stops it.\n",
            flush=True,
        )
        open_browser(server.url, options)
        return server.process.wait()


def open_browser(url: str, options: argparse.Namespace) -> None:
    """Show the page, unless it is not wanted or cannot be shown."""
    if not options.no_browser and has_screen(sys.platform, os.environ):
        webbrowser.open(url)


def has_screen(platform: str, environment: Mapping[str, str]) -> bool:
    """Whether a browser can show itself here. Elsewhere Python would open one for terminals, over what is printed."""
    return platform in ("win32", "darwin") or bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def refuse_a_busy_port(port: int) -> None:
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise Failure(f"port {port} is in use; stop what uses it, or give another one with --port", code=2)
