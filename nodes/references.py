"""Pictures that the model looks at while it draws."""

from comfy_api.latest import io, ui

from ..host import conditioning as host_conditioning
from ..host import references as host_references
from ..kontext_core.frames import FITS
from ..kontext_core.tokens import LAYOUTS
from .sockets import FRAME


class KontextReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        megapixels = io.Float.Input(
            "megapixels",
            default=1.0,
            min=0.004,
            max=16.0,
            step=0.001,
            tooltip="Sets how large the reference becomes, in 1024x1024 px. 1 is what the model was trained "
            "on; 0.016 (128x128) suits the embedded model. More costs time and memory.",
        )
        return io.Schema(
            node_id="KontextReference",
            display_name="Kontext Reference",
            category="kontext/conditioning",
            description="Fits a picture to a size that the model knows and encodes it. A batch of pictures "
            "gives a batch.",
            has_intermediate_output=True,
            search_aliases=["FluxKontextImageScale", "VAE Encode", "scale image", "reference image"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture to edit or to take something from. At least 64 px on each side.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The model's own autoencoder: from Kontext Loader, or FLUX.1's ae.safetensors.",
                ),
                io.DynamicCombo.Input(
                    "size",
                    tooltip="Sets the size the model sees. 'nearest trained size': one of 17 at about 1 "
                    "megapixel, best for Kontext [dev]. 'keep ratio': the picture's shape at a number of "
                    "megapixels. 'as is': unchanged, best for the embedded model.",
                    options=[
                        io.DynamicCombo.Option("nearest trained size", []),
                        io.DynamicCombo.Option("keep ratio", [megapixels]),
                        io.DynamicCombo.Option("as is", []),
                    ],
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="pad",
                    tooltip="Decides what happens when the shapes differ. 'pad': all of the picture, its "
                    "edge continued. 'crop': the middle, sides cut off. 'stretch': all of it, distorted a "
                    "little.",
                ),
                FRAME.Input(
                    "frame",
                    optional=True,
                    tooltip="Decides instead of size and fit: from Kontext Fit Frame, so that the result can be "
                    "restored. The image may come before or after that node.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The encoded picture: for Kontext Context or ReferenceLatent, and for Kontext "
                    "Target's size.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, vae, size: dict, fit: str, frame=None) -> io.NodeOutput:
        latent, report = host_references.encode(image, vae, size, fit, frame)
        return io.NodeOutput(latent, ui=ui.PreviewText(report))


class KontextContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        reference = io.Latent.Input(
            "reference",
            tooltip="A picture for the model to look at, from Kontext Reference or VAE Encode. Connect one "
            "and the next socket appears; each costs time at every step.",
        )
        return io.Schema(
            node_id="KontextContext",
            display_name="Kontext Context",
            category="kontext/conditioning",
            description="Gives the model reference pictures beside the instruction.",
            has_intermediate_output=True,
            search_aliases=[
                "ReferenceLatent",
                "FluxKontextMultiReferenceLatentMethod",
                "image stitch",
                "multiple images",
            ],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The instruction, from CLIP Text Encode. References that it already carries "
                    "stay.",
                ),
                io.Autogrow.Input(
                    "references",
                    template=io.Autogrow.TemplatePrefix(reference, prefix="reference", min=1, max=8),
                    tooltip="The pictures to look at, 1 to 8. The first is usually the one to edit.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="offset",
                    advanced=True,
                    tooltip="Places the references where the model looks for them. 'offset': side by side "
                    "on one canvas, the usual choice. 'index': stacked like layers. 'uno': along the "
                    "diagonal, for LoRAs trained that way.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="Instruction and references: for Kontext Sampler, KSampler or FluxGuidance.",
                ),
            ],
        )

    @classmethod
    def execute(cls, conditioning, references: dict, layout: str) -> io.NodeOutput:
        conditioning, report = host_conditioning.with_references(
            conditioning, list(references.values()), layout
        )
        return io.NodeOutput(conditioning, ui=ui.PreviewText(report))


NODES = [KontextReference, KontextContext]
