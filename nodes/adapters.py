"""LoRA files."""

from comfy_api.latest import io, ui

from ..host import adapters
from ..host.loading import model_files
from .sockets import number, output


class KontextLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextLora",
            display_name="Kontext LoRA",
            category="kontext/loaders",
            description="Adds a LoRA to a FLUX.1 model. Reads the files of every common tool and reports "
            "which parts were used.",
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
                    tooltip="The file to add: a LoRA for FLUX.1 Kontext or FLUX.1 [dev] in models/loras.",
                ),
                number(
                    "strength",
                    1.0,
                    (-100.0, 100.0, 0.01),
                    "Higher values change the model more. 1: as trained, 0: not at all; below 0: the opposite effect.",
                ),
            ],
            outputs=[
                output(io.Model, "model", "The changed model; the input stays as it is."),
                output(
                    io.String,
                    "report",
                    "The report: layout, keys matched, rank, alpha, and the keys not matched with the reason.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, lora: str, strength: float) -> io.NodeOutput:
        changed, report = adapters.apply_lora(model, lora, strength)
        return io.NodeOutput(changed, report, ui=ui.PreviewText(report))


NODES = [KontextLora]
