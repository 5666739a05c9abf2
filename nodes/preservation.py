"""Change masks, and restoring what an edit left unchanged."""

from comfy_api.latest import io, ui

from ..host import preservation as host_preservation
from ..kontext_core.preservation import JOINS
from .sockets import FRAME, number, output

ALIGN = {  # choice: what to match of the geometry
    "shift, scale and rotation": ("geometry", "rotation"),
    "shift and scale": ("geometry",),
    "off": (),
}


def _pictures() -> list[io.Input]:
    return [
        io.Image.Input("original", tooltip="The picture before the edit. One is used for a batch of edited ones."),
        io.Image.Input(
            "edited", tooltip="The picture after the edit, in the original's size: from Kontext Restore Frame."
        ),
    ]


def _finding() -> list[io.Input]:
    return [
        number(
            "sensitivity",
            1.0,
            (0.1, 5.0, 0.05),
            "Higher values find weaker changes; lower ones treat more as noise. Usually 1.",
        ),
        number(
            "grow",
            0.4,
            (0.0, 20.0, 0.1),
            "Widens the mask by this many percent of the picture's longer side, to catch soft edges.",
        ),
        number(
            "feather",
            0.6,
            (0.0, 20.0, 0.1),
            "Fades the mask out over this many percent of the picture's longer side, outside the change, to "
            "hide the seam.",
        ),
    ]


class KontextChangeMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        latents = [
            io.Latent.Input(
                f"{name}_latent", optional=True, tooltip=f"Makes the mask more reliable: {what}. Connect both or none."
            )
            for name, what in (
                ("reference", "the latent from Kontext Reference"),
                ("result", "the latent from Kontext Sampler"),
            )
        ]
        return io.Schema(
            node_id="KontextChangeMask",
            display_name="Kontext Change Mask",
            category="kontext/mask",
            description="Finds what any editor changed between two pictures, beyond noise, shift, colour drift and "
            "sharpening. Works without Kontext.",
            has_intermediate_output=True,
            search_aliases=[
                "before after",
                "difference mask",
                "diff",
                "image compare",
                "change detection",
                "any editor",
            ],
            inputs=[
                *_pictures(),
                *_finding(),
                number(
                    "smallest", 0.01, (0.0, 100.0, 0.01), "Drops islands below this many percent of the picture's area."
                ),
                io.Boolean.Input(
                    "align",
                    default=True,
                    advanced=True,
                    tooltip="Undoes a small shift, zoom, stretch or rotation of the edited picture before comparing.",
                ),
                io.Combo.Input(
                    "join",
                    options=list(JOINS),
                    default="union",
                    tooltip="Combines your mask with the detected one. 'union': either. 'intersection': only both. "
                    "'limit': the detected islands that touch the mask.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Your mask, to be combined with the detected one."),
                *latents,
                FRAME.Input(
                    "frame",
                    optional=True,
                    tooltip="Maps the latents onto the pictures: from Kontext Fit Frame, if one was used.",
                ),
            ],
            outputs=[
                output(
                    io.Mask, "mask", "White where the edit changed something: for Kontext Preserve or any mask input."
                ),
                output(io.String, "report", "The fraction that changed, and whether the edit is global."),
            ],
        )

    @classmethod
    def execute(
        cls, original, edited, mask=None, reference_latent=None, result_latent=None, frame=None, **settings
    ) -> io.NodeOutput:
        latents = (reference_latent, result_latent)
        found, report = host_preservation.change_mask(
            original, edited, mask=mask, latents=latents, frame=frame, **settings
        )
        return io.NodeOutput(found, report, ui=ui.PreviewText(report))


class KontextPreserve(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextPreserve",
            display_name="Kontext Preserve",
            category="kontext/image",
            description="Restores all that an edit should not have changed, whatever made the edit: undoes shift, "
            "zoom, colour drift and sharpening, and puts the original's pixels back. Works without Kontext.",
            has_intermediate_output=True,
            search_aliases=[
                "paste back",
                "composite",
                "color match",
                "keep original",
                "drift",
                "pixel shift",
                "any editor",
                "Qwen Image Edit",
                "FLUX.2 klein",
                "zoom",
                "oversharpened",
            ],
            inputs=[
                *_pictures(),
                io.Combo.Input(
                    "align",
                    options=list(ALIGN),
                    default="shift, scale and rotation",
                    tooltip="Aligns the edited picture with the original, if enough of both matches.",
                ),
                io.Boolean.Input(
                    "colours",
                    default=True,
                    tooltip="Undoes colour drift inside the edit, measured where nothing changed.",
                ),
                io.Boolean.Input(
                    "paste", default=True, tooltip="Puts the original's pixels back, bit for bit, outside the mask."
                ),
                *_finding(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the edit is, used unchanged. Without one it is detected, with "
                    "sensitivity, grow and feather.",
                ),
                io.Boolean.Input(
                    "sharpness",
                    default=True,
                    optional=True,
                    tooltip="Undoes sharpening and softening of the edit, measured where nothing changed.",
                ),
                io.Boolean.Input(
                    "grain",
                    default=True,
                    optional=True,
                    tooltip="Matches the edit's grain to the original's: removes noise that only the edit has, adds "
                    "grain that only the original has.",
                ),
            ],
            outputs=[
                output(io.Image, "image", "The edit, and the original around it."),
                output(io.Mask, "mask", "White where the edit is, exactly black where pixels are kept."),
                output(io.String, "report", "Shift, scale, colour error before and after, fraction kept."),
            ],
        )

    @classmethod
    def execute(
        cls, original, edited, align: str, colours: bool, paste: bool, mask=None, sharpness=True, grain=True, **finding
    ) -> io.NodeOutput:
        looks = {"tone": colours, "sharpness": sharpness, "grain": grain}
        match = (*ALIGN[align], *(look for look, wanted in looks.items() if wanted))
        picture, used, report = host_preservation.preserve(original, edited, mask, match=match, paste=paste, **finding)
        return io.NodeOutput(picture, used, report, ui=ui.PreviewText(report))


NODES = [KontextChangeMask, KontextPreserve]
