"""Fixtures for several rings: a ComfyUI process, and a stand-in for the providers of hosted models.

Each starts on first use.
"""

import pytest

from batch.comfyui import CPU
from stand_in import HOSTS, Certificate, StandIn
from tools import frontend
from tools.client import Client
from tools.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A ComfyUI on the CPU with the pack, its frontend or the one that is named, previews, and folders of its own."""
    arguments = (*CPU, "--disable-api-nodes", "--preview-method", "latent2rgb", *frontend.arguments())
    with Server(tmp_path_factory.mktemp("comfyui"), arguments=arguments) as running:
        yield running


@pytest.fixture
def client(server):
    """A connection to the running server, for one test."""
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for the providers' names, created for these tests and trusted by nothing else."""
    return Certificate(tmp_path_factory.mktemp("certificate"), HOSTS)


@pytest.fixture(scope="session")
def _running_service(certificate):
    with StandIn(certificate) as running:
        yield running


@pytest.fixture
def service(_running_service):
    """A stand-in for all providers, reset to no faults and no history."""
    _running_service.reset()
    return _running_service
