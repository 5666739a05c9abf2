"""Accelerate sampling several times, at a fidelity that the user chooses."""

from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ..host import acceleration, measure
from ..kontext_core.acceleration.settings import FIDELITIES, PRESETS, Settings, parse_steps
from .sockets import cfg_details, integer, number, output


def _custom() -> list[io.Input]:
    return [
        number(
            "fidelity",
            36.0,
            (10.0, 80.0, 0.5),
            "Sets how near to the full run the picture should be: PSNR in dB, as estimated during the run. "
            "Higher is nearer and slower. 40: hard to tell apart. 28: details differ.",
        ),
        integer(
            "most_steps", 0, (0, 10000), "Limits the number of computed steps, regardless of the fidelity. 0: no limit."
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
                    "model", tooltip="The model to make faster: from Kontext Loader, any FLUX.1 loader, or a LoRA node."
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
                number(
                    "cache_gb",
                    12.0,
                    (0.0, 1000.0, 0.1),
                    "Limits the memory of the KV cache for references and picture, in GB; half of the device's "
                    "memory is a limit too. What does not fit is computed instead; the report says so.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "half_precision",
                    default=False,
                    advanced=True,
                    tooltip="Stores the KV cache in 16 bits if the model computes in 32, which halves its memory.",
                ),
            ],
            outputs=[output(io.Model, "model", "The faster model: for Kontext Sampler, KSampler or a guider.")],
        )

    @classmethod
    def execute(cls, model, preset: dict, cache_gb: float, half_precision: bool) -> io.NodeOutput:
        settings = replace(_settings(preset), cache_gigabytes=cache_gb, half_precision=half_precision)
        return io.NodeOutput(acceleration.accelerate(model, settings), ui=ui.PreviewText(settings.describe()))


def _settings(preset: dict) -> Settings:
    if preset["preset"] != "custom":
        return PRESETS[preset["preset"]]
    steps = parse_steps(preset["steps"])
    return Settings(fidelity=None if steps else preset["fidelity"], most=preset["most_steps"] or None, steps=steps)


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
                    tooltip="The model to measure, with your LoRAs. A Kontext Accelerate before this node has no "
                    "effect here.",
                ),
                io.Vae.Input("vae", tooltip="Decodes the pictures that are compared."),
                io.Conditioning.Input("positive", tooltip="The instruction, with its references from Kontext Context."),
                io.Latent.Input("latent", tooltip="The latent to fill, from Kontext Target."),
                integer(
                    "seed",
                    0,
                    (0, 0xFFFFFFFFFFFFFFFF),
                    "Chooses the noise, the same for all runs. Try several: they differ in difficulty.",
                    control_after_generate=True,
                ),
                integer("steps", 28, (1, 10000), "The steps of the full run. Use as many as in your sampler."),
                number("guidance", 2.5, (0.0, 100.0, 0.1), "As in your sampler."),
                number("cfg", 1.0, (0.0, 100.0, 0.1), "As in your sampler.", advanced=True),
                *(
                    io.Boolean.Input(name, default=True, tooltip=f"Measures the preset that aims at {decibels:g} dB.")
                    for name, decibels in FIDELITIES.items()
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What to avoid; has an effect only when cfg is not 1."
                ),
                *cfg_details(),
            ],
            outputs=[
                output(
                    io.Image,
                    "images",
                    "The pictures: of the full run first, then of each preset in the order of the table.",
                ),
                output(io.String, "table", "What is shown on the node."),
            ],
        )

    @classmethod
    def execute(
        cls, model, vae, latent: dict, steps: int, negative=None, cfg_start: float = 0.0, cfg_end: float = 1.0,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        presets = [name for name in FIDELITIES if settings.pop(name)]
        settings |= {"negative": negative, "denoise": 1.0, "cfg_range": (cfg_start, cfg_end)}
        found = measure.measure(model, vae, latent, presets, steps=steps, **settings)
        table = measure.table(found, steps, settings["seed"])
        images = torch.cat([one.pictures for one in found])
        return io.NodeOutput(images, table, ui=ui.PreviewText(table))


NODES = [KontextAccelerate, KontextMeasure]
