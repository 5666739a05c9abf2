"""Accelerate sampling several times, at a fidelity that the user chooses."""

from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ..host import acceleration, measure
from ..kontext_core.acceleration.settings import FIDELITIES, PRESETS, Settings, parse_steps


def _custom() -> list[io.Input]:
    return [
        io.Float.Input(
            "fidelity",
            default=36.0,
            min=10.0,
            max=80.0,
            step=0.5,
            tooltip="Sets how near to the full run the picture should be: PSNR in dB, as estimated during the run. "
            "Higher is nearer and slower. 40: hard to tell apart. 28: details differ.",
        ),
        io.Int.Input(
            "most_steps",
            default=0,
            min=0,
            max=10000,
            tooltip="Limits the number of computed steps, regardless of the fidelity. 0: no limit.",
        ),
        io.String.Input(
            "steps",
            default="",
            tooltip="Computes exactly these steps, counted from 0, such as 0, 1, 3, 7, 14, 21; fidelity and limit then "
            "have no effect. For published lists of steps. Empty: the run decides.",
        ),
    ]


class KontextAccelerate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextAccelerate",
            display_name="Kontext Accelerate",
            category="kontext/sampling",
            description="Makes an edit several times faster: computes as many steps as your chosen fidelity needs and "
            "forecasts the others. The sampler shows a report after the run.",
            has_intermediate_output=True,
            search_aliases=["TeaCache", "EasyCache", "MagCache", "cache", "speed up", "faster", "RegionE"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to make faster: from Kontext Loader, any FLUX.1 loader, or a LoRA node.",
                ),
                io.DynamicCombo.Input(
                    "preset",
                    tooltip="Chooses how near to the full run the picture is to be. 'exact': the same. "
                    + ", ".join(f"'{name}': about {decibels:g} dB" for name, decibels in FIDELITIES.items())
                    + ". 'custom': your own numbers.",
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
                    tooltip="Limits the memory of the KV cache for references and picture, in GB; half of the device's "
                    "memory is a limit too. What does not fit is computed instead; the report says so.",
                ),
                io.Boolean.Input(
                    "half_precision",
                    default=False,
                    advanced=True,
                    tooltip="Stores the KV cache in 16 bits if the model computes in 32, which halves its memory.",
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
    def execute(cls, model, preset: dict, cache_gb: float, half_precision: bool) -> io.NodeOutput:
        settings = replace(_settings(preset), cache_gigabytes=cache_gb, half_precision=half_precision)
        return io.NodeOutput(acceleration.accelerate(model, settings), ui=ui.PreviewText(settings.describe()))


def _settings(preset: dict) -> Settings:
    if preset["preset"] != "custom":
        return PRESETS[preset["preset"]]
    return Settings(
        fidelity=preset["fidelity"],
        most=preset["most_steps"] or None,
        steps=parse_steps(preset["steps"]),
    )


class KontextMeasure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextMeasure",
            display_name="Kontext Measure",
            category="kontext/sampling",
            description="Runs your edit in full and with presets of Kontext Accelerate, and reports the time and the "
            "fidelity of each on your model.",
            has_intermediate_output=True,
            search_aliases=["benchmark", "compare", "PSNR", "how fast", "speed test"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to measure: with your LoRAs, before or after Kontext Accelerate.",
                ),
                io.Vae.Input("vae", tooltip="Decodes the pictures that are compared."),
                io.Conditioning.Input("positive", tooltip="The instruction, with its references from Kontext Context."),
                io.Latent.Input("latent", tooltip="The latent to fill, from Kontext Target."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Chooses the noise, the same for all runs. Try several: they differ in difficulty.",
                ),
                io.Int.Input(
                    "steps",
                    default=28,
                    min=1,
                    max=10000,
                    tooltip="The steps of the full run. Use as many as in your sampler.",
                ),
                io.Float.Input(
                    "guidance",
                    default=2.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="As in your sampler.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="As in your sampler.",
                ),
                *(
                    io.Boolean.Input(name, default=True, tooltip=f"Measures the preset that aims at {decibels:g} dB.")
                    for name, decibels in FIDELITIES.items()
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to avoid; has an effect only when cfg is not 1.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    tooltip="The pictures: of the full run first, then of each preset in the order of the table.",
                ),
                io.String.Output("table", display_name="table", tooltip="What is shown on the node."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        positive,
        latent: dict,
        seed: int,
        steps: int,
        guidance: float,
        cfg: float,
        negative=None,
        **asked,
    ) -> io.NodeOutput:
        presets = [name for name in FIDELITIES if asked[name]]
        found = measure.measure(
            model, vae, latent, presets, positive=positive, negative=negative,
            seed=seed, steps=steps, guidance=guidance, cfg=cfg, denoise=1.0,
        )  # fmt: skip
        table = measure.table(found, steps)
        images = torch.cat([one.pictures for one in found])
        return io.NodeOutput(images, table, ui=ui.PreviewText(table))


NODES = [KontextAccelerate, KontextMeasure]
