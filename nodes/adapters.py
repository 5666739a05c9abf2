"""What a model learned afterwards: LoRA files."""

from comfy_api.latest import io, ui

from ..host import adapters
from ..host.loading import model_files


class KontextLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextLora",
            display_name="Kontext LoRA",
            category="kontext/loaders",
            description="Adds a LoRA to a FLUX.1 model. Reads the files of every common tool and tells "
            "what of the file was used.",
            has_intermediate_output=True,
            search_aliases=["LoraLoader", "LoraLoaderModelOnly", "Load LoRA", "LoKr", "DoRA", "adapter"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to change: from Kontext Loader, any FLUX.1 loader, or another Kontext LoRA.",
                ),
                io.Combo.Input(
                    "lora",
                    options=model_files("loras"),
                    tooltip="What to add: a LoRA for FLUX.1 Kontext or FLUX.1 [dev] in models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Changes the model more the higher it is. 1 as it was trained, 0 not at all; "
                    "below 0 does the opposite.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    display_name="model",
                    tooltip="The changed model; the one that came in stays as it is.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found: layout, keys matched of keys present, rank, alpha, and what was "
                    "not matched and why.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, lora: str, strength: float) -> io.NodeOutput:
        changed, report = adapters.apply_lora(model, lora, strength)
        return io.NodeOutput(changed, report, ui=ui.PreviewText(report))


NODES = [KontextLora]
