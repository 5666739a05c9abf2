"""Make the pictures that the template browser shows, by running the workflows.

Run it whenever a workflow or the embedded model has changed:
`python3 manage.py exec -- python -m tools.thumbnails [NAME ...]`
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from batch import graphs
from batch.comfyui import CPU
from batch.scratch import scratch_folder
from kontext_core.embedded import picture_path

from . import ROOT
from .client import Client
from .server import Server

WORKFLOWS = ROOT / "workflows"
SIDE, GAP = 512, 12  # px; the template browser's cards are square
LINE = 52  # px, of a card without pictures
BACKGROUND, TEXT, TITLE = (32, 32, 32), (230, 230, 230), (255, 210, 127)
NOT_RUN = ("Real model with your files", "Real model with a LoRA")  # they need weights that are not shipped
WORDS = {  # what the cards of templates say that have no picture of a result
    "Real model with your files": (
        "FLUX.1 Kontext [dev]",
        "your files:",
        "transformer,",
        "CLIP-L, T5-XXL,",
        "autoencoder",
    ),
    "Real model with a LoRA": ("FLUX.1 Kontext [dev]", "with your LoRA,", "of any layout"),
    "Hosted edit with pro or max": (
        "FLUX.1 Kontext [pro], [max]",
        "seven providers,",
        "a key of yours,",
        "first a dry run",
    ),
}
TURNS = {"Turn after turn": ("make the circle blue", "make the star green", "remove the circle")}
SHOWN = ("PreviewImage", "SaveImage", "MaskPreview")
CAPTIONS = {  # where the instruction does not say what is special
    "Edit and keep the rest": "{text}, and every other pixel as it was",
    "Edit a small region": "{text}: a crop, at the model's full size",
    "Edit inside a mask": "{text}, only inside a mask",
    "Edit several times faster": "{text}, several times faster",
    "Keep the rest with any editor": "blue eyes, and the rest as it was",
    "Local or hosted": "{text}: here, or at a provider's",
    "Measure the presets": "full, quality, balanced, fast",
    "Negative prompt": "{text}, but not red",
    "Reference control": "one reference stronger, and only at the bottom right",
    "Schedule and solver": "{text}, by ComfyUI's own sampler",
    "Turn after turn": "turn after turn",
    "What changed, as a mask": "what changed between two pictures",
    "Your own photograph with a mask": "{text}, only where you paint",
}


def main(names: list[str]) -> int:
    """Write workflows/NAME.jpg for the given names, or for all."""
    paths = [path for path in sorted(WORKFLOWS.glob("*.json")) if not names or path.stem in names]
    with (
        scratch_folder() as base,
        Server(base, arguments=CPU) as server,
        Client(server.url) as client,
    ):
        own = base / "input" / "example.png"  # what LoadImage names: a photograph with a mask painted
        shutil.copy(picture_path("photograph"), own)
        paint_mask(own)
        for path in paths:
            sheet = words(WORDS[path.stem]) if path.stem in WORDS else run(client, path)
            sheet.save(path.with_suffix(".jpg"), quality=90)
            print(path.with_suffix(".jpg"), flush=True)
    return 0


def paint_mask(path: Path) -> None:
    """Paints a mask over the middle of a picture file, as the mask editor saves it: transparent."""
    with Image.open(path) as picture:
        painted = picture.convert("RGBA")
    width, height = painted.size
    alpha = Image.new("L", painted.size, 255)
    ImageDraw.Draw(alpha).ellipse((width // 3, height // 3, 2 * width // 3, 2 * height // 3), 0)
    painted.putalpha(alpha)
    painted.save(path)


def words(lines: tuple[str, ...]) -> Image.Image:
    """The card of a workflow that has no picture to show."""
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=36)
    top = (SIDE - LINE * len(lines)) // 2
    for number, line in enumerate(lines):
        draw.text((SIDE // 2, top + LINE * number), line, TEXT if number else TITLE, font, anchor="ma")
    return sheet


def run(client: Client, path: Path) -> Image.Image:
    """The card of a workflow: the pictures and masks that it shows, from left to right, and what it is about."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    prompt = graphs.to_prompt(graph)
    shown = client.run(prompt)
    kinds = SHOWN if path.stem not in TURNS else ("PreviewImage", "SaveImage")
    nodes = sorted((node for node in graph["nodes"] if node["type"] in kinds), key=lambda node: node["pos"])
    files = [file for node in nodes for file in shown[str(node["id"])]["images"]]
    for turn in TURNS.get(path.stem, ())[1:]:
        outputs = client.run(graphs.with_input(prompt, "PrimitiveStringMultiline", "value", turn))
        files += outputs[graphs.find(prompt, "SaveImage")]["images"]
    pictures = [Image.open(io.BytesIO(client.view(file))).convert("RGB") for file in files]
    return card(pictures, CAPTIONS.get(path.stem, "{text}").format(text=instruction(prompt, shown)))


def instruction(prompt: graphs.Prompt, shown: dict[str, Any]) -> str:
    """The text that the graph encodes first; a negative follows it. Empty where there is none."""
    texts = [content["inputs"]["text"] for content in prompt.values() if content["class_type"] == "CLIPTextEncode"]
    if not texts or isinstance(texts[0], str):
        return texts[0] if texts else ""
    source = texts[0][0]  # a node that holds the text, or writes it and shows it
    return prompt[source]["inputs"].get("value") or shown[source]["text"][0].splitlines()[0].rstrip(".")


def card(pictures: list[Image.Image], caption: str) -> Image.Image:
    """Pictures side by side on a square, in two rows where there are more than three, a caption below them."""
    columns = len(pictures) if len(pictures) <= 3 else (len(pictures) + 1) // 2
    rows = -(-len(pictures) // columns)
    lines = textwrap.wrap(caption, 36)
    side = min((SIDE - GAP) // columns - GAP, (SIDE - 32 * len(lines)) // rows - 2 * GAP, SIDE * 3 // 4)
    top = (SIDE - rows * (side + GAP) - 32 * len(lines)) // 2
    left = (SIDE - columns * (side + GAP) + GAP) // 2
    sheet = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        corner = left + column * (side + GAP), top + row * (side + GAP)
        sheet.paste(ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, BACKGROUND), corner)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=26)
    for number, line in enumerate(lines):
        draw.text((SIDE // 2, top + rows * (side + GAP) + 32 * number), line, TEXT, font, anchor="ma")
    return sheet


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
