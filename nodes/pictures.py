"""Pictures that ship with the pack."""

from comfy_api.latest import io

from ..host.pictures import load_picture
from ..kontext_core.embedded import picture_names
from .sockets import output


class KontextExample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextExample",
            display_name="Kontext Example Picture",
            category="kontext/image",
            description="A small picture that the embedded model can edit, so that a graph runs at once.",
            search_aliases=["LoadImage", "Load Image", "sample image", "test image"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=picture_names(),
                    tooltip="Chooses the picture. All are drawn for the embedded model; 'photograph' is "
                    "not, and shows its limits; 'photograph_edited' is the same after another editor.",
                )
            ],
            outputs=[
                output(io.Image, "image", "The picture."),
                output(io.Mask, "mask", "White where the picture has a region to edit; all black in most."),
            ],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        return io.NodeOutput(*load_picture(picture))


NODES = [KontextExample]
