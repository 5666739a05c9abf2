"""A picture on the model's grid, and back."""

from comfy_api.latest import io, ui

from ..host import frames as host_frames
from ..kontext_core.frames import FITS, MARGINS
from .sockets import FRAME, output, size_input, vae_of_sizes


class KontextFitFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextFitFrame",
            display_name="Kontext Fit Frame",
            category="kontext/image",
            description="Fits a picture to a model's grid and remembers how, so that the result can be restored to the "
            "exact size and position. Works with any editor.",
            has_intermediate_output=True,
            search_aliases=[
                "FluxKontextImageScale",
                "pad image",
                "resize image",
                "aspect ratio",
                "zoom",
                "shift",
                "any editor",
                "Qwen Image Edit",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The picture to edit, at least 64 px on each side."),
                size_input(),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="pad",
                    tooltip="Decides what happens if the aspect ratios differ. 'pad': the whole picture, with margins "
                    "that continue it. 'crop': the middle; the sides are restored from the original. 'stretch': the "
                    "whole picture, slightly distorted.",
                ),
                io.Combo.Input(
                    "margin",
                    options=list(MARGINS),
                    default="reflect",
                    advanced=True,
                    tooltip="Fills what 'pad' adds. 'reflect': the mirrored picture. 'edge': its last pixels, "
                    "repeated.",
                ),
                vae_of_sizes(),
            ],
            outputs=[
                output(io.Image, "image", "The picture on the grid: for Kontext Reference."),
                output(
                    FRAME,
                    "frame",
                    "The position on the grid: for Kontext Reference or Target, and for Kontext Restore Frame.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, size: dict, fit: str, margin: str, vae=None) -> io.NodeOutput:
        fitted, frame, report = host_frames.fit(image, size, fit, margin, vae)
        return io.NodeOutput(fitted, frame, ui=ui.PreviewText(report))


class KontextRestoreFrame(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextRestoreFrame",
            display_name="Kontext Restore Frame",
            category="kontext/image",
            description="Restores the result of any editor to the exact size and framing of the original picture.",
            has_intermediate_output=True,
            search_aliases=["uncrop", "unpad", "original size", "crop back"],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The result, from VAE Decode or Kontext Hosted. It may have another size, from an upscaler "
                    "or a hosted model, but not another aspect ratio.",
                ),
                FRAME.Input("frame", tooltip="From the Kontext Fit Frame that prepared the picture."),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The input picture of Kontext Fit Frame. Needed only when its fit is 'crop': the sides are "
                    "restored from it.",
                ),
            ],
            outputs=[
                output(io.Image, "image", "The result in the original's size: for Kontext Preserve or Save Image.")
            ],
        )

    @classmethod
    def execute(cls, image, frame, original=None) -> io.NodeOutput:
        restored, report = host_frames.restore(image, frame, original)
        return io.NodeOutput(restored, ui=ui.PreviewText(report))


NODES = [KontextFitFrame, KontextRestoreFrame]
