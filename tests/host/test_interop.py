"""Our nodes and the host's, mixed in both directions."""

import comfy.sample
import numpy as np
import pytest
import torch
from comfy.model_sampling import ModelSamplingFlux
from safetensors.torch import save_file

from kontext_core import embedded
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer

MODEL, CLIP, VAE = (["loader", output] for output in range(3))


def latent(run, node="sampler"):
    return run.values[node][0]["samples"]


def differ(a, b):
    return float((a - b).abs().max())


@pytest.fixture
def unet(model_folder):
    """The host's loader on the embedded transformer's file."""
    weights, metadata = embedded.load_transformer()
    save_file(weights, model_folder("diffusion_models") / "embedded.safetensors", metadata)
    return {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "embedded.safetensors", "weight_dtype": "default"},
    }


@pytest.fixture
def random_unet(model_folder):
    """A FLUX.1 with random weights for the embedded text encoder's output: every input affects its result."""
    torch.manual_seed(0)
    sizes = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=128, vec_in_dim=128)
    weights = {name: torch.randn_like(w) / 20 for name, w in KontextTransformer(sizes).state_dict().items()}
    save_file(weights, model_folder("diffusion_models") / "random.safetensors")
    return {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "random.safetensors", "weight_dtype": "default"},
    }


def test_our_sampler_on_the_hosts_model(edit_graph, run_graph, unet):
    ours = latent(run_graph(edit_graph()))
    theirs = latent(run_graph(edit_graph(model=["unet", 0]) | {"unet": unet}))
    torch.testing.assert_close(theirs, ours, atol=0, rtol=0)


def test_the_hosts_reference_latent_is_our_context(edit_graph, run_graph):
    ours = latent(run_graph(edit_graph()))
    graph = edit_graph()
    graph["context"] = {
        "class_type": "ReferenceLatent",
        "inputs": {"conditioning": ["text", 0], "latent": ["reference", 0]},
    }
    torch.testing.assert_close(latent(run_graph(graph)), ours, atol=0, rtol=0)


def test_our_context_adds_to_the_hosts(edit_graph, run_graph):
    graph = edit_graph()
    graph["first"] = {
        "class_type": "ReferenceLatent",
        "inputs": {"conditioning": ["text", 0], "latent": ["reference", 0]},
    }
    graph["context"]["inputs"]["conditioning"] = ["first", 0]
    ((_, values),) = run_graph(graph).values["context"][0]
    assert len(values["reference_latents"]) == 2


@pytest.mark.parametrize("layout", ["index", "uxo"])
def test_the_layout_reaches_the_model(edit_graph, run_graph, layout):
    """The same as the host's own node for this layout, and different from the default layout."""
    usual = latent(run_graph(edit_graph()))
    ours, theirs = edit_graph(), edit_graph(positive=["method", 0])
    ours["context"]["inputs"]["layout"] = layout
    theirs["method"] = {
        "class_type": "FluxKontextMultiReferenceLatentMethod",
        "inputs": {
            "conditioning": ["context", 0],
            "reference_latents_method": {"index": "index", "uxo": "uxo/uno"}[layout],
        },
    }
    for graph in (ours, theirs):  # at index and uxo alone one reference may lie as in offset
        graph["context"]["inputs"]["references.reference1"] = ["reference", 0]
    result = latent(run_graph(ours))
    torch.testing.assert_close(result, latent(run_graph(theirs)), atol=0, rtol=0)
    assert differ(result, usual) > 1e-3


def test_references_come_in_the_order_of_their_sockets(edit_graph, run_graph):
    graph = edit_graph()
    graph["other"] = {"class_type": "KontextTarget", "inputs": {"size": "width x height", "batch_size": 1}}
    graph["other"]["inputs"] |= {"size.width": 64, "size.height": 64}
    inputs = graph["context"]["inputs"]
    inputs["references.reference1"] = inputs.pop("references.reference0")  # now written before reference0
    inputs["references.reference0"] = ["other", 0]
    ((_, values),) = run_graph(graph).values["context"][0]
    assert [tuple(reference.shape[-2:]) for reference in values["reference_latents"]] == [(8, 8), (12, 16)]


def test_a_lora_changes_the_picture(edit_graph, run_graph, model_folder):
    plain = latent(run_graph(edit_graph()))
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    torch.manual_seed(0)
    lora = {f"{name}.lora_A.weight": torch.randn(4, 256), f"{name}.lora_B.weight": torch.randn(256, 4)}
    save_file(lora, model_folder("loras") / "tiny.safetensors")
    with_lora = {}
    for strength in (0.0, 1.0):
        graph = edit_graph(model=["lora", 0])
        graph["lora"] = {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": MODEL, "lora_name": "tiny.safetensors", "strength_model": strength},
        }
        with_lora[strength] = latent(run_graph(graph))
    torch.testing.assert_close(with_lora[0.0], plain, atol=0, rtol=0)
    assert differ(with_lora[1.0], plain) > 1e-3


def test_guidance_of_a_node_before_wins(edit_graph, run_graph, random_unet):
    def run(**settings):
        graph = edit_graph(model=["random", 0], **settings) | {"random": random_unet}
        graph["guided"] = {
            "class_type": "FluxGuidance",
            "inputs": {"conditioning": ["context", 0], "guidance": 6.0},
        }
        return run_graph(graph)

    both = run(positive=["guided", 0], guidance=1.0)
    torch.testing.assert_close(latent(both), latent(run(guidance=6.0)), atol=0, rtol=0)
    assert differ(latent(both), latent(run(guidance=1.0))) > 1e-3
    assert "guidance 6, set by a node before this one (not 1)" in both.shown["sampler"]["text"][0]


def test_guidance_of_one_of_two_combined_conditionings_is_told(edit_graph, run_graph, random_unet):
    graph = edit_graph(model=["random", 0], positive=["both", 0], guidance=1.0) | {"random": random_unet}
    guided = {"conditioning": ["context", 0], "guidance": 6.0}
    graph["guided"] = {"class_type": "FluxGuidance", "inputs": guided}
    both = {"conditioning_1": ["guided", 0], "conditioning_2": ["context", 0]}
    graph["both"] = {"class_type": "ConditioningCombine", "inputs": both}
    told = run_graph(graph).shown["sampler"]["text"][0]
    assert "guidance 6, set by a node before this one, and 1 where none is set" in told


def test_guidance_taken_away_stays_away(edit_graph, run_graph, random_unet):
    def run(positive):
        graph = edit_graph(model=["random", 0], positive=[positive, 0]) | {"random": random_unet}
        graph["without"] = {"class_type": "FluxDisableGuidance", "inputs": {"conditioning": ["context", 0]}}
        return run_graph(graph)

    without = run("without")
    assert differ(latent(without), latent(run("context"))) > 1e-3
    assert "guidance none" in without.shown["sampler"]["text"][0]


def test_cfg_is_the_hosts(edit_graph, run_graph, random_unet):
    """Guidance on positive and negative gives the same as FluxGuidance on both with the host's CFGGuider."""
    negative = {"class_type": "CLIPTextEncode", "inputs": {"clip": CLIP, "text": "a blue square"}}
    ours = edit_graph(model=["random", 0], cfg=2.0, negative=["negative", 0])
    ours |= {"negative": negative, "random": random_unet}
    theirs = edit_graph() | {"negative": negative, "random": random_unet}
    for name, source in (("plus", "context"), ("minus", "negative")):
        theirs[name] = {
            "class_type": "FluxGuidance",
            "inputs": {"conditioning": [source, 0], "guidance": 2.5},
        }
    theirs |= {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
        "guider": {
            "class_type": "CFGGuider",
            "inputs": {"model": ["random", 0], "positive": ["plus", 0], "negative": ["minus", 0], "cfg": 2.0},
        },
        "euler": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "sigmas": {
            "class_type": "KontextSchedule",
            "inputs": {"latent": ["target", 0], "steps": 4, "denoise": 1.0, "shift": "from size"},
        },
        "sampler": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["euler", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["target", 0],
            },
        },
    }
    run = run_graph(ours)
    torch.testing.assert_close(latent(run), latent(run_graph(theirs)), atol=1e-5, rtol=0)
    assert "negative has no references" in run.shown["sampler"]["text"][0]


def test_a_negative_at_cfg_1_has_no_effect_and_says_so(edit_graph, run_graph):
    graph = edit_graph(negative=["negative", 0])
    graph["negative"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": CLIP, "text": "a blue square"}}
    run = run_graph(graph)
    torch.testing.assert_close(latent(run), latent(run_graph(edit_graph())), atol=0, rtol=0)
    assert "input negative has no effect" in run.shown["sampler"]["text"][0]


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_each_step_is_reported_with_a_preview(edit_graph, run_graph, solver):
    events = run_graph(edit_graph(solver=solver)).events
    steps = [event.data for event in events if event.type == "progress" and event.data["node"] == "sampler"]
    assert [(step["value"], step["max"]) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    previews = [event.data["image"] for event in events if event.type == "preview"]
    assert len(previews) == 4
    assert previews[0].size == (128, 96)


def test_easycache_does_not_ruin_the_embedded_model(pack):
    """It adds to its input in place, which in float32 would be the sampler's latent: 8 dB."""
    model, clip, _ = pack["KontextLoader"].execute({"source": "embedded"}).result
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("make the circle red"))
    latent = torch.zeros(1, 16, 16, 16)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))

    def sample(model):
        return comfy.sample.sample(model, noise, 20, 1.0, "euler", "simple", positive, [], latent)

    plain = sample(model)
    (cached,) = pack["EasyCache"].execute(model, 0.2, 0.15, 0.95, False).result
    calls = []
    handle = model.model.diffusion_model.final_layer.register_forward_hook(lambda *_: calls.append(1))
    error = (sample(cached) - plain).square().mean().sqrt() / plain.std()
    handle.remove()
    assert len(calls) < 20 and error < 0.15


def test_a_sampling_of_another_node_that_is_no_flow_is_named(pack):
    """As inversion nodes replace it (InFlux, OutFlux): the model still counts as FLUX.1."""
    model, clip, _ = pack["KontextLoader"].execute({"source": "embedded"}).result
    inverse = model.clone()
    inverse.add_object_patch("model_sampling", ModelSamplingFlux(model.model.model_config))
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("make the circle red"))
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(ValueError, match="predicts no velocity as FLUX.1 does. Take the node away that changes its"):
        pack["KontextSampler"].execute(inverse, positive, latent, 1, 4, 2.5, 1.0, "euler", 1.0)


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_a_mask_limits_the_edit(edit_graph, run_graph, input_picture, solver):
    """Latents change only inside the mask."""
    mask = np.zeros((96, 128))
    mask[:, 64:] = 1
    graph = edit_graph(latent=["masked", 0], solver=solver)
    graph["mask"] = {
        "class_type": "LoadImageMask",
        "inputs": {"image": input_picture(mask, "mask.png"), "channel": "red"},
    }
    graph["masked"] = {
        "class_type": "SetLatentNoiseMask",
        "inputs": {"samples": ["reference", 0], "mask": ["mask", 0]},
    }
    run = run_graph(graph)
    before, after = latent(run, "reference"), latent(run)
    torch.testing.assert_close(after[..., :8], before[..., :8], atol=1e-4, rtol=0)
    assert differ(after[..., 8:], before[..., 8:]) > 0.1


def test_a_batch_of_two_is_two_runs(edit_graph, run_graph):
    """Each picture of a batch equals the result of its noise alone."""
    graph = edit_graph()
    graph["target"]["inputs"]["batch_size"] = 2
    both = latent(run_graph(graph))
    assert differ(both[0], both[1]) > 0.1
    for index in range(2):
        graph["one"] = {
            "class_type": "LatentFromBatch",
            "inputs": {"samples": ["target", 0], "batch_index": index, "length": 1},
        }
        graph["sampler"]["inputs"]["latent"] = ["one", 0]
        alone = latent(run_graph(graph))
        torch.testing.assert_close(alone[0], both[index], atol=1e-4, rtol=0)


def test_a_batch_of_references_is_as_many_edits(edit_graph, run_graph):
    graph = edit_graph()
    graph["flipped"] = {
        "class_type": "ImageFlip",
        "inputs": {"image": ["picture", 0], "flip_method": "x-axis: vertically"},
    }
    graph["batch"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["picture", 0], "image2": ["flipped", 0]},
    }
    graph["reference"]["inputs"]["image"] = ["batch", 0]
    graph["target"]["inputs"]["batch_size"] = 2
    both = latent(run_graph(graph))
    alone = latent(run_graph(edit_graph()))
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=0)


OWN_AREA = {"size": "ratio", "size.ratio": "1:1", "size.megapixels": 0.0}
ZERO = {"size": "width x height", "size.width": 0, "size.height": 0}
TARGETS = {  # settings, latent (height, width)
    "from reference": ({"size": "from reference", "size.reference": ["reference", 0]}, (12, 16)),
    "ratio 1:1": ({"size": "ratio", "size.ratio": "1:1", "size.megapixels": 1.0}, (128, 128)),
    "ratio 16:9, small": ({"size": "ratio", "size.ratio": "16:9", "size.megapixels": 0.25}, (48, 86)),
    "ratio 1:1, the model's own area": (OWN_AREA | {"vae": ["loader", 2]}, (16, 16)),
    "ratio 1:1, no model": (OWN_AREA, (128, 128)),
    "0 x 0": (ZERO | {"vae": ["loader", 2]}, (16, 16)),
    "0 x 0, no model": (ZERO, (128, 128)),
    "numbers": ({"size": "width x height", "size.width": 128, "size.height": 64}, (8, 16)),
    "numbers off the grid": ({"size": "width x height", "size.width": 135, "size.height": 71}, (8, 16)),
}


@pytest.mark.parametrize(("settings", "size"), TARGETS.values(), ids=TARGETS)
def test_targets_have_the_size_that_was_asked_for(edit_graph, run_graph, settings, size):
    graph = {name: edit_graph()[name] for name in ("loader", "picture", "reference")}
    graph["target"] = {"class_type": "KontextTarget", "inputs": {"batch_size": 3, **settings}}
    run = run_graph(graph)
    assert latent(run, "target").shape == (3, 16, *size)
    assert run.shown["target"]["text"][0].startswith(f"3 pictures of {8 * size[1]}x{8 * size[0]} px")


SIZES = {  # settings, size in px of the reference made from 128x96
    "as is": ({"size": "as is"}, (128, 96)),
    "keep ratio": ({"size": "keep ratio", "size.megapixels": 0.0625}, (288, 224)),
    "keep ratio, the model's own area": ({"size": "keep ratio", "size.megapixels": 0.0}, (144, 112)),
    "nearest trained size": ({"size": "nearest trained size"}, (144, 112)),
}


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("settings", "size"), SIZES.values(), ids=SIZES)
def test_references_have_the_size_that_was_asked_for(edit_graph, run_graph, settings, size, fit):
    graph = {name: edit_graph()[name] for name in ("loader", "picture", "reference")}
    graph["reference"]["inputs"] |= {**settings, "fit": fit}
    run = run_graph(graph)
    assert latent(run, "reference").shape == (1, 16, size[1] // 8, size[0] // 8)
    assert f": {size[0]}x{size[1]} px" in run.shown["reference"]["text"][0]


def test_every_fit_gives_another_reference(edit_graph, run_graph):
    """From 128x96 px, 4:3, to 288x224 px, 9:7."""
    graph = {name: edit_graph()[name] for name in ("loader", "picture", "reference")}
    fitted = {}
    for fit in ("pad", "crop", "stretch"):
        graph["reference"]["inputs"] |= {"size": "keep ratio", "size.megapixels": 0.0625, "fit": fit}
        fitted[fit] = latent(run_graph(graph), "reference")
    assert differ(fitted["pad"], fitted["crop"]) > 0.1
    assert differ(fitted["crop"], fitted["stretch"]) > 0.1
    assert differ(fitted["stretch"], fitted["pad"]) > 0.1


def test_the_hosts_empty_latent_is_filled(edit_graph, run_graph):
    """EmptyLatentImage has 4 channels; the host widens it because it is empty."""
    graph = edit_graph(latent=["empty", 0])
    graph["empty"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 128, "height": 96, "batch_size": 1},
    }
    torch.testing.assert_close(latent(run_graph(graph)), latent(run_graph(edit_graph())), atol=0, rtol=0)


def test_denoise_starts_from_the_latents_picture(edit_graph, run_graph):
    """With little noise the result stays near; the first sigma is that of the host's BasicScheduler."""
    run = run_graph(edit_graph(denoise=0.02, latent=["reference", 0]))
    reference = latent(run, "reference")
    near = (latent(run) - reference).abs().mean()
    far = (latent(run_graph(edit_graph())) - reference).abs().mean()
    assert near < far / 2


def test_tiled_encoding_is_near_plain_encoding(edit_graph, run_graph):
    """The host's tiles overlap by a quarter of their side; the autoencoder sees a little less at their seams."""
    graph = {name: edit_graph()[name] for name in ("loader", "picture")}
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    graph["plain"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": VAE}}
    graph["tiled"] = {
        "class_type": "VAEEncodeTiled",
        "inputs": {"pixels": ["picture", 0], "vae": VAE, **tiles},
    }
    graph["back"] = {"class_type": "VAEDecode", "inputs": {"samples": ["plain", 0], "vae": VAE}}
    graph["tiled back"] = {
        "class_type": "VAEDecodeTiled",
        "inputs": {"samples": ["plain", 0], "vae": VAE, **tiles},
    }
    run = run_graph(graph)
    plain, tiled = latent(run, "plain"), latent(run, "tiled")
    assert (plain - tiled).abs().mean() < 0.1 * plain.std()
    difference = (run.values["back"][0] - run.values["tiled back"][0]).abs()
    assert difference.mean() < 0.03
    assert difference.max() < 0.2


def parts(pack):
    with torch.inference_mode():
        model, clip, vae = pack["KontextLoader"].execute({"source": "embedded"}).result
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    text = {"c_crossattn": torch.ones(1, 20, 128), "y": torch.ones(1, 128), "guidance": torch.tensor([2.5])}
    tokens = clip.tokenize("make the circle red")
    return {
        "model": (model, lambda: model.model.apply_model(x, torch.tensor([0.5]), **text)),
        "clip": (clip.patcher, lambda: clip.cond_stage_model.encode_token_weights(tokens)[0]),
        "vae": (vae.patcher, lambda: vae.first_stage_model.decode(x)),
        "vae, encoder": (vae.patcher, lambda: vae.first_stage_model.encode(vae.first_stage_model.decode(x))),
    }


@pytest.mark.parametrize("kept", [1, 500_000], ids=["nothing resident", "some resident"])
@pytest.mark.parametrize("part", ["model", "clip", "vae", "vae, encoder"])
def test_every_part_works_with_its_weights_elsewhere(pack, part, kept):
    """A model that does not fit in memory: the host casts layers outside the budget at each use."""
    patcher, compute = parts(pack)[part]
    cpu = torch.device("cpu")
    with torch.inference_mode():
        patcher.patch_model(device_to=cpu)
        whole = compute()
        patcher.unpatch_model()
        patcher.patch_model(device_to=cpu, lowvram_model_memory=kept)
        assert any(getattr(module, "comfy_cast_weights", False) for module in patcher.model.modules())
        torch.testing.assert_close(compute(), whole, atol=0, rtol=0)


@pytest.mark.parametrize("part", ["model", "clip", "vae"])
def test_every_part_can_be_made_again_for_another_device(pack, part):
    """The loader attributes that TorchCompileModel, SelectModelDevice and multi-GPU use."""
    patcher, _ = parts(pack)[part]
    make, arguments = patcher.cached_patcher_init
    again = make(*arguments, disable_dynamic=True)
    assert again.model is not patcher.model
    for name, weight in patcher.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, atol=0, rtol=0)
