"""Kontext at a provider's, with a key of one's own."""

from comfy_api.latest import io, ui

from ..host import hosted
from ..kontext_core.hosted import PROVIDERS
from ..kontext_core.hosted.bfl import REGIONS
from ..kontext_core.hosted.provider import Provider
from ..kontext_core.resolutions import RATIOS


def _own_inputs(provider: Provider) -> list[io.Input]:
    """What a provider lets one choose."""
    inputs: list[io.Input] = [
        io.Combo.Input(
            "model",
            options=list(provider.models),
            tooltip="Chooses FLUX.1 Kontext [pro], [max] (better with text, and dearer) or [dev] (the open one, which "
            "takes one picture).",
        )
    ]
    if provider is PROVIDERS["Black Forest Labs"]:
        inputs.append(
            io.Combo.Input(
                "region",
                options=list(REGIONS),
                tooltip="Chooses where it is computed. 'EU' stays in the European Union.",
            )
        )
    if "safety_tolerance" in provider.options:
        inputs.append(
            io.Int.Input(
                "safety_tolerance",
                default=2,
                min=1 if provider is PROVIDERS["fal"] else 0,
                max=6,
                tooltip="Lets more pass the provider's moderation the higher it is; 0 is the strictest. With a "
                "picture some providers take no more than 2.",
                advanced=True,
            )
        )
        inputs.append(
            io.Boolean.Input(
                "prompt_upsampling",
                default=False,
                tooltip="Lets the provider write a longer instruction out of yours.",
                advanced=True,
            )
        )
    return inputs


def _what() -> list[io.Input]:
    """Who makes which picture."""
    reference = io.Image.Input(
        "reference",
        optional=True,
        tooltip="A picture to edit or to take something from; it is sent to the provider. Connect one and the "
        "next socket appears.",
    )
    shape = io.String.Input("shape", default="5:4", tooltip="Sets the shape, width to height, from 3:7 to 7:3.")
    return [
        io.DynamicCombo.Input(
            "provider",
            tooltip="Chooses who computes the picture and gets instruction, pictures and money. The key "
            "comes from the environment or from a file, never from a widget; see the help page.",
            options=[io.DynamicCombo.Option(title, _own_inputs(provider)) for title, provider in PROVIDERS.items()],
        ),
        io.String.Input(
            "instruction",
            multiline=True,
            default="",
            tooltip="Says what to change, and what to keep. At most 512 tokens, about 400 words.",
        ),
        io.Autogrow.Input(
            "references",
            template=io.Autogrow.TemplatePrefix(reference, prefix="reference", min=0, max=4),
            tooltip="The pictures to look at, none to 4. The first is usually the one to edit.",
        ),
        io.DynamicCombo.Input(
            "ratio",
            tooltip="Sets the shape of the result, always about a megapixel. Without a picture choose one of "
            "the ratios.",
            options=[
                io.DynamicCombo.Option(hosted.AS_FIRST, []),
                *(io.DynamicCombo.Option(name, []) for name in RATIOS),
                io.DynamicCombo.Option(hosted.FREE, [shape]),
            ],
        ),
    ]


def _which() -> list[io.Input]:
    """How many, and of which numbers."""
    return [
        io.Int.Input(
            "seed",
            default=1,
            min=0,
            max=2**31 - 1000,
            control_after_generate=True,
            tooltip="Chooses the picture: another number, another picture, and another payment.",
        ),
        io.Int.Input(
            "pictures",
            default=1,
            min=1,
            max=100,
            tooltip="Makes this many pictures, from seed on upwards; each is paid for. As many run at once "
            "as the provider allows.",
        ),
    ]


def _how() -> list[io.Input]:
    """What is done with the results."""
    return [
        io.Combo.Input(
            "output_format",
            options=["png", "jpeg"],
            tooltip="Chooses the file that is sent back; png loses nothing.",
        ),
        io.Combo.Input(
            "moderated",
            options=[hosted.STOP, hosted.SOURCE],
            advanced=True,
            tooltip="Decides what happens when the provider refuses for its content policy. 'stop': an error. "
            "'give the source picture back': the first reference, with a warning.",
        ),
        io.Int.Input(
            "time_limit",
            default=300,
            min=1,
            max=86400,
            advanced=True,
            tooltip="Gives up after this many seconds, for all pictures together.",
        ),
        io.Boolean.Input(
            "save_original",
            default=False,
            tooltip="Saves the file exactly as it came into the output folder. Its provenance signature, if "
            "it has one, survives only there.",
        ),
        io.Boolean.Input(
            "dry_run",
            default=False,
            tooltip="Sends nothing: shows what would be sent and the price. The graph behind the picture does not run.",
        ),
    ]


class KontextHosted(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextHosted",
            display_name="Kontext Hosted",
            category="kontext/hosted",
            description="Edits with FLUX.1 Kontext [pro], [max] or [dev] at a provider's, with your own key, for "
            "money. Instruction and pictures leave this computer when the node runs.",
            has_intermediate_output=True,
            search_aliases=["Flux.1 Kontext [pro] Image", "Flux.1 Kontext [max] Image", "BFL", "API", "fal", "cloud"],
            inputs=[*_what(), *_which(), *_how()],
            outputs=[
                io.Image.Output(
                    "image",
                    display_name="image",
                    is_output_list=True,
                    tooltip="The pictures, one by one: for PreviewImage, SaveImage or the next edit.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was sent, and of each picture: size, seconds, price, seed, the provider's request "
                    "id.",
                ),
            ],
        )

    @classmethod
    async def execute(cls, references: dict | None = None, **settings) -> io.NodeOutput:
        pictures = [picture for picture in (references or {}).values() if picture is not None]
        images, report = await hosted.edit(hosted.Settings(**settings), pictures)
        return io.NodeOutput(images, report, ui=ui.PreviewText(report))


NODES = [KontextHosted]
