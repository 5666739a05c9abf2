"""With equal weights our forward gives the numbers of diffusers' FLUX.1."""

import pytest
import torch

import model_files
from kontext_core.geometry import Geometry
from kontext_core.tokens import position_ids
from kontext_core.transformer import KontextTransformer

diffusers = pytest.importorskip("diffusers", reason="manage.py installs it; another ComfyUI may lack it")

SMALL = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=3, context_in_dim=48, vec_in_dim=32)


@pytest.fixture(scope="module")
def models():
    """Ours and diffusers' with the same random weights."""
    weights = model_files.random_weights(SMALL)
    ours = KontextTransformer(SMALL).eval().requires_grad_(False)
    ours.load_state_dict({name.replace("_norm.scale", "_norm.weight"): w for name, w in weights.items()})
    theirs = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=SMALL.depth,
        num_single_layers=SMALL.depth_single_blocks,
        attention_head_dim=128,
        num_attention_heads=SMALL.num_heads,
        joint_attention_dim=SMALL.context_in_dim,
        pooled_projection_dim=SMALL.vec_in_dim,
        guidance_embeds=True,
    )
    theirs.load_state_dict(model_files.to_diffusers(weights, SMALL))
    return ours, theirs.eval().requires_grad_(False)


REFERENCES = {  # positions of the references: index, y, x in latent pixels
    "text only": [],
    "one reference": [(1, 0, 0)],
    "far away": [(1, 0, 0), (1, 4000, 600)],
}


@pytest.mark.parametrize("references", REFERENCES.values(), ids=REFERENCES)
def test_our_forward_is_diffusers(models, references):
    ours, theirs = models
    generator = torch.Generator().manual_seed(1)
    ids = torch.cat([position_ids(8, 6), *(position_ids(8, 6, *place) for place in references)])
    img = torch.randn(2, len(ids), 64, generator=generator)
    txt = torch.randn(2, 5, SMALL.context_in_dim, generator=generator)
    y = torch.randn(2, SMALL.vec_in_dim, generator=generator)
    timesteps, guidance = torch.tensor([0.3, 0.9]), torch.tensor([2.5, 4.0])
    mine = ours(img, ids.expand(2, -1, -1), txt, torch.zeros(2, 5, 3), timesteps, y, guidance)
    wanted = theirs(
        hidden_states=img,
        encoder_hidden_states=txt,
        pooled_projections=y,
        timestep=timesteps,
        img_ids=ids,
        txt_ids=torch.zeros(5, 3),
        guidance=guidance,
    ).sample
    assert wanted.std() > 0.1  # the comparison is not trivial
    torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=0)
