"""Negative prompts: NAG where the host's NAG has no effect, and CFG with a range, rescale and equal references."""

import comfy.cli_args
import pytest
import torch

from batch.events import ExecutionFailed
from batch.graphs import node

CLIP, VAE = (["loader", output] for output in (1, 2))
NAG = {"method": "nag", "method.scale": 5.0, "method.tau": 2.5, "method.alpha": 0.25}
NAG |= {"method.start": 0.0, "method.end": 1.0}
OURS = {"seed": 1, "steps": 4, "guidance": 2.5, "cfg": 1.0, "solver": "euler", "denoise": 1.0}
THEIRS = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


def negative(**settings):
    links = {"positive": ["context", 0], "negative": ["other text", 0]}
    return node("KontextNegative", **{**links, **NAG, **settings})


def latent(run, name="sampler"):
    return run.values[name][0]["samples"]


def differ(a, b):
    return float((a - b).abs().max())


@pytest.fixture
def host_sample(host_edit, run):
    """The result of the host's KSampler for two conditionings, by default on an unpatched MODEL."""

    def sample(positive, negative, nodes=None, model=("unet", 0), **settings):
        links = {"model": list(model), "positive": positive, "negative": negative, "latent_image": ["target", 0]}
        return latent(run(host_edit | (nodes or {}) | {"sampler": node("KSampler", **links, **{**THEIRS, **settings})}))

    return sample


@pytest.fixture
def our_sample(host_edit, run):
    """A run of KontextSampler with a negative, by default at cfg 3."""

    def sample(nodes=None, execute=run, **settings):
        links = {
            "model": ["unet", 0],
            "positive": ["context", 0],
            "negative": ["other text", 0],
            "latent": ["target", 0],
        }
        sampler = node("KontextSampler", **{**links, **OURS, "cfg": 3.0, **settings})
        return execute(host_edit | (nodes or {}) | {"sampler": sampler})

    return sample


CONTEXT, OTHER = ["context", 0], ["other text", 0]
POSITIVE, NEGATIVE = ["negative", 0], ["negative", 1]


def test_the_hosts_nag_does_nothing_with_references_and_ours_does(host_sample):
    """At cfg 1 and with references only on the positive, as in the host's template."""
    plain = host_sample(CONTEXT, OTHER)
    theirs = {"theirs": node("NAGuidance", model=["unet", 0], nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)}
    torch.testing.assert_close(host_sample(CONTEXT, OTHER, theirs, ("theirs", 0)), plain, atol=1e-4, rtol=0)
    assert differ(host_sample(POSITIVE, OTHER, {"negative": negative()}), plain) > 1e-3


NEUTRAL = {
    "scale 1": {"method.scale": 1.0},
    "alpha 0": {"method.alpha": 0.0},
    "no steps": {"method.start": 0.5, "method.end": 0.5},
}


@pytest.mark.parametrize("settings", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_nag_is_vanilla_bit_for_bit(host_sample, settings):
    neutral = host_sample(POSITIVE, NEGATIVE, {"negative": negative(**settings)})
    assert torch.equal(neutral, host_sample(CONTEXT, OTHER))


def test_nag_with_the_positives_own_words_is_vanilla(host_sample):
    nodes = {"negative": negative(negative=["text", 0])}
    torch.testing.assert_close(host_sample(POSITIVE, OTHER, nodes), host_sample(CONTEXT, OTHER), atol=1e-5, rtol=0)


EFFECTIVE = {
    "another scale": {"method.scale": 5.0},
    "another tau": {"method.tau": 1.0},
    "another alpha": {"method.alpha": 0.75},
    "the first half": {"method.end": 0.5},
    "the second half": {"method.start": 0.5},
}


@pytest.mark.parametrize("settings", EFFECTIVE.values(), ids=EFFECTIVE)
def test_every_number_of_nag_has_an_effect(host_sample, settings):
    far = {"method.scale": 50.0}  # so far that tau limits it
    usual = host_sample(POSITIVE, OTHER, {"negative": negative(**far)})
    changed = host_sample(POSITIVE, OTHER, {"negative": negative(**{**far, **settings})})
    assert differ(changed, usual) > 1e-4
    assert differ(changed, host_sample(CONTEXT, OTHER)) > 1e-4


def test_nag_in_a_batch_and_with_a_controlled_reference(host_sample, host_edit):
    nodes = {
        "control": node("KontextReferenceControl", conditioning=CONTEXT, reference=1, strength=0.0, start=0.0, end=1.0),
        "negative": negative(positive=["control", 0]),
        "bare": negative(positive=["text", 0]),
        "target": node("EmptySD3LatentImage", width=128, height=96, batch_size=2),
    }
    silenced, without = host_sample(POSITIVE, OTHER, nodes), host_sample(["bare", 0], OTHER, nodes)
    torch.testing.assert_close(silenced, without, atol=1e-5, rtol=0)
    assert differ(silenced[0], silenced[1]) > 1e-2


def test_our_sampler_does_nag_too_and_says_so(our_sample, host_sample):
    made = our_sample({"negative": negative()}, positive=POSITIVE, cfg=1.0)
    assert differ(latent(made), latent(our_sample(cfg=1.0))) > 1e-3
    report, told = made.shown["sampler"]["text"][0], "cfg is 1: input negative has no effect"
    assert "NAG scale 5" in report and f"{told}; the negative of NAG has one" in report
    assert told in our_sample(cfg=1.0).shown["sampler"]["text"][0].splitlines()
    assert "a step costs 1.18 x one without it" in made.shown["negative"]["text"][0]


# CFG


def test_the_negative_gets_the_positives_references(host_sample):
    """The same as a chain of the host's nodes; without references if that is chosen."""
    theirs = {"minus": node("ReferenceLatent", conditioning=OTHER, latent=["latent one", 0])}
    for same, expected in ((True, ["minus", 0]), (False, OTHER)):
        nodes = theirs | {"negative": negative(method="cfg", **{"method.same_references": same})}
        ours = host_sample(POSITIVE, NEGATIVE, nodes, cfg=3.0)
        assert torch.equal(ours, host_sample(CONTEXT, expected, nodes, cfg=3.0))


def test_the_negative_gets_the_controls_too(host_sample):
    nodes = {
        "control": node("KontextReferenceControl", conditioning=CONTEXT, reference=1, strength=0.0, start=0.0, end=1.0),
        "negative": negative(positive=["control", 0], method="cfg", **{"method.same_references": True}),
    }
    ours = host_sample(POSITIVE, NEGATIVE, nodes, cfg=3.0)
    torch.testing.assert_close(ours, host_sample(["text", 0], OTHER, cfg=3.0), atol=1e-5, rtol=0)


def test_cfg_in_a_part_of_the_run(our_sample):
    """The full range equals cfg without a range, an empty one equals cfg 1."""
    whole = our_sample()
    assert torch.equal(latent(our_sample(cfg_start=0.0, cfg_end=1.0)), latent(whole))
    assert torch.equal(latent(our_sample(cfg_start=0.5, cfg_end=0.5)), latent(our_sample(cfg=1.0)))
    half = our_sample(cfg_end=0.5)
    assert differ(latent(half), latent(whole)) > 1e-3
    assert differ(latent(half), latent(our_sample(cfg=1.0))) > 1e-3
    assert "cfg from 0 to 50 % of the run" in half.shown["sampler"]["text"][0]


def test_rescale_brings_the_spread_back(our_sample, pack):
    """A single step ends at noise - velocity (sigma 1 to 0), in the model's space: shift 0.1159, scale 0.3611."""
    seeds = torch.manual_seed(OURS["seed"])
    noise = torch.randn(1, 16, 12, 16, generator=seeds)

    def spread(**settings):
        return float((noise - (latent(our_sample(steps=1, **settings)) - 0.1159) * 0.3611).std())

    plain, strong = spread(cfg=1.0), spread(cfg=9.0)
    half, back = spread(cfg=9.0, cfg_rescale=0.5), spread(cfg=9.0, cfg_rescale=1.0)
    assert strong > 1.05 * plain
    assert back == pytest.approx(plain, rel=1e-3)
    assert half == pytest.approx((strong + plain) / 2, rel=1e-3)


def test_rescale_beside_a_node_that_does_the_same_is_refused(our_sample):
    nodes = {"theirs": node("RescaleCFG", model=["unet", 0], multiplier=0.7)}
    with pytest.raises(ExecutionFailed, match="cfg_rescale is 0.5, but another node on the model"):
        our_sample(nodes, model=["theirs", 0], cfg_rescale=0.5)


REFUSED = {
    "a range the wrong way round": (
        {"sampler": {"cfg_start": 0.7, "cfg_end": 0.2}},
        "cfg_start is 0.7 and cfg_end 0.2",
    ),
    "several negatives": (
        {"nodes": {"both": node("ConditioningCombine", conditioning_1=CONTEXT, conditioning_2=OTHER)},
         "negative": {"negative": ["both", 0]}},
        "negative is combined of 2 conditionings; NAG reads one",
    ),
    "positives with different references": (
        {"nodes": {"both": node("ConditioningCombine", conditioning_1=CONTEXT, conditioning_2=OTHER)},
         "negative": {"positive": ["both", 0]}},
        "conditionings with different references",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(our_sample, given, message):
    nodes = given.get("nodes", {}) | {"negative": negative(**given.get("negative", {}))}
    with pytest.raises(ExecutionFailed, match=message):
        our_sample(nodes, **given.get("sampler", {}))


def test_nag_in_float64_is_nag_in_float32_and_more_exact(our_sample, run_graph, monkeypatch):
    """ComfyUI's --fp64-unet."""
    given = {"nodes": {"negative": negative()}, "positive": POSITIVE, "negative": NEGATIVE, "cfg": 1.0}
    single = latent(our_sample(**given))
    monkeypatch.setattr(comfy.cli_args.args, "fp64_unet", True)
    double = latent(our_sample(execute=run_graph, **given))
    assert not torch.equal(single, double)
    torch.testing.assert_close(single, double, atol=1e-3, rtol=0)


# Instructions


def test_an_instruction_is_text_for_the_hosts_encoder(host_edit, run):
    """Exact with a CLIP, estimated without; the text goes into CLIPTextEncode."""
    fields = {"kind": "local", "kind.action": "remove", "kind.subject": "it", "kind.result": "", "kind.keep": ""}
    nodes = {
        "exact": node("KontextInstruction", **fields, more="", clip=CLIP),
        "estimated": node("KontextInstruction", **fields, more="Make the circle red."),
        "long": node("KontextInstruction", **fields, more=600 * "red "),
        "encoded": node("CLIPTextEncode", clip=CLIP, text=["estimated", 0]),
    }
    made = run(host_edit | nodes)
    assert made.values["exact"] == ["Remove it."]
    assert made.values["estimated"] == ["Remove it. Make the circle red."]
    lines = made.shown["exact"]["text"][0].splitlines()
    assert lines[1] == "2 tokens" and lines[2].startswith("'it': say who or what is meant")
    assert "about 12 tokens (estimated" in made.shown["estimated"]["text"][0]
    assert "It has about " in made.shown["long"]["text"][0]
    assert made.values["encoded"][0][0][0].shape == (1, 20, 128)
