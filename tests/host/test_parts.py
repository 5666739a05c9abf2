"""KontextAccelerate in parts of a run, and under samplings of other nodes."""

from itertools import pairwise

import comfy.hooks
import comfy.sample
import comfy.samplers
import nodes as comfy_nodes
import pytest
import torch
from comfy.model_sampling import ModelSamplingFlux
from comfy.patcher_extension import WrappersMP

from kontext_core.geometry import Geometry
from untrained import noise, untrained

SIZES = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=48, vec_in_dim=32)
STEPS = 8


@pytest.fixture(scope="module")
def model(recorder):
    return untrained(SIZES)


def conditioning():
    given = {"pooled_output": noise(1, 32, seed=2), "guidance": 2.5, "reference_latents": [noise(1, 16, 8, 12, seed=3)]}
    return [[noise(1, 7, 48), given]]


def in_parts(model, *cuts, steps=STEPS):
    """As in a chain of KSamplerAdvanced: the first part adds noise, each later one continues from the one before."""
    latent, first = torch.zeros(1, 16, 8, 12), noise(1, 16, 8, 12, seed=5)
    for start, end in pairwise((0, *cuts, steps)):
        latent = comfy.sample.sample(
            model, first if start == 0 else torch.zeros_like(first), steps, 1.0, "euler", "simple", conditioning(), [],
            latent, start_step=start, last_step=end, force_full_denoise=end == steps,
        )  # fmt: skip
    return latent


@pytest.mark.parametrize("cuts", [(4,), (3, 4), (1, 6)])
def test_exact_in_parts_is_the_whole_run(room, settings, model, cuts):
    torch.testing.assert_close(in_parts(room.accelerate(model, settings()), *cuts), in_parts(model), atol=2e-5, rtol=0)


def test_the_report_of_a_part_says_where_it_lies(room, settings, model, told):
    """Forecasts do not cross a cut: a part begins with two computed steps and ends with one."""
    in_parts(room.accelerate(model, settings(fidelity=0)), 3, 20, steps=28)
    first, middle, last = (text.splitlines() for text in told)
    assert first[0] == "Kontext Accelerate: 3 steps, from 0% to 11% of a run: 2 full, 1 forecast"
    assert middle[0].startswith("Kontext Accelerate: 17 steps, from 11% to 71% of a run: ")
    assert last[0].startswith("Kontext Accelerate: 8 steps, from 71% to 100% of a run: ")
    for part in (first, middle, last):
        assert " dB to the full run expected if all other parts are computed in full, " in "\n".join(part)


def test_steps_that_were_listed_are_counted_in_the_whole_run(room, settings, model, told):
    """Also in parts; each part begins with a computed step, because nothing before it is known there."""
    asked = []
    listed = room.accelerate(model, settings(steps=(0, 1, 3, 5)))

    def note(executor, x, timestep, *args, **options):
        asked.append(timestep[0].item())
        return executor(x, timestep, *args, **options)

    listed.add_wrapper(WrappersMP.PREDICT_NOISE, note)
    in_parts(listed, 4)
    levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    assert asked == pytest.approx(levels[[0, 1, 3, 4, 5]].tolist())


def test_a_run_that_starts_late_with_noise_of_its_own_is_whole(room, settings, model, told):
    """As with denoise below 1."""
    latent = torch.zeros(1, 16, 8, 12)
    given = (conditioning(), [], latent)
    accelerated = room.accelerate(model, settings(steps=(0, 2)))
    comfy.sample.sample(accelerated, noise(*latent.shape), STEPS, 1.0, "euler", "simple", *given, start_step=4)
    assert told[0].startswith("Kontext Accelerate: 4 steps: 2 full, 2 forecast")


# Samplings of other nodes


SAMPLINGS = {"ModelSamplingSD3": "timesteps of its own", "ModelSamplingAuraFlow": None}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_timesteps_that_are_not_the_noise_level_are_the_hosts(room, settings, model, told, name):
    """SD3's are a thousand times the noise level; FLUX.1 is called with them."""
    node = comfy_nodes.NODE_CLASS_MAPPINGS[name]()
    (changed,) = getattr(node, node.FUNCTION)(model, 3.0)
    ours = in_parts(room.accelerate(changed, settings()))
    torch.testing.assert_close(ours, in_parts(changed), atol=2e-5, rtol=0)
    assert SAMPLINGS[name] is None or SAMPLINGS[name] in told[0]
    in_parts(room.accelerate(changed, settings(steps=(0, 2, 4, 6))))
    assert "8 steps: 4 full, 4 forecast" in told[1]


class InFluxModelSampling(ModelSamplingFlux):
    """As in inversion packs: FLUX.1's output is used unchanged, for rising noise levels."""

    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_output

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent


@pytest.mark.parametrize("rising", [True, False])
def test_a_sampling_that_is_no_flow_is_computed_in_full_and_named(room, settings, model, told, rising):
    inverse = model.clone()
    inverse.add_object_patch("model_sampling", InFluxModelSampling(model.model.model_config))
    sigmas = torch.linspace(0, 1, 5) if rising else torch.linspace(1, 0, 5)
    latent = noise(1, 16, 8, 12)

    def run(model):
        sampler = comfy.samplers.ksampler("euler")
        given = (conditioning(), [], latent)
        return comfy.sample.sample_custom(model, torch.zeros_like(latent), 1.0, sampler, sigmas + 0.01, *given)

    theirs = run(inverse)
    torch.testing.assert_close(run(room.accelerate(inverse, settings(fidelity=10))), theirs, atol=2e-4, rtol=1e-5)
    said = "the noise levels of this run do not fall" if rising else "InFluxModelSampling: every step is computed"
    assert torch.isfinite(theirs).all() and said in told[0]


CHANGING = {
    "weights": comfy.hooks.WeightHook,
    "parts": comfy.hooks.ObjectPatchHook,
    "layers": comfy.hooks.InjectionsHook,
}


@pytest.mark.parametrize("kind", CHANGING.values(), ids=CHANGING)
def test_every_kind_of_hook_that_changes_the_model_is_seen(room, kind):
    """Other hooks act on single calls, so steps may be skipped."""
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({}))
    conds = {"positive": [{"hooks": hooks}, {}], "negative": [{}]}
    assert not room._changes_weights(conds)
    hooks.add(kind())
    assert room._changes_weights(conds)
