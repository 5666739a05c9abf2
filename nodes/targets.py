"""The target latent."""

from comfy_api.latest import io, ui

from ..host import latents
from ..host.trained import trained_for, warn_beyond_vae
from ..kontext_core.resolutions import RATIOS, Trained, keep_ratio, with_area
from .sockets import FRAME, integer, megapixels_input, output, vae_of_sizes


class KontextTarget(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        reference = io.Latent.Input(
            "reference", tooltip="Gives the new picture the size of this one: from Kontext Reference."
        )
        ratio = io.Combo.Input("ratio", options=list(RATIOS), tooltip="Sets the aspect ratio, width to height.")
        width, height = (
            integer(
                side,
                0,
                (0, 16384, 16),
                f"Sets the {side} in px, rounded down to a multiple of 8. 0: what the model was trained for, "
                "1024 for Kontext and 128 for the embedded model, which is recognised by its vae; with the other side "
                "set, what gives that area.",
            )
            for side in ("width", "height")
        )
        return io.Schema(
            node_id="KontextTarget",
            display_name="Kontext Target",
            category="kontext/latent",
            description="An empty latent of the right size for the sampler to fill.",
            has_intermediate_output=True,
            search_aliases=[
                "EmptyLatentImage",
                "EmptySD3LatentImage",
                "Empty Latent Image",
                "resolution",
                "aspect ratio",
                "outpaint",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "size",
                    tooltip="Chooses the source of the size: a reference (usual for an edit), a ratio, or numbers.",
                    options=[
                        # The frontend (1.47) cannot create a node whose first option has only a socket.
                        io.DynamicCombo.Option("ratio", [ratio, megapixels_input()]),
                        io.DynamicCombo.Option("from reference", [reference]),
                        io.DynamicCombo.Option("width x height", [width, height]),
                    ],
                ),
                integer(
                    "batch_size",
                    1,
                    (1, 4096),
                    "Makes this many pictures at once, each from its own noise. Usually 1; each costs time and memory.",
                ),
                FRAME.Input(
                    "frame",
                    optional=True,
                    tooltip="Replaces the size above with the grid of Kontext Fit Frame, the same as the reference's.",
                ),
                vae_of_sizes(),
            ],
            outputs=[output(io.Latent, "latent", "The empty latent, for Kontext Sampler or KSampler.")],
        )

    @classmethod
    def execute(cls, size: dict, batch_size: int, frame=None, vae=None) -> io.NodeOutput:
        latent = latents.empty(*(_size_px(size, trained_for(vae)) if frame is None else frame.grid), batch_size)
        warn_beyond_vae(vae, "The picture to be made", latents.size_px(latent))
        report = latents.describe(latent) + ("" if frame is None else ", by its frame")
        return io.NodeOutput(latent, ui=ui.PreviewText(report))


def _size_px(size: dict, trained: Trained) -> tuple[int, int]:
    if size["size"] == "from reference":
        return latents.size_px(size["reference"])
    if size["size"] == "ratio":
        return keep_ratio(*RATIOS[size["ratio"]], size["megapixels"] or trained.usual)
    return with_area(size["width"], size["height"], trained)


NODES = [KontextTarget]
