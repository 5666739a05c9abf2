"""Controls of references in the host's own graphs: its ReferenceLatent, its KSampler, its conditioning nodes."""

from itertools import pairwise

import comfy.ldm.flux.math as flux_math
import comfy.ldm.modules.attention as host_attention
import pytest
import torch
from safetensors.torch import save_file

from batch import inprocess
from batch.events import ExecutionFailed
from batch.graphs import node
from untrained import REPLACED, around_that_of_the_class

CLIP, VAE = (["loader", output] for output in (1, 2))
SAMPLER = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


def control(conditioning, reference, **settings):
    inputs = {"strength": 1.0, "start": 0.0, "end": 1.0, **settings}
    return node("KontextReferenceControl", conditioning=conditioning, reference=reference, **inputs)


def latent(run, name="sampler"):
    return run.values[name][0]["samples"]


def differ(a, b):
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def graph(host_edit):
    """The host's own nodes: two chained references of different sizes, an unpatched MODEL, KSampler."""
    return {
        **host_edit,
        "first": host_edit["context"],
        "latent two": node("VAEEncode", pixels=["two", 0], vae=VAE),
        "context": node("ReferenceLatent", conditioning=["first", 0], latent=["latent two", 0]),
        "sampler": node(
            "KSampler",
            model=["unet", 0],
            positive=["context", 0],
            negative=["other text", 0],
            latent_image=["target", 0],
            **SAMPLER,
        ),
    }


@pytest.fixture
def sample(graph, run):
    """`sample(positive, nodes, execute, **sampler inputs)`: the sampler's result for the graph with additional
    nodes.
    """

    def sample(positive="context", nodes=None, execute=run, **inputs):
        more = graph | (nodes or {})
        inputs = {"positive": [positive, 0], **inputs}
        more["sampler"] = {**more["sampler"], "inputs": more["sampler"]["inputs"] | inputs}
        return latent(execute(more))

    return sample


LEFT, RIGHT = ["left", 0], ["right", 0]
NEUTRAL = {
    "nothing set": {},
    "a range of all": {"start": 0.0, "end": 1.0},
    "a white mask": {"mask": ["white", 0]},
    "a white region": {"region": ["white", 0]},
}


@pytest.mark.parametrize("settings", NEUTRAL.values(), ids=NEUTRAL)
@pytest.mark.parametrize("batch", [1, 2], ids=["one", "batch of two"])
def test_neutral_settings_are_vanilla_bit_for_bit(sample, settings, batch):
    nodes = {
        "white": node("SolidMask", value=1.0, width=32, height=32),
        "control": control(["context", 0], 1, **settings),
        "target": node("EmptySD3LatentImage", width=128, height=96, batch_size=batch),
    }
    assert torch.equal(sample("control", nodes), sample(nodes={"target": nodes["target"]}))


@pytest.mark.parametrize("cfg", [1.0, 3.0], ids=["cfg 1", "cfg 3"])
def test_strength_0_is_the_graph_without_the_reference(sample, cfg):
    silenced = sample("control", {"control": control(["context", 0], 2, strength=0.0)}, cfg=cfg)
    torch.testing.assert_close(silenced, sample("first", cfg=cfg), atol=1e-5, rtol=0)
    assert differ(silenced, sample(cfg=cfg)) > 1e-2


SETTINGS = {
    "strength 0.5": {"strength": 0.5},
    "strength 3": {"strength": 3.0},
    "mask": {"mask": LEFT},
    "region": {"region": LEFT},
    "first half of the run": {"end": 0.5},
    "second half of the run": {"start": 0.5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_has_an_effect_of_its_own(sample, settings):
    """On an unpatched MODEL of the host's loader, in the host's KSampler."""
    controlled = sample("control", {"control": control(["context", 0], 1, **settings)})
    silenced = sample("control", {"control": control(["context", 0], 1, strength=0.0)})
    assert differ(controlled, sample()) > 1e-2
    assert differ(controlled, silenced) > 1e-2


def test_controls_in_any_order_and_in_any_number(sample):
    first = {"reference": 1, "strength": 0.5}
    second = {"reference": 2, "region": LEFT}
    third = {"reference": 1, "mask": RIGHT, "end": 0.75}

    def chain(*settings):
        names = ["context", *(f"control {place}" for place in range(len(settings)))]
        nodes = {names[n + 1]: control([names[n], 0], **s) for n, s in enumerate(settings)}
        return sample(names[-1], nodes)

    expected = chain(first, second, third)
    for order in ((third, second, first), (second, third, first)):
        assert torch.equal(chain(*order), expected)


def test_a_batch_of_two_is_two_runs(sample):
    nodes = {"control": control(["context", 0], 1, strength=0.5, region=LEFT, mask=RIGHT)}
    batch = {"target": node("EmptySD3LatentImage", width=128, height=96, batch_size=2)}
    both = sample("control", nodes | batch)
    single = {"one of two": node("LatentFromBatch", samples=["target", 0], batch_index=1, length=1)}
    alone = sample("control", nodes | batch | single, latent_image=["one of two", 0])
    torch.testing.assert_close(both[1], alone[0], atol=1e-5, rtol=0)


# The host's conditioning nodes


def test_it_survives_combining(sample):
    """Two conditionings without areas are averaged; only one of them is controlled."""
    nodes = {
        "control": control(["context", 0], 1, strength=0.0),
        "both": node("ConditioningCombine", conditioning_1=["control", 0], conditioning_2=["context", 0]),
    }
    steps = {"steps": 1}  # the average of the velocities of one step is the average of the results
    expected = (sample(**steps) + sample("control", nodes, **steps)) / 2
    torch.testing.assert_close(sample("both", nodes, **steps), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", ["before", "after"])
def test_it_survives_concatenation_and_averaging(sample, place):
    def last(source):
        return {
            "longer": node("ConditioningConcat", conditioning_to=source, conditioning_from=["other text", 0]),
            "mixed": node(
                "ConditioningAverage",
                conditioning_to=["longer", 0],
                conditioning_from=["other text", 0],
                conditioning_to_strength=0.7,
            ),
        }

    silence = {"strength": 0.0}
    if place == "before":
        nodes = {"control": control(["context", 0], 2, **silence), **last(["control", 0])}
        end = "mixed"
    else:
        nodes = last(["context", 0]) | {"control": control(["mixed", 0], 2, **silence)}
        end = "control"
    torch.testing.assert_close(sample(end, nodes), sample("mixed", last(["first", 0])), atol=1e-5, rtol=0)


def test_it_survives_a_range_of_the_run(sample):
    def ranged(source, start, end, name):
        return {name: node("ConditioningSetTimestepRange", conditioning=[source, 0], start=start, end=end)}

    def halves(source):
        both = node("ConditioningCombine", conditioning_1=["early", 0], conditioning_2=["late", 0])
        return ranged(source, 0.0, 0.5, "early") | ranged("context", 0.5, 1.0, "late") | {"both": both}

    nodes = {"control": control(["context", 0], 2, strength=0.0), **halves("control")}
    torch.testing.assert_close(sample("both", nodes), sample("both", halves("first")), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["area", "percentage", "mask bounds"])
def test_a_region_lies_over_the_whole_picture_also_where_a_part_is_drawn(sample, kind):
    """In an area inside the region the reference acts as usual; in an area outside it has no effect."""

    def part(source, name, x, mask):
        place = {
            "area": ("ConditioningSetArea", {"width": 64, "height": 96, "x": x, "y": 0, "strength": 1.0}),
            "percentage": (
                "ConditioningSetAreaPercentage",
                {"width": 0.5, "height": 1.0, "x": x / 128, "y": 0.0, "strength": 1.0},
            ),
            "mask bounds": ("ConditioningSetMask", {"mask": mask, "strength": 1.0, "set_cond_area": "mask bounds"}),
        }
        class_type, inputs = place[kind]
        return {name: node(class_type, conditioning=[source, 0], **inputs)}

    def parts(left, right):
        both = node("ConditioningCombine", conditioning_1=["on the left", 0], conditioning_2=["on the right", 0])
        return part(left, "on the left", 0, LEFT) | part(right, "on the right", 64, RIGHT) | {"both": both}

    nodes = {"control": control(["context", 0], 2, region=LEFT)}
    expected = sample("both", parts("context", "first"))
    torch.testing.assert_close(sample("both", nodes | parts("control", "control")), expected, atol=1e-5, rtol=0)
    assert differ(expected, sample("both", parts("context", "context"))) > 1e-2


def test_the_hosts_context_windows_are_refused_by_name(sample):
    windows = node(
        "ContextWindowsManual", model=["unet", 0], context_length=8, context_overlap=0, context_stride=1, dim=3,
        context_schedule="standard_static", closed_loop=False, fuse_method="flat", freenoise=False,
        split_conds_to_windows=False, cond_retain_index_list="", latent_retain_index_list="", causal_window_fix=False,
    )  # fmt: skip
    nodes = {"windows": windows, "control": control(["context", 0], 2, region=LEFT)}
    with pytest.raises(ExecutionFailed, match="another node's option 'context_window'"):
        sample("control", nodes, model=["windows", 0])


def tiles(apply, given):
    """As in packs that tile: the left and the right half, each in its own call."""
    return torch.cat([apply(half, given["timestep"], **given["c"]) for half in given["input"].chunk(2, 3)], dim=3)


def test_a_region_in_tiles_of_another_node_is_refused(graph, run, pack):
    """The position of a tile is unknown. Settings without a region are the same in each tile."""
    settings = {"control": {"region": LEFT}, "weak": {"strength": 0.3}}
    done = run(graph | {name: control(["context", 0], 2, **values) for name, values in settings.items()})
    model = done.values["unet"][0].clone()
    model.set_model_unet_function_wrapper(tiles)
    inputs = {**SAMPLER, "negative": done.values["other text"][0], "latent_image": done.values["target"][0]}

    def sampled(positive):
        return pack["KSampler"]().sample(model=model, positive=done.values[positive][0], **inputs)[0]["samples"]

    with pytest.raises(
        ValueError, match=r"tiles or windows \(64x96 px of 128x96\).* Take that node away, or the region"
    ):
        sampled("control")
    assert differ(sampled("weak"), sampled("context")) > 1e-3


def test_it_survives_being_the_default(sample):
    """The host evaluates a default where no other conditioning's mask is."""

    def defaulted(source):
        left = node("ConditioningSetMask", conditioning=["first", 0], mask=LEFT, strength=1.0, set_cond_area="default")
        both = node("ConditioningSetDefaultCombine", cond=["on the left", 0], cond_DEFAULT=[source, 0])
        return {"on the left": left, "both": both}

    nodes = {"control": control(["context", 0], 2, strength=0.0)}
    expected = sample("both", defaulted("first"))
    torch.testing.assert_close(sample("both", nodes | defaulted("control")), expected, atol=1e-5, rtol=0)
    assert differ(expected, sample("both", defaulted("context"))) > 1e-2


def test_a_third_reference_of_another_size_in_a_batch_of_two(sample):
    """Two controls on three references: the order does not matter, and each has an effect."""
    third = {
        "latent three": node("VAEEncode", pixels=["two", 0], vae=VAE),
        "three": node("ReferenceLatent", conditioning=["context", 0], latent=["latent three", 0]),
        "target": node("EmptySD3LatentImage", width=128, height=96, batch_size=2),
    }
    nodes = third | {
        "masked": control(["three", 0], 1, mask=LEFT, strength=0.5),
        "control": control(["masked", 0], 2, strength=0.0),
        "other way": control(["middle first", 0], 1, mask=LEFT, strength=0.5),
        "middle first": control(["three", 0], 2, strength=0.0),
    }
    silenced = sample("control", nodes)
    assert torch.equal(silenced, sample("other way", nodes))
    for other in ("masked", "middle first", "three"):
        assert differ(silenced, sample(other, nodes)) > 1e-3


@pytest.fixture
def lora(model_folder):
    """A LoRA as a host hook, which applies to the conditioning it is set on."""
    torch.manual_seed(0)
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    pair = {f"{name}.lora_A.weight": torch.randn(4, 128), f"{name}.lora_B.weight": torch.randn(128, 4) / 10}
    save_file(pair, model_folder("loras") / "hooked.safetensors")
    return {"hook": node("CreateHookLoraModelOnly", lora_name="hooked.safetensors", strength_model=1.0)}


@pytest.mark.parametrize("place", ["before", "after"])
def test_it_goes_together_with_other_hooks(sample, lora, place):
    """Each acts once, in any order, although the host combines them."""

    def hooked(source):
        return node("ConditioningSetProperties", cond_NEW=[source, 0], strength=1.0, set_cond_area="default",
                    hooks=["hook", 0])  # fmt: skip

    silenced = {"reference": 2, "strength": 0.0}
    if place == "before":
        nodes = {"control": control(["context", 0], **silenced), "end": hooked("control")}
    else:
        nodes = {"hooked": hooked("context"), "end": control(["hooked", 0], **silenced)}
    expected = sample("without", lora | {"without": hooked("first")})
    torch.testing.assert_close(sample("end", lora | nodes), expected, atol=1e-5, rtol=0)
    assert differ(expected, sample("first")) > 1e-2


NEGATIVES = {
    "the same control": lambda: control(["context", 0], 2, strength=0.0),
    "another": lambda: control(["context", 0], 1, strength=0.5),
    "none": lambda: node("ReferenceLatent", conditioning=["other text", 0], latent=["latent one", 0]),
}


@pytest.mark.parametrize("negative", NEGATIVES.values(), ids=NEGATIVES)
def test_positive_and_negative_may_share_a_call_or_not(sample, negative, monkeypatch, run_graph):
    """Batched in one call by the host or evaluated separately: the same picture."""
    nodes = {"control": control(["context", 0], 2, strength=0.0), "minus": negative()}
    joined = sample("control", nodes, negative=["minus", 0], cfg=3.0)
    monkeypatch.setattr("comfy.samplers.can_concat_cond", lambda a, b: a is b)
    apart = sample("control", nodes, run_graph, negative=["minus", 0], cfg=3.0)
    torch.testing.assert_close(apart, joined, atol=1e-5, rtol=0)


RANGES = {
    "a reference that ends": {"control": control(["context", 0], 1, strength=0.4, end=0.5)},
    "a reference that begins": {"control": control(["context", 0], 1, strength=0.4, start=0.75)},
    "NAG that ends": {
        "control": node(
            "KontextNegative",
            positive=["context", 0],
            negative=["other text", 0],
            **{"method": "nag", "method.scale": 5.0, "method.tau": 2.5, "method.alpha": 0.25},
            **{"method.start": 0.0, "method.end": 0.5},
        )
    },
}
STEPS = {"steps": 8, "sampler_name": "euler", "cfg": 1.0}


def split_by_the_host(nodes, cuts):
    """KSamplerAdvanced, once for each part of its 8 steps; returns the name of the last."""
    before = ["target", 0]
    for number, (start, end) in enumerate(pairwise(cuts)):
        nodes[f"part {number}"] = node(
            "KSamplerAdvanced",
            model=["unet", 0],
            positive=["control", 0],
            negative=["other text", 0],
            latent_image=before,
            noise_seed=1,
            scheduler="simple",
            add_noise="enable" if start == 0 else "disable",
            return_with_leftover_noise="disable" if end == 8 else "enable",
            start_at_step=start,
            end_at_step=end,
            **STEPS,
        )
        before = [f"part {number}", 0]
    return before[0]


def split_by_sigmas(nodes, cuts):
    """SamplerCustomAdvanced with SplitSigmas, on the schedule for the size."""
    nodes["noise"], nodes["no noise"] = node("RandomNoise", noise_seed=1), node("DisableNoise")
    nodes["euler"] = node("KSamplerSelect", sampler_name="euler")
    nodes["guider"] = node("BasicGuider", model=["unet", 0], conditioning=["control", 0])
    nodes["sigmas"] = node("KontextSchedule", latent=["target", 0], steps=8, denoise=1.0, shift="from size")
    before, rest = ["target", 0], ["sigmas", 0]
    for number, (start, end) in enumerate(pairwise(cuts)):
        sigmas = rest
        if end < 8:
            nodes[f"split {number}"] = node("SplitSigmas", sigmas=rest, step=end - start)
            sigmas, rest = ([f"split {number}", half] for half in (0, 1))
        nodes[f"part {number}"] = node(
            "SamplerCustomAdvanced",
            noise=["no noise" if start else "noise", 0],
            guider=["guider", 0],
            sampler=["euler", 0],
            sigmas=sigmas,
            latent_image=before,
        )
        before = [f"part {number}", 0]
    return before[0]


@pytest.mark.parametrize("split", [split_by_the_host, split_by_sigmas])
@pytest.mark.parametrize("asked", RANGES)
def test_a_run_in_parts_is_one_run(graph, run, split, asked):
    """A range is a fraction of the complete run, wherever a sampler node begins or ends."""
    plain = {name: n for name, n in graph.items() if name != "sampler"} | RANGES[asked]

    def sampled(*cuts):
        nodes = plain.copy()
        last = split(nodes, cuts)
        return latent(run(nodes), last)

    one = sampled(0, 8)
    assert differ(sampled(0, 4, 8), one) < 1e-4
    assert differ(sampled(0, 3, 4, 8), one) < 1e-4


@pytest.mark.parametrize("attention", ["attention_sub_quad", "attention_split", "attention_basic"])
def test_every_attention_of_the_host_takes_our_bias(sample, attention, monkeypatch, run_graph):
    nodes = {"control": control(["context", 0], 1, strength=0.3, region=LEFT)}
    expected = sample("control", nodes)
    monkeypatch.setattr(flux_math, "optimized_attention", getattr(host_attention, attention))
    torch.testing.assert_close(sample("control", nodes, run_graph), expected, atol=1e-4, rtol=0)


def test_the_wrapper_ends_with_the_run(graph, run, run_graph):
    """Nothing stays on the MODEL: the next run with it is the host's own."""
    plain = graph | {"control": control(["context", 0], 1, strength=0.5)}
    plain["again"] = {**plain["sampler"], "inputs": plain["sampler"]["inputs"] | {"positive": ["control", 0]}}
    made = run_graph(plain)
    assert differ(latent(made), latent(made, "again")) > 1e-2
    assert torch.equal(latent(made), latent(run(graph)))
    (model,) = made.values["unet"]
    assert not model.wrappers


# Errors


def test_a_control_on_a_reference_that_is_not_there_is_an_error_of_the_sampler(sample):
    with pytest.raises(ExecutionFailed, match="names reference 3, but the conditioning carries 2"):
        sample("control", {"control": control(["context", 0], 3, strength=0.5)})


def test_another_nodes_patch_on_the_model_is_named(sample):
    nodes = {
        "control": control(["context", 0], 1, strength=0.5),
        "theirs": node("NAGuidance", model=["unet", 0], nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
    }
    with pytest.raises(ExecutionFailed, match="another node's attn1_output_patch patch"):
        sample("control", nodes, model=["theirs", 0])
    neutral = nodes | {"control": control(["context", 0], 1)}
    sample("control", neutral, model=["theirs", 0])


@pytest.mark.parametrize("asked", RANGES)
@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_a_forward_that_another_node_put_in_the_models_place_is_an_error(
    graph, run_graph, pack, monkeypatch, replace, asked
):
    """Our wrapper is not reached then, and a run without the requested control must not look like one with it."""
    done = run_graph({name: n for name, n in graph.items() if name != "sampler"} | RANGES[asked])
    model, positive, target = (done.values[name][0] for name in ("unet", "control", "target"))
    replace(model, monkeypatch)
    inputs = {**SAMPLER, "negative": done.values["other text"][0], "latent_image": target}
    with pytest.raises(ValueError, match="another node answers in place of the model"):
        pack["KSampler"]().sample(model=model, positive=positive, **inputs)
    with pytest.raises(ValueError, match="another node answers in place of the model"):
        pack["KontextSampler"].execute(model, positive, target, 1, 4, 2.5, 1.0, "euler", 1.0)


def test_code_around_the_classes_forward_is_an_error(sample, run_graph, monkeypatch):
    around_that_of_the_class(monkeypatch)
    with pytest.raises(ExecutionFailed, match="another node's code in place of the model's forward"):
        sample("control", {"control": control(["context", 0], 1, strength=0.5)}, run_graph)


def test_a_model_that_is_no_flux_1_is_named(sample, monkeypatch, run_graph):
    monkeypatch.setattr(inprocess.pack_module("host.flux"), "_is_flux_1", lambda config: False)
    with pytest.raises(ExecutionFailed, match="a FLUX.1 model is needed"):
        sample("control", {"control": control(["context", 0], 1, strength=0.5)}, run_graph)


def test_several_masks_in_one_are_refused(sample):
    nodes = {
        "two masks": node("RepeatImageBatch", image=["one", 0], amount=2),
        "masks": node("ImageToMask", image=["two masks", 0], channel="red"),
        "control": control(["context", 0], 1, mask=["masks", 0]),
    }
    with pytest.raises(ExecutionFailed, match="mask holds 2 masks; one is needed"):
        sample("control", nodes)


# Reports, and details of Kontext Reference


def test_the_node_shows_tokens_and_cost(graph, run):
    nodes = {"control": control(["context", 0], 1, strength=0.5, mask=LEFT, end=0.5)}
    nodes["later"] = control(["text", 0], 2, strength=0.5)
    shown = run(graph | nodes).shown
    lines = shown["control"]["text"][0].splitlines()
    assert lines[:3] == [
        "reference 1: strength 0.5, with a mask, from 0 to 50 % of the run",
        "reference 1: 48 tokens, 12 in the sequence on average",
        "reference 2: 20 tokens, 20 in the sequence on average",
    ]
    assert lines[3].startswith("a step costs 0.86 x one with reference 1 alone")
    assert "the setting waits for this one" in shown["later"]["text"][0]


def test_a_mask_is_fitted_as_its_picture_is(graph, run):
    """128x96 px padded to a wide 0.0156 megapixels: the mask's left half stays the left half of the picture."""
    reference = node("KontextReference", image=["one", 0], vae=VAE, size="nearest trained size", fit="crop")
    reference["inputs"] |= {"mask": LEFT, "max_megapixels": 0.01}
    nodes = {
        "reference": reference,
        "plain": node("KontextReference", image=["one", 0], vae=VAE, size="as is", fit="pad"),
    }
    made = run(graph | nodes)
    encoded, mask = made.values["reference"]
    height, width = encoded["samples"].shape[-2:]
    assert mask.shape == (1, 8 * height, 8 * width)
    assert 64 * height * width <= 0.0125 * 1024 * 1024
    assert mask[:, :, : 4 * width - 8].min() > 0.99 and mask[:, :, 4 * width + 8 :].max() < 0.01
    assert "at most 0.01 megapixels" in made.shown["reference"]["text"][0]
    assert made.values["plain"][1].shape == (1, 96, 128) and made.values["plain"][1].min() == 1


def test_our_sampler_needs_no_hook_and_gives_the_same(graph, run):
    """KontextSampler against SamplerCustomAdvanced with our schedule and solver, which uses the hook."""
    nodes = {
        "control": control(["context", 0], 1, strength=0.5, region=LEFT),
        "guided": node("FluxGuidance", conditioning=["control", 0], guidance=2.5),
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=["unet", 0], conditioning=["guided", 0]),
        "schedule": node("KontextSchedule", latent=["target", 0], steps=4, denoise=1.0, shift="from size"),
        "solver": node("KontextSolver", solver="euler"),
        "theirs": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["solver", 0],
                       sigmas=["schedule", 0], latent_image=["target", 0]),
        "ours": node("KontextSampler", model=["unet", 0], positive=["control", 0], latent=["target", 0], seed=1,
                     steps=4, guidance=2.5, cfg=1.0, solver="euler", denoise=1.0),
    }  # fmt: skip
    made = run(graph | nodes)
    assert torch.equal(latent(made, "ours"), latent(made, "theirs"))
    assert "controlled references: 1" in made.shown["ours"]["text"][0]


def test_our_sampler_takes_off_our_hook_alone(graph, run, lora, pack):
    """With hooks the host disables its dynamic memory management, so only other nodes' hooks may remain."""
    controls = inprocess.pack_module("host.controls")
    hooked = node(
        "ConditioningSetProperties", cond_NEW=["control", 0], strength=1.0, set_cond_area="default", hooks=["hook", 0]
    )
    made = run(graph | lora | {"control": control(["context", 0], 1, strength=0.5), "hooked": hooked})
    given = {name: made.values[name][0] for name in ("control", "hooked")}
    model, left = controls.install(made.values["unet"][0], given)
    assert [[len(values["hooks"]) for _, values in given[name]] for name in given] == [[1], [2]]
    assert ["hooks" in values for _, values in left["control"]] == [False]
    assert [len(values["hooks"]) for _, values in left["hooked"]] == [1]
    wrapped = {kind for kind, keys in model.wrappers.items() if keys}
    assert wrapped == {"outer_sample", "diffusion_model", "predict_noise"}
    assert controls.install(model, {"positive": made.values["context"][0]})[0] is model
