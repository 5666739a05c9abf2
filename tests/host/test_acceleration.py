"""KontextAccelerate in the real host: what it leaves alone, what it saves, what it says, what it forgets."""

import copy
import gc
from itertools import count

import comfy.hooks
import comfy.sample
import comfy.samplers
import comfy.sd
import nodes as comfy_nodes
import pytest
import torch
from comfy.controlnet import ControlBase
from comfy.ldm.flux.layers import DoubleStreamBlock
from comfy.patcher_extension import WrappersMP

from batch import inprocess
from batch.events import Interrupted
from kontext_core.controls import Control
from kontext_core.geometry import Geometry
from kontext_core.negatives import Nag
from untrained import REPLACED, around_that_of_the_class, noise, untrained

SIZES = Geometry(hidden_size=256, num_heads=2, depth=1, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)
STEPS = 8


@pytest.fixture(scope="module")
def model(recorder):
    return untrained(SIZES)


def conditioning(references=1, seed=1, **values):
    given = {"pooled_output": noise(1, 32, seed=seed + 1), "guidance": 2.5}
    if references:
        given["reference_latents"] = [noise(1, 16, 8, 12, seed=seed + 2 + i) for i in range(references)]
    values = given | values
    return [[noise(1, 7, 48, seed=seed), values]]


def sample(model, *, cfg=1.0, sampler="euler", batch=1, positive=None, negative=None, seed=5, steps=STEPS, **options):
    latent = torch.zeros(batch, 16, 8, 12)
    positive = positive or conditioning()
    negative = negative or conditioning(seed=30)
    return comfy.sample.sample(
        model, noise(batch, 16, 8, 12, seed=seed), steps, cfg, sampler, "simple", positive, negative, latent, **options
    )


# Nothing left out


CASES = {
    "one conditioning": {},
    "cfg, one call": {"cfg": 3.0},
    "cfg, two calls": {"cfg": 3.0, "negative": conditioning(0, seed=30)},
    "text alone": {"positive": conditioning(0)},
    "two references": {"positive": conditioning(2)},
    "a batch": {"batch": 3, "cfg": 3.0},
    "stacked layout": {"positive": conditioning(2, reference_latents_method="index")},
    "a mask": {"noise_mask": (noise(1, 1, 8, 12) > 0).float()},
    "part of the steps": {"start_step": 3},
    "another sampler": {"sampler": "dpmpp_2m"},
    "a sampler with noise": {"sampler": "dpmpp_sde", "seed": 3},
    "two calls a step": {"sampler": "heun"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_exact_is_the_hosts_own_result(room, settings, model, case):
    torch.manual_seed(0)
    theirs = sample(model, **case)
    torch.manual_seed(0)
    ours = sample(room.accelerate(model, settings()), **case)
    assert (ours - theirs).abs().max() <= rounding(theirs, case.get("cfg", 1.0))


def rounding(latent, cfg=1.0):
    """What another order of float sums may change: the last digit of the largest value per step, more with guidance."""
    return STEPS * torch.finfo(latent.dtype).eps * latent.abs().max() * (2 * cfg - 1)


def test_our_forward_is_what_runs(room, settings, model):
    """One call of a modulation layer for the whole run; the host makes one per step."""
    layer = model.model.diffusion_model.double_blocks[0].img_mod
    calls = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    sample(model)
    hosts = len(calls)
    sample(room.accelerate(model, settings()))
    handle.remove()
    assert (hosts, len(calls) - hosts) == (STEPS, 1)


def test_accelerating_twice_is_the_last_one(room, settings, model, told):
    twice = room.accelerate(room.accelerate(model, settings(steps=(0, 4))), settings(steps=(0, 2, 4, 6)))
    assert torch.equal(sample(twice), sample(room.accelerate(model, settings(steps=(0, 2, 4, 6)))))
    assert told[0] == told[1] and "4 full, 4 forecast" in told[0]
    assert not model.get_wrappers(WrappersMP.DIFFUSION_MODEL, room.KEY)  # the first model is as it was


# Something left out


def fast(settings):
    return settings(fidelity=15)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_batch_is_its_pictures_one_by_one(room, settings, model, cfg):
    accelerated = room.accelerate(model, settings(steps=(0, 1, 3, 5)))
    seeds = noise(2, 16, 8, 12, seed=5)
    arguments = (STEPS, cfg, "euler", "simple", conditioning(), conditioning(seed=30))
    together = comfy.sample.sample(accelerated, seeds, *arguments, torch.zeros(2, 16, 8, 12))
    for i in range(2):
        alone = comfy.sample.sample(accelerated, seeds[i : i + 1], *arguments, torch.zeros(1, 16, 8, 12))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


def test_guidance_in_one_call_and_in_two_is_the_same(room, settings, model, monkeypatch):
    """Without memory for one batch the host makes two calls per step, each with its own caches."""
    accelerated = room.accelerate(model, settings(steps=(0, 1, 2, 4, 5, 7)))
    joined = sample(accelerated, cfg=3.0)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)
    torch.testing.assert_close(sample(accelerated, cfg=3.0), joined, atol=1e-4, rtol=0)


def test_outside_a_mask_the_latent_stays(room, settings, model):
    mask = (torch.arange(12) < 6).float().expand(1, 1, 8, 12)
    latent = noise(1, 16, 8, 12, seed=40)
    arguments = (STEPS, 1.0, "euler", "simple", conditioning(), conditioning(), latent)
    accelerated = room.accelerate(model, settings(steps=(0, 2, 4, 6)))
    result = comfy.sample.sample(accelerated, noise(1, 16, 8, 12), *arguments, noise_mask=mask)
    torch.testing.assert_close(result[..., 6:], latent[..., 6:], atol=1e-5, rtol=0)
    assert (result[..., :6] - latent[..., :6]).abs().max() > 0.1


def test_runs_do_not_know_of_each_other(room, settings, model):
    accelerated = room.accelerate(model, fast(settings))
    alone = sample(accelerated, seed=8)
    sample(accelerated, seed=9, positive=conditioning(seed=70))
    assert torch.equal(sample(accelerated, seed=8), alone)


def test_the_report_says_what_was_done(room, settings, model, told):
    sample(room.accelerate(model, settings(steps=(0, 1, 2, 4, 5, 7))))
    assert len(told) == 1
    assert "8 steps: 6 full, 2 forecast" in told[0] and "about 75% of the arithmetic" in told[0]
    assert " dB to the full run expected, " in told[0]


@pytest.mark.parametrize("masked", [False, True])
def test_a_preview_is_the_models_own_estimate(room, settings, model, masked):
    """The velocity to follow also corrects the forecasts before it, which an estimate would multiply by many steps."""
    own, shown, steps = [], [], (0, 1, 3, 6)
    mask = (torch.arange(12) < 6).float().expand(1, 1, 8, 12) if masked else None

    def record(executor, x, *args, **options):
        own.append(executor(x, *args, **options))
        return own[-1]

    recorded = room.accelerate(model, settings(steps=steps))
    recorded.add_wrapper(WrappersMP.PREDICT_NOISE, record)
    sample(recorded, noise_mask=mask, callback=lambda step, estimate, *_: shown.append(estimate))
    for step, estimate in zip(steps, own, strict=True):
        expected = estimate if mask is None else estimate * mask
        torch.testing.assert_close(shown[step], expected, atol=1e-4, rtol=0)


def test_a_part_without_steps_is_the_hosts(room, settings, model, told):
    """As SplitSigmas gives it at the first or last step."""
    latent, sampler = noise(1, 16, 8, 12), comfy.samplers.sampler_object("euler")
    given = (latent, 1.0, sampler, torch.tensor([0.5]), conditioning(), conditioning(), torch.zeros_like(latent))
    alone = comfy.sample.sample_custom(model, *given)
    assert torch.equal(comfy.sample.sample_custom(room.accelerate(model, settings(most=5)), *given), alone)
    assert not told


@pytest.mark.parametrize(("total", "is_enough"), [(1.5, False), (2.5, True)])
def test_what_is_kept_takes_at_most_half_of_the_devices_memory(
    room, settings, model, told, monkeypatch, total, is_enough
):
    need = 2 * 3 * 48 * 256 * 4  # keys and values, blocks, tokens of target and reference, width, float32
    monkeypatch.setattr(room, "get_total_memory", lambda device: total * need)
    sample(room.accelerate(model, fast(settings)))
    assert ("half of the device's memory" in told[0]) != is_enough


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde", "heun", "euler_ancestral"])
def test_other_samplers_compute_every_call_and_the_user_is_told(room, settings, model, told, sampler):
    steps = []
    sample(room.accelerate(model, fast(settings)), sampler=sampler, callback=lambda step, *_: steps.append(step))
    assert len(steps) == STEPS
    (text,) = told
    assert "forecast" not in text.splitlines()[0] and f"{sampler}: every step is computed" in text


def test_our_own_solvers_are_known(pack, room):
    assert room._no_euler(comfy.samplers.ksampler("euler")) is None
    assert room._no_euler(comfy.samplers.ksampler("euler", {"s_churn": 0.5})) == "euler"
    for solver, refused in (("euler", None), ("heun", "solver heun"), ("multistep", "solver multistep")):
        (sampler,) = pack["KontextSolver"].execute(solver).result
        assert room._no_euler(sampler) == refused


def test_a_sampler_is_known_by_its_name(room):
    """Packs that import the host's samplers again have other objects of the same name."""

    def sample_euler(*args, **options):
        pass

    def sample_euler_ancestral(*args, **options):
        pass

    assert room._no_euler(comfy.samplers.KSAMPLER(sample_euler)) is None
    assert room._no_euler(comfy.samplers.KSAMPLER(sample_euler_ancestral)) == "euler_ancestral"


class Turning:
    """A node that changes what the model is given, from call to call: the text as CADS does, layout or noise level."""

    def __init__(self, model, what):
        self.what, self.calls = what, 0
        model.add_wrapper(WrappersMP.APPLY_MODEL, self)

    def __call__(self, executor, x, t, c_concat=None, c_crossattn=None, *args, **options):
        self.calls += 1
        if self.what == "text":
            c_crossattn = c_crossattn * (1 + 0.1 * self.calls)
        elif self.what == "layout" and self.calls > 2:
            options["ref_latents_method"] = "index"
        elif self.what == "noise level":
            t = t * torch.linspace(1, 0.8, len(t))  # the first picture's stays
        return executor(x, t, c_concat, c_crossattn, *args, **options)


TURNING = {
    "text": "a conditioning that changes from step to step",
    "layout": "a conditioning that changes from step to step",
    "noise level": "a model sampling with timesteps of its own",
}


@pytest.mark.parametrize("wanted", [{}, {"steps": (0, 1, 3, 5)}], ids=["exact", "forecast"])
@pytest.mark.parametrize("what", TURNING)
def test_what_changes_from_step_to_step_is_not_held(room, settings, model, told, what, wanted):
    """Computed steps equal the host's; nothing is kept from the first one."""
    turning, fresh = model.clone(), model.clone()
    Turning(turning, what)
    Turning(fresh, what)
    given = {"positive": conditioning(2), "batch": 2}
    ours = sample(room.accelerate(turning, settings(**wanted)), **given)
    assert told[-1].count(TURNING[what]) == 1
    if not wanted:
        torch.testing.assert_close(ours, sample(fresh, **given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_another_cache_at_work_is_named(room, settings, model, told, name):
    (other,) = comfy_nodes.NODE_CLASS_MAPPINGS[name].execute(model, 0.2, 0.15, 0.95, False).result
    sample(room.accelerate(other, settings(steps=(0, 1, 3, 5))))
    assert f"{name} is active too" in told[0]


@pytest.mark.parametrize("steps", [(2, 4, 5), (5, 6, 7)], ids=["in between", "the last"])
def test_steps_that_do_not_reach_us_are_counted(room, settings, model, told, steps):
    """A node that answers for the model in some steps, outside our wrapper."""
    other, calls = model.clone(), count()

    def answer(executor, x, timestep, *args, **options):
        return x * 0.5 if next(calls) in steps else executor(x, timestep, *args, **options)

    other.add_wrapper(WrappersMP.PREDICT_NOISE, answer)
    sample(room.accelerate(other, settings(fidelity=10)))
    line = told[0].splitlines()[0]
    assert "8 steps: " in line and ", 3 answered by another node" in line
    assert ("is unknown" in told[0]) == ("forecast" in line)


def test_a_step_gone_over_again_is_asked_at_its_own_noise_level(room, settings, model, told):
    """A run that goes back evaluates skipped steps at their own noise levels, whichever step the host is in."""
    asked = []

    def turn(executor, x, timestep, *args, **options):
        """A prediction that turns suddenly in the middle of the run."""
        asked.append(timestep[0].item())
        executor(x, timestep, *args, **options)
        return x - timestep[0] * noise(*x.shape, seed=4 if timestep[0] > 0.75 else 5)

    turning = room.accelerate(model, settings(fidelity=50))
    turning.add_wrapper(WrappersMP.PREDICT_NOISE, turn)
    sample(turning, steps=28)
    levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 28).tolist()
    assert all(min(abs(one - level) for level in levels) < 1e-6 for one in asked)
    assert asked != sorted(asked, reverse=True) and "computed a second time" in told[0]


# What only the host honours


def attn1_patch(model):
    model.set_model_patch(lambda q, k, v, **_: {"v": v * 0.5}, "attn1_patch")


def replaced_block(model):
    model.set_model_patch_replace(lambda args, rest: rest["original_block"](args), "dit", "double_block", 0)


def unknown_keyword(model):
    def add(executor, *args, **options):
        return executor(*args, **options, kontext_other=torch.zeros(1))

    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, add)


def own_forward(model):
    tree = model.model.diffusion_model
    patch = lambda *args, **options: type(tree).forward_orig(tree, *args, **options) * 0.5  # noqa: E731
    model.add_object_patch("diffusion_model.forward_orig", patch)


class Halving(DoubleStreamBlock):
    """Another node's block with the same layers."""

    def forward(self, *args, **options):
        img, txt = super().forward(*args, **options)
        return img * 0.5, txt


def own_block(model):
    block = copy.copy(model.model.diffusion_model.double_blocks[0])
    block.__class__ = Halving
    model.add_object_patch("diffusion_model.double_blocks.0", block)


def unknown_option(model):
    model.model_options["transformer_options"]["sparse_attention"] = {"keep": 0.5}


PATCHES = {
    "sparse_attention": unknown_option,
    "attn1_patch": attn1_patch,
    "replaced block": replaced_block,
    "kontext_other": unknown_keyword,
    "code in place of the model's forward": own_forward,
    "another node's blocks": own_block,
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_that_we_do_not_know_runs_in_the_host_and_the_user_is_told_once(room, settings, model, told, name):
    patched = model.clone()
    PATCHES[name](patched)
    theirs = sample(patched)
    ours = sample(room.accelerate(patched, settings()))
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    (text,) = told
    assert text.count(name) == 1 and "8 steps: 8 full" in text


class Residual(ControlBase):
    """A ControlNet in the host's protocol: a tensor to add after the first block."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        return {"input": [noise(1, 24, 256).expand(len(x_noisy), -1, -1)], "output": []}


def test_with_a_controlnet_the_host_computes_the_steps_and_the_rest_is_forecast(room, settings, model, told):
    controlled = conditioning(control=Residual())
    theirs = sample(model, positive=controlled)
    assert (theirs - sample(model)).abs().max() > 0.01
    torch.testing.assert_close(sample(room.accelerate(model, settings()), positive=controlled), theirs, atol=0, rtol=0)
    sample(room.accelerate(model, settings(steps=(0, 4))), positive=controlled)
    assert all(text.count("a ControlNet") == 1 for text in told) and "8 steps: 8 full" in told[0]
    assert "8 steps: 2 full, 6 forecast" in told[1] and "about 25% of the arithmetic" in told[1]


def nag(room, positive):
    return room.controls.with_nag(positive, noise(1, 5, 48, seed=77), Nag(tau=20, alpha=1))


def weak_reference(room, positive):
    return room.controls.with_control(positive, 1, Control(strength=0.3))


@pytest.mark.parametrize("asked", [nag, weak_reference])
def test_what_a_conditioning_asks_of_our_own_forward_is_done_in_accelerated_runs(room, settings, model, told, asked):
    """By a hook on the conditioning, in the host's own sampler, and by wrappers, which our sampler installs."""
    positive = asked(room, conditioning(2))
    theirs = sample(model, positive=positive)
    assert (theirs - sample(model, positive=conditioning(2))).abs().max() > 1e-3
    installed, plain = room.controls.install(room.accelerate(model, settings()), {"positive": positive})
    for accelerated, given in ((room.accelerate(model, settings()), positive), (installed, plain["positive"])):
        torch.testing.assert_close(sample(accelerated, positive=given), theirs, atol=1e-5, rtol=0)
        assert told[-1].count("Reference Control or NAG") == 1 and "another node" not in told[-1]
    sample(room.accelerate(model, settings(steps=(0, 2, 4, 6))), positive=positive)
    assert "8 steps: 4 full, 4 forecast" in told[-1]


def test_weights_that_a_conditioning_changes_on_the_way_are_the_hosts(room, settings, model, told):
    """A hook whose strength changes in the middle of the run, on a layer that the modulation table calls once."""
    hook = comfy.hooks.WeightHook()
    key = "diffusion_model.double_blocks.0.img_mod.lin.weight"
    hook.weights, hook.need_weight_init = {key: ("diff", (noise(6 * 256, 256) * 0.2,))}, False
    for strength, start in ((0.0, 0.0), (1.0, 0.5)):
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength, start))
    hooks = comfy.hooks.HookGroup()
    hooks.add(hook)
    positive = conditioning(hooks=hooks)
    theirs = sample(model, positive=positive)
    assert (theirs - sample(model)).abs().max() > 1e-3
    ours = sample(room.accelerate(model, settings(fidelity=90)), positive=positive)
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    (text,) = told
    assert text.count("weights that change with the conditioning") == 1 and "8 steps: 8 full" in text


@pytest.fixture
def our_sample(pack):
    def sample(model):
        given = (conditioning(), {"samples": torch.zeros(1, 16, 8, 12)}, 5, STEPS, 2.5, 1.0, "euler", 1.0)
        return pack["KontextSampler"].execute(model, *given).result[0]["samples"]

    return sample


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_where_another_node_answers_for_the_model_the_user_is_told(
    room, settings, told, our_sample, monkeypatch, replace
):
    patched = untrained(SIZES)
    replace(patched, monkeypatch)
    for number, sampler in enumerate((sample, our_sample), 1):
        ours = sampler(room.accelerate(patched, settings(steps=(0, 4))))
        torch.testing.assert_close(ours, sampler(patched), atol=0, rtol=0)
        assert len(told) == number and "nothing was accelerated" in told[-1]


def test_code_around_the_classes_forward_is_the_hosts_to_run(room, settings, told, our_sample, monkeypatch):
    model = untrained(SIZES)
    around_that_of_the_class(monkeypatch)
    for sampler in (sample, our_sample):
        torch.testing.assert_close(sampler(room.accelerate(model, settings())), sampler(model), atol=0, rtol=0)
        assert "another node's code in place of the model's forward" in told[-1] and "8 steps: 8 full" in told[-1]


def test_a_later_wrapper_still_sees_every_call(room, settings, model):
    accelerated = room.accelerate(model, settings(steps=(0, 1, 2, 4, 5, 7)))
    seen = []

    def later(executor, *args, **options):
        seen.append(args[0].shape)
        return executor(*args, **options)

    accelerated.add_wrapper(WrappersMP.DIFFUSION_MODEL, later)
    sample(accelerated)
    assert len(seen) == 6


def test_a_lora_acts_in_accelerated_steps(room, settings, model):
    """The layers apply weight patches: the result equals the host's with the same patch, and that of a merged LoRA."""
    key, change = "double_blocks.0.img_attn.qkv.weight", noise(768, 256) * 0.05
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{key}": ("diff", (change,))})
    ours, theirs = sample(room.accelerate(patched, settings())), sample(patched)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (theirs - sample(model)).abs().max() > 1e-2
    weights = {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}
    weights[key] += change
    baked = comfy.sd.load_diffusion_model_state_dict(weights)
    ways = (sample(room.accelerate(way, fast(settings))) for way in (patched, baked))
    torch.testing.assert_close(*ways, atol=1e-4, rtol=0)


def test_flux_1_in_other_layers_than_the_hosts_is_refused(room, settings, model):
    other = model.clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"FLUX\.1 as Linear; FLUX\.1 in ComfyUI's own layers"):
        room.accelerate(other, settings())


# Memory


def test_the_hosts_estimate_knows_what_is_kept(room, settings, model, monkeypatch):
    asked = []
    load = comfy.model_management.load_models_gpu

    def spy(models, memory_required=0, **options):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    blocks, tokens = 3, 48
    kept = 2 * blocks * tokens * 256 * 4
    for chosen in (settings(), settings(fidelity=30), settings(fidelity=30, cache_gigabytes=0)):
        sample(room.accelerate(model, chosen))
    plain, fast, none = asked
    assert fast - plain >= 2 * kept - 1 and none == plain


def test_the_nodes_settings_are_those_of_the_run(pack, room, settings, model, monkeypatch):
    runs = []
    monkeypatch.setattr(room, "_tell", runs.append)
    others = {"most": 5, "half_precision": True, "cache_gigabytes": 0.5}
    for steps, expected in (("", settings(fidelity=30.0, **others)), ("0 2", settings(steps=(0, 2), **others))):
        custom = {"preset": "custom", "fidelity": 30.0, "most_steps": 5, "steps": steps}
        (changed,) = pack["KontextAccelerate"].execute(model, custom, 0.5, True).result
        sample(changed)
        assert runs.pop().settings == expected and not runs


def tensors():
    """Bytes of all tensors that Python knows."""
    gc.collect()
    found = (item for item in gc.get_objects() if issubclass(type(item), torch.Tensor))
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(torch.Tensor.untyped_storage, found)}
    return sum(storages.values())


def graph(edit_graph, preset="fast", **settings):
    accelerate = {"model": ["loader", 0], "preset": preset, "cache_gb": 8.0, "half_precision": False}
    node = {"class_type": "KontextAccelerate", "inputs": accelerate}
    return edit_graph(model=["accelerate", 0], **settings) | {"accelerate": node}


def test_interrupted_in_the_middle_then_run_again(edit_graph, run_graph):
    whole = run_graph(graph(edit_graph, seed=7, steps=8)).values["sampler"][0]["samples"].clone()
    before, steps = tensors(), []

    def stop(event):
        if event.type == "progress" and event.data["node"] == "sampler":
            steps.append(event.data["value"])
            if len(steps) == 5:
                inprocess.interrupt()

    with pytest.raises(Interrupted):
        run_graph(graph(edit_graph, seed=8, steps=8), on_event=stop)
    assert steps == [1, 2, 3, 4, 5]
    again = run_graph(graph(edit_graph, seed=7, steps=8)).values["sampler"][0]["samples"]
    torch.testing.assert_close(again, whole, atol=0, rtol=0)
    assert tensors() == before  # the executor keeps the same results as before the stopped run


def test_a_run_that_fails_keeps_nothing_large(room, settings, model):
    """A reference to the run, such as a traceback's, does not keep the caches alive."""
    accelerated = room.accelerate(model, settings(fidelity=28))
    held = []

    def fail(executor, *args, **options):
        held.append(args[-1][room.KEY])
        if len(held) == 3:
            assert held[0].streams
            raise RuntimeError("stopped")
        return executor(*args, **options)

    accelerated.add_wrapper(WrappersMP.DIFFUSION_MODEL, fail)
    with pytest.raises(RuntimeError, match="stopped"):
        sample(accelerated)
    assert not held[0].streams


# The node


def test_the_report_is_on_the_sampler(edit_graph, run_graph):
    run = run_graph(graph(edit_graph, steps=8))
    shown = [event.data for event in run.events if event.type == "text"]
    assert any("Kontext Accelerate: 8 steps" in str(data) for data in shown), shown


PRESETS = ["exact", "quality", "balanced", "fast", "custom"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_edits(edit_graph, run_graph, preset):
    given = graph(edit_graph, preset, steps=28)
    if preset == "custom":
        given["accelerate"]["inputs"] |= {"preset.fidelity": 30, "preset.most_steps": 9, "preset.steps": ""}
    run = run_graph(given)
    result = run.values["sampler"][0]["samples"]
    plain = run_graph(edit_graph(steps=28)).values["sampler"][0]["samples"]
    difference = (result - plain).abs().max()
    assert difference < 1e-4 if preset == "exact" else 1e-4 < difference < plain.std() * 10
    (text,) = run.shown["accelerate"]["text"]
    assert ("aims at 30 dB to the full run; computes at most 9 steps" in text) == (preset == "custom")


def test_a_list_of_steps_that_is_none_is_refused(edit_graph, run_graph):
    given = graph(edit_graph, "custom", steps=8)
    given["accelerate"]["inputs"] |= {"preset.fidelity": 30, "preset.most_steps": 0, "preset.steps": "1 2"}
    with pytest.raises(Exception, match="it must have 0"):
        run_graph(given)
