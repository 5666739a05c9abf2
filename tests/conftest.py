"""Fixtures for tests that talk to a ComfyUI process, which starts when the first of them asks for it."""

import pytest

from tools.client import Client
from tools.server import CPU, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A ComfyUI on the CPU with the pack, its real frontend, previews, and folders of its own."""
    arguments = (*CPU, "--disable-api-nodes", "--preview-method", "latent2rgb")
    with Server(tmp_path_factory.mktemp("comfyui"), arguments=arguments) as running:
        yield running


@pytest.fixture
def client(server):
    """A connection to the running server, for one test."""
    with Client(server.url) as connected:
        yield connected
