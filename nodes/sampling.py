"""Schedule, solver and sampler."""

from comfy_api.latest import io, ui

from ..host import latents
from ..host import sampling as host_sampling
from ..kontext_core.schedule import flow_sigmas
from ..kontext_core.solvers import SOLVERS
from .sockets import cfg_details, integer, number, output


def _steps() -> io.Input:
    return integer(
        "steps",
        28,
        (1, 10000),
        "More steps give finer detail and take longer, in proportion. 20 to 30 for Kontext [dev].",
    )


def _denoise() -> io.Input:
    return number(
        "denoise",
        1.0,
        (0.01, 1.0, 0.01),
        "Below 1 the run starts from the latent's own picture instead of noise; lower values keep "
        "more of it. 1 for an edit with references.",
    )


def _solver() -> io.Input:
    return io.Combo.Input(
        "solver",
        options=list(SOLVERS),
        default="euler",
        tooltip="Chooses the integration method. 'euler': the default, one evaluation per step. 'heun': two per "
        "step, more exact. 'multistep': one per step, uses the previous step; good with few steps.",
    )


class KontextSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        mu = number(
            "mu",
            1.15,
            (-10.0, 10.0, 0.01),
            "Higher values spend more steps on the rough shape. 1.15 is right for 1 megapixel, "
            "0.5 for 256x256; ModelSamplingFlux calls it shift.",
        )
        return io.Schema(
            node_id="KontextSchedule",
            display_name="Kontext Schedule",
            category="kontext/sampling",
            description="The noise levels that FLUX.1 was trained for at this size.",
            search_aliases=["BasicScheduler", "ModelSamplingFlux", "Flux scheduler", "sigmas", "shift"],
            inputs=[
                io.Latent.Input("latent", tooltip="The latent that the sampler gets: its size sets the shift."),
                _steps(),
                _denoise(),
                io.DynamicCombo.Input(
                    "shift",
                    tooltip="Distributes the steps between rough shape and detail. 'from size': "
                    "as in training. 'custom': your own value.",
                    options=[io.DynamicCombo.Option("from size", []), io.DynamicCombo.Option("custom", [mu])],
                ),
            ],
            outputs=[output(io.Sigmas, "sigmas", "For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, latent: dict, steps: int, denoise: float, shift: dict) -> io.NodeOutput:
        return io.NodeOutput(flow_sigmas(steps, latents.tokens(latent), denoise=denoise, mu=shift.get("mu")))


class KontextSolver(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextSolver",
            display_name="Kontext Solver",
            category="kontext/sampling",
            description="The sampler's integration method from one noise level to the next.",
            search_aliases=["KSamplerSelect", "sampler select", "euler", "heun"],
            inputs=[_solver()],
            outputs=[output(io.Sampler, "sampler", "For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, solver: str) -> io.NodeOutput:
        return io.NodeOutput(host_sampling.make_sampler(solver))


class KontextSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KontextSampler",
            display_name="Kontext Sampler",
            category="kontext/sampling",
            description="Makes the picture: noise, the schedule for its size, guidance and solver in one node.",
            has_intermediate_output=True,
            search_aliases=[
                "KSampler",
                "SamplerCustomAdvanced",
                "flux edit",
                "edit",
                "FluxGuidance",
                "sample",
                "generate",
                "edit image",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model: from Kontext Loader or any FLUX.1 loader, with or without LoRAs."
                ),
                io.Conditioning.Input("positive", tooltip="The instruction, with its references from Kontext Context."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent to fill, from Kontext Target. A mask on it limits the edit; the rest of "
                    "the latent stays.",
                ),
                integer(
                    "seed",
                    0,
                    (0, 0xFFFFFFFFFFFFFFFF),
                    "Chooses the noise: the same seed gives the same picture.",
                    control_after_generate=True,
                ),
                _steps(),
                number(
                    "guidance",
                    2.5,
                    (0.0, 100.0, 0.1),
                    "Higher values follow the instruction more strictly; too high looks harsh and "
                    "oversaturated. 2 to 4, usually 2.5. A FluxGuidance before this node wins.",
                ),
                number(
                    "cfg",
                    1.0,
                    (0.0, 100.0, 0.1),
                    "Above 1 pushes away from the negative and doubles the time. 1 for Kontext "
                    "[dev], whose guidance is built in.",
                    advanced=True,
                ),
                _solver(),
                _denoise(),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to avoid; has an effect only when cfg is not 1. Give it the same "
                    "references as positive.",
                ),
                *cfg_details(),
            ],
            outputs=[output(io.Latent, "latent", "The picture, for VAE Decode.")],
        )

    @classmethod
    def execute(
        cls, model, positive, latent: dict, seed: int, steps: int, guidance: float, cfg: float, solver: str,
        denoise: float, negative=None, cfg_start: float = 0.0, cfg_end: float = 1.0, cfg_rescale: float = 0.0,
    ) -> io.NodeOutput:  # fmt: skip
        result, report = host_sampling.sample(
            model, positive, negative, latent, seed=seed, steps=steps, guidance=guidance, cfg=cfg, solver=solver,
            denoise=denoise, cfg_range=(cfg_start, cfg_end), cfg_rescale=cfg_rescale,
        )  # fmt: skip
        return io.NodeOutput(result, ui=ui.PreviewText(report))


NODES = [KontextSchedule, KontextSolver, KontextSampler]
