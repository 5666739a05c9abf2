"""Several times faster, at a known price."""

from comfy_api.latest import io, ui

from ..host import acceleration
from ..kontext_core.acceleration.forecast import HIGHEST_ORDER
from ..kontext_core.acceleration.plan import PRESETS, Settings, describe


def _custom() -> list[io.Input]:
    return [
        io.Int.Input(
            "computed_steps",
            default=10,
            min=1,
            max=10000,
            tooltip="Lets the model compute so many of the run's steps; the others are forecast and cost nothing. "
            "Fewer is faster and less exact. As many as the sampler has, or more: all.",
        ),
        io.Float.Input(
            "order",
            default=1.0,
            min=0.0,
            max=HIGHEST_ORDER,
            step=0.1,
            tooltip="Chooses how a step is forecast. 0: as the last computed one. 1: along the line through the last "
            "two, usually best. 2: along a parabola. Between: a mixture; 0.4 suits three or four computed steps.",
        ),
        io.Int.Input(
            "refresh_references",
            default=1,
            min=0,
            max=10000,
            tooltip="Computes the references only in every so many computed steps; between, what the model saw in them "
            "is kept. 1: always, most exact. Higher is faster. 0: in the first step alone.",
        ),
        io.Int.Input(
            "region_after",
            default=0,
            min=0,
            max=10000,
            tooltip="After so many computed steps, computes only the part of the picture that the edit changes. Needs "
            "one reference of the target's size, and references that are kept. 0: never.",
        ),
    ]


class KontextAccelerate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextAccelerate",
            display_name="Kontext Accelerate",
            category="kontext/sampling",
            description="Makes an edit several times faster: computes fewer steps and fewer tokens. What it did is "
            "shown on the sampler after the run.",
            has_intermediate_output=True,
            search_aliases=["TeaCache", "EasyCache", "MagCache", "cache", "speed up", "faster", "RegionE"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to make faster: from Kontext Loader, any FLUX.1 loader, or a LoRA node.",
                ),
                io.DynamicCombo.Input(
                    "preset",
                    tooltip="Sets how much is left out. 'exact': nothing that changes the picture. 'quality', "
                    "'balanced', 'fast': more and more. 'custom': your own numbers.",
                    options=[
                        *(io.DynamicCombo.Option(name, []) for name in PRESETS),
                        io.DynamicCombo.Option("custom", _custom()),
                    ],
                ),
                io.Float.Input(
                    "cache_gb",
                    default=12.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Limits the memory for what is kept of references and picture, in GB; half of the device's "
                    "memory does too. What does not fit is computed instead; the report says so.",
                ),
                io.Boolean.Input(
                    "half_precision",
                    default=False,
                    advanced=True,
                    tooltip="Keeps it in 16 bits where the model computes in 32, which halves the memory.",
                ),
                io.Int.Input(
                    "keep_from",
                    default=1,
                    min=1,
                    max=10000,
                    optional=True,
                    advanced=True,
                    tooltip="Chooses the computed step from which references are kept; the ones before compute them "
                    "too. 1: the first, fastest and least exact. Without effect where references are always computed.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    display_name="model",
                    tooltip="The faster model: for Kontext Sampler, KSampler or a guider.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, preset: dict, cache_gb: float, half_precision: bool, keep_from: int = 1) -> io.NodeOutput:
        settings = _settings(preset).keeping(cache_gb, half_precision, keep_from)
        return io.NodeOutput(acceleration.accelerate(model, settings), ui=ui.PreviewText(describe(settings)))


def _settings(preset: dict) -> Settings:
    if preset["preset"] != "custom":
        return PRESETS[preset["preset"]]
    return Settings(
        computed=preset["computed_steps"],
        order=preset["order"],
        refresh=preset["refresh_references"],
        warmup=preset["region_after"] or None,
    )


NODES = [KontextAccelerate]
