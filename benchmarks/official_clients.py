"""Test whether the providers' own Python clients avoid paying twice, which is why the pack has its own client.

Each client, with default settings, requests one picture from the stand-in server of tests/hosted. The first request
breaks after the server accepted it: the server closes the connection, answers 500, or stops responding. The result is
how often the picture was accepted, and so would be paid for. Without a fault the clients get their picture, which shows
that the stand-in behaves as they expect. Run it in a separate environment: ComfyUI does not need these packages.

    python -m venv clients && clients/bin/pip install aiohttp numpy pillow fal-client==1.0.3 replicate==1.0.7 \\
        together==3.1.1 runware-sdk==1.8.0 huggingface-hub==2.4.0
    clients/bin/python -m benchmarks.official_clients
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hosted"))

from stand_in import HOSTS, Certificate, StandIn

KEY, PICTURE = "not-a-real-key", "data:image/png;base64,AAAA"
FAULTS = ("no fault", "die after", "500 after", "stall after")
PATIENCE = 45  # s until a client must have given up


async def fal() -> Any:
    import fal_client

    client = fal_client.AsyncClient(key=KEY, default_timeout=3)
    arguments = {"prompt": "x", "image_url": PICTURE, "seed": 1}
    return await client.subscribe("fal-ai/flux-pro/kontext", arguments=arguments)


async def replicate() -> Any:
    import replicate

    client = replicate.Client(api_token=KEY, timeout=3)
    arguments = {"prompt": "x", "input_image": PICTURE, "seed": 1}
    return await client.async_run("black-forest-labs/flux-kontext-pro", input=arguments)


async def together() -> Any:
    from together import AsyncTogether

    client = AsyncTogether(api_key=KEY, timeout=3)
    model = "black-forest-labs/FLUX.1-kontext-pro"
    return await client.images.generate(model=model, prompt="x", image_url=PICTURE, seed=1)


async def runware() -> Any:
    from runware import Runware

    async with Runware(api_key=KEY, transport="rest", timeout=3000) as client:
        fields = {"taskType": "imageInference", "positivePrompt": "x", "model": "bfl:3@1", "seed": 1}
        return await client.run({**fields, "width": 1024, "height": 1024})


async def hugging_face() -> Any:
    from huggingface_hub import AsyncInferenceClient
    from huggingface_hub.hf_api import InferenceProviderMapping
    from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING

    place = {"hf_model_id": "x", "providerId": "fal-ai/flux-kontext/dev", "status": "live", "task": "image-to-image"}
    mapping = InferenceProviderMapping(provider="fal-ai", **place)  # the client asks the hub, which is not reachable
    HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"] = {"black-forest-labs/FLUX.1-Kontext-dev": mapping}
    client = AsyncInferenceClient(provider="fal-ai", api_key="hf_" + KEY, timeout=3)
    model = "black-forest-labs/FLUX.1-Kontext-dev"
    return await client.image_to_image(b"\x89PNG", prompt="x", model=model, seed=1)


CLIENTS: dict[str, Callable[[], Any]] = {
    "fal-client": fal,
    "replicate": replicate,
    "together": together,
    "runware-sdk": runware,
    "huggingface-hub": hugging_face,
}


def lead_names_to(port: int) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, asked: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in HOSTS:
            raise socket.gaierror(f"no such host: {name}")
        return real("127.0.0.1", port, *arguments, **options)

    create_connection = asyncio.BaseEventLoop.create_connection

    async def create(loop: Any, factory: Any, host: Any = None, asked: Any = None, **options: Any) -> Any:
        return await create_connection(loop, factory, host, port if host == "127.0.0.1" else asked, **options)

    socket.getaddrinfo = getaddrinfo
    asyncio.BaseEventLoop.create_connection = create


def attempt(server: StandIn, client: str, fault: str) -> tuple[int, str]:
    """How often the picture was accepted, and how the client's call ended."""
    server.reset()
    server.faults["submit"] = [fault]
    try:
        asyncio.run(asyncio.wait_for(CLIENTS[client](), PATIENCE))
        end = "a picture"
    except Exception as error:  # noqa: BLE001 - every client has its own errors
        end = type(error).__name__
    return max(server.accepted.values(), default=0), end


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        certificate = Certificate(Path(folder), HOSTS)
        os.environ["SSL_CERT_FILE"] = str(certificate.file)
        aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(certificate.file)  # created at import
        with StandIn(certificate) as server:
            lead_names_to(server.port)
            print("| Client | " + " | ".join(FAULTS) + " |\n| --- |" + " --- |" * len(FAULTS))
            for client in CLIENTS:
                cells = [attempt(server, client, fault) for fault in FAULTS]
                print(f"| {client} | " + " | ".join(f"{count} ({end})" for count, end in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
