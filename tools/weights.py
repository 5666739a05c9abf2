"""`manage.py weights FOLDER`: the embedded transformer as one file, for ComfyUI's own UNETLoader."""

from __future__ import annotations

import argparse
import os

from safetensors import SafetensorError
from safetensors.torch import save_file

from kontext_core.embedded import load_transformer

from . import Failure

NAME = "kontext_tiny.safetensors"


def run(options: argparse.Namespace, _: list[str]) -> int:
    tensors, metadata = load_transformer()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / NAME
    unfinished = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, unfinished, metadata)
        os.replace(unfinished, path)
    except SafetensorError as error:
        raise Failure(f"{path} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    print(path)
    return 0
