"""A sampling run of a small transformer: its sizes, schedules and inputs."""

import torch

from kontext_core.acceleration.stream import Inputs
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import place_references, position_ids
from kontext_core.transformer import KontextTransformer

TINY = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)
GRID, TEXT = (4, 6), 5  # tokens of the target, and of the text
TARGET = GRID[0] * GRID[1]
SIGMAS = flow_sigmas(8, TARGET).tolist()
LONG = flow_sigmas(28, TARGET).tolist()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions(batch: int = 1, references: int = 1, seed: int = 1, size: tuple[int, int] = GRID) -> Inputs:
    """Every row of the batch has its own text and references."""
    grids = [GRID, *[size] * references]
    latents = [(2 * rows, 2 * columns) for rows, columns in grids]
    places = place_references(latents[1:], latents[0])
    ids = [position_ids(*latents[0])]
    ids += [position_ids(*latent, *place) for latent, place in zip(latents[1:], places, strict=True)]
    return Inputs(
        txt=noise(batch, TEXT, 48, seed=seed),
        y=noise(batch, 32, seed=seed + 1),
        guidance=torch.full((batch,), 2.5),
        references=[noise(batch, rows * columns, 64, seed=seed + 2 + i) for i, (rows, columns) in enumerate(grids[1:])],
        grids=grids,
        ids=torch.cat(ids)[None],
    )


def vanilla(model: KontextTransformer, inputs: Inputs, x: torch.Tensor, sigma: float, **options) -> torch.Tensor:
    img = torch.cat((x, *inputs.references), dim=1)
    txt_ids = torch.zeros(1, TEXT, 3)
    times = torch.full((len(x),), sigma)
    return model(img, inputs.ids, inputs.txt, txt_ids, times, inputs.y, inputs.guidance, **options)[:, : x.shape[1]]


def random_model(std: float) -> KontextTransformer:
    """Untrained; with small weights its cache is as good as new."""
    torch.manual_seed(0)
    model = KontextTransformer(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=std)
    return model


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention in two matrix products, which torch counts on every device."""
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)
