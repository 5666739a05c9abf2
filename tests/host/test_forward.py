"""Our forward in place of the host's, inside a wrapper: the same numbers, and unsupported calls are named."""

import dataclasses

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.flux.model
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from batch import inprocess
from kontext_core.geometry import Geometry
from kontext_core.transformer import forward
from untrained import untrained

SIZES = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)
GIVEN = {"x": (8, 12), "references": [(8, 12), (9, 6)]}


def no_positions(text):
    """Position ids of the text, (1, t, 3): all zero."""
    return torch.zeros(1, text.shape[1], 3)


@pytest.fixture(scope="module")
def ours(pack):
    """`host/forward.py`, as ComfyUI loaded it with the pack."""
    return inprocess.pack_module("host.forward")


@pytest.fixture(scope="module")
def known(pack):
    return inprocess.pack_module("host.known")


@pytest.fixture(scope="module")
def model(recorder):
    return untrained(SIZES)


def arguments(options, batch=2):
    noise = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(batch, *shape, generator=noise)

    references = [random(16, *size) for size in GIVEN["references"]]
    guidance = torch.full((batch,), 2.5)
    texts = random(7, 48), random(32)
    return random(16, *GIVEN["x"]), torch.full((batch,), 0.7), *texts, guidance, references, None, options


def wrapper(ours, seen):
    def step(executor, *args, **options):
        tree = executor.class_obj

        def own(*args, **options):
            call = ours.Call(*args)
            img, references = call.tokens()
            ids = torch.cat(call.ids(ours.layout_of(tree, options)))[None]
            seen.append(img.shape[1])
            velocity = forward(
                tree, torch.cat((img, *references), dim=1), ids, call.context, no_positions(call.context),
                call.timestep, call.y, call.guidance, attention=call.attention(),
            )  # fmt: skip
            return call.picture(velocity[:, : img.shape[1]])

        return ours.run_instead(executor, own, ours.Call(*args), options)

    return step


@pytest.mark.parametrize("layout", ["offset", "index", "uxo"])
def test_our_forward_in_the_wrapper_is_the_hosts(ours, model, layout):
    seen, inner = [], []

    def later(executor, *args, **options):
        inner.append(args[0].shape)
        return executor(*args, **options)

    wrappers = {WrappersMP.DIFFUSION_MODEL: {"ours": [wrapper(ours, seen)], "later": [later]}}
    tree = ours.require_flux(model)
    with torch.no_grad():
        mine = tree(*arguments({"wrappers": wrappers}), ref_latents_method=layout)
        theirs = tree(*arguments({}), ref_latents_method=layout)
    assert theirs.std() > 0.1
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert seen == [24] and inner == [(2, 16, 8, 12)]


def test_positions_beyond_256_are_exact_for_a_model_in_half_precision(ours):
    """An older host kept them in the latents' dtype, and bfloat16 cannot represent 257."""
    x, *others = arguments({})
    wide = torch.zeros(2, 16, 4, 1200, dtype=torch.bfloat16)
    call = ours.Call(x.bfloat16(), *others)._replace(x=wide, ref_latents=[wide])
    target, reference = call.ids("index")
    assert target.dtype == reference.dtype == torch.float32
    assert target[:, 2].unique().tolist() == reference[:, 2].unique().tolist() == list(range(600))


FOREIGN = {
    "attention patch": ({"patches": {"attn1_patch": [print]}}, {}, "attn1_patch"),
    "replaced block": ({"patches_replace": {"dit": {("double_block", 0): print}}}, {}, "replaced blocks"),
    "scaled positions": ({"rope_options": {"scale_x": 2.0}}, {}, "positions"),
    "added tokens": ({"patches": {"post_input": [print]}}, {}, "post_input"),
    "attention output": ({"patches": {"attn1_output_patch": [print]}}, {}, "attn1_output_patch"),
    "mask": ({}, {"attention_mask": torch.ones(1)}, "attention mask"),
    "layout": ({}, {"ref_latents_method": "index_timestep_zero"}, "index_timestep_zero"),
    # Unknown future settings
    "a patch of a later host": ({"patches": {"attn3_patch": [print]}}, {}, "attn3_patch"),
    "replaced parts of a later host": ({"patches_replace": {"tokens": {0: print}}}, {}, "replaced blocks"),
    "an option of another pack": ({"sparse_attention": {"keep": 0.5}}, {}, "option 'sparse_attention'"),
    "an option that is a number": ({"token_drop": 0}, {}, "option 'token_drop'"),
    "an argument of another pack": ({}, {"id_embedding": torch.ones(1)}, "argument 'id_embedding'"),
}
NOTHING = {
    "patches": {"attn1_patch": []},
    "patches_replace": {"dit": {}},
    "rope_options": {},
    "another": None,
    "more": [],
}


@pytest.mark.parametrize(("options", "keywords", "word"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_known_of_a_call_is_named(known, ours, model, options, keywords, word):
    tree = ours.require_flux(model)
    assert word in known.foreign(tree, arguments(options), keywords)


def test_a_call_with_nothing_in_it_is_known(known, ours, model):
    assert (
        known.foreign(ours.require_flux(model), arguments(NOTHING), {"attention_mask": None, "another": None}) is None
    )


def test_more_arguments_than_we_know_are_the_hosts(known, ours, model):
    assert known.foreign(ours.require_flux(model), (*arguments({}), None), {}) == "a call of 9 arguments"


def test_a_setting_of_a_later_host_is_named(known, ours, model, monkeypatch):
    """`ref_index_scale` exists already, `mlp_sparse` does not; FLUX.1 has neither set."""
    tree = ours.require_flux(model)
    monkeypatch.setattr(tree.params, "ref_index_scale", 2.0)
    assert known.foreign(tree, arguments({}), {}) == "the model's setting ref_index_scale"
    later = dataclasses.make_dataclass("Later", [("mlp_sparse", bool, False)], bases=(type(tree.params),))
    sizes = dataclasses.asdict(tree.params) | {"ref_index_scale": 1.0}
    for value, found in ((False, None), (True, "the model's setting mlp_sparse")):
        monkeypatch.setattr(tree, "params", later(**sizes, mlp_sparse=value))
        assert known.foreign(tree, arguments({}), {}) == found


PLACES = {
    "the model": lambda tree: tree,
    "a double block": lambda tree: tree.double_blocks[1],
    "its attention": lambda tree: tree.double_blocks[0].txt_attn,
    "a single block": lambda tree: tree.single_blocks[1],
    "the last layer": lambda tree: tree.final_layer,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_layer_of_a_later_host_is_named(known, ours, model, place):
    tree = ours.require_flux(model)
    part = PLACES[place](tree)
    part.sparse_gate = torch.nn.Identity()
    try:
        assert known.foreign(tree, arguments({}), {}) == "the model's layer sparse_gate"
    finally:
        del part.sparse_gate
    assert known.foreign(tree, arguments({}), {}) is None


def test_attention_that_another_node_put_in_place_of_the_hosts_is_named(known, ours, model, monkeypatch):
    tree = ours.require_flux(model)
    monkeypatch.setattr(comfy.ldm.flux.layers, "attention", lambda *args, **options: None)
    assert known.foreign(tree, arguments({}), {}) == "another node's attention in the model"


def test_the_hosts_choice_of_an_attention_kernel_is_ours(ours, monkeypatch):
    """Nodes that speed up attention replace a function in the host's module, also after we were loaded."""
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", lambda q, *args, **options: q + 1)
    call = ours.Call(*arguments({}))
    assert torch.equal(call.attention()(torch.zeros(1, 1), None, None), torch.ones(1, 1))


def test_code_that_was_replaced_before_we_were_loaded_is_not_taken_for_the_hosts(known):
    def theirs(self, *args):
        return None

    assert known._own(comfy.ldm.flux.model, theirs) is None
    assert known._own(comfy.ldm.flux.model, comfy.ldm.flux.model.Flux._forward) is not None
