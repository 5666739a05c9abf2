"""Host ring: a real ComfyUI in this process, on the CPU. Skipped without COMFYUI_PATH."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from batch import graphs
from kontext_core.geometry import Geometry
from kontext_core.hosted import PROVIDERS
from kontext_core.transformer import KontextTransformer
from stand_in.jobs import KEY

collect_ignore_glob = [] if "COMFYUI_PATH" in os.environ else ["test_*.py"]

if "COMFYUI_PATH" in os.environ:
    from batch import inprocess  # first: test modules here import ComfyUI's own modules after it


@pytest.fixture(scope="session")
def recorder():
    """ComfyUI with its own nodes and this pack loaded."""
    return inprocess.start()


@pytest.fixture(scope="session")
def pack(recorder):
    """Node id -> class, of ComfyUI's nodes and ours."""
    return inprocess.nodes.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def room(pack):
    """`host/acceleration.py`, as ComfyUI loaded it with the pack."""
    return inprocess.pack_module("host.acceleration")


@pytest.fixture(scope="module")
def settings(room):
    return room.Settings


@pytest.fixture
def told(room, monkeypatch):
    """The texts that accelerated runs showed to the user."""
    texts = []
    for name in ("show", "notify"):
        monkeypatch.setattr(room, name, texts.append)
    return texts


@pytest.fixture
def run_graph(recorder):
    """`run_graph(graph, on_event=None) -> Run`: one executor per test, so that nothing is cached between tests."""
    return inprocess.Executor(recorder)


@pytest.fixture
def store(recorder, request):
    """The store of the default user, and a session name that no other test uses."""
    opened = inprocess.pack_module("host.sessions").store_of("default")
    opened.name = request.node.name
    return opened


@pytest.fixture
def online(service, certificate, monkeypatch):
    """The stand-in, reachable: the proxy that the environment names leads to it, its certificate is trusted, no key is
    set, and the journal is empty."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{service.proxy.port}")
    shutil.rmtree(inprocess.BASE / "user" / "__kontext" / "journal", ignore_errors=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    for provider in PROVIDERS.values():
        monkeypatch.delenv(provider.key_name, raising=False)
    return service


@pytest.fixture
def hosted(online, monkeypatch):
    monkeypatch.setenv("BFL_API_KEY", KEY)
    monkeypatch.setenv("FAL_KEY", KEY)
    return online


@pytest.fixture
def model_folder():
    """`model_folder("diffusion_models")`: the folder where ComfyUI's loaders of that kind find a test's files."""

    def folder(kind):
        path = inprocess.BASE / "models" / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    return folder


@pytest.fixture
def input_picture():
    """`input_picture(array)`: the name for LoadImage of a picture (h, w), (h, w, 3) or (h, w, 4) in 0..1."""

    def write(pixels, name="input.png"):
        Image.fromarray((np.asarray(pixels) * 255).round().astype(np.uint8)).save(inprocess.BASE / "input" / name)
        return name

    return write


@pytest.fixture(scope="session")
def flux_of_random_weights(recorder):
    """The host's loader of a FLUX.1 for the embedded text encoder; with random weights every input has an effect."""
    torch.manual_seed(0)
    sizes = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=128, vec_in_dim=128)
    folder = inprocess.BASE / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: torch.randn_like(w) / 20 for name, w in KontextTransformer(sizes).state_dict().items()}
    save_file(weights, folder / "flux_of_random_weights.safetensors")
    inputs = {"unet_name": "flux_of_random_weights.safetensors", "weight_dtype": "default"}
    return {"class_type": "UNETLoader", "inputs": inputs}


@pytest.fixture(scope="session")
def pictures_and_masks(recorder):
    """Nodes that load noise, `one` of 128x96 px and `two` of 80x64, and the masks `left` and `right`, its halves."""
    noise, half = np.random.default_rng(0), np.zeros((96, 128))
    half[:, :64] = 1
    pictures = {"one": noise.random((96, 128, 3)), "two": noise.random((64, 80, 3)), "left": half, "right": 1 - half}
    graph = {}
    for name, pixels in pictures.items():
        Image.fromarray((255 * pixels).astype(np.uint8)).save(inprocess.BASE / "input" / f"{name}.png")
        kind, channel = ("LoadImage", {}) if pixels.ndim == 3 else ("LoadImageMask", {"channel": "red"})
        graph[name] = {"class_type": kind, "inputs": {"image": f"{name}.png", **channel}}
    return graph


@pytest.fixture(scope="session")
def host_edit(flux_of_random_weights, pictures_and_masks):
    """The host's own nodes before a sampler: an unpatched MODEL and two texts, the first with a reference."""
    clip, vae = (["loader", output] for output in (1, 2))
    return {
        "loader": graphs.node("KontextLoader", source="embedded"),
        "unet": flux_of_random_weights,
        **pictures_and_masks,
        "text": graphs.node("CLIPTextEncode", clip=clip, text="make the circle red"),
        "other text": graphs.node("CLIPTextEncode", clip=clip, text="a blue square"),
        "latent one": graphs.node("VAEEncode", pixels=["one", 0], vae=vae),
        "context": graphs.node("ReferenceLatent", conditioning=["text", 0], latent=["latent one", 0]),
        "target": graphs.node("EmptySD3LatentImage", width=128, height=96, batch_size=1),
    }


@pytest.fixture(scope="module")
def run(recorder):
    """One executor for all tests of a file, so that loaded and encoded values stay cached."""
    return inprocess.Executor(recorder)


@pytest.fixture
def edit_graph(input_picture):
    """`edit_graph(**settings)`: an edit with our nodes in API format; settings are the sampler's."""

    picture = input_picture(np.random.default_rng(0).random((96, 128, 3)))

    def build(**settings):
        sampler = {
            "model": ["loader", 0],
            "positive": ["context", 0],
            "latent": ["target", 0],
            "seed": 1,
            "steps": 4,
            "guidance": 2.5,
            "cfg": 1.0,
            "solver": "euler",
            "denoise": 1.0,
            **settings,
        }
        return {
            "loader": {"class_type": "KontextLoader", "inputs": {"source": "embedded"}},
            "picture": {"class_type": "LoadImage", "inputs": {"image": picture}},
            "text": {
                "class_type": "CLIPTextEncode",
                "inputs": {"clip": ["loader", 1], "text": "make the circle red"},
            },
            "reference": {
                "class_type": "KontextReference",
                "inputs": {"image": ["picture", 0], "vae": ["loader", 2], "size": "as is", "fit": "pad"},
            },
            "context": {
                "class_type": "KontextContext",
                "inputs": {
                    "conditioning": ["text", 0],
                    "references.reference0": ["reference", 0],
                    "layout": "offset",
                },
            },
            "target": {
                "class_type": "KontextTarget",
                "inputs": {"size": "from reference", "size.reference": ["reference", 0], "batch_size": 1},
            },
            "sampler": {"class_type": "KontextSampler", "inputs": sampler},
            "picture_out": {
                "class_type": "VAEDecode",
                "inputs": {"samples": ["sampler", 0], "vae": ["loader", 2]},
            },
        }

    return build
