"""An untrained FLUX.1 of a few layers, as ComfyUI loads it, and seeded noise."""

import comfy.sd
import torch

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
