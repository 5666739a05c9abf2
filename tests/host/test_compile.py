"""Our wrappers on a compiled model: added and removed in any order, each run gives the right result."""

import comfy.sample
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

from batch import inprocess
from kontext_core.geometry import Geometry
from untrained import noise, untrained

SIZES = Geometry(hidden_size=256, num_heads=2, depth=1, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)


@pytest.fixture
def model(pack):
    """A FLUX.1 that has not been compiled, with the wrappers of Kontext Loader."""
    torch._dynamo.reset()
    return inprocess.pack_module("host.loading")._guarded(untrained(SIZES))


def compiled(model):
    """Like the host's node TorchCompileModel, but without its backend, which takes minutes to compile."""
    model = model.clone()
    set_torch_compile_wrapper(model, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    return model


def conditioning():
    given = {"pooled_output": noise(1, 32, seed=2), "guidance": 2.5, "reference_latents": [noise(1, 16, 8, 12, seed=3)]}
    return [[noise(1, 7, 48, seed=1), given]]


def sample(model, positive):
    latent = torch.zeros(1, 16, 8, 12)
    return comfy.sample.sample(model, noise(*latent.shape, seed=5), 4, 1.0, "euler", "simple", positive, [], latent)


def accelerated(pack, model):
    custom = {"preset": "custom", "fidelity": 40.0, "most_steps": 0, "steps": "0, 1, 3"}
    return pack["KontextAccelerate"].execute(model, custom, 1.0, False).result[0], conditioning()


def controlled(pack, model):
    (positive,) = pack["KontextReferenceControl"].execute(conditioning(), 1, 0.4, 0.0, 0.5).result
    return model, positive


def negated(pack, model):
    nag = {"method": "nag", "scale": 5.0, "tau": 2.5, "alpha": 0.25, "start": 0.0, "end": 1.0}
    negative = [[noise(1, 5, 48, seed=9), {"pooled_output": noise(1, 32, seed=8)}]]
    return model, pack["KontextNegative"].execute(conditioning(), negative, nag).result[0]


ASKED = {"acceleration": accelerated, "a control": controlled, "NAG": negated}


@pytest.mark.parametrize("first", [True, False], ids=["on first", "off first"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_a_compiled_model_follows_what_is_put_on_and_taken_off(pack, model, asked, first):
    plain, ours = sample(model, conditioning()), sample(*asked(pack, model))
    assert (plain - ours).abs().max() > 1e-3
    fast = compiled(model)
    for on in (first, not first, first):
        found = sample(*asked(pack, fast)) if on else sample(fast, conditioning())
        torch.testing.assert_close(found, ours if on else plain, atol=1e-4, rtol=0)
