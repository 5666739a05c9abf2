"""Every layout of a LoRA file is read completely, and other files are refused by name."""

import json

import pytest
import torch

import lora_files
from kontext_core.adapters import describe, read_adapters
from kontext_core.geometry import Geometry, layers
from lora_files import LAYOUTS

FULL = Geometry()
SMALL = Geometry(hidden_size=128, num_heads=1, depth=2, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)

each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@each_layout
def test_every_key_is_matched_at_the_full_size(layout):
    tensors = lora_files.outline(layout, FULL)
    reading = read_adapters(tensors, FULL)
    assert sorted(reading.matched) == sorted(tensors)
    assert reading.layout == LAYOUTS[layout].label
    assert LAYOUTS[layout].example in tensors


LOW_RANK = [name for name, layout in LAYOUTS.items() if layout.kind not in (lora_files.LOHA, lora_files.LOKR)]


@pytest.mark.parametrize("alpha", [False, True], ids=["no alpha", "alpha"])
@pytest.mark.parametrize("layout", LOW_RANK)
def test_what_is_read_is_what_was_written(layout, alpha):
    file = lora_files.make(layout, SMALL, alpha=alpha)
    for adapter, change in zip(read_adapters(file.tensors, SMALL).adapters, file.changes, strict=True):
        up, down = adapter.tensors["up"], adapter.tensors["down"]
        delta = up @ down * (adapter.alpha / adapter.rank if alpha else 1.0)
        delta = torch.cat(delta.chunk(2)[::-1]) if adapter.place.swapped else delta
        assert (adapter.place.layer, adapter.place.first) == (change.layer, change.first)
        torch.testing.assert_close(delta, change.delta, atol=1e-6, rtol=0)


def test_the_parts_of_a_fused_layer_cover_it_without_overlap():
    for layout in LAYOUTS:
        covered = {}
        for adapter in read_adapters(lora_files.outline(layout, SMALL), SMALL).adapters:
            rows = covered.setdefault(adapter.place.layer, [])
            rows.append((adapter.place.first, adapter.place.first + adapter.place.rows))
        sizes = {layer: rows for layer, rows, _ in layers(SMALL)}
        for layer, ranges in covered.items():
            ranges.sort()
            assert all(end == start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))
            if LAYOUTS[layout].layers is not lora_files.uso:
                assert (ranges[0][0], ranges[-1][1]) == (0, sizes[layer])


@each_layout
def test_text_encoder_keys_beside_the_models_are_told_and_change_nothing(layout):
    tensors, others = lora_files.outline(layout, SMALL), lora_files.text_encoder_keys()
    reading = read_adapters(tensors | others, SMALL)
    assert sorted(reading.matched) == sorted(tensors)
    assert list(reading.unmatched.values()) == [list(others)]
    assert "text encoder" in next(iter(reading.unmatched))


def test_the_report_says_what_was_matched_and_what_was_not():
    file = lora_files.make("kohya", SMALL)
    extra = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
        "lora_unet_img_in_.alpha": torch.tensor(1.0),
    }
    del file.tensors["lora_unet_img_in.lora_down.weight"], file.tensors["lora_unet_img_in.lora_up.weight"]
    del file.tensors["lora_unet_img_in.alpha"]
    report = describe(read_adapters(file.tensors | extra, SMALL), 0.5)
    keys = len(file.tensors)
    assert report.splitlines() == [
        "kohya",
        f"{keys} of {keys + 2} keys matched, on {keys // 3} layers",
        "LoRA, rank 4 to 64, alpha 2 to 32, strength 0.5",
        "ignored in the names: trailing _",
        "not matched, 1: of a text encoder; this node changes only the model "
        "(lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha)",
        "not matched, 1: an alpha without matrices has no effect (lora_unet_img_in_.alpha)",
    ]


LAYER = "diffusion_model.double_blocks.0.img_attn.proj"


def halves(rows=128, columns=128, rank=4):
    return {
        f"{LAYER}.lora_A.weight": torch.ones(rank, columns),
        f"{LAYER}.lora_B.weight": torch.ones(rows, rank),
    }


SETTINGS = {  # metadata as diffusers writes it, and the alpha that it means at rank 4
    "none": ({}, None),
    "lora_alpha": ({"transformer.r": 4, "transformer.lora_alpha": 8}, 8),
    "alpha_pattern": (
        {"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"double_blocks.0.img_attn.proj": 2}},
        2,
    ),
    "rslora": ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 16),
}


@pytest.mark.parametrize(("settings", "alpha"), SETTINGS.values(), ids=SETTINGS)
def test_alpha_in_the_metadata(settings, alpha):
    reading = read_adapters(halves(), SMALL, {"lora_adapter_metadata": json.dumps(settings)})
    assert reading.adapters[0].alpha == alpha


def test_an_alpha_key_wins_over_the_metadata():
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}
    reading = read_adapters(halves() | {f"{LAYER}.alpha": torch.tensor([2])}, SMALL, metadata)
    assert reading.adapters[0].alpha == 2


def test_a_file_of_its_own_settings_does_not_read_those_beside_it():
    inside, beside = ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})}, '{"lora_alpha": 2}')
    assert read_adapters(halves(), SMALL, inside, beside).adapters[0].alpha == 8
    assert read_adapters(halves(), SMALL, {"ss_network_alpha": "4"}, beside).adapters[0].alpha == 2


FREE_TEXTS = ["", "None", "see notes", "dynamic"]


@pytest.mark.parametrize("text", FREE_TEXTS)
def test_metadata_that_are_no_number_tell_no_alpha(text):
    assert read_adapters(halves(), SMALL, {"alpha": text}).adapters[0].alpha is None


OTHER_KINDS = {  # parameters of a 128x128 layer, kind, rank
    "LoHa": (
        {
            name: torch.ones(128, 8) if name.endswith("a") else torch.ones(8, 128)
            for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        },
        "LoHa",
        8,
    ),
    "LoKr, both whole": ({"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(32, 32)}, "LoKr", None),
    "LoKr, second of low rank": (
        {"lokr_w1": torch.ones(4, 4), "lokr_w2_a": torch.ones(32, 2), "lokr_w2_b": torch.ones(2, 32)},
        "LoKr",
        2,
    ),
    "LoKr, both of low rank": (
        {
            "lokr_w1_a": torch.ones(4, 2),
            "lokr_w1_b": torch.ones(2, 4),
            "lokr_w2_a": torch.ones(32, 2),
            "lokr_w2_b": torch.ones(2, 32),
        },
        "LoKr",
        2,
    ),
    "a full difference": ({"diff": torch.ones(128, 128)}, "full weight", None),
    "a bias": ({"diff_b": torch.ones(128)}, "bias", None),
    "a 1x1 convolution": (
        {"lora_down.weight": torch.ones(4, 128, 1, 1), "lora_up.weight": torch.ones(128, 4, 1, 1)},
        "LoRA",
        4,
    ),
}


@pytest.mark.parametrize(("parameters", "kind", "rank"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_other_kinds_of_change(parameters, kind, rank):
    tensors = {f"{LAYER}.{name}": tensor for name, tensor in parameters.items()}
    (adapter,) = read_adapters(tensors, SMALL).adapters
    assert (adapter.kind, adapter.rank, adapter.place.layer) == (kind, rank, LAYER.split(".", 1)[1])


@pytest.mark.parametrize("shape", [(128,), (128, 1), (1, 128)], ids=str)
def test_dora_scales_become_a_column_or_a_row(shape):
    name = "lora_magnitude_vector" if len(shape) == 1 else "dora_scale"
    (adapter,) = read_adapters(halves() | {f"{LAYER}.{name}": torch.ones(shape)}, SMALL).adapters
    assert adapter.dora_scale.shape == ((1, 128) if shape == (1, 128) else (128, 1))


def test_a_bias_of_the_up_matrix_is_scaled_like_it():
    extra = {f"{LAYER}.lora_B.bias": torch.ones(128), f"{LAYER}.alpha": torch.tensor(2.0)}
    bias = read_adapters(halves() | extra, SMALL).adapters[1]
    torch.testing.assert_close(bias.tensors["diff_b"], torch.full((128,), 0.5))


def keys(text, shape=(4, 128)):
    return {key: torch.zeros(shape) for key in text.split()}


CONTROL = {
    "img_in.lora_A.weight": torch.zeros(4, 128),
    "img_in.lora_B.weight": torch.zeros(128, 4),
    "single_blocks.0.norm.key_norm.scale": torch.zeros(128),
}
FOREIGN = {  # file: its tensors, and its name in the message
    "SDXL, kohya": (
        keys("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_down.weight"),
        "SDXL",
    ),
    "SDXL, diffusers": (
        keys("unet.down_blocks.2.attentions.0.transformer_blocks.9.attn1.to_k.lora_A.weight"),
        "SDXL",
    ),
    "SD1.5, kohya": (
        keys("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k.lora_down.weight"),
        "SD1.5",
    ),
    "SD1.5, diffusers": (
        keys("unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora.down.weight"),
        "SD1.5",
    ),
    "SD3": (keys("diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight"), "SD3"),
    "FLUX.2, BFL names": (keys("diffusion_model.double_stream_modulation_img.lin.lora_A.weight"), "FLUX.2"),
    "FLUX.2, diffusers": (
        keys("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight"),
        "FLUX.2",
    ),
    "FLUX.2, told by its width alone": (
        {
            "double_blocks.0.img_attn.proj.lora_A.weight": torch.zeros(4, 6144),
            "double_blocks.0.img_attn.proj.lora_B.weight": torch.zeros(6144, 4),
        },
        r"FLUX.2 \[dev\]",
    ),
    "Wan, kohya": (keys("lora_unet_blocks_0_cross_attn_k.lora_down.weight"), "Wan"),
    "Wan": (keys("diffusion_model.blocks.0.self_attn.q.lora_A.weight"), "Wan"),
    "HunyuanVideo": (keys("lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight"), "HunyuanVideo"),
    "Qwen-Image": (keys("transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight"), "Qwen-Image"),
    "Qwen-Image, told by its depth alone": (
        keys("transformer.transformer_blocks.59.attn.to_q.lora_A.weight"),
        "more blocks, such as Qwen-Image",
    ),
    "Chroma": (keys("lora_unet_distilled_guidance_layer_in_proj.lora_down.weight"), "Chroma"),
    "Z-Image": (keys("diffusion_model.layers.0.attention.qkv.lora_A.weight"), "Z-Image"),
    "an IP-Adapter": (keys("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight"), "IP-Adapter"),
    "control LoRA": (CONTROL, "BFL control LoRA.* 128 values"),
    "control LoRA, diffusers names": (
        {
            "transformer.x_embedder.lora_A.weight": torch.zeros(4, 128),
            "transformer.x_embedder.lora_B.weight": torch.zeros(128, 4),
        },
        "Canny or Depth, which read a control picture",
    ),
    "Fill": (
        {"img_in.lora_A.weight": torch.zeros(4, 384), "img_in.lora_B.weight": torch.zeros(128, 4)},
        "FLUX.1 Fill",
    ),
    "OFT": (keys("lora_unet_double_blocks_0_img_attn_qkv.oft_blocks", (4, 32, 32)), "oft_blocks .*Load LoRA"),
    "OneTrainer, OFT": (keys("transformer.img_in.proj.oft_R.weight", (4, 496)), "oft_R"),
    "IA3": (
        keys("lycoris_transformer_blocks_0_attn_to_q.weight lycoris_transformer_blocks_0_attn_to_q.on_input"),
        "on_",
    ),
    "Nunchaku": (keys("transformer_blocks.0.qkv_proj.lora_down transformer_blocks.0.qkv_proj.lora_up"), "Nunchaku"),
    "Tucker": (
        keys("lora_unet_img_in.lora_down.weight lora_unet_img_in.lora_up.weight lora_unet_img_in.lora_mid.weight"),
        "lora_mid",
    ),
    "a whole FLUX.1": (keys("double_blocks.0.img_attn.qkv.weight"), "a whole model"),
    "text encoders alone": (
        keys("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", ()),
        "only text encoders",
    ),
    "empty": ({}, "the file is empty"),
    "unknown": (keys("layer.lora_A.weight layer.lora_B.weight"), "no key fits a layer of FLUX.1"),
}


@pytest.mark.parametrize(("tensors", "name"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_for_something_else_is_refused_by_name(tensors, name):
    with pytest.raises(ValueError, match=f"{name}.*FLUX.1 Kontext"):
        read_adapters(tensors, SMALL)


def without(part):
    return {key: tensor for key, tensor in halves().items() if part not in key}


DAMAGED = {
    "no up": (without("lora_B"), "incomplete: it has only down"),
    "no down": (without("lora_A"), "incomplete: it has only up"),
    "half a LoKr": ({f"{LAYER}.lokr_w1": torch.ones(4, 4)}, "incomplete: it has only lokr_w1"),
    "ranks differ": (halves() | {f"{LAYER}.lora_A.weight": torch.ones(8, 128)}, "different ranks"),
    "too narrow": (halves(columns=96), r"changes a weight of \[128, 96\], but this model's has \[128, 128\]"),
    "too low": (halves(rows=96), r"changes a weight of \[96, 128\]"),
    "rank 0": (halves(rank=0), "different ranks"),
    "a vector": (halves() | {f"{LAYER}.lora_A.weight": torch.ones(128)}, "matrices are needed"),
    "integers": (halves() | {f"{LAYER}.lora_A.weight": torch.ones(4, 128, dtype=torch.int8)}, "not weights"),
    "NaN": (halves() | {f"{LAYER}.lora_A.weight": torch.full((4, 128), float("nan"))}, "not finite"),
    "infinite alpha": (halves() | {f"{LAYER}.alpha": torch.tensor(float("inf"))}, "not finite"),
    "many alphas": (halves() | {f"{LAYER}.alpha": torch.ones(3)}, "alpha has 3 values"),
    "a parameter twice": (halves() | {f"{LAYER}.lora_down.weight": torch.ones(4, 128)}, "same parameter"),
    "a layer twice": (
        halves() | {f"transformer.{key.split('.', 1)[1]}": tensor for key, tensor in halves().items()},
        "the same layer",
    ),
    "DoRA of a whole difference": (
        {f"{LAYER}.diff": torch.ones(128, 128), f"{LAYER}.dora_scale": torch.ones(128, 1)},
        "DoRA magnitude, but not exactly one low-rank change",
    ),
    "DoRA of two changes": (
        halves() | {f"{LAYER}.diff": torch.ones(128, 128), f"{LAYER}.dora_scale": torch.ones(128, 1)},
        "DoRA magnitude, but not exactly one low-rank change",
    ),
    "an endless alpha of a LoKr of low rank": (
        {
            f"{LAYER}.{name}": torch.ones(shape)
            for name, shape in {"lokr_w1": (4, 4), "lokr_w2_a": (32, 2), "lokr_w2_b": (2, 32)}.items()
        }
        | {f"{LAYER}.alpha": torch.tensor(9999999999.0).half()},
        "not finite",
    ),
    "alphas alone": ({f"{LAYER}.alpha": torch.tensor(1.0)}, "alphas without matrices"),
    "a whole matrix with an alpha": (
        {f"{LAYER}.lora_A.weight": torch.ones(128, 128), f"{LAYER}.alpha": torch.tensor(1.0)},
        "incomplete",
    ),
    "DoRA of another size": (halves() | {f"{LAYER}.dora_scale": torch.ones(96, 1)}, "dora_scale"),
}


@pytest.mark.parametrize(("tensors", "complaint"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tensors, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_adapters(tensors, SMALL)


IN_PART = {  # a key in addition to a complete LoRA, and why it is not read
    "another layer": ("lora_unet_double_blocks_0_camera.lora_up.weight", "names no layer"),
    "another parameter": (f"{LAYER}.magic", "no known kind of parameter"),
    "a weight": ("diffusion_model.img_in.weight", "no known kind of parameter"),
    "IA3": ("diffusion_model.img_in.on_input", "on_input .*is not read here"),
    "fused in another way": ("transformer_blocks.0.attn.to_kv.lora_A.weight", "names no layer"),
    "a bias of the first matrix": (f"{LAYER}.lora_A.bias", "no known kind of parameter"),
}


@pytest.mark.parametrize(("key", "reason"), IN_PART.values(), ids=IN_PART)
def test_nothing_is_applied_in_part(key, reason):
    with pytest.raises(ValueError, match=reason):
        read_adapters(halves() | {key: torch.ones(128)}, SMALL)


BAD_SETTINGS = {
    "no JSON": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "a word": '{"lora_alpha": "eight"}',
    "no number": '{"lora_alpha": NaN}',
    "too large": f'{{"lora_alpha": 1{"0" * 400}}}',
    "a pattern of lists": '{"alpha_pattern": {"a": []}}',
    "no regular expression": '{"alpha_pattern": {"to_(q": 1}}',
    "an endless rank": '{"r": Infinity}',
    "slow: repeats in repeats": '{"alpha_pattern": {"(a+)+b": 1}}',
    "slow: many repeats": '{"rank_pattern": {".*.*.*.*b": 1}}',
    "slow: long": json.dumps({"alpha_pattern": {"a" * 300: 1}}),
    "slow: many": json.dumps({"alpha_pattern": {f"layer{number}": 1 for number in range(3000)}}),
}


@pytest.mark.parametrize("text", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_unreadable_settings_are_refused(text):
    with pytest.raises(ValueError, match="lora_adapter_metadata cannot be read"):
        read_adapters(halves(), SMALL, {"lora_adapter_metadata": text})
    with pytest.raises(ValueError, match="adapter_config.json cannot be read"):
        read_adapters(halves(), SMALL, {}, text)


REFUSED_SETTINGS = {  # metadata, adapter_config.json, and the message
    "another file's rank": ({}, '{"r": 8, "lora_alpha": 8}', "rank 8 for .*, which has rank 4. It belongs to another"),
    "another file's ranks": ({}, '{"r": 4, "rank_pattern": {"img_attn.proj": 2}}', "rank 2 .*, which has rank 4"),
    "a changed base": ({}, '{"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa_niter_4"}', "trained from pissa"),
    "two alphas": ({"lora_alpha": "8", "ss_network_alpha": "4"}, None, "contradict themselves: lora_alpha 8, ss_"),
    "an endless alpha": ({"network_alpha": "inf"}, None, "an alpha of inf"),
}


@pytest.mark.parametrize(("metadata", "config", "said"), REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS)
def test_settings_that_cannot_be_meant_are_refused(metadata, config, said):
    with pytest.raises(ValueError, match=said):
        read_adapters(halves(), SMALL, metadata, config)


def test_a_million_keys_are_refused_at_once():
    tensors = dict.fromkeys((f"key{number}" for number in range(100_000)), torch.zeros(1))
    with pytest.raises(ValueError, match="100,000 tensors"):
        read_adapters(tensors, SMALL)
