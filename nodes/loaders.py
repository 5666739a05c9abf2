"""The model loader."""

from comfy_api.latest import io, ui

from ..host import loading
from ..host.text_length import LENGTHS
from .sockets import output


class KontextLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextLoader",
            display_name="Kontext Loader",
            category="kontext/loaders",
            description="Loads FLUX.1 Kontext with its text encoders and its autoencoder: the small one "
            "that ships with this pack, or your own files.",
            has_intermediate_output=True,
            search_aliases=[
                "UNETLoader",
                "Load Diffusion Model",
                "DualCLIPLoader",
                "VAELoader",
                "FLUX loader",
                "embedded",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    tooltip="Chooses the model. 'embedded': a tiny Kontext that edits simple 128x128 scenes "
                    "on any computer, to learn and to test graphs. 'files': the real one, from ComfyUI's "
                    "model folders.",
                    options=[io.DynamicCombo.Option("embedded", []), io.DynamicCombo.Option("files", _file_inputs())],
                )
            ],
            outputs=[
                output(io.Model, "model", "The diffusion model, for Kontext Sampler or KSampler."),
                output(io.Clip, "clip", "The text encoders, for CLIP Text Encode."),
                output(io.Vae, "vae", "The autoencoder, for Kontext Reference, VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, source: dict) -> io.NodeOutput:
        given = {name: value for name, value in source.items() if value is not None}  # None: not in the graph
        files = {name: value for name, value in given.items() if name != "source"}
        loaded = loading.load_files(**files) if source["source"] == "files" else loading.load_embedded()
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, ui=ui.PreviewText(loaded.report))


def _file_inputs() -> list[io.Input]:
    text_encoders = loading.model_files("text_encoders")
    return [
        io.Combo.Input(
            "diffusion_model",
            options=loading.transformer_files(),
            tooltip="The diffusion model: a FLUX.1 Kontext transformer in models/diffusion_models, such as "
            "flux1-kontext-dev.safetensors, or an all-in-one file in models/checkpoints.",
        ),
        io.Combo.Input(
            "clip_l",
            options=text_encoders,
            tooltip="The encoder of the pooled text: CLIP-L in models/text_encoders: clip_l.safetensors.",
        ),
        io.Combo.Input(
            "t5xxl",
            options=text_encoders,
            tooltip="The encoder of the text tokens: T5-XXL in models/text_encoders: "
            "t5xxl_fp16.safetensors, or an fp8 one to save memory.",
        ),
        io.Combo.Input(
            "vae", options=loading.model_files("vae"), tooltip="FLUX.1's autoencoder in models/vae: ae.safetensors."
        ),
        io.Combo.Input(
            "weight_dtype",
            options=list(loading.WEIGHT_DTYPES),
            default="default",
            advanced=True,
            tooltip="Halves the transformer's memory with fp8, at some loss of quality; '_fast' also "
            "computes in fp8 where the card can. 'default' keeps the file's own precision.",
        ),
        io.Combo.Input(
            "text_length",
            options=list(LENGTHS),
            default="256",
            optional=True,
            advanced=True,
            tooltip="Pads the instruction to this many tokens for T5. '256': as ComfyUI does. '512': as in "
            "BFL's own code and diffusers; somewhat slower.",
        ),
    ]


NODES = [KontextLoader]
