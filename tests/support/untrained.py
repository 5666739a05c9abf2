"""An untrained FLUX.1 of a few layers, as ComfyUI loads it, seeded noise, and other code in place of its forward."""

import comfy.sd
import torch
from comfy.ldm.flux.model import Flux

from kontext_core.transformer import KontextTransformer


def untrained(sizes):
    """A MODEL of a `Geometry`, with seeded random weights."""
    torch.manual_seed(0)
    tree = KontextTransformer(sizes).requires_grad_(False)
    for parameter in tree.parameters():
        parameter.normal_(std=0.05)
    return comfy.sd.load_diffusion_model_state_dict(dict(tree.state_dict()))


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# For a fresh model: an object patch that is undone leaves an attribute, which hides the class's forward.


def of_the_model(model, monkeypatch):
    model.add_object_patch("diffusion_model.forward", lambda x, *args, **options: x * 0.1)


def of_the_class(model, monkeypatch):
    """As a pack does that patches ComfyUI itself."""
    monkeypatch.setattr(Flux, "forward", lambda tree, x, *args, **options: x * 0.1)


def around_that_of_the_class(monkeypatch):
    """Wrappers are reached, but what they return is changed."""
    forward = Flux.forward
    monkeypatch.setattr(Flux, "forward", lambda tree, *args, **options: forward(tree, *args, **options) * 0.5)


REPLACED = {"of the model": of_the_model, "of the class": of_the_class}
