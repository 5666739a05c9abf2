"""Kontext hosted by a provider, with the user's own key."""

from comfy_api.latest import io, ui

from ..host import hosted
from ..kontext_core.hosted import PROVIDERS
from ..kontext_core.hosted.bfl import ENDPOINTS
from ..kontext_core.hosted.provider import SETTINGS, Provider, Range
from ..kontext_core.resolutions import RATIOS
from .sockets import integer, number, output


def _own_inputs(provider: Provider) -> list[io.Input]:
    """A provider's inputs: those that at least one of its models accepts."""
    taken = {name: allowed for model in provider.models.values() for name, allowed in model.settings.items()}
    inputs: list[io.Input] = [
        io.Combo.Input(
            "model",
            options=list(provider.models),
            tooltip="Chooses FLUX.1 Kontext [pro], [max] (better with text, more expensive) or [dev] (the open one).",
        )
    ]
    if provider is PROVIDERS["Black Forest Labs"]:
        inputs.append(
            io.Combo.Input(
                "region",
                options=list(ENDPOINTS),
                tooltip="Chooses where it is computed. 'EU' stays in the European Union.",
            )
        )
    inputs += [_SETTINGS[name](allowed) for name, allowed in sorted(taken.items(), key=_position)]
    if "lora" in taken:
        inputs.append(
            number(
                "lora_weight", 1.0, (-4.0, 4.0, 0.05), "Sets the strength of the LoRA.", optional=True, advanced=True
            )
        )
    if provider is PROVIDERS["Hugging Face"]:
        inputs.append(
            io.String.Input(
                "bill_to",
                default="",
                optional=True,
                advanced=True,
                tooltip="The organisation that pays; you must be a member. Empty: you pay.",
            )
        )
    return inputs


def _position(item: tuple[str, Range | None]) -> int:
    return SETTINGS.index(item[0])


def _safety_tolerance(allowed: Range | None) -> io.Input:
    low, high = map(int, allowed or (0, 6))
    return integer(
        "safety_tolerance",
        2,
        (low, high),
        "Higher values make the provider's moderation more tolerant; 0 is the strictest. With a "
        "picture some providers accept at most 2.",
        advanced=True,
    )


def _prompt_upsampling(_: Range | None) -> io.Input:
    return io.Boolean.Input(
        "prompt_upsampling", default=False, tooltip="Lets the provider expand your instruction.", advanced=True
    )


def _steps(allowed: Range | None) -> io.Input:
    return integer(
        "steps",
        0,
        (0, int((allowed or (0, 50))[1])),
        "Sets the number of steps, for [dev]; 0 leaves it to the provider.",
        optional=True,
        advanced=True,
    )


def _guidance(allowed: Range | None) -> io.Input:
    return number(
        "guidance",
        0.0,
        (0.0, float((allowed or (0, 20))[1]), 0.1),
        "Higher values follow the instruction more closely, about 2.5 for [dev] and 3.5 for the others; 0 "
        "leaves it to the provider.",
        optional=True,
        advanced=True,
    )


def _lora(_: Range | None) -> io.Input:
    return io.String.Input(
        "lora",
        default="",
        optional=True,
        advanced=True,
        tooltip="A LoRA by the provider's name for it, for [dev]: civitai:618692@691639 at Runware. Empty: none.",
    )


_SETTINGS = {
    "safety_tolerance": _safety_tolerance,
    "prompt_upsampling": _prompt_upsampling,
    "steps": _steps,
    "guidance": _guidance,
    "lora": _lora,
}


def _what() -> list[io.Input]:
    """Provider, instruction, pictures and ratio."""
    reference = io.Image.Input(
        "reference",
        optional=True,
        tooltip="A picture to edit or to take something from; it is sent to the provider. Connect one and the "
        "next socket appears.",
    )
    shape = io.String.Input("shape", default="5:4", tooltip="Sets the aspect ratio, width to height, from 3:7 to 7:3.")
    return [
        io.DynamicCombo.Input(
            "provider",
            tooltip="Chooses the provider, which gets the instruction, the pictures and the money. The key "
            "comes from the environment or from a file, never from a widget; see the help page. Verda and Hugging Face "
            "are untested.",
            options=[io.DynamicCombo.Option(title, _own_inputs(provider)) for title, provider in PROVIDERS.items()],
        ),
        io.String.Input(
            "instruction",
            multiline=True,
            default="",
            tooltip="The instruction: what to change, and what to keep. At most 512 tokens, about 400 words.",
        ),
        io.Autogrow.Input(
            "references",
            template=io.Autogrow.TemplatePrefix(reference, prefix="reference", min=0, max=4),
            tooltip="The reference pictures, none to 4. The first is usually the one to edit.",
        ),
        io.DynamicCombo.Input(
            "ratio",
            tooltip="Sets the aspect ratio of the result, always about a megapixel. Without a picture choose one of "
            "the ratios.",
            options=[
                io.DynamicCombo.Option(hosted.AS_FIRST, []),
                *(io.DynamicCombo.Option(name, []) for name in RATIOS),
                io.DynamicCombo.Option(hosted.FREE, [shape]),
            ],
        ),
    ]


def _which() -> list[io.Input]:
    """Seed and number of pictures."""
    return [
        integer(
            "seed",
            1,
            (0, 2**64 - 1),
            "Chooses the picture: another number, another picture, and another payment. A seed "
            "beyond the provider's range is mapped into it.",
            control_after_generate=True,
        ),
        integer(
            "pictures",
            1,
            (1, 100),
            "Makes this many pictures, with increasing seeds; each is paid for. As many run at once "
            "as the provider allows.",
        ),
    ]


def _how() -> list[io.Input]:
    """Output options."""
    return [
        io.Combo.Input(
            "output_format",
            options=["png", "jpeg", "webp"],
            tooltip="Chooses the format of the returned file; png is lossless. Not every provider supports webp.",
        ),
        io.Combo.Input(
            "moderated",
            options=[hosted.STOP, hosted.SOURCE],
            advanced=True,
            tooltip="Decides what happens when the provider's moderation refuses. 'stop': an error. "
            "'give the source picture back': the first reference, with a warning.",
        ),
        integer(
            "time_limit", 300, (1, 86400), "Gives up after this many seconds, for all pictures together.", advanced=True
        ),
        io.Boolean.Input(
            "save_original",
            default=False,
            tooltip="Saves the unchanged file into the output folder. Only there its provenance signature, if "
            "it has one, is preserved.",
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
            description="Edits with FLUX.1 Kontext [pro], [max] or [dev] at a provider, with your own key, for "
            "money. Instruction and pictures leave this computer when the node runs.",
            has_intermediate_output=True,
            search_aliases=["Flux.1 Kontext [pro] Image", "Flux.1 Kontext [max] Image", "BFL", "API", "fal", "cloud"],
            inputs=[*_what(), *_which(), *_how()],
            outputs=[
                output(
                    io.Image,
                    "image",
                    "The pictures, one by one: for PreviewImage, SaveImage or the next edit.",
                    is_output_list=True,
                ),
                output(
                    io.String,
                    "report",
                    "The request, and for each picture: size, seconds, price, seed, the provider's request id.",
                ),
            ],
        )

    @classmethod
    async def execute(cls, references: dict | None = None, **settings) -> io.NodeOutput:
        images, report = await hosted.edit(hosted.Settings(**settings), list((references or {}).values()))
        return io.NodeOutput(images, report, ui=ui.PreviewText(report))


NODES = [KontextHosted]
