"""Crop and stitch: edit a part of a picture at the model's full resolution."""

from comfy_api.latest import io, ui

from ..host import regions as host_regions
from .sockets import REGION, integer, number, output, size_input, vae_of_sizes

ONE_CROP, ONE_EACH = "one crop", "one each"


class KontextCropRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextCropRegion",
            display_name="Kontext Crop Region",
            category="kontext/image",
            description="Crops the masked part of a picture, with some surroundings, at a size that suits the model. "
            "Works with any model.",
            has_intermediate_output=True,
            search_aliases=["inpaint", "inpaint crop", "crop and stitch", "detailer", "crop by mask", "any model"],
            inputs=[
                io.Image.Input("image", tooltip="The picture to edit a part of."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the edit should happen, from ComfyUI's mask editor. It may touch the border.",
                ),
                size_input(),
                number(
                    "context",
                    0.5,
                    (0.0, 8.0, 0.05),
                    "Margin around the masked part, as a fraction of its longer side. More "
                    "context makes the edit fit in better; less gives it more pixels.",
                ),
                io.Combo.Input(
                    "islands",
                    options=[ONE_CROP, ONE_EACH],
                    default=ONE_CROP,
                    tooltip="For a mask with several parts: one crop around all of them, or a batch with one for each.",
                ),
                vae_of_sizes(),
            ],
            outputs=[
                output(io.Image, "image", "The crop: for Kontext Reference, size 'as is'."),
                output(io.Mask, "mask", "The mask on the crop: for Set Latent Noise Mask."),
                output(REGION, "region", "The position of the crop, for Kontext Stitch Region."),
            ],
        )

    @classmethod
    def execute(cls, image, mask, size: dict, context: float, islands: str, vae=None) -> io.NodeOutput:
        *outputs, report = host_regions.crop(image, mask, size, context, islands == ONE_EACH, vae)
        return io.NodeOutput(*outputs, ui=ui.PreviewText(report))


class KontextStitchRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextStitchRegion",
            display_name="Kontext Stitch Region",
            category="kontext/image",
            description="Puts an edited crop back into its picture, whatever edited it. Pixels outside the mask do not "
            "change.",
            has_intermediate_output=True,
            search_aliases=["inpaint", "inpaint stitch", "uncrop", "composite", "paste back", "any model"],
            inputs=[
                io.Image.Input("original", tooltip="The input picture of Kontext Crop Region."),
                io.Image.Input("edited", tooltip="The edited crop, from VAE Decode."),
                REGION.Input("region", tooltip="From the Kontext Crop Region that made the crop."),
                integer(
                    "feather",
                    8,
                    (0, 512),
                    "Fades the edit out over this many px outside the mask. Wider hides the seam better but "
                    "keeps less of the original.",
                ),
            ],
            outputs=[
                output(io.Image, "image", "The whole picture with the edit."),
                output(io.Mask, "mask", "White where pixels are new, exactly black where they are kept."),
            ],
        )

    @classmethod
    def execute(cls, original, edited, region, feather: int) -> io.NodeOutput:
        picture, mask, report = host_regions.stitch(original, edited, region, feather)
        return io.NodeOutput(picture, mask, ui=ui.PreviewText(report))


NODES = [KontextCropRegion, KontextStitchRegion]
