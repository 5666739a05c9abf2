"""LoRA files on a real MODEL: the resulting weights of the host, for every layout."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import comfy.lora
import comfy.lora_convert
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from safetensors.torch import save_file

import lora_files
from batch.events import ExecutionFailed
from kontext_core.adapters import read_adapters
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer
from lora_files import LAYOUTS
from trainer_files import TRAINED, trained

ROOT = Path(__file__).parents[2]
SMALL = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=128, vec_in_dim=128)
STRENGTH = 0.75


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: w.shape for name, w in KontextTransformer(SMALL).state_dict().items()}
    return {name: torch.randn(shape) / 8 for name, shape in shapes.items()}


@pytest.fixture
def model(weights):
    """The host's MODEL of these weights."""
    return comfy.sd.load_diffusion_model_state_dict(dict(weights))


@pytest.fixture
def apply(pack, model_folder):
    """`apply(model, tensors, strength=1.0, metadata=None, config=None)`: the node's MODEL and report.

    The file is in a folder of its own, with PEFT's settings if there is a `config`.
    """
    folder = model_folder("loras") / "made"

    def run(model, tensors, strength=1.0, metadata=None, config=None):
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata)
        if config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        return pack["KontextLora"].execute(model, "made/adapter_model.safetensors", strength).result

    yield run
    shutil.rmtree(folder, ignore_errors=True)

    return run


def patched(model):
    """Every weight of a MODEL with its changes, under BFL's names."""
    prefix = "diffusion_model."
    keys = [key for key in model.model.state_dict() if key.startswith(prefix)]
    return {key.removeprefix(prefix): model.patch_weight_to_device(key, return_weight=True) for key in keys}


def expected(weights, changes, strength):
    out = {name: weight.clone() for name, weight in weights.items()}
    for change in changes:
        rows = out[f"{change.layer}.weight"][change.first : change.first + len(change.delta)]
        rows.copy_(change.applied(rows, strength))
    return out


def assert_equal(found, wanted, atol=1e-5):
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("alpha", [False, True], ids=["no alpha", "alpha"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_becomes_what_the_file_says(apply, model, weights, layout, alpha):
    file = lora_files.make(layout, SMALL, alpha=alpha)
    changed, report = apply(model, file.tensors, STRENGTH)
    assert_equal(patched(changed), expected(weights, file.changes, STRENGTH))
    assert f"{len(file.tensors)} of {len(file.tensors)} keys matched" in report
    assert_equal(patched(model), weights, atol=0)


@pytest.mark.parametrize("rank", [4, 8, 16, 32, 64])
def test_one_rank(apply, model, weights, rank):
    file = lora_files.make("kohya", SMALL, ranks=[rank])
    changed, report = apply(model, file.tensors)
    assert_equal(patched(changed), expected(weights, file.changes, 1.0))
    assert f"rank {rank}, alpha {rank / 2:g}, strength 1" in report


def test_several_stack_and_their_order_does_not_matter(apply, model, weights):
    a, b = (lora_files.make(layout, SMALL, seed=n) for n, layout in enumerate(("kohya", "PEFT save_pretrained")))
    one = apply(apply(model, a.tensors, 0.5)[0], b.tensors, -1.5)[0]
    other = apply(apply(model, b.tensors, -1.5)[0], a.tensors, 0.5)[0]
    wanted = expected(expected(weights, a.changes, 0.5), b.changes, -1.5)
    assert_equal(patched(one), wanted)
    assert_equal(patched(other), wanted)


def test_strength_0_is_the_model_itself(apply, model):
    assert apply(model, lora_files.make("kohya", SMALL).tensors, 0.0)[0] is model


def test_lokr_and_loha(apply, model, weights):
    """The difference is a Kronecker product of factors, or a product of two low-rank matrices, number by
    number."""
    torch.manual_seed(1)
    random = {name: torch.randn(shape) / 4 for name, shape in {
        "lokr_w1": (4, 4), "lokr_w2_a": (96, 2), "lokr_w2_b": (2, 32),
        "hada_w1_a": (128, 4), "hada_w1_b": (4, 128), "hada_w2_a": (128, 4), "hada_w2_b": (4, 128),
    }.items()}  # fmt: skip
    qkv, proj = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.proj"
    tensors = {f"diffusion_model.{qkv if 'lokr' in name else proj}.{name}": w for name, w in random.items()}
    tensors |= {f"diffusion_model.{layer}.alpha": torch.tensor(1.0) for layer in (qkv, proj)}
    kron = torch.kron(random["lokr_w1"], random["lokr_w2_a"] @ random["lokr_w2_b"]) / 2
    hada = (random["hada_w1_a"] @ random["hada_w1_b"]) * (random["hada_w2_a"] @ random["hada_w2_b"]) / 4
    changes = [lora_files.Change(qkv, 0, kron), lora_files.Change(proj, 0, hada)]
    changed, report = apply(model, tensors)
    assert_equal(patched(changed), expected(weights, changes, 1.0))
    assert "LoHa (1), LoKr (1), rank 2 to 4, alpha 1" in report


def test_lycoris_of_the_swapped_layer(apply, model, weights):
    """norm_out's halves are swapped for any kind of change: 2 x 128 rows cannot be split into factors of 3."""
    torch.manual_seed(1)
    w1, w2 = torch.randn(1, 2), torch.randn(256, 64)
    tensors = {"lycoris_norm_out_linear.lokr_w1": w1, "lycoris_norm_out_linear.lokr_w2": w2}
    delta = torch.cat(torch.kron(w1, w2).chunk(2)[::-1])
    change = lora_files.Change("final_layer.adaLN_modulation.1", 0, delta)
    assert_equal(patched(apply(model, tensors)[0]), expected(weights, [change], 1.0))


def test_biases_norms_and_whole_differences(apply, model, weights):
    torch.manual_seed(1)
    diff, bias, norm = torch.randn(128, 128), torch.randn(64), torch.randn(128)
    tensors = {
        "diffusion_model.double_blocks.0.img_attn.proj.diff": diff,
        "transformer.proj_out.diff_b": bias,
        "transformer.transformer_blocks.0.attn.norm_added_k.diff": norm,
    }
    found = patched(apply(model, tensors, 0.5)[0])
    for name, change in {
        "double_blocks.0.img_attn.proj.weight": diff,
        "final_layer.linear.bias": bias,
        "double_blocks.0.txt_attn.norm.key_norm.weight": norm,
    }.items():
        torch.testing.assert_close(found[name], weights[name] + 0.5 * change, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("shape", [(128, 1), (1, 128)], ids=["rows", "columns"])
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_a_dora_of_any_kind_has_the_lengths_in_the_file(apply, model, weights, kind, shape, strength):
    """The trainers' definition: the norms are those of the changed weight. The change here exceeds any in practice."""
    generator = torch.Generator().manual_seed(1)
    made = {"LoRA": lora_files.KOHYA[0], "LoHa": lora_files.LOHA, "LoKr": lora_files.LOKR}[kind]
    found = {name: torch.randn(shape, generator=generator) / 2 for name, shape in made.shapes(128, 128, 4).items()}
    layer, lengths = "double_blocks.0.img_attn.proj", 1 + torch.rand(shape, generator=generator)
    tensors = {f"diffusion_model.{layer}.{name}": tensor for name, tensor in (found | {"dora_scale": lengths}).items()}
    change = lora_files.Change(layer, 0, made.product(found), lengths)
    assert_equal(patched(apply(model, tensors, strength)[0]), expected(weights, [change], strength))


def test_a_dora_on_parts_is_one_on_each_part(apply, model, weights):
    """DoRA on to_k only: its rows of qkv get the file's norms, the other rows stay."""
    torch.manual_seed(1)
    prefix, qkv = "lora_transformer_transformer_blocks_0_attn_to_k", "double_blocks.0.img_attn.qkv.weight"
    rows = slice(128, 256)
    lengths = weights[qkv][rows].norm(dim=1, keepdim=True)
    tensors = {
        f"{prefix}.lora_down.weight": torch.zeros(4, 128),
        f"{prefix}.lora_up.weight": torch.zeros(128, 4),
        f"{prefix}.dora_scale": 2 * lengths,
    }
    changed, report = apply(model, tensors)
    wanted = weights[qkv].clone()
    wanted[rows] *= 2
    torch.testing.assert_close(patched(changed)[qkv], wanted, atol=1e-5, rtol=0)
    assert "DoRA" in report


@pytest.fixture(scope="module")
def host_reads():
    """`host_reads(tensors) -> int`: the number of a file's keys that ComfyUI's own LoRA loader uses on the full-size
    FLUX.1."""
    model = comfy.model_base.Flux.__new__(comfy.model_base.Flux)
    torch.nn.Module.__init__(model)
    full = Geometry()
    with torch.device("meta"):
        model.diffusion_model = KontextTransformer(full)
    config = {name: getattr(full, name) for name in ("depth", "depth_single_blocks", "hidden_size")}
    model.model_config = SimpleNamespace(unet_config=config)
    keys = comfy.lora.model_lora_keys_unet(model, {})

    def count(tensors):
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), keys, log_missing=False)
        return len(set().union(*(patch.loaded_keys for patch in patches.values())))

    return count


@pytest.fixture(scope="module")
def table(host_reads):
    """The keys that are really loaded for each layout, as on the help page."""
    lines = [
        "| Layout | Example | Keys in the file | Matched here | Matched by ComfyUI 0.30.0 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, layout in LAYOUTS.items():
        tensors = lora_files.outline(name, Geometry())
        ours, theirs = len(read_adapters(tensors, Geometry()).matched), host_reads(tensors)
        lines.append(f"| {name} | `{layout.example}` | {len(tensors)} | {ours} | {theirs} |")
    return "\n".join(lines)


def test_the_pages_show_what_really_loads(table, tmp_path):
    """Between these two marks, in the help page and in README; in the Korean README with other names."""
    start, end = "<!-- LoRA layouts -->\n", "\n<!-- end -->"
    (tmp_path / "table.md").write_text(table)

    def shown(page):
        return (ROOT / page).read_text(encoding="utf-8").partition(start)[2].partition(end)[0]

    for page in ("web/docs/KontextLora.md", "README.md"):
        assert shown(page) == table, f"copy {tmp_path / 'table.md'} between the marks in {page}"

    def columns(text):
        return [line.split("|")[2:] for line in text.splitlines()[1:]]

    assert columns(shown("README.ko.md")) == columns(table)


READ_BY_THE_HOST = [
    "kohya",
    "diffusers, PEFT, ai-toolkit",
    "PEFT with the adapter's name",
    "diffusion_model. and BFL names",
    "LyCORIS",
    "OneTrainer",
    "bare diffusers names",
    "LoKr, BFL names",
    "LoKr, LyCORIS",
    "LoHa, kohya",
]


@pytest.mark.parametrize("layout", READ_BY_THE_HOST)
def test_where_the_host_reads_a_layout_too_the_result_is_its_own(apply, model, layout):
    tensors = lora_files.make(layout, SMALL).tensors
    ours = patched(apply(model, tensors)[0])
    theirs = patched(comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)[0])
    assert_equal(ours, theirs, atol=1e-6)


def test_offloaded_weights_give_the_same_numbers(apply, weights):
    """The host applies the change while it moves a weight to the device."""
    file = lora_files.make("fal's Kontext trainer", SMALL)
    results = []
    for budget in (0, 1):  # all resident; all cast on use
        model, _ = apply(comfy.sd.load_diffusion_model_state_dict(dict(weights)), file.tensors)
        model.patch_model(device_to=torch.device("cpu"), lowvram_model_memory=budget)
        x = torch.linspace(-1, 1, 16 * 64).reshape(1, 16, 8, 8)
        context, y = torch.ones(1, 3, 128), torch.ones(1, 128)
        with torch.no_grad():
            results.append(model.model.apply_model(x, torch.tensor([0.5]), c_crossattn=context, y=y))
        model.unpatch_model(device_to=torch.device("cpu"))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)


def test_scaled_fp8_weights_take_a_lora(apply, weights):
    """Weights stored as numbers times a scale: the change is added to the product."""
    file = lora_files.make("bare BFL names", SMALL)
    quantised = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, weight in weights.items():
        if name.endswith("linear2.weight"):
            scale = weight.abs().max() / 448
            quantised |= {name: (weight / scale).to(torch.float8_e4m3fn)}
            quantised |= {f"{name.removesuffix('weight')}scale_weight": scale}
        else:
            quantised[name] = weight
    model = comfy.sd.load_diffusion_model_state_dict(quantised)
    model, _ = apply(model, file.tensors)
    model.patch_model(device_to=torch.device("cpu"))
    x = torch.linspace(-1, 1, 2 * 640).reshape(2, 640)
    layer = model.model.diffusion_model.single_blocks[0].linear2
    with torch.no_grad():
        found = layer(x.to(layer.bias.dtype)).float()
    wanted = expected(weights, file.changes, 1.0)
    exact = x @ wanted["single_blocks.0.linear2.weight"].T + wanted["single_blocks.0.linear2.bias"]
    assert (found - exact).norm() < 0.05 * exact.norm()  # fp8 has 3 mantissa bits


def test_another_model_is_refused(apply, pack):
    model = comfy.model_patcher.ModelPatcher(torch.nn.Module(), torch.device("cpu"), torch.device("cpu"))
    model.model.model_config = SimpleNamespace(unet_config={"image_model": "wan2.1"})
    with pytest.raises(ValueError, match="model is Module; a FLUX.1 model is needed"):
        apply(model, lora_files.make("kohya", SMALL).tensors)


def lora_graph(graph, **inputs):
    """Put KontextLora before the sampler."""
    sampler = graph["sampler"]["inputs"]
    inputs = {"model": sampler["model"], "lora": "graph.safetensors", "strength": 1.0, **inputs}
    graph["lora"] = {"class_type": "KontextLora", "inputs": inputs}
    sampler["model"] = ["lora", 0]
    return graph


@pytest.fixture
def lora_file(model_folder):
    """A fal-like LoRA on one layer of the embedded model."""
    torch.manual_seed(0)
    name = "base_model.model.double_blocks.0.img_attn.proj"
    tensors = {f"{name}.lora_A.weight": torch.randn(4, 256), f"{name}.lora_B.weight": torch.randn(256, 4)}
    save_file(tensors, model_folder("loras") / "graph.safetensors")
    return tensors


def test_in_a_graph_it_changes_the_picture_and_shows_its_report(edit_graph, run_graph, lora_file):
    plain = run_graph(edit_graph()).values["sampler"][0]["samples"]
    run = run_graph(lora_graph(edit_graph()))
    changed = run.values["sampler"][0]["samples"]
    report = run.values["lora"][1]
    assert (changed - plain).abs().max() > 1e-3
    assert run.shown["lora"]["text"] == [report]
    assert report.startswith("graph.safetensors: PEFT with BFL names (fal)\n2 of 2 keys matched, on 1 layers")


def test_a_bad_file_is_named_on_the_node(edit_graph, run_graph, model_folder):
    tensors = {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k.lora_down.weight": torch.zeros(4, 8)}
    save_file(tensors, model_folder("loras") / "graph.safetensors")
    with pytest.raises(ExecutionFailed, match="lora: graph.safetensors: this looks like a file for SDXL") as failure:
        run_graph(lora_graph(edit_graph()))
    assert failure.value.node_type == "KontextLora"


def test_alpha_of_the_metadata_is_applied(apply, model, weights, lora_file):
    name = "double_blocks.0.img_attn.proj"
    torch.manual_seed(1)
    up, down = torch.randn(128, 4), torch.randn(4, 128)
    tensors = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    changed, _ = apply(model, tensors, metadata=metadata)
    change = lora_files.Change(name, 0, up @ down / 2)
    assert_equal(patched(changed), expected(weights, [change], 1.0))


@pytest.mark.parametrize("name", TRAINED)
def test_files_as_trainers_write_them(apply, model, weights, name):
    file = trained(name)
    changed, report = apply(model, file.tensors, STRENGTH, file.metadata, file.config)
    assert_equal(patched(changed), expected(weights, file.changes, STRENGTH))
    assert file.said in report
    assert "not matched" not in report


def test_settings_beside_several_files_are_not_read_and_the_report_says_so(apply, model, weights, pack, model_folder):
    """If it is unclear which file the settings belong to, only a file with PEFT's own name uses them."""
    file, folder = trained("PEFT, save_pretrained"), model_folder("loras") / "made"
    apply(model, file.tensors, config=file.config)
    for name in ("style", "other"):
        shutil.copy(folder / "adapter_model.safetensors", folder / f"{name}.safetensors")
    changed, report = pack["KontextLora"].execute(model, "made/style.safetensors", 1.0).result
    half = [change._replace(delta=change.delta / 2) for change in file.changes]
    assert_equal(patched(changed), expected(weights, half, 1.0))
    assert "adapter_config.json beside it is not read: it may belong to" in report
    changed, report = pack["KontextLora"].execute(model, "made/adapter_model.safetensors", 1.0).result
    assert_equal(patched(changed), expected(weights, file.changes, 1.0))


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "DoRA", "bias of the second matrix", "norm_out"])
def test_files_of_every_precision(apply, model, weights, kind, dtype):
    """The numbers are those of the rounded matrices."""
    generator = torch.Generator().manual_seed(1)
    layer = "final_layer.adaLN_modulation.1" if kind == "norm_out" else "double_blocks.0.img_attn.proj"
    made = {"LoHa": lora_files.LOHA, "LoKr": lora_files.LOKR}.get(kind, lora_files.KOHYA[0])
    rows = 256 if kind == "norm_out" else 128
    found = {name: torch.randn(shape, generator=generator) / 2 for name, shape in made.shapes(rows, 128, 4).items()}
    found |= {"dora_scale": 1 + torch.rand(128, 1, generator=generator)} if kind == "DoRA" else {}
    found |= {"lora_up.bias": torch.rand(128, generator=generator)} if kind.startswith("bias") else {}
    found = {name: tensor.to(dtype) for name, tensor in found.items()}
    prefix = "transformer.norm_out.linear" if kind == "norm_out" else f"diffusion_model.{layer}"
    changed = patched(apply(model, {f"{prefix}.{name}": tensor for name, tensor in found.items()})[0])
    exact = {name: tensor.float() for name, tensor in found.items()}
    delta = made.product(exact)
    delta = torch.cat(delta.chunk(2)[::-1]) if kind == "norm_out" else delta
    change = lora_files.Change(layer, 0, delta, exact.get("dora_scale"))
    wanted = expected(weights, [change], 1.0)
    if "lora_up.bias" in exact:
        wanted[f"{layer}.bias"] = weights[f"{layer}.bias"] + exact["lora_up.bias"]
    assert_equal(changed, wanted)
