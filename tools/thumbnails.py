"""Make the pictures that the template browser shows, by running the workflows.

Run it whenever a workflow or the embedded model has changed:
`python3 manage.py exec -- python -m tools.thumbnails [NAME ...]`
"""

from __future__ import annotations

import io
import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from batch import graphs
from batch.comfyui import CPU, comfyui_folder
from batch.scratch import scratch_folder

from . import ROOT
from .client import Client
from .server import Server

WORKFLOWS = ROOT / "workflows"
SIDE, GAP = 512, 12  # px; the template browser's cards are square
BACKGROUND, TEXT = (32, 32, 32), (230, 230, 230)
NOT_RUN = {  # they need weights that are not shipped, or a key
    "Real model with your files": "FLUX.1 Kontext [dev]: your files, your picture",
    "Real model with a LoRA": "FLUX.1 Kontext [dev] with your LoRA",
    "Hosted edit with pro or max": "FLUX.1 Kontext [pro] or [max]: your key, your picture",
}


def main(names: list[str]) -> int:
    """Write workflows/NAME.jpg for the given names, or for all."""
    paths = [path for path in sorted(WORKFLOWS.glob("*.json")) if not names or path.stem in names]
    with (
        scratch_folder() as base,
        Server(base, arguments=CPU) as server,
        Client(server.url) as client,
    ):
        for path in paths:
            sheet = unrun(path) if path.stem in NOT_RUN else run(client, path)
            sheet.save(path.with_suffix(".jpg"), quality=90)
            print(path.with_suffix(".jpg"), flush=True)
    return 0


def unrun(path: Path) -> Image.Image:
    """The card of a workflow whose weights or key we do not have: ComfyUI's own example picture."""
    return card([Image.open(comfyui_folder() / "input" / "example.png").convert("RGB")], NOT_RUN[path.stem])


def run(client: Client, path: Path) -> Image.Image:
    """The card of a workflow: its inputs as its PreviewImage nodes show them, its result, its instruction."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = graphs.to_prompt(graph)
    shown = client.run(prompt)
    before = [node for node, content in prompt.items() if content["class_type"] == "PreviewImage"]
    nodes = [*before, graphs.find(prompt, "SaveImage")]
    files = [client.view(shown[node]["images"][0]) for node in nodes]
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    texts = [content["inputs"]["text"] for content in prompt.values() if content["class_type"] == "CLIPTextEncode"]
    notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    text = texts[0] if texts else notes[0].splitlines()[0].strip("# ")  # a negative follows the first text
    return card(pictures, prompt[text[0]]["inputs"]["value"] if isinstance(text, list) else text)


def card(pictures: list[Image.Image], caption: str) -> Image.Image:
    """Pictures side by side on a square, with a caption below."""
    side = min((SIDE - GAP) // len(pictures) - GAP, SIDE * 3 // 4)
    font = ImageFont.load_default(size=26)
    lines = textwrap.wrap(caption, 36)
    top = (SIDE - side - GAP - 32 * len(lines)) // 2
    left = (SIDE - len(pictures) * (side + GAP) + GAP) // 2
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    for place, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left + place * (side + GAP), top))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((SIDE // 2, top + side + GAP + 32 * number), line, TEXT, font, anchor="ma")
    return sheet


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
