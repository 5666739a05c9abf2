"""Geometry from tensor shapes, and rejection of every other file by name."""

import math
from dataclasses import replace

import pytest

from kontext_core.geometry import Geometry, read_geometry

DEV = Geometry()
TINY = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=4, context_in_dim=128, vec_in_dim=128)


def flux_shapes(g, norm="scale"):
    """Every tensor of a FLUX.1 checkpoint with that geometry, written by hand from BFL's module definitions."""
    hidden, mlp = g.hidden_size, int(g.hidden_size * g.mlp_ratio)
    layers = {
        "img_in": (hidden, 4 * g.in_channels),
        "txt_in": (hidden, g.context_in_dim),
        "time_in.in_layer": (hidden, 256),
        "time_in.out_layer": (hidden, hidden),
        "vector_in.in_layer": (hidden, g.vec_in_dim),
        "vector_in.out_layer": (hidden, hidden),
        "final_layer.adaLN_modulation.1": (2 * hidden, hidden),
        "final_layer.linear": (4 * g.out_channels, hidden),
    }
    if g.guidance_embed:
        layers |= {"guidance_in.in_layer": (hidden, 256), "guidance_in.out_layer": (hidden, hidden)}
    shapes = {}
    for block in range(g.depth):
        for stream in ("img", "txt"):
            path = f"double_blocks.{block}.{stream}"
            layers |= {
                f"{path}_mod.lin": (6 * hidden, hidden),
                f"{path}_attn.qkv": (3 * hidden, hidden),
                f"{path}_attn.proj": (hidden, hidden),
                f"{path}_mlp.0": (mlp, hidden),
                f"{path}_mlp.2": (hidden, mlp),
            }
            shapes |= {f"{path}_attn.norm.{name}_norm.{norm}": (128,) for name in ("query", "key")}
    for block in range(g.depth_single_blocks):
        path = f"single_blocks.{block}"
        layers |= {
            f"{path}.modulation.lin": (3 * hidden, hidden),
            f"{path}.linear1": (3 * hidden + mlp, hidden),
            f"{path}.linear2": (hidden, hidden + mlp),
        }
        shapes |= {f"{path}.norm.{name}_norm.{norm}": (128,) for name in ("query", "key")}
    for layer, shape in layers.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    return shapes


def packed(shapes, part=""):
    """Two weights packed per byte, in the layers whose name contains `part`."""
    return {
        name: (shape[0], shape[1] // 2) if len(shape) == 2 and part in name else shape for name, shape in shapes.items()
    }


def inside_checkpoint(shapes):
    """The transformer in an all-in-one checkpoint, with text encoders and autoencoder."""
    others = {
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768),
        "vae.decoder.conv_in.weight": (512, 16, 3, 3),
    }
    return {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()} | others


def test_the_table_has_the_tensors_and_parameters_of_dev():
    shapes = flux_shapes(DEV)
    assert len(shapes) == 780
    assert sum(math.prod(shape) for shape in shapes.values()) == 11_901_408_320


FP8 = {"scaled_fp8": (2,), "txt_in.scale_weight": (), "double_blocks.0.img_attn.qkv.scale_input": ()}
NVFP4 = {"txt_in.weight_scale": (3072, 256), "txt_in.weight_scale_2": ()}
SCHNELL = replace(DEV, guidance_embed=False)
WIDE_MLP = replace(TINY, mlp_ratio=2.5, hidden_size=384, num_heads=3)

READ = {
    "dev": (flux_shapes(DEV), DEV),
    "tiny": (flux_shapes(TINY), TINY),
    "schnell": (flux_shapes(SCHNELL), SCHNELL),
    "another mlp ratio": (flux_shapes(WIDE_MLP), WIDE_MLP),
    "norms named as ComfyUI's": (flux_shapes(DEV, norm="weight"), DEV),
    "all-in-one checkpoint": (inside_checkpoint(flux_shapes(DEV)), DEV),
    "fp8 with scales": (flux_shapes(DEV) | FP8, DEV),
    "4 bits everywhere": (packed(flux_shapes(DEV)), DEV),
    "4 bits everywhere, tiny": (packed(flux_shapes(TINY)), TINY),
    "4 bits in the blocks": (packed(flux_shapes(DEV), "blocks."), DEV),
    "nvfp4 in the text input": (packed(flux_shapes(DEV), "txt_in") | NVFP4, DEV),
}


@pytest.mark.parametrize(("shapes", "expected"), READ.values(), ids=READ)
def test_read_geometry(shapes, expected):
    assert read_geometry(shapes) == expected


FOREIGN = {  # file: its name in the message, and some of its tensors
    "SDXL": ("SDXL", "input_blocks.0.0.weight label_emb.0.0.weight middle_block.0.in_layers.0.weight"),
    "SDXL checkpoint": (
        "SDXL",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight "
        "first_stage_model.decoder.conv_in.weight model.diffusion_model.input_blocks.0.0.weight "
        "model.diffusion_model.label_emb.0.0.weight",
    ),
    "SDXL in diffusers layout": (
        "SDXL",
        "add_embedding.linear_1.weight conv_in.weight down_blocks.0.resnets.0.conv1.weight",
    ),
    "SD1.5 checkpoint": (
        "SD1.5",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight "
        "first_stage_model.encoder.conv_in.weight model.diffusion_model.input_blocks.0.0.weight "
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    ),
    "SD1.5 in diffusers layout": ("SD1.5", "conv_in.weight down_blocks.0.attentions.0.norm.weight"),
    "SD3": ("SD3", "context_embedder.weight joint_blocks.0.context_block.attn.qkv.weight"),
    "SD3 in diffusers layout": (
        "SD3",
        "context_embedder.weight pos_embed.proj.weight transformer_blocks.0.attn.add_q_proj.weight",
    ),
    "FLUX.2": (
        "FLUX.2",
        "double_blocks.0.img_attn.norm.key_norm.scale double_stream_modulation_img.lin.weight img_in.weight",
    ),
    "FLUX.2 in diffusers layout": (
        "FLUX.2",
        "double_stream_modulation_img.linear.weight single_transformer_blocks.0.attn.to_out.weight",
    ),
    "Chroma": (
        "Chroma",
        "distilled_guidance_layer.norms.0.scale double_blocks.0.img_attn.qkv.weight img_in.weight",
    ),
    "Ovis-Image": ("Ovis-Image", "double_blocks.0.img_mlp.gate_proj.weight img_in.weight txt_norm.weight"),
    "HunyuanVideo": (
        "HunyuanVideo",
        "double_blocks.0.img_attn.qkv.weight txt_in.individual_token_refiner.blocks.0.norm1.weight",
    ),
    "Wan": ("Wan", "blocks.0.self_attn.q.weight head.modulation patch_embedding.weight"),
    "Qwen-Image": (
        "Qwen-Image",
        "img_in.weight transformer_blocks.0.attn.add_q_proj.weight transformer_blocks.0.img_mod.1.weight",
    ),
    "FLUX.1 in diffusers layout": (
        "diffusers layout",
        "single_transformer_blocks.0.proj_mlp.weight transformer_blocks.0.attn.add_q_proj.weight x_embedder.weight",
    ),
    "Z-Image": ("Z-Image", "cap_embedder.1.weight noise_refiner.0.attention.k_norm.weight"),
    "LTX-Video": ("LTX-Video", "adaln_single.linear.weight patchify_proj.weight"),
    "PixArt": ("PixArt", "blocks.0.attn.qkv.weight t_block.1.weight y_embedder.y_embedding"),
    "AuraFlow": ("AuraFlow", "double_layers.0.attn.w1q.weight cond_seq_linear.weight"),
    "HiDream": ("HiDream", "double_stream_blocks.0.block.attn1.to_k.weight x_embedder.proj.weight"),
    "LoRA, kohya": ("a LoRA", "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"),
    "LoRA, diffusers": ("a LoRA", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
    "LoRA, BFL names": ("a LoRA", "double_blocks.0.img_attn.qkv.lora_A.weight"),
    "LoRA, XLabs": ("a LoRA", "double_blocks.0.processor.qkv_lora1.down.weight"),
    "LoKr": ("a LoRA", "diffusion_model.double_blocks.0.img_attn.proj.lokr_w1"),
    "LoHa": ("a LoRA", "lycoris_transformer_blocks_0_attn_to_v.hada_w1_a"),
    "ControlNet, FLUX": ("a ControlNet", "controlnet_blocks.0.weight double_blocks.0.img_attn.qkv.weight"),
    "ControlNet, SD1.5": ("a ControlNet", "control_model.input_blocks.0.0.weight"),
    "IP-Adapter": ("an IP-Adapter", "double_blocks.0.processor.k_proj.bias ip_adapter_proj_model.proj.bias"),
    "Redux": ("FLUX.1 Redux", "redux_down.weight redux_up.weight"),
    "SVDQuant": (
        "SVDQuant",
        "single_transformer_blocks.0.mlp_fc1.qweight single_transformer_blocks.0.mlp_fc1.lora_down",
    ),
    "bitsandbytes": (
        "bitsandbytes",
        "double_blocks.0.img_attn.qkv.weight double_blocks.0.img_attn.qkv.weight.absmax img_in.weight",
    ),
    "CLIP-L": (
        "a CLIP-L text",
        "text_model.encoder.layers.0.mlp.fc1.weight text_model.encoder.layers.11.mlp.fc1.weight",
    ),
    "CLIP-G": (
        "a CLIP-G text",
        "text_model.encoder.layers.0.mlp.fc1.weight text_model.encoder.layers.31.mlp.fc1.weight",
    ),
    "CLIP vision": ("a CLIP vision", "vision_model.encoder.layers.0.self_attn.q_proj.weight"),
    "T5-XXL": ("a T5 text", "encoder.block.0.layer.0.SelfAttention.q.weight shared.weight"),
    "Qwen, Llama, Gemma": (
        "a language model",
        "model.embed_tokens.weight model.layers.0.self_attn.q_proj.weight",
    ),
    "FLUX's autoencoder": ("an autoencoder", "decoder.conv_in.weight encoder.down.0.block.0.conv1.weight"),
    "autoencoder in diffusers layout": (
        "an autoencoder",
        "decoder.mid_block.attentions.0.to_q.weight encoder.down_blocks.0.resnets.0.conv1.weight",
    ),
}


@pytest.mark.parametrize(("name", "tensors"), FOREIGN.values(), ids=FOREIGN)
def test_another_model_is_refused_by_name(name, tensors):
    with pytest.raises(ValueError, match=f"looks like .*{name}.*flux1-kontext-dev"):
        read_geometry(dict.fromkeys(tensors.split(), (8, 8)))


def dev(**changes):
    """[dev]'s table with other shapes for some tensors; double underscores mean dots."""
    return flux_shapes(DEV) | {name.replace("__", "."): shape for name, shape in changes.items()}


def dev_without(part):
    return {name: shape for name, shape in flux_shapes(DEV).items() if part not in name}


NARROW_HEADS = {name: (64,) if "norm." in name else shape for name, shape in flux_shapes(TINY).items()}

REFUSED = {
    "Fill": (dev(img_in__weight=(3072, 384)), "looks like FLUX.1 Fill.*384 values, not 64"),
    "Canny, Depth": (dev(img_in__weight=(3072, 128)), "looks like FLUX.1 Canny or Depth"),
    "another variant": (dev(img_in__weight=(3072, 784)), "variant of FLUX.1.*784 values"),
    "first shard": (dev_without("final_layer"), "a part of .* final_layer.linear.weight is missing"),
    "second shard": (dev_without("img_in"), "a part of .* img_in.weight is missing"),
    "a block missing": (dev_without("double_blocks.7."), "a part of .* double_blocks.7.*weight is missing"),
    "a layer missing": (dev_without(".3.linear2"), "a part of .* single_blocks.3.linear2.weight is missing"),
    "no blocks": (dev_without("_blocks."), "no model known by its tensor names"),
    "a vector for a matrix": (dev(txt_in__weight=(3072,)), r"txt_in.weight has the shape \[3072\]"),
    "contradiction": (
        dev(double_blocks__5__txt_attn__qkv__weight=(9000, 3072)),
        "double_blocks.5.txt_attn.qkv.weight has 9000 rows, but 9216 are needed",
    ),
    "narrow heads": (NARROW_HEADS, "attention heads are 64 wide"),
    "no rows": (dev(img_in__weight=(0, 64)), "img_in.weight is empty"),
    "unknown": ({"layer.weight": (8, 8)}, r"no model known by its tensor names \(layer.weight\)"),
    "empty": ({}, "none at all"),
}


@pytest.mark.parametrize(("shapes", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_whole_kontext_is_refused(shapes, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_geometry(shapes)
