"""A complete run equals diffusers' FluxKontextPipeline; half precision loses no more than the host's."""

import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from safetensors.torch import save_file

import model_files
from kontext_core.geometry import Geometry
from kontext_core.tokens import pack, position_ids
from kontext_core.transformer import KontextTransformer, forward

SMALL = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=2, context_in_dim=128, vec_in_dim=128)


def shifted(raw):
    """Raw latents of the autoencoder -> the transformer's latents."""
    return (raw - 0.1159) * 0.3611


def test_a_run_of_28_steps_is_diffusers(edit_graph, run_graph, model_folder):
    """Our nodes executed in the host, against the pipeline on the same noise, text and reference."""
    diffusers = pytest.importorskip("diffusers", reason="manage.py installs it; another ComfyUI may lack it")
    weights = model_files.random_weights(SMALL)
    save_file(weights, model_folder("diffusion_models") / "small.safetensors")
    graph = edit_graph(model=["unet", 0], steps=28, guidance=2.5, seed=3)
    graph["unet"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "small.safetensors", "weight_dtype": "default"},
    }
    values = run_graph(graph).values
    ours = shifted(values["sampler"][0]["samples"])
    ((text, given),) = values["text"][0]
    height, width = (8 * side for side in ours.shape[-2:])

    transformer = diffusers.FluxTransformer2DModel(
        num_layers=SMALL.depth,
        num_single_layers=SMALL.depth_single_blocks,
        num_attention_heads=SMALL.num_heads,
        joint_attention_dim=SMALL.context_in_dim,
        pooled_projection_dim=SMALL.vec_in_dim,
        guidance_embeds=True,
    ).eval()
    transformer.load_state_dict(model_files.to_diffusers(weights, SMALL))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = diffusers.FluxKontextPipeline(scheduler=scheduler, transformer=transformer, **parts)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=shifted(values["reference"][0]["samples"]),
        prompt_embeds=text,
        pooled_prompt_embeds=given["pooled_output"],
        latents=pack(comfy.sample.prepare_noise(torch.zeros_like(ours), 3)),
        height=height,
        width=width,
        max_area=height * width,
        num_inference_steps=28,
        guidance_scale=2.5,
        output_type="latent",
    ).images
    assert theirs.std() > 0.1
    torch.testing.assert_close(pack(ours), theirs, atol=1e-3, rtol=0)


def inputs(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    x, reference = (torch.randn(1, 16, 4, 4, generator=generator) for _ in range(2))
    context, y = torch.randn(1, 6, 128, generator=generator), torch.randn(1, 128, generator=generator)
    cast = [tensor.to(dtype) for tensor in (x, reference, context, y)]
    return *cast, torch.rand(1, generator=generator)


def ours(tree, x, reference, context, y, timestep, attention):
    ids = torch.cat([position_ids(4, 4), position_ids(4, 4, 1)])[None]
    img = torch.cat([pack(x), pack(reference)], dim=1)
    guidance = torch.tensor([2.5])
    out = forward(tree, img, ids, context, torch.zeros(1, 6, 3), timestep, y, guidance, attention=attention)
    return out[:, :4].float()


def host_attention(q, k, v):
    return optimized_attention(q, k, v, q.shape[1], skip_reshape=True, transformer_options={})


def test_bfloat16_costs_no_more_than_in_the_host():
    """The distance to float32 over 20 seeds, of our forward and of the host's, on the same weights."""
    weights = model_files.cast(torch.bfloat16)(model_files.random_weights(SMALL))
    host = comfy.sd.load_diffusion_model_state_dict(dict(weights), {"dtype": torch.bfloat16}).model.diffusion_model
    exact = KontextTransformer(SMALL).requires_grad_(False)
    exact.load_state_dict({name.replace("_norm.scale", "_norm.weight"): w.float() for name, w in weights.items()})
    mine, theirs = 0.0, 0.0
    with torch.no_grad():
        for seed in range(20):
            half = inputs(seed, torch.bfloat16)
            single = [tensor.float() for tensor in half]
            wanted = ours(exact, *single, host_attention)
            x, reference, context, y, timestep = half
            mine += (ours(host, *half, host_attention) - wanted).norm()
            guidance = torch.tensor([2.5])
            options = {"ref_latents": [reference], "transformer_options": {}}
            found = host(x, timestep, context, y, guidance, **options)
            theirs += (pack(found).float() - wanted).norm()
    assert theirs > 0
    assert mine <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("column", [256, 257, 511, 1023])
def test_positions_beyond_256_are_exact_in_half_precision(column):
    """257 is not representable in bfloat16: a model in that precision must still distinguish the columns."""
    x = torch.zeros(1, 16, 2, 2, dtype=torch.bfloat16)
    ids = position_ids(*x.shape[-2:], 1, 0, 2 * column)
    assert ids.dtype == torch.float32
    assert ids[0, 2] == column
    tree = KontextTransformer(SMALL).bfloat16().requires_grad_(False)
    for parameter in tree.parameters():
        parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    context, y, t = torch.ones(1, 2, 128).bfloat16(), torch.ones(1, 128).bfloat16(), torch.ones(1)

    def seen(shift):
        there = torch.cat([position_ids(2, 2), position_ids(2, 2, 1, 0, 2 * (column + shift))])[None]
        img = torch.ones(1, 2, 64).bfloat16()
        return forward(tree, img, there, context, torch.zeros(1, 2, 3), t, y, t)

    with torch.no_grad():
        assert not torch.equal(seen(0), seen(1))
