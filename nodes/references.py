"""Reference pictures."""

from comfy_api.latest import io, ui

from ..host import conditioning as host_conditioning
from ..host import controls as host_controls
from ..host import references as host_references
from ..kontext_core.frames import FITS
from ..kontext_core.tokens import LAYOUTS
from .sockets import FRAME, fraction, integer, number, output, size_input

_RENAMED = {"uno": "uxo"}  # layouts in saved graphs


def _details() -> list[io.Input]:
    return [
        FRAME.Input(
            "frame",
            optional=True,
            tooltip="Replaces size and fit: from Kontext Fit Frame, so that the result can be "
            "restored. The image may come before or after that node.",
        ),
        number(
            "max_megapixels",
            0.0,
            (0.0, 16.0, 0.001),
            "Limits the size of the reference, in 1024x1024 px; 0: no limit. A second or "
            "third reference is often good enough at 0.25, at a quarter of the tokens.",
            optional=True,
            advanced=True,
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Is fitted like the picture, for Kontext Reference Control. It does not change the latent.",
        ),
    ]


class KontextReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextReference",
            display_name="Kontext Reference",
            category="kontext/conditioning",
            description="Fits a picture to a size that suits the model and encodes it. A batch of pictures "
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
                    "image", tooltip="The picture to edit or to take something from. At least 64 px on each side."
                ),
                io.Vae.Input(
                    "vae", tooltip="The model's own autoencoder: from Kontext Loader, or FLUX.1's ae.safetensors."
                ),
                size_input(),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="pad",
                    tooltip="Decides what happens when the aspect ratios differ. 'pad': the whole picture, its "
                    "edge continued. 'crop': the middle, without the sides. 'stretch': the whole picture, "
                    "slightly distorted.",
                ),
                *_details(),
            ],
            outputs=[
                output(
                    io.Latent,
                    "latent",
                    "The encoded picture: for Kontext Context or ReferenceLatent, and for Kontext Target's size.",
                ),
                output(
                    io.Mask,
                    "mask",
                    "The mask, fitted like the encoded picture, for Kontext Reference Control. White "
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
            tooltip="A reference picture, from Kontext Reference or VAE Encode. Connect one "
            "and the next socket appears; each costs time at every step.",
        )
        return io.Schema(
            node_id="KontextContext",
            display_name="Kontext Context",
            category="kontext/conditioning",
            description="Gives the model reference pictures in addition to the instruction.",
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
                    tooltip="The instruction, from CLIP Text Encode. References that it already has are kept.",
                ),
                io.Autogrow.Input(
                    "references",
                    template=io.Autogrow.TemplatePrefix(reference, prefix="reference", min=1, max=8),
                    tooltip="The reference pictures, 1 to 8. The first is usually the one to edit.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default="offset",
                    advanced=True,
                    tooltip="Sets the position ids of the references. 'offset': side by side "
                    "on one canvas, the usual choice. 'index': stacked like layers. 'uxo': along the "
                    "diagonal, for LoRAs trained that way.",
                ),
            ],
            outputs=[
                output(
                    io.Conditioning,
                    "conditioning",
                    "Instruction and references: for Kontext Sampler, KSampler or FluxGuidance.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, layout: str, references=None) -> bool | str:
        """In place of the host's own check, which refuses graphs that were saved with an earlier name."""
        return layout in (*LAYOUTS, *_RENAMED) or f"layout is {layout!r}; choose one of {', '.join(LAYOUTS)}."

    @classmethod
    def execute(cls, conditioning, references: dict, layout: str) -> io.NodeOutput:
        layout = _RENAMED.get(layout, layout)
        conditioning, report = host_conditioning.with_references(conditioning, list(references.values()), layout)
        return io.NodeOutput(conditioning, ui=ui.PreviewText(report))


class KontextReferenceControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextReferenceControl",
            display_name="Kontext Reference Control",
            category="kontext/conditioning",
            description="Sets the strength, the area and the steps of one reference's influence. Chain several to "
            "control several references, in any order.",
            has_intermediate_output=True,
            search_aliases=["reference strength", "reference mask", "regional reference", "attention mask", "weight"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="Instruction and references, from Kontext Context or ReferenceLatent."
                ),
                integer(
                    "reference", 1, (1, 64), "Chooses the reference by its number: 1 is the first that was connected."
                ),
                number(
                    "strength",
                    1.0,
                    (0.0, 10.0, 0.05),
                    "Weakens (below 1) or strengthens (above 1) its influence. 1 changes nothing; 0 removes "
                    "the reference.",
                ),
                fraction(
                    "start",
                    0.0,
                    "Starts its influence at this fraction of the steps. Above 0 it gives detail but not the layout.",
                ),
                fraction(
                    "end",
                    1.0,
                    "Ends its influence at this fraction of the steps: it then gives the layout but not the "
                    "detail. Steps without it are faster.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Shows the model only the white part of the reference. Use the mask output of Kontext "
                    "Reference. Hidden parts cost nothing.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Restricts its influence to the white part of the new picture. Any size; it is stretched "
                    "over the picture.",
                ),
            ],
            outputs=[
                output(
                    io.Conditioning,
                    "conditioning",
                    "For Kontext Sampler, KSampler, FluxGuidance or another Kontext Reference Control.",
                )
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
