"""The picture of ComfyUI in the README: a template after its run, in the browser.

Whenever it or the embedded model has changed: `python3 manage.py exec -- python -m tools.screenshot`
"""

from __future__ import annotations

import io
import sys

from PIL import Image

from batch.comfyui import CPU
from batch.scratch import scratch_folder

from . import ROOT
from .arrange import RUN_SECONDS, run, save_setting
from .browser import Page
from .server import PACK, Server

TEMPLATE, PICTURE = "A first edit", ROOT / "web" / "docs" / "a_first_edit.jpg"
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}


def main() -> int:
    with (
        scratch_folder() as base,
        Server(base, arguments=CPU) as server,
        Page(1440, 810) as page,
    ):
        for name, value in SETTINGS.items():
            save_setting(server.url, name, value)
        page.open(server.url)
        page.wait_for("window.app?.graph?.nodes?.length", seconds=RUN_SECONDS)
        page.evaluate(
            f"fetch('/api/workflow_templates/{PACK}/{TEMPLATE}.json').then((answer) => answer.json())"
            f".then((graph) => app.loadGraphData(graph, true, true, '{TEMPLATE}'))"
        )
        run(page)
        page.evaluate("new Promise((done) => setTimeout(done, 2000))")
        shot = base / "shot.png"
        page.screenshot(shot)
        with Image.open(io.BytesIO(shot.read_bytes())) as picture:
            picture.convert("RGB").save(PICTURE, quality=85)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
