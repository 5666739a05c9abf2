"""Lay out the nodes of the templates so that nothing overlaps after a run and everything is readable.

Run it whenever a template's nodes or their reports have changed:
`python3 manage.py exec -- python -m tools.arrange [NAME ...]`

Heights are those that the browser shows after a run, in both of its rendering modes; KONTEXT_FRONTEND names another
version of the frontend (`tools.frontend`).
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

from batch.comfyui import CPU
from batch.scratch import scratch_folder

from . import ROOT, frontend
from .browser import Page
from .server import Server
from .thumbnails import NOT_RUN, paint_mask

WORKFLOWS = ROOT / "workflows"
TITLE, GROUP_TITLE = 30, 35  # px of a node and of a group
SCREEN, COLUMN = 1890, 980  # px: breadth and height of a graph that opens at a readable size on 1440x900 px
GROUP_FONT, NOTE = 18, 640  # px: the title of a group, and the height of a note
PICTURE = 220  # px: height of a node that shows a picture
LOADER = "KontextLoader"  # with the source "files" it has more inputs and a longer report: nothing goes below it
PICTURES = ("LoadImage", "MaskPreview", "PreviewImage", "SaveImage")
RUN_SECONDS = 900


class Spacing(NamedTuple):
    """The breadth of all nodes of a graph and the space around them, in px."""

    width: int
    margin: int  # around the nodes of a group
    gap: int  # between nodes


SPACINGS = (Spacing(260, 15, 25), Spacing(236, 10, 15))  # six columns of the first are readable, seven of the second

MEASURE = """app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const drawn = element ? element.getBoundingClientRect().height / app.canvas.ds.scale - 30 : 0;
    return [node.id, Math.ceil(node.size[1]), Math.ceil(drawn)];
})"""


def main(names: list[str]) -> int:
    paths = [path for path in sorted(WORKFLOWS.glob("*.json")) if not names or path.stem in names]
    with (
        scratch_folder() as base,
        Server(base, arguments=(*CPU, "--preview-method", "latent2rgb", *frontend.arguments())) as server,
        Page(1440, 900) as page,
    ):
        server.ask("/settings", {"Comfy.TutorialCompleted": True})
        paint_mask(base / "input" / "example.png")
        page.open(server.url)
        page.wait_for_workflow(RUN_SECONDS)
        for path in paths:
            graph = json.loads(path.read_text(encoding="utf-8"))
            for spacing in SPACINGS:
                resize(graph, spacing.width)
                heights = [measured(page, graph, drawn, path.stem not in NOT_RUN) for drawn in (False, True)]
                if place(graph, spacing, *heights) <= SCREEN:
                    break
            path.write_text(json.dumps(graph, indent=2) + "\n", encoding="utf-8")
            print(path, flush=True)
    return 0


def groups_of(graph: dict[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each group with its nodes, from left to right and from top to bottom, but the loader last in its group."""
    found = []
    for group in sorted(graph["groups"], key=lambda group: group["bounding"][:2]):
        left, top, width, height = group["bounding"]
        inside = (left, top, left + width, top + height)
        nodes = [node for node in graph["nodes"] if within(node["pos"], inside)]
        found.append((group, sorted(nodes, key=lambda node: (node["type"] == LOADER, node["pos"][1]))))
    return found


def within(position: list[float], box: tuple[float, float, float, float]) -> bool:
    return box[0] <= position[0] < box[2] and box[1] <= position[1] < box[3]


def resize(graph: dict[str, Any], width: int) -> None:
    """Set one width for all nodes and one height for pictures."""
    for _, nodes in groups_of(graph):
        for node in nodes:
            node["size"] = [width, PICTURE if node["type"] in PICTURES else node["size"][1]]


def measured(page: Page, graph: dict[str, Any], drawn: bool, runs: bool) -> dict[int, int]:
    """The height of each node after a run, in px below its title."""
    page.evaluate(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {str(drawn).lower()})")
    page.evaluate(f"app.loadGraphData({json.dumps(graph)})")
    if runs:
        run(page)
    page.evaluate("new Promise((done) => setTimeout(done, 1000))")
    return {int(node): max(canvas, element if drawn else 0) for node, canvas, element in page.evaluate(MEASURE)}


def run(page: Page) -> None:
    """Runs what is on the canvas to its end."""
    page.evaluate(
        """(() => {
            window.ended = 0;
            app.api.addEventListener('execution_success', () => window.ended++);
            return app.queuePrompt(0).then(() => true);
        })()"""
    )
    page.wait_for("window.ended", seconds=RUN_SECONDS)


def place(graph: dict[str, Any], spacing: Spacing, canvas: dict[int, int], drawn: dict[int, int]) -> float:
    """Stack groups in columns, notes to the left of all, nothing below a loader; returns the graph's breadth in px."""
    groups = groups_of(graph)
    notes = [node for node in graph["nodes"] if not any(node in nodes for _, nodes in groups)]
    left, top, width, lowest, full = 0.0, 0.0, 0.0, 0.0, False
    for note in notes:
        note["pos"], note["size"][0] = [left, TITLE], spacing.width
        left += spacing.width + spacing.gap
    for group, nodes in groups:
        group["font_size"] = GROUP_FONT
        heights = [max(canvas[node["id"]], drawn[node["id"]]) + TITLE for node in nodes]
        height = GROUP_TITLE + sum(heights) + spacing.gap * (len(nodes) - 1) + spacing.margin
        if full or (top and top + height > COLUMN):
            left, top, width = left + width + spacing.gap, 0.0, 0.0
        group["bounding"] = [left, top, nodes[0]["size"][0] + 2 * spacing.margin, height]
        below = top + GROUP_TITLE + TITLE
        for node, taken in zip(nodes, heights, strict=True):
            node["pos"], node["size"][1] = [left + spacing.margin, below], canvas[node["id"]]
            below += taken + spacing.gap
        width = max(width, group["bounding"][2])
        lowest = max(lowest, top + height)
        top += height + spacing.gap
        full = nodes[-1]["type"] == LOADER
    for note in notes:
        note["size"][1] = min(lowest - TITLE, NOTE)
    return left + width


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
