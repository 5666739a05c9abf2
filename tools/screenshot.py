"""The pictures of ComfyUI in the README: a template after its run, and the history after four edits, in the browser.

Whenever they or the embedded model have changed: `python3 manage.py exec -- python -m tools.screenshot`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from batch.comfyui import CPU
from batch.scratch import scratch_folder

from . import ROOT
from .arrange import RUN_SECONDS, run
from .browser import Page
from .server import PACK, Server

DOCS = ROOT / "web" / "docs"
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
SCREEN = (1440, 810)  # px
PANEL = (0, 38, 376, 538)  # px: left, top, right and bottom of the History tab, below the tabs of graphs
STORY = (  # the turn to continue from, and the instruction
    (0, "make the circle blue"),
    (1, "make the star green"),
    (2, "remove the circle"),
    (1, "make the circle yellow"),
)
STARRED = 2
ROW = "[...document.querySelectorAll('.kh-row')].find((row) => row.ariaLabel.match(/^\\S+ %d\\b/))"


def main() -> int:
    with scratch_folder() as base, Server(base, arguments=CPU) as server, Page(*SCREEN) as page:
        for name, value in SETTINGS.items():
            server.ask("/settings", {name: value})
        page.open(server.url)
        page.wait_for_workflow(RUN_SECONDS)
        load(page, "A first edit")
        run(page)
        shoot(page, DOCS / "a_first_edit.jpg")
        tell(page)
        shoot(page, DOCS / "kontext_history.png", PANEL)
    return 0


def load(page: Page, template: str) -> None:
    """Open a template, with a fixed seed."""
    page.evaluate(
        f"fetch('/api/workflow_templates/{PACK}/{template}.json').then((answer) => answer.json())"
        f".then((graph) => app.loadGraphData(graph, true, true, '{template}'))"
    )
    page.evaluate(
        "app.graph.nodes.flatMap((node) => node.widgets ?? [])"
        ".filter((widget) => widget.name === 'control_after_generate').forEach((widget) => widget.value = 'fixed')"
    )


def tell(page: Page) -> None:
    """Run the story's edits, each from its turn, with the History tab open."""
    load(page, "Turn after turn")
    page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('kontext-history')")
    for number, (start, instruction) in enumerate(STORY, 1):
        if start != number - 1:
            page.click(f"{ROW % start}.querySelector('.kh-text')")
        page.evaluate(
            "app.graph.nodes.find((node) => node.type === 'PrimitiveStringMultiline').widgets[0].value = "
            f"{json.dumps(instruction)}"
        )
        run(page)
        page.wait_for(f"!!{ROW % number}")
    page.evaluate(f"{ROW % STARRED}.querySelector('.pi-star').click()")


def shoot(page: Page, path: Path, box: tuple[int, int, int, int] | None = None) -> None:
    """Save the page, or the part of it in `box`, without the mouse over anything."""
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=SCREEN[0] // 2, y=SCREEN[1] // 2)
    page.evaluate("new Promise((done) => setTimeout(done, 2000))")
    with scratch_folder() as folder:
        page.screenshot(folder / "shot.png")
        with Image.open(folder / "shot.png") as picture:
            picture.convert("RGB").crop(box).save(path, quality=85)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
