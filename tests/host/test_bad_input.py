"""User errors: each gives a clear error on the node, or works; and ComfyUI continues."""

import json
import math

import comfy.taesd.taesd
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from batch import graphs, inprocess
from batch.events import ExecutionFailed, PromptRefused
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer

CLIP_L = {"text_model.encoder.layers.0.mlp.fc1.weight": (3072, 768)}
CLIP_G = {f"text_model.encoder.layers.{layer}.mlp.fc1.weight": (5120, 1280) for layer in range(32)}
T5_XXL = {
    "shared.weight": (32128, 4096),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 4096),
}
SDXL = {"model.diffusion_model.label_emb.0.0.weight": (1280, 2816)}
SD15 = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
AUTOENCODER = {"decoder.conv_in.weight": (512, 16, 3, 3)}
AUTOENCODER_SD = {"decoder.conv_in.weight": (512, 4, 3, 3), "post_quant_conv.weight": (4, 4, 1, 1)}


def transformer(**sizes):
    with torch.device("meta"):
        return {name: tuple(w.shape) for name, w in KontextTransformer(Geometry(**sizes)).state_dict().items()}


KONTEXT = transformer()
EMBEDDED = transformer(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=64, vec_in_dim=64)


def write(path, shapes, size=1.0, lie=0):
    """A sparse safetensors file without contents; `size` < 1 truncates it, `lie` adds bytes to a tensor's entry."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end + lie]}
        offset = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(int((8 + len(text) + offset) * size))


def garbage(path):
    path.write_bytes((12).to_bytes(8, "little") + b"no json here")


def foreign(path):
    path.write_bytes(b"PK\x03\x04 a pickle, renamed")


GOOD = {"diffusion_model": KONTEXT, "clip_l": CLIP_L, "t5xxl": T5_XXL, "vae": AUTOENCODER}
FOLDERS = {
    "diffusion_model": "diffusion_models",
    "clip_l": "text_encoders",
    "t5xxl": "text_encoders",
    "vae": "vae",
}
WRONG_FILES = {  # input, content of the file, message
    "truncated": ("diffusion_model", lambda path: write(path, KONTEXT, size=0.7), "cut short"),
    "header lies": ("diffusion_model", lambda path: write(path, KONTEXT, lie=64), "the header is wrong"),
    "header is garbage": ("diffusion_model", garbage, "no safetensors file"),
    "no safetensors": ("diffusion_model", foreign, "pickle format under another name"),
    "header of another form": (
        "diffusion_model",
        lambda path: path.write_bytes((8).to_bytes(8, "little") + b'{"a": 1}'),
        "its header cannot be read",
    ),
    "empty file": ("diffusion_model", lambda path: path.write_bytes(b""), "no safetensors file"),
    "SDXL": ("diffusion_model", SDXL, "this looks like SDXL"),
    "SD1.5": ("diffusion_model", SD15, "this looks like SD1.5"),
    "text encoder as transformer": ("diffusion_model", T5_XXL, "this looks like a T5 text encoder"),
    "autoencoder as transformer": ("diffusion_model", AUTOENCODER, "this looks like an autoencoder"),
    "the embedded model": ("diffusion_model", EMBEDDED, "CLIP-L and T5-XXL give (4096, 768)"),
    "transformer as CLIP-L": ("clip_l", KONTEXT, "no text encoder; CLIP_L is needed"),
    "T5 as CLIP-L": ("clip_l", T5_XXL, "of the kind T5_XXL; CLIP_L is needed"),
    "CLIP-G as CLIP-L": ("clip_l", CLIP_G, "of the kind CLIP_G; CLIP_L is needed"),
    "CLIP-L as T5": ("t5xxl", CLIP_L, "of the kind CLIP_L; T5_XXL is needed"),
    "UMT5 as T5": ("t5xxl", T5_XXL | {"shared.weight": (256384, 4096)}, "256384 rows, not 32128"),
    "truncated T5": ("t5xxl", lambda path: write(path, T5_XXL, size=0.5), "cut short"),
    "transformer as autoencoder": ("vae", KONTEXT, "no picture autoencoder"),
    "autoencoder of SD1.5": ("vae", AUTOENCODER_SD, "4 latent channels; FLUX.1 needs one with 16"),
}


@pytest.mark.parametrize(("role", "content", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_named_before_anything_is_loaded(run_graph, model_folder, role, content, message):
    """The other three files are valid, so the message is about this one. Optional inputs may be missing."""
    inputs = {"source": "files", "source.weight_dtype": "default"}
    for name, shapes in GOOD.items():
        write(model_folder(FOLDERS[name]) / f"good_{name}.safetensors", shapes)
        inputs[f"source.{name}"] = f"good_{name}.safetensors"
    path = model_folder(FOLDERS[role]) / "wrong.safetensors"
    write(path, content) if isinstance(content, dict) else content(path)
    inputs[f"source.{role}"] = path.name

    with pytest.raises(ExecutionFailed) as failure:
        run_graph({"loader": {"class_type": "KontextLoader", "inputs": inputs}})

    path.unlink()
    assert (failure.value.node_type, failure.value.error_type) == ("KontextLoader", "ValueError")
    assert f"{role}: wrong.safetensors: " in failure.value.error
    assert message in failure.value.error


def picture(height, width, channels=3, fill=None):
    pixels = torch.rand(1, height, width, channels, generator=torch.Generator().manual_seed(0))
    return pixels if fill is None else pixels.fill_(fill)


AS_IS, KEEP = {"size": "as is"}, {"size": "keep ratio", "megapixels": 0.0625}
WRONG_PICTURES = {  # picture, size, message
    "8x8": (picture(8, 8), AS_IS, "image is 8x8 px; the smallest side must have 64 px"),
    "8x8, to be enlarged": (picture(8, 8), KEEP, "image is 8x8 px"),
    "20000x10": (picture(10, 20000), KEEP, "image is 20000x10 px"),
    "2000x80, too narrow when fitted": (picture(80, 2000), KEEP, "with size 'keep ratio' is 1280x48"),
    "NaN": (picture(64, 64, fill=float("nan")), AS_IS, "not finite"),
    "infinite": (picture(64, 64, fill=float("inf")), AS_IS, "not finite"),
    "two channels": (picture(64, 64, 2), AS_IS, "image has 2 channels"),
}


@pytest.fixture(scope="module")
def embedded(pack):
    """The embedded MODEL, CLIP and VAE."""
    with torch.inference_mode():
        return pack["KontextLoader"].execute({"source": "embedded"}).result


@pytest.mark.parametrize(("image", "size", "message"), WRONG_PICTURES.values(), ids=WRONG_PICTURES)
def test_a_wrong_picture_is_refused(pack, embedded, image, size, message):
    with pytest.raises(ValueError) as failure:
        pack["KontextReference"].execute(image, embedded[2], size, "pad")
    assert message in str(failure.value)


def encoded(pack, embedded, image):
    with torch.inference_mode():
        return pack["KontextReference"].execute(image, embedded[2], AS_IS, "pad").result[0]["samples"]


def test_a_grey_picture_is_read_as_grey(pack, embedded):
    grey = picture(64, 80, channels=1)
    rgb = encoded(pack, embedded, grey.repeat(1, 1, 1, 3))
    torch.testing.assert_close(encoded(pack, embedded, grey), rgb, atol=1e-5, rtol=0)


def test_alpha_is_left_out(pack, embedded):
    rgba = picture(64, 80, channels=4)
    rgb = encoded(pack, embedded, rgba[..., :3])
    torch.testing.assert_close(encoded(pack, embedded, rgba), rgb, atol=1e-5, rtol=0)


def test_a_small_picture_file_fails_on_the_reference_node(edit_graph, run_graph, input_picture):
    graph = edit_graph()
    graph["picture"]["inputs"]["image"] = input_picture(np.zeros((8, 8, 3)), "small.png")
    with pytest.raises(ExecutionFailed, match="image is 8x8 px") as failure:
        run_graph(graph)
    assert failure.value.node_type == "KontextReference"


def half_clear(mode):
    """A picture with an alpha channel, clear in its left half."""
    alpha = Image.new("L", (80, 64), 255)
    alpha.paste(0, (0, 0, 40, 64))
    picture = Image.new(mode.removesuffix("A"), (80, 64), "white")
    picture.putalpha(alpha)
    return picture


def clear_colour():
    palette = Image.new("P", (80, 64), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 40, 64))
    palette.info["transparency"] = 1
    return palette


TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was turned by 90 degrees
FRAMES = [Image.new("RGB", (80, 64), (70 * number, 0, 0)) for number in range(3)]
ODD_FILES = {  # picture, ending, options of its file: the pictures that come out, their size, and the masked share
    "grey": (Image.new("L", (80, 64), 90), "png", {}, 1, (80, 64), 0),
    "one bit": (Image.new("1", (80, 64), 1), "png", {}, 1, (80, 64), 0),
    "palette": (Image.new("P", (80, 64), 3), "png", {}, 1, (80, 64), 0),
    "16 bits": (Image.fromarray(np.full((64, 80), 30000, np.uint16)), "png", {}, 1, (80, 64), 0),
    "CMYK": (Image.new("CMYK", (80, 64)), "jpg", {}, 1, (80, 64), 0),
    "turned by its EXIF": (Image.new("RGB", (80, 64), "red"), "jpg", {"exif": TURNED}, 1, (64, 80), 0),
    "WebP": (half_clear("RGBA"), "webp", {"lossless": True}, 1, (80, 64), 0.5),
    "alpha": (half_clear("RGBA"), "png", {}, 1, (80, 64), 0.5),
    "grey with alpha": (half_clear("LA"), "png", {}, 1, (80, 64), 0.5),
    "palette with a clear colour": (clear_colour(), "png", {}, 1, (80, 64), 0.5),
    "animated": (FRAMES[0], "gif", {"save_all": True, "append_images": FRAMES[1:]}, 3, (80, 64), 0),
    "several pages": (FRAMES[0], "tiff", {"save_all": True, "append_images": FRAMES[1:]}, 1, (80, 64), 0),  # the first
}


@pytest.mark.parametrize(("picture", "ending", "options", "count", "size", "masked"), ODD_FILES.values(), ids=ODD_FILES)
def test_an_odd_picture_file_is_a_picture(run_graph, picture, ending, options, count, size, masked):
    """As Load Image gives it: fitted, and its transparency cropped as a mask, or refused as an empty one."""
    path = inprocess.BASE / "input" / f"odd.{ending}"
    picture.save(path, **options)
    fit = {"size": "as is", "fit": "stretch", "margin": "reflect"}
    graph = {
        "file": graphs.node("LoadImage", image=path.name),
        "fitted": graphs.node("KontextFitFrame", image=["file", 0], **fit),
        "crop": graphs.node(
            "KontextCropRegion", image=["file", 0], mask=["file", 1], size="as is", context=0.0, islands="one crop"
        ),
    }
    crop = graph if masked else {name: graph.pop(name) for name in ("crop",)}
    values = run_graph(graph).values
    assert values["fitted"][0].shape == (count, size[1], size[0], 3)
    assert torch.isfinite(values["fitted"][0]).all()
    if masked:
        assert values["crop"][1].mean() > 0.5  # around what is clear
        assert values["file"][1].mean() == pytest.approx(masked, abs=0.01)
    else:
        with pytest.raises(ExecutionFailed, match="mask is empty"):
            run_graph(graph | crop)


@pytest.mark.parametrize("text", ["", " \n", "(((", "🎨 ' \" ) : 1.2"], ids=["empty", "blank", "brackets", "signs"])
def test_a_text_without_a_word_runs(edit_graph, run_graph, text):
    """An empty negative is common, so an empty text is not an error; the encoder warns that there is no instruction."""
    graph = edit_graph(steps=1)
    graph["text"]["inputs"]["text"] = text
    run = run_graph(graph)
    notices = [event.data["text"] for event in run.events if event.type == "text" and event.data["node"] == "text"]
    assert any("empty" in notice for notice in notices) == (not text.strip())
    assert torch.isfinite(run.values["sampler"][0]["samples"]).all()


def repeat(graph, node, amount):
    """Put RepeatImageBatch before a node's image."""
    graph[f"{node} batch"] = {
        "class_type": "RepeatImageBatch",
        "inputs": {"image": graph[node]["inputs"]["image"], "amount": amount},
    }
    graph[node]["inputs"]["image"] = [f"{node} batch", 0]
    return graph


def test_a_reference_batch_that_is_not_the_targets_is_refused(edit_graph, run_graph):
    graph = repeat(edit_graph(), "reference", 3)
    graph["target"]["inputs"]["batch_size"] = 2
    with pytest.raises(ExecutionFailed, match=r"reference 1 holds 3 pictures .*the latent 2\.") as failure:
        run_graph(graph)
    assert failure.value.node_type == "KontextSampler"


def test_an_animated_picture_is_named_and_what_to_do(edit_graph, run_graph, input_picture):
    graph = edit_graph()
    path = inprocess.BASE / "input" / "animated.webp"
    frames = [Image.fromarray(np.full((96, 128, 3), 60 * number, np.uint8)) for number in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    graph["picture"]["inputs"]["image"] = path.name
    with pytest.raises(ExecutionFailed) as failure:
        run_graph(graph)
    assert "reference 1 holds 4 pictures (a batch, or the frames of an animated file)" in failure.value.error
    assert "Image From Batch" in failure.value.error


def test_reference_batches_that_differ_are_refused(edit_graph, run_graph):
    graph = repeat(edit_graph(), "reference", 3)
    other = json.loads(json.dumps(edit_graph()["reference"]))
    graph |= repeat({"other": other}, "other", 2)
    graph["context"]["inputs"]["references.reference1"] = ["other", 0]
    with pytest.raises(ExecutionFailed, match="the references hold different numbers of pictures .2, 3.") as failure:
        run_graph(graph)
    assert failure.value.node_type == "KontextContext"


def test_a_mask_of_another_size_works(edit_graph, run_graph):
    graph = edit_graph()
    graph["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 50, "height": 30}}
    graph["masked"] = {
        "class_type": "SetLatentNoiseMask",
        "inputs": {"samples": ["reference", 0], "mask": ["mask", 0]},
    }
    graph["sampler"]["inputs"]["latent"] = ["masked", 0]
    values = run_graph(graph).values
    kept, before = values["sampler"][0]["samples"], values["reference"][0]["samples"]
    torch.testing.assert_close(kept, before, atol=1e-4, rtol=0)


def test_zero_steps_on_the_widget_are_refused_before_the_run(edit_graph, run_graph):
    with pytest.raises(PromptRefused, match="KontextSampler"):
        run_graph(edit_graph(steps=0))


@pytest.mark.parametrize(("name", "value", "message"), [("steps", 0, "steps is 0"), ("denoise", 0, "denoise is 0")])
def test_zero_from_another_node_is_refused(edit_graph, run_graph, name, value, message):
    graph = edit_graph(**{name: ["zero", 0]})
    kind = {"steps": "PrimitiveInt", "denoise": "PrimitiveFloat"}[name]
    graph["zero"] = {"class_type": kind, "inputs": {"value": value}}
    with pytest.raises(ExecutionFailed, match=message) as failure:
        run_graph(graph)
    assert failure.value.node_type == "KontextSampler"


def test_cfg_without_a_negative_is_refused(edit_graph, run_graph):
    with pytest.raises(ExecutionFailed, match="cfg is 3.* negative is not connected"):
        run_graph(edit_graph(cfg=3.0))


@pytest.fixture
def four_channels(model_folder):
    """An SD1.5-like autoencoder, loaded by the host."""
    weights = comfy.taesd.taesd.TAESD(latent_channels=4).state_dict()
    save_file(weights, model_folder("vae") / "four_channels.safetensors")
    return {"class_type": "VAELoader", "inputs": {"vae_name": "four_channels.safetensors"}}


FOUR_CHANNELS = {  # node that refuses, message
    "reference": ("KontextReference", "vae has 4 latent channels"),
    "context": ("KontextContext", "reference 1 has the shape (1, 4, 12, 16)"),
    "latent": ("KontextSampler", "latent has the shape (1, 4, 12, 16)"),
}


@pytest.mark.parametrize(("place", "expected"), FOUR_CHANNELS.items(), ids=FOUR_CHANNELS)
def test_an_autoencoder_with_four_channels_is_refused(edit_graph, run_graph, four_channels, place, expected):
    graph = edit_graph() | {"foreign": four_channels}
    graph["encoded"] = {
        "class_type": "VAEEncode",
        "inputs": {"pixels": ["picture", 0], "vae": ["foreign", 0]},
    }
    if place == "reference":
        graph["reference"]["inputs"]["vae"] = ["foreign", 0]
    elif place == "context":
        graph["context"]["inputs"]["references.reference0"] = ["encoded", 0]
    else:
        graph["sampler"]["inputs"]["latent"] = ["encoded", 0]
    with pytest.raises(ExecutionFailed) as failure:
        run_graph(graph)
    assert failure.value.node_type == expected[0]
    assert expected[1] in failure.value.error


def test_text_of_another_models_encoder_is_refused(edit_graph, run_graph, model_folder):
    """A model that expects text of width 64 gets the embedded encoder's width 128."""
    weights = {name: torch.zeros(shape) for name, shape in EMBEDDED.items()}
    save_file(weights, model_folder("diffusion_models") / "other.safetensors")
    graph = edit_graph(model=["other", 0])
    graph["other"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "other.safetensors", "weight_dtype": "default"},
    }
    with pytest.raises(ExecutionFailed, match="text encoder of width 128; this model reads 64"):
        run_graph(graph)


def test_a_model_that_predicts_no_velocity_is_refused(edit_graph, run_graph):
    graph = edit_graph(model=["discrete", 0])
    graph["discrete"] = {
        "class_type": "ModelSamplingDiscrete",
        "inputs": {"model": ["loader", 0], "sampling": "eps", "zsnr": False},
    }
    with pytest.raises(ExecutionFailed, match="predicts no velocity"):
        run_graph(graph)


def test_a_server_goes_on_after_an_error(client):
    """The browser gets the node and the reason, and the next graph runs."""

    def graph(side):
        return {
            "loader": {"class_type": "KontextLoader", "inputs": {"source": "embedded"}},
            "picture": {
                "class_type": "EmptyImage",
                "inputs": {"width": side, "height": side, "batch_size": 1, "color": 0},
            },
            "reference": {
                "class_type": "KontextReference",
                "inputs": {"image": ["picture", 0], "vae": ["loader", 2], "size": "as is", "fit": "pad"},
            },
            "shown": {"class_type": "PreviewAny", "inputs": {"source": ["reference", 0]}},
        }

    with pytest.raises(ExecutionFailed, match="image is 8x8 px") as failure:
        client.run(graph(8))
    assert failure.value.node == "reference"
    assert client.run(graph(64))["reference"]["text"] == ["64x64 px, as is: 64x64 px, 16 tokens"]
