"""Ring 2: a real ComfyUI in this process, on the CPU. Left out when there is no COMFYUI_PATH."""

import os

import pytest

collect_ignore_glob = [] if "COMFYUI_PATH" in os.environ else ["test_*.py"]

if "COMFYUI_PATH" in os.environ:
    from tools import inprocess  # on import: test modules here import ComfyUI's own modules after it


@pytest.fixture(scope="session")
def recorder():
    """ComfyUI with its own nodes and this pack loaded."""
    return inprocess.start()


@pytest.fixture(scope="session")
def pack(recorder):
    """Node id -> class, of ComfyUI's nodes and ours."""
    return inprocess.nodes.NODE_CLASS_MAPPINGS


@pytest.fixture
def run_graph(recorder):
    """`run_graph(graph, on_event=None) -> Run`: one executor a test: nothing is cached from others."""
    return inprocess.Executor(recorder)


@pytest.fixture
def model_folder():
    """`model_folder("diffusion_models")`: where ComfyUI's loaders of that kind find what a test writes."""

    def folder(kind):
        path = inprocess.BASE / "models" / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    return folder
