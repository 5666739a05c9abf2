"""With equal weights our code and the host's give equal numbers: forward pass, schedule and complete pictures."""

from typing import Any, NamedTuple

import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from safetensors.torch import save_file

from kontext_core import embedded
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import LAYOUTS, pack, place_references, position_ids, unpack
from kontext_core.transformer import KontextTransformer, forward, sdpa

SIZES = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=3, context_in_dim=48, vec_in_dim=32)
THREE = [(8, 12), (12, 6), (10, 10)]

CASES = {  # target (height, width), references, layout, batch
    "text only": ((8, 12), [], "offset", 1),
    "one reference": ((8, 12), [(8, 12)], "offset", 1),
    **{f"three references, {layout}": ((12, 8), THREE, layout, 1) for layout in LAYOUTS},
    "batch of 2": ((8, 8), [(8, 8)], "offset", 2),
    **{f"odd sizes, {layout}": ((9, 7), [(5, 11), (7, 7)], layout, 1) for layout in LAYOUTS},
}


class Trees(NamedTuple):
    ours: KontextTransformer
    model: Any  # the host's, which holds its FLUX


@pytest.fixture(scope="module")
def trees():
    """Our standalone tree and the host's FLUX, with the same random weights."""
    torch.manual_seed(0)
    ours = KontextTransformer(SIZES).eval().requires_grad_(False)
    for parameter in ours.parameters():
        parameter.normal_(std=0.05)  # PyTorch's own start leaves the last layer's output near zero
    weights = {name: weight.clone() for name, weight in ours.state_dict().items()}
    return Trees(ours, comfy.sd.load_diffusion_model_state_dict(weights).model)


def host_attention(q, k, v):
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, transformer_options={})


def velocity(tree, attention, x, references, layout, context, y, timestep, guidance):
    """Our forward over `tree`, from latents to latents."""
    height, width = x.shape[-2:]
    placements = place_references([reference.shape[-2:] for reference in references], (height, width), layout)
    ids = [position_ids(height, width)]
    ids += [position_ids(*r.shape[-2:], *place) for r, place in zip(references, placements, strict=True)]
    img_ids = torch.cat(ids).expand(len(x), -1, -1)
    img = torch.cat([pack(latent) for latent in (x, *references)], dim=1)
    txt_ids = torch.zeros(len(x), context.shape[1], 3)
    out = forward(tree, img, img_ids, context, txt_ids, timestep, y, guidance, attention=attention)
    return unpack(out[:, : len(ids[0])], height, width)


@pytest.mark.parametrize("place", ["standing alone", "over the host's tree"])
@pytest.mark.parametrize(("target", "references", "layout", "batch"), CASES.values(), ids=CASES)
def test_our_forward_is_the_hosts(trees, place, target, references, layout, batch):
    host = trees.model.diffusion_model
    tree, attention = (trees.ours, sdpa) if place == "standing alone" else (host, host_attention)
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, *target, generator=noise)
    latents = [torch.randn(batch, 16, *size, generator=noise) for size in references]
    context = torch.randn(batch, 7, SIZES.context_in_dim, generator=noise)
    y = torch.randn(batch, SIZES.vec_in_dim, generator=noise)
    timestep, guidance = torch.full((batch,), 0.7), torch.full((batch,), 2.5)

    with torch.no_grad():
        mine = velocity(tree, attention, x, latents, layout, context, y, timestep, guidance)
        options = {"ref_latents_method": layout, "transformer_options": {}}
        theirs = host(x, timestep, context, y, guidance, ref_latents=latents or None, **options)

    assert theirs.std() > 0.1  # there is something to compare
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("steps", "tolerance"), [(20, 1e-6), (28, 3.2e-4)], ids=["on it", "between"])
def test_our_schedule_is_the_hosts_simple_at_1024(trees, steps, tolerance):
    """The host reads a table of 10000: 20 steps hit its entries, 28 do not; they differ by at most e^1.15 / 10000."""
    theirs = comfy.samplers.calculate_sigmas(trees.model.model_sampling, "simple", steps)
    torch.testing.assert_close(flow_sigmas(steps, 4096), theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("denoise", [1.0, 0.5, 0.3])
def test_our_schedule_node_is_the_hosts(edit_graph, run_graph, denoise):
    """KontextSchedule against ModelSamplingFlux and BasicScheduler, with the picture's own shift."""
    steps = {"steps": int(20 * denoise), "denoise": denoise}
    graph = {name: edit_graph()[name] for name in ("loader", "picture", "reference", "target")}
    graph["shifted"] = {
        "class_type": "ModelSamplingFlux",
        "inputs": {"model": ["loader", 0], "max_shift": 1.15, "base_shift": 0.5, "width": 128, "height": 96},
    }
    graph["theirs"] = {
        "class_type": "BasicScheduler",
        "inputs": {"model": ["shifted", 0], "scheduler": "simple", **steps},
    }
    graph["ours"] = {
        "class_type": "KontextSchedule",
        "inputs": {"latent": ["target", 0], "shift": "from size", **steps},
    }
    values = run_graph(graph).values
    torch.testing.assert_close(values["ours"][0], values["theirs"][0], atol=1e-5, rtol=0)


def advanced(graph, schedule):
    """Replace KontextSampler by the host's SamplerCustomAdvanced with our schedule and solver."""
    sampler = graph["sampler"]["inputs"]
    graph["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": sampler["seed"]}}
    graph["guided"] = {
        "class_type": "FluxGuidance",
        "inputs": {"conditioning": sampler["positive"], "guidance": sampler["guidance"]},
    }
    graph["guider"] = {
        "class_type": "BasicGuider",
        "inputs": {"model": sampler["model"], "conditioning": ["guided", 0]},
    }
    graph["schedule"] = {
        "class_type": "KontextSchedule",
        "inputs": {"latent": sampler["latent"], "steps": sampler["steps"], "denoise": 1.0, **schedule},
    }
    graph["solver"] = {"class_type": "KontextSolver", "inputs": {"solver": sampler["solver"]}}
    graph["sampler"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            "noise": ["noise", 0],
            "guider": ["guider", 0],
            "sampler": ["solver", 0],
            "sigmas": ["schedule", 0],
            "latent_image": sampler["latent"],
        },
    }
    return graph


def host_sampler(graph, model):
    """Replace KontextSampler by FluxGuidance and the host's KSampler, euler and simple."""
    sampler = graph["sampler"]["inputs"]
    graph["guided"] = {
        "class_type": "FluxGuidance",
        "inputs": {"conditioning": sampler["positive"], "guidance": sampler["guidance"]},
    }
    graph["sampler"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": model,
            "positive": ["guided", 0],
            "negative": ["guided", 0],
            "latent_image": sampler["latent"],
            "sampler_name": "euler",
            "scheduler": "simple",
            **{name: sampler[name] for name in ("seed", "steps", "cfg", "denoise")},
        },
    }
    return graph


def test_euler_on_our_schedule_is_the_hosts_euler_simple(edit_graph, run_graph):
    """At mu 1.15, the shift of 1024x1024, which is also the host's default."""
    at_1024 = {"shift": "custom", "shift.mu": 1.15}
    ours = run_graph(advanced(edit_graph(steps=20), at_1024)).values["sampler"][0]["samples"]
    theirs = run_graph(host_sampler(edit_graph(steps=20), ["loader", 0])).values["sampler"][0]["samples"]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_sampler_custom_advanced_with_our_parts_is_our_sampler(edit_graph, run_graph, solver):
    ours = run_graph(edit_graph(solver=solver)).values["sampler"][0]["samples"]
    parts = run_graph(advanced(edit_graph(solver=solver), {"shift": "from size"})).values["sampler"][0]["samples"]
    torch.testing.assert_close(parts, ours, atol=0, rtol=0)


def test_the_hosts_own_nodes_give_the_same_picture(edit_graph, run_graph, model_folder):
    """UNETLoader, VAEEncode, ReferenceLatent, FluxGuidance, ModelSamplingFlux and KSampler on the embedded file."""
    weights, metadata = embedded.load_transformer()
    save_file(weights, model_folder("diffusion_models") / "embedded.safetensors", metadata)
    graph = edit_graph(steps=20)
    graph["unet"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "embedded.safetensors", "weight_dtype": "default"},
    }
    graph["shifted"] = {
        "class_type": "ModelSamplingFlux",
        "inputs": {"model": ["unet", 0], "max_shift": 1.15, "base_shift": 0.5, "width": 128, "height": 96},
    }
    graph["reference"] = {
        "class_type": "VAEEncode",
        "inputs": {"pixels": ["picture", 0], "vae": ["loader", 2]},
    }
    graph["context"] = {
        "class_type": "ReferenceLatent",
        "inputs": {"conditioning": ["text", 0], "latent": ["reference", 0]},
    }
    graph["target"] = {
        "class_type": "EmptySD3LatentImage",
        "inputs": {"width": 128, "height": 96, "batch_size": 1},
    }
    theirs = run_graph(host_sampler(graph, ["shifted", 0])).values["picture_out"][0]
    ours = run_graph(edit_graph(steps=20)).values["picture_out"][0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
