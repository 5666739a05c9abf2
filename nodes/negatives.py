"""Negative prompts."""

from comfy_api.latest import io, ui

from ..host import negatives as host_negatives
from ..kontext_core.negatives import Nag
from .sockets import fraction, number, output


def _nag_inputs() -> list[io.Input]:
    return [
        number(
            "scale",
            5.0,
            (1.0, 50.0, 0.1),
            "Higher values push further away from the negative. 1 changes nothing. Set tau and alpha first, this last.",
        ),
        number(
            "tau",
            2.5,
            (1.0, 10.0, 0.1),
            "Limits the push, relative to the result without it. Lower it if the picture breaks.",
        ),
        fraction("alpha", 0.25, "Blends in the pushed result: 0 not at all, 1 completely. Higher is stronger."),
        fraction("start", 0.0, "Starts the effect at this fraction of the steps.", advanced=True),
        fraction(
            "end", 1.0, "Ends the effect at this fraction of the steps; later steps cost nothing extra.", advanced=True
        ),
    ]


class KontextNegative(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        same_references = io.Boolean.Input(
            "same_references",
            default=True,
            tooltip="Gives the negative the positive's references, so that cfg pushes away only from its text. "
            "If off, cfg also pushes the picture towards the references.",
        )
        return io.Schema(
            node_id="KontextNegative",
            display_name="Kontext Negative",
            category="kontext/conditioning",
            description="Applies a negative prompt: with NAG at cfg 1, for which FLUX.1 Kontext [dev] is made, or "
            "with cfg.",
            has_intermediate_output=True,
            search_aliases=["NAG", "NAGuidance", "negative prompt", "Normalized Attention Guidance", "cfg", "avoid"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="Instruction and references, from Kontext Context or Kontext Reference Control."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip='What to avoid, from CLIP Text Encode: name it ("red, blurry"), do not write "no red".',
                ),
                io.DynamicCombo.Input(
                    "method",
                    tooltip="Chooses the method. 'nag': inside the model, at cfg 1, about a fifth slower. 'cfg': a "
                    "second pass, when cfg in the sampler is above 1; twice the time.",
                    options=[
                        io.DynamicCombo.Option("nag", _nag_inputs()),
                        io.DynamicCombo.Option("cfg", [same_references]),
                    ],
                ),
            ],
            outputs=[
                output(
                    io.Conditioning,
                    "positive",
                    "For positive of Kontext Sampler or KSampler. With 'nag' it includes the negative.",
                ),
                output(
                    io.Conditioning,
                    "negative",
                    "For negative of the sampler: the negative's text with references. Has an effect when "
                    "cfg is not 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, method: dict) -> io.NodeOutput:
        if method["method"] == "nag":
            nag = Nag(**{name: method[name] for name in Nag._fields})
            *conditionings, report = host_negatives.with_nag(positive, negative, nag)
        else:
            *conditionings, report = host_negatives.for_cfg(positive, negative, method["same_references"])
        return io.NodeOutput(*conditionings, ui=ui.PreviewText(report))


NODES = [KontextNegative]
