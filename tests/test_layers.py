"""Dependencies point one way.

    __init__ -> nodes -> host -> ComfyUI        nodes may also use comfy_api, ComfyUI's public schema
    nodes, host -> kontext_core                 kontext_core knows neither of them, nor ComfyUI
    tools, benchmarks -> batch -> kontext_core  programs around the pack; of batch only inprocess.py knows ComfyUI

Inside the pack imports are relative, because ComfyUI loads it by path. Programs import other packages absolutely.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {"aiohttp", "einops", "filelock", "numpy", "PIL", "safetensors", "scipy", "torch", "yarl"}
OPTIONAL = {"lpips", "rapidocr_onnxruntime", "ray", "skimage", "torchvision"}  # needed only by some options
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfyui_version",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "protocol",
    "nodes",  # ComfyUI's nodes.py: an absolute import never finds our folder
    "server",
    "utils",
}
ALLOWED = {  # package: our own packages it may import, and third-party ones
    "__init__": ({"nodes", "host"}, set()),
    "nodes": ({"nodes", "host", "kontext_core"}, LIBRARIES | {"comfy_api"}),
    "host": ({"host", "kontext_core"}, LIBRARIES | COMFYUI),
    "kontext_core": ({"kontext_core"}, LIBRARIES),
    "batch": ({"batch"}, LIBRARIES | {"batch", "kontext_core", "tqdm"} | OPTIONAL),
}
PROGRAMS = {  # program: the packages that it may import, absolutely
    "batch": {"kontext_core"},
    "tools": {"batch", "kontext_core"},
    "training": {"kontext_core"},
    "benchmarks": {"batch", "kontext_core", "training"},
}
OURS = {*PROGRAMS, "kontext_core", "tests"}
FILES = [Path("__init__.py")]
FILES += [path.relative_to(ROOT) for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


def breaches(path, source):
    """The imports in the `source` of the file `path` (relative to the root) that are not allowed in its package."""
    rooms, outside = ALLOWED[path.parts[0].removesuffix(".py")]
    outside = outside | sys.stdlib_module_names | (COMFYUI if path == Path("batch/inprocess.py") else set())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from sorted({alias.name.split(".")[0] for alias in node.names} - outside)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from {node.module.split(".")[0]} - outside
        elif isinstance(node, ast.ImportFrom):
            yield from sorted(rooms_reached(path, node) - rooms)


def rooms_reached(path, node):
    """The packages that a relative import in the file `path` reaches into."""
    folders = path.parent.parts
    if node.level > len(folders) + 1:
        return {"outside the pack"}
    base = folders[: len(folders) + 1 - node.level]
    targets = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
    return {(*base, *target)[0] for target in targets}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_what_its_room_may(path):
    assert list(breaches(path, (ROOT / path).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("room", PROGRAMS)
def test_a_program_imports_only_rooms_before_it(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            reached = {name.split(".")[0] for name in names} & OURS
            assert reached <= PROGRAMS[room] | {room}, path


BREACHES = {
    "core uses ComfyUI": ("kontext_core/tokens.py", "import comfy.utils", ["comfy"]),
    "core uses the schema": ("kontext_core/tokens.py", "from comfy_api.latest import io", ["comfy_api"]),
    "core uses the host room": ("kontext_core/embedded/x.py", "from ...host.loading import load", ["host"]),
    "core uses another library": ("kontext_core/tokens.py", "def f():\n    import diffusers", ["diffusers"]),
    "host uses nodes": ("host/loading.py", "from ..nodes import loaders", ["nodes"]),
    "nodes use ComfyUI": ("nodes/loaders.py", "import torch, folder_paths", ["folder_paths"]),
    "nodes use the root": ("nodes/loaders.py", "from .. import tools", ["tools"]),
    "own room, absolute": ("nodes/loaders.py", "from kontext_core.tokens import pack", ["kontext_core"]),
    "batch uses ComfyUI": ("batch/worker.py", "import folder_paths", ["folder_paths"]),
    "batch uses tools": ("batch/worker.py", "from tools import client", ["tools"]),
    "the pack uses batch": ("nodes/loaders.py", "from ..batch import graphs", ["batch"]),
    "batch's ComfyUI": ("batch/inprocess.py", "import execution, nodes", []),
    "outside the pack": ("nodes/loaders.py", "from ... import other", ["outside the pack"]),
    "entry point uses the core": ("__init__.py", "from .kontext_core import tokens", ["kontext_core"]),
    "host may use ComfyUI and core": ("host/x.py", "import os, nodes\nfrom ..kontext_core import tokens", []),
}


@pytest.mark.parametrize(("path", "source", "expected"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_seen(path, source, expected):
    assert list(breaches(Path(path), source)) == expected


def test_the_entry_point_imports_nothing_when_it_is_loaded():
    body = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body
    assert not [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
