"""Prompts written by programs: inputs that no browser sends give an error on the node, never a Python error."""

import pytest
from comfy_api.latest import io

from batch import inprocess
from batch.events import ExecutionFailed
from batch.graphs import node

NAN = float("nan")
SOCKETS = {"IMAGE", "MASK", "LATENT", "CONDITIONING", "MODEL", "CLIP", "VAE", "KONTEXT_FRAME", "KONTEXT_REGION"}


def ours(pack):
    return {name: kind for name, kind in pack.items() if name.startswith("Kontext")}


CONSTANTS = [5, "a word", {"__value__": [1, 2]}, {"samples": 1}, True]


def test_every_socket_says_what_it_was_given(pack):
    """A constant in each socket of each of our nodes."""
    asked = 0
    for kind in ours(pack).values():
        for each in kind.define_schema().inputs:
            if each.get_io_type() not in SOCKETS:
                continue
            asked += 1
            for constant in CONSTANTS:
                with pytest.raises(ValueError, match=rf"^{each.id} is .*; {each.get_io_type()} is needed"):
                    check(kind, {each.id: constant})
    assert asked > 20


def check(kind, given):
    """The check that runs before each node, for a single input."""
    inputs = [each for each in kind.define_schema().inputs if each.id in given]
    inprocess.pack_module("host.inputs").require(inputs, given)


def test_no_number_is_nan(pack):
    asked = 0
    for kind in ours(pack).values():
        for each in kind.define_schema().inputs:
            if each.get_io_type() == "FLOAT":
                asked += 1
                with pytest.raises(ValueError, match=f"^{each.id} is nan; a number is needed"):
                    check(kind, {each.id: NAN})
    assert asked > 10


def test_every_choice_names_its_choices(pack):
    asked = 0
    for kind in ours(pack).values():
        for each in kind.define_schema().inputs:
            if isinstance(each, io.DynamicCombo.Input):
                asked += 1
                first = each.options[0].key
                with pytest.raises(ValueError, match=rf"^{each.id} is 'no such'; choose one of {first}"):
                    check(kind, {each.id: {each.id: "no such"}})
    assert asked > 8


def test_the_check_stands_before_every_node(pack):
    assert [name for name, kind in ours(pack).items() if not hasattr(kind.execute, "__wrapped__")] == []


LOADED = {"loader": node("KontextLoader", source="embedded"), "picture": node("KontextExample", picture="scene")}
TEXT = LOADED | {"text": node("CLIPTextEncode", clip=["loader", 1], text="make the circle red")}
FIT = {"fit": "pad", "margin": "reflect"}
NAG = {"method": "nag", "method.scale": NAN, "method.tau": 2.5, "method.alpha": 0.25}
NAG |= {"method.start": 0.0, "method.end": 1.0}
TEXTS = {"positive": ["text", 0], "negative": ["text", 0]}
SAMPLER = {
    "model": ["loader", 0], "positive": ["text", 0], "latent": ["target", 0], "seed": 1, "steps": 1, "guidance": 2.5,
    "cfg": 1.0, "solver": "euler", "denoise": 1.0,
}  # fmt: skip
TARGET = {"size": "width x height", "size.width": 64, "size.height": 64, "batch_size": 1}
HOSTED = {
    "instruction": "make it night", "ratio": "as the first picture", "seed": 1, "pictures": 1, "output_format": "png",
    "moderated": "stop", "time_limit": 60, "save_original": False, "dry_run": True,
}  # fmt: skip
PROMPTS = {  # what a prompt asks, and the error on the last node of it
    "an unknown source": (
        {"node": node("KontextLoader", source="no such")},
        "source is missing or unknown",
    ),
    "no source": (
        {"node": node("KontextLoader")},
        "source is missing or unknown; choose one of embedded",
    ),
    "an unknown size": (
        LOADED | {"node": node("KontextFitFrame", image=["picture", 0], size="huge", **FIT)},
        "size is missing or unknown; choose one of nearest trained size",
    ),
    "an unknown method": (
        TEXT | {"node": node("KontextNegative", **TEXTS, method="none")},
        "method is missing or unknown; choose one of nag, cfg",
    ),
    "an unknown provider, of a node that runs beside others": (
        {"node": node("KontextHosted", provider="no such", **HOSTED)},
        "provider is missing or unknown; choose one of Black Forest Labs",
    ),
    "a constant picture": (
        {"node": node("KontextFitFrame", image=5, size="as is", **FIT)},
        "image is 5 (int); IMAGE is needed",
    ),
    "a constant model": (
        {"node": node("KontextSampler", **SAMPLER | {"model": "flux", "positive": 1, "latent": 2})},
        "model is 'flux'",
    ),
    "a constant reference": (
        TEXT
        | {"node": node("KontextContext", conditioning=["text", 0], layout="offset", **{"references.reference0": 7})},
        "reference0 is 7 (int); LATENT is needed",
    ),
    "guidance NaN": (
        TEXT
        | {"target": node("KontextTarget", **TARGET), "node": node("KontextSampler", **SAMPLER | {"guidance": NAN})},
        "guidance is nan; a number is needed",
    ),
    "guidance NaN from another node": (
        TEXT
        | {"target": node("KontextTarget", **TARGET), "nan": node("PrimitiveFloat", value=NAN)}
        | {"node": node("KontextSampler", **SAMPLER | {"guidance": ["nan", 0]})},
        "guidance is nan; a number is needed",
    ),
    "NAG's scale NaN": (
        TEXT | {"node": node("KontextNegative", **TEXTS, **NAG)},
        "scale is nan; a number is needed",
    ),
}


@pytest.mark.parametrize(("prompt", "message"), PROMPTS.values(), ids=PROMPTS)
def test_what_a_program_wrote_wrongly_is_named_on_its_node(run, prompt, message):
    with pytest.raises(ExecutionFailed) as failure:
        run(prompt)
    assert (failure.value.node, failure.value.error_type) == ("node", "ValueError")
    assert message in failure.value.error
