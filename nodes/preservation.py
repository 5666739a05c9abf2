"""Change masks, and restoring what an edit left unchanged."""

from comfy_api.latest import io, ui

from ..host import preservation as host_preservation
from ..kontext_core.preservation import JOINS
from .sockets import FRAME

ALIGN = ("shift, scale and rotation", "shift and scale", "off")


def _pictures() -> list[io.Input]:
    return [
        io.Image.Input("original", tooltip="The picture before the edit. One is used for a batch of edited ones."),
        io.Image.Input(
            "edited", tooltip="The picture after the edit, in the original's size: from Kontext Restore Frame."
        ),
    ]


def _finding() -> list[io.Input]:
    return [
        io.Float.Input(
            "sensitivity",
            default=1.0,
            min=0.1,
            max=5.0,
            step=0.05,
            tooltip="Higher values find weaker changes; lower ones treat more as noise. Usually 1.",
        ),
        io.Float.Input(
            "grow",
            default=0.4,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Widens the mask by this many percent of the picture's longer side, to catch soft edges.",
        ),
        io.Float.Input(
            "feather",
            default=0.6,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Fades the mask out over this many percent of the picture's longer side, outside the change, to "
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
                io.Float.Input(
                    "smallest",
                    default=0.01,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Drops islands below this many percent of the picture's area.",
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
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="White where the edit changed something: for Kontext Preserve or any mask input.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The fraction that changed, and whether the edit is global.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        original,
        edited,
        sensitivity: float,
        grow: float,
        feather: float,
        smallest: float,
        align: bool,
        join: str,
        mask=None,
        reference_latent=None,
        result_latent=None,
        frame=None,
    ) -> io.NodeOutput:
        found, report = host_preservation.change_mask(
            original,
            edited,
            mask=mask,
            join=join,
            latents=(reference_latent, result_latent),
            frame=frame,
            align=align,
            sensitivity=sensitivity,
            smallest=smallest,
            grow=grow,
            feather=feather,
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
                    default=ALIGN[0],
                    tooltip="Aligns the edited picture with the original, if enough of both matches.",
                ),
                io.Boolean.Input(
                    "colours",
                    default=True,
                    tooltip="Undoes colour drift inside the edit, measured where nothing changed.",
                ),
                io.Boolean.Input(
                    "paste",
                    default=True,
                    tooltip="Puts the original's pixels back, bit for bit, outside the mask.",
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
                    tooltip="Undoes sharpening, softening and noise in the edit, measured where nothing changed.",
                ),
                io.Boolean.Input(
                    "grain",
                    default=True,
                    optional=True,
                    tooltip="Adds the original's grain to the edit, if it has less.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The edit, and the original around it."),
                io.Mask.Output(
                    "mask", display_name="mask", tooltip="White where the edit is, exactly black where pixels are kept."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Shift, scale, colour error before and after, fraction kept.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        original,
        edited,
        align: str,
        colours: bool,
        paste: bool,
        sensitivity: float,
        grow: float,
        feather: float,
        mask=None,
        sharpness: bool = True,
        grain: bool = True,
    ) -> io.NodeOutput:
        looks = {"tone": colours, "sharpness": sharpness, "grain": grain}
        picture, used, report = host_preservation.preserve(
            original,
            edited,
            mask,
            align=align,
            match=[look for look, wanted in looks.items() if wanted],
            paste=paste,
            sensitivity=sensitivity,
            grow=grow,
            feather=feather,
        )
        return io.NodeOutput(picture, used, report, ui=ui.PreviewText(report))


NODES = [KontextChangeMask, KontextPreserve]
