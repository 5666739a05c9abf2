"""Runs with results that are not finite: the first such step, the cause, advice; and no black picture."""

import comfy.sample
import comfy.sd
import pytest
import torch
from safetensors.torch import save_file

from batch import inprocess
from kontext_core.geometry import Geometry
from kontext_core.transformer import KontextTransformer

SIZES = Geometry(hidden_size=128, num_heads=1, depth=1, depth_single_blocks=1, context_in_dim=48, vec_in_dim=32)
NAN = float("nan")
LAST = "final_layer.linear.weight"


@pytest.fixture
def weights(pack):
    torch.manual_seed(0)
    return {name: torch.randn_like(weight) / 20 for name, weight in KontextTransformer(SIZES).state_dict().items()}


def load(weights, **options):
    return comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options=options)


def conditioning(text=0.1, pooled=0.1, reference=0.1):
    values = {"pooled_output": torch.full((1, 32), pooled), "reference_latents": [torch.full((1, 16, 8, 8), reference)]}
    return [[torch.full((1, 5, 48), text), values]]


def sample(pack, model, positive=None, latent=0.0):
    latent = {"samples": torch.full((1, 16, 8, 8), latent)}
    with torch.inference_mode():
        return pack["KontextSampler"].execute(model, positive or conditioning(), latent, 1, 4, 2.5, 1.0, "euler", 1.0)


def refused(pack, model, **inputs):
    with pytest.raises(ValueError) as failure:
        sample(pack, model, **inputs)
    return str(failure.value)


def test_a_run_of_numbers_is_left_alone(pack, weights):
    assert torch.isfinite(sample(pack, load(weights)).result[0]["samples"]).all()


def test_a_damaged_weight_is_named(pack, weights):
    weights[LAST][0, 0] = NAN
    message = refused(pack, load(weights))
    assert "not finite (NaN or infinite) since step 1 of 4" in message
    assert f"The cause is the weight {LAST}: the file is damaged" in message


def test_a_lora_that_overflows_is_named(pack, weights):
    model = load(weights).clone()
    model.add_patches({f"diffusion_model.{LAST}": ("diff", (torch.full_like(weights[LAST], 3e38),))}, 10.0)
    assert f"The cause is the weight {LAST}, which a LoRA changes: lower its strength" in refused(pack, model)


def test_a_run_that_overflows_in_float16_says_what_to_start_the_host_with(pack, weights):
    weights["final_layer.linear.bias"] += 60000
    weights["final_layer.linear.weight"] *= 60000
    model = load(weights, dtype=torch.float16)
    model.model.manual_cast_dtype = None  # as on a GPU; a CPU computes in float32
    message = refused(pack, model)
    assert "The model computes in float16" in message and "--bf16-unet" in message


@pytest.mark.parametrize("solver", ["euler", "heun", "multistep"])
def test_it_says_since_when(pack, weights, solver):
    """Also where our solver runs under another node: the third of four steps is the first without numbers."""
    model = load(weights).clone()

    def theirs(apply, given):
        return apply(given["input"], given["timestep"], **given["c"]) * (NAN if given["timestep"][0] < 0.7 else 1)

    model.set_model_unet_function_wrapper(theirs)
    sampler, sigmas = inprocess.pack_module("host.sampling").make_sampler(solver), torch.tensor([1, 0.9, 0.6, 0.3, 0])
    latent = torch.zeros(1, 16, 8, 8)
    with pytest.raises(ValueError, match="since step 3 of 4"), torch.inference_mode():
        comfy.sample.sample_custom(model, latent + 1, 1.0, sampler, sigmas, conditioning(), [], latent)


# The host's samplers, with a MODEL or a conditioning of our nodes


def sampled_by_the_host(model, positive=None, latent=0.0, sampler="euler"):
    noise, latent = torch.ones(1, 16, 8, 8), torch.full((1, 16, 8, 8), latent)
    positive = positive or conditioning()
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 4, 1.0, sampler, "simple", positive, [], latent, seed=1)


def broken_from(limit):
    """Another node's patch that makes the model return NaN below a noise level."""

    def theirs(apply, given):
        return apply(given["input"], given["timestep"], **given["c"]) * (NAN if given["timestep"][0] < limit else 1)

    return theirs


def accelerated(pack, model):
    return pack["KontextAccelerate"].execute(model, {"preset": "fast"}, 1.0, False).result[0], conditioning()


def controlled(pack, model):
    return model, pack["KontextReferenceControl"].execute(conditioning(), 1, 0.4, 0.0, 1.0).result[0]


def negated(pack, model):
    nag = {"method": "nag", "scale": 5.0, "tau": 2.5, "alpha": 0.25, "start": 0.0, "end": 1.0}
    return model, pack["KontextNegative"].execute(conditioning(), conditioning(text=0.2), nag).result[0]


OURS = {"acceleration": accelerated, "a control": controlled, "NAG": negated}


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("asked", OURS.values(), ids=OURS)
def test_the_hosts_sampler_says_since_when(pack, weights, asked, sampler):
    model = load(weights).clone()
    model.set_model_unet_function_wrapper(broken_from(0.8))
    with pytest.raises(ValueError, match="not finite .* since step 3 of 4, so the picture would be black. Look at the"):
        sampled_by_the_host(*asked(pack, model), sampler=sampler)


def test_a_lora_that_overflows_is_named_in_the_hosts_sampler(pack, weights, model_folder):
    layer = LAST.removesuffix(".weight")
    halves = {"lora_B": torch.full((64, 4), 3e20), "lora_A": torch.full((4, 128), 3e20)}
    lora = {f"diffusion_model.{layer}.{half}.weight": values for half, values in halves.items()}
    save_file(lora, model_folder("loras") / "overflows.safetensors")
    model = pack["KontextLora"].execute(load(weights), "overflows.safetensors", 1.0).result[0]
    with pytest.raises(ValueError, match=f"since step 1 of 4.*The cause is the weight {LAST}, which a LoRA changes"):
        sampled_by_the_host(model)


def test_a_model_of_our_loader_is_watched_in_the_hosts_sampler(pack):
    model, clip, _ = pack["KontextLoader"].execute({"source": "embedded"}).result
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("make the circle red"))
    sampled_by_the_host(model, positive)
    broken = model.clone()
    broken.set_model_unet_function_wrapper(broken_from(2.0))
    with pytest.raises(ValueError, match="since step 1 of 4"):
        sampled_by_the_host(broken, positive)


def test_what_is_no_number_before_a_run_of_the_host_is_named(pack, weights):
    model = accelerated(pack, load(weights))[0]
    for name, said in (("text", "its text"), ("reference", "reference 1")):
        with pytest.raises(ValueError, match=f"since step 1 of 4.* Positive: {said} holds values that are not finite"):
            sampled_by_the_host(model, conditioning(**{name: NAN}))
    with pytest.raises(ValueError, match="the model is given values .* since step 1 of 4"):
        sampled_by_the_host(model, latent=NAN)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("asked", OURS.values(), ids=OURS)
def test_a_run_of_the_host_that_gives_numbers_is_left_alone(pack, weights, asked, sampler):
    assert torch.isfinite(sampled_by_the_host(*asked(pack, load(weights)), sampler=sampler)).all()


GIVEN = {
    "text": ({"positive": conditioning(text=NAN)}, "positive: its text holds"),
    "pooled": ({"positive": conditioning(pooled=NAN)}, "positive: its pooled text holds"),
    "reference": ({"positive": conditioning(reference=float("inf"))}, "positive: reference 1 holds"),
    "latent": ({"latent": NAN}, "latent holds"),
}


@pytest.mark.parametrize(("inputs", "message"), GIVEN.values(), ids=GIVEN)
def test_what_is_no_number_before_the_run_is_named(pack, weights, inputs, message):
    assert f"{message} values that are not finite" in refused(pack, load(weights), **inputs)
