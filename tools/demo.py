"""`manage.py demo`: the edit workflow in a real ComfyUI, on a bundled picture or the user's own."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from batch import graphs
from batch.comfyui import device_arguments
from batch.events import Event, ExecutionFailed, Interrupted, PromptRefused
from batch.scratch import scratch_folder
from kontext_core.embedded import picture_path
from kontext_core.resolutions import EMBEDDED, MEGAPIXEL

from . import ROOT, Failure
from .client import Client
from .server import Server

WORKFLOW = ROOT / "workflows" / "A first edit.json"
UPLOADED = "own.png"  # the picture's name on the server
GAP = 8  # px between before and after
SHOWN_HEIGHT = 512  # px: a larger picture is shown smaller beside its edit


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Edit; writes <name>.png and <name>_before_after.png, and prints the path of the first last."""
    prompt, before, name = request(options.image, options.instruction, options.seed, options.steps)
    require_folder(options.output)
    edited = edit(prompt, before)
    path = free_name(options.output, name)
    comparison = path.with_name(f"{path.stem}_before_after.png")
    write(path, edited)
    write(comparison, as_png(side_by_side(before, Image.open(io.BytesIO(edited)).convert("RGB"))))
    print(f"Before and after: {comparison}")
    print(path)
    return 0


def request(
    image: Path | None, instruction: str | None, seed: int | None, steps: int | None
) -> tuple[graphs.Prompt, Image.Image, str]:
    """(graph to post, picture to edit, its name): the workflow with the given options in place of its own values."""
    prompt = graphs.to_prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    if image:
        before, name = open_picture(image), image.stem
        prompt = with_own_picture(prompt, before)
    else:
        name = prompt[graphs.find(prompt, "KontextExample")]["inputs"]["picture"]
        before = open_picture(picture_path(name))
    asked = {
        ("CLIPTextEncode", "text"): instruction,
        ("KontextSampler", "seed"): seed,
        ("KontextSampler", "steps"): steps,
    }
    for (class_type, field), value in asked.items():
        if value is not None:
            prompt = graphs.with_input(prompt, class_type, field, value)
    return prompt, before, name


def open_picture(path: Path) -> Image.Image:
    """A picture file as upright RGB; the first frame of an animation. Raises Failure for other files."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except UnidentifiedImageError:
        raise Failure(f"{path} is not a picture that can be read; PNG, JPEG and WebP are", code=2) from None
    except (OSError, Image.DecompressionBombError) as error:
        raise Failure(f"{path} cannot be read: {error}", code=2) from None


def with_own_picture(prompt: graphs.Prompt, picture: Image.Image) -> graphs.Prompt:
    """Edit the uploaded picture. Kontext Reference resizes it to a size that the embedded model supports."""
    if picture.width * picture.height > EMBEDDED.largest * MEGAPIXEL:
        width, height = picture.size
        print(f"The picture has {width}x{height} px; the embedded model gets a small copy, about 128x128.")
        print("The real FLUX.1 Kontext works at about 1024x1024: see the template 'Real model with your files'.")
    return graphs.with_node(prompt, "KontextExample", "LoadImage", image=UPLOADED)


def edit(prompt: graphs.Prompt, picture: Image.Image) -> bytes:
    """Start a ComfyUI, run the graph, and return the file that its SaveImage writes. Raises Failure."""
    arguments = device_arguments()
    print(f"Starting ComfyUI on {describe_device(arguments)} ...", flush=True)
    with (
        scratch_folder() as base,
        Server(base, arguments=arguments) as server,
        Client(server.url) as client,
    ):
        return result(client, prompt, picture)


def result(client: Client, prompt: graphs.Prompt, picture: Image.Image) -> bytes:
    """The file that the graph's SaveImage writes; shows the run's progress. Raises Failure with the node."""
    client.upload(UPLOADED, as_png(picture))
    progress = Progress(prompt)
    try:
        outputs = client.run(prompt, progress)
    except (ExecutionFailed, PromptRefused, Interrupted) as error:
        raise Failure(str(error)) from None
    finally:
        progress.close()
    return client.view(outputs[graphs.find(prompt, "SaveImage")]["images"][0])


def describe_device(arguments: tuple[str, ...]) -> str:
    if arguments:
        return f"the CPU ({torch.get_num_threads()} threads)"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "this machine's accelerator"


class Progress:
    """Shows a run's progress: an updating line on a terminal; elsewhere one line per node and quarter."""

    def __init__(self, prompt: graphs.Prompt):
        self.prompt = prompt
        self.live = sys.stdout.isatty()
        self.quarter = 0

    def __call__(self, event: Event) -> None:
        if event.type == "executing" and event.data["node"] in self.prompt:
            self.quarter = 0
            self.show(self.node_type(event))
        elif event.type == "progress":
            value, total = event.data["value"], event.data["max"]
            quarter = 4 * value // total
            if self.live or quarter > self.quarter:
                self.quarter = quarter
                self.show(f"{self.node_type(event)} {value}/{total}")
        elif event.type == "text":
            self.close()
            print(f"{self.node_type(event)}: {event.data['text']}", flush=True)

    def node_type(self, event: Event) -> str:
        return self.prompt[event.data["node"]]["class_type"]

    def show(self, text: str) -> None:
        print(f"\r{text:<60}" if self.live else text, end="" if self.live else "\n", flush=True)

    def close(self) -> None:
        """Print an empty line before the next output."""
        if self.live:
            print(f"\r{'':<60}\r", end="", flush=True)


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """Both at the same height: the edit's, or the picture's (at most SHOWN_HEIGHT) if that is larger."""
    height = max(after.height, min(before.height, SHOWN_HEIGHT))
    pair = [
        picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.LANCZOS)
        for picture in (before, after)
    ]
    sheet = Image.new("RGB", (pair[0].width + GAP + pair[1].width, height), "white")
    sheet.paste(pair[0], (0, 0))
    sheet.paste(pair[1], (pair[0].width + GAP, 0))
    return sheet


def as_png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def free_name(folder: Path, name: str) -> Path:
    """folder/name.png, or the first of name_2.png, name_3.png, ... that does not exist."""
    path, number = folder / f"{name}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{name}_{number}.png"
    return path


def require_folder(path: Path) -> None:
    """Create the output folder if necessary. Raises Failure, before any work, if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise Failure(f"--output {path}: {error.strerror}. Give a folder that can be written.", code=2) from None


def write(path: Path, content: bytes) -> None:
    """Write the complete file or nothing. Raises Failure."""
    unfinished = path.with_name(path.name + ".partial")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
