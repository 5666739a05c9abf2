"""Pictures that the model looks at while it draws."""

from comfy_api.latest import io, ui

from ..host import conditioning as host_conditioning
from ..host import controls as host_controls
from ..host import references as host_references
from ..kontext_core.frames import FITS
from ..kontext_core.tokens import LAYOUTS
from .sockets import FRAME, share_input, size_input


def _details() -> list[io.Input]:
    return [
        FRAME.Input(
            "frame",
            optional=True,
            tooltip="Decides instead of size and fit: from Kontext Fit Frame, so that the result can be "
            "restored. The image may come before or after that node.",
        ),
        io.Float.Input(
            "max_megapixels",
            optional=True,
            default=0.0,
            min=0.0,
            max=16.0,
            step=0.001,
            advanced=True,
            tooltip="Caps how large the reference becomes, in 1024x1024 px; 0 sets no limit. A second or "
            "third reference is often good enough at 0.25, at a quarter of the tokens.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Goes along with the picture and comes out fitted as it is; for Kontext Reference "
            "Control. It does not change the latent.",
        ),
    ]


class KontextReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextReference",
            display_name="Kontext Reference",
            category="kontext/conditioning",
            description="Fits a picture to a size that the model knows and encodes it. A batch of pictures "
            "gives a batch.",
            has_intermediate_output=True,
            search_aliases=[
                "FluxKontextImageScale",
                "VAE Encode",
                "scale image",
                "upscale reference",
                "reference image",
                "character",
                "style",
            ],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The picture to edit or to take something from. At least 64 px on each side.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The model's own autoencoder: from Kontext Loader, or FLUX.1's ae.safetensors.",
                ),
                size_input(),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="pad",
                    tooltip="Decides what happens when the shapes differ. 'pad': all of the picture, its "
                    "edge continued. 'crop': the middle, sides cut off. 'stretch': all of it, distorted a "
                    "little.",
                ),
                *_details(),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The encoded picture: for Kontext Context or ReferenceLatent, and for Kontext "
                    "Target's size.",
                ),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="The mask in the frame of the encoded picture: for Kontext Reference Control. White "
                    "if none is connected.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image, vae, size: dict, fit: str, frame=None, max_megapixels: float = 0.0, mask=None
    ) -> io.NodeOutput:
        latent, fitted, report = host_references.encode(image, vae, size, fit, frame, mask, max_megapixels)
        return io.NodeOutput(latent, fitted, ui=ui.PreviewText(report))


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
                "character",
                "style",
                "flux edit",
                "edit",
            ],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The instruction, from CLIP Text Encode. References that it already carries stay.",
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
                    "on one canvas, the usual choice. 'index': stacked like layers. 'uxo': along the "
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
        conditioning, report = host_conditioning.with_references(conditioning, list(references.values()), layout)
        return io.NodeOutput(conditioning, ui=ui.PreviewText(report))


class KontextReferenceControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextReferenceControl",
            display_name="Kontext Reference Control",
            category="kontext/conditioning",
            description="Says how strongly, where and when one reference speaks. Several of these in a row control "
            "several references, in any order.",
            has_intermediate_output=True,
            search_aliases=["reference strength", "reference mask", "regional reference", "attention mask", "weight"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="Instruction and references, from Kontext Context or ReferenceLatent.",
                ),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Chooses the reference by its number: 1 is the first that was connected.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Lets the model look at it less (below 1) or more (above 1). 1 changes nothing; 0 is as "
                    "if it were not there.",
                ),
                share_input(
                    "start",
                    0.0,
                    "Lets it begin later, at this share of the steps: it then gives detail but not the layout.",
                ),
                share_input(
                    "end",
                    1.0,
                    "Lets it end earlier, at this share of the steps: it then gives the layout but not the "
                    "detail. Steps without it are faster.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Shows only the white part of the reference. Use the mask of Kontext Reference, which "
                    "fits. What is hidden costs nothing.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Lets only the white part of the picture to be made look at the reference. Any size; it "
                    "is stretched over the picture.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    display_name="conditioning",
                    tooltip="For Kontext Sampler, KSampler, FluxGuidance or another Kontext Reference Control.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, conditioning, reference: int, strength: float, start: float, end: float, mask=None, region=None
    ) -> io.NodeOutput:
        settings = {"strength": strength, "start": start, "end": end, "mask": mask, "region": region}
        conditioning, report = host_controls.control(conditioning, reference, **settings)
        return io.NodeOutput(conditioning, ui=ui.PreviewText(report))


NODES = [KontextReference, KontextContext, KontextReferenceControl]
