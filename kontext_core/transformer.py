"""The FLUX.1 transformer: a module tree with the checkpoint's names, and a forward written over that tree.

`forward` and the two block functions take the tree as an argument and only *call* its modules. So the same code runs
over `KontextTransformer` below and over any other tree with these names; offloaded, quantised or patched weights are
handled by the layers themselves.

Source: black-forest-labs/flux, `src/flux/model.py` and `src/flux/modules/layers.py`; arXiv 2506.15742, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .geometry import Geometry

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (b, heads, n, d) -> (b, n, heads * d)
Modulate = Callable[[Any], Any]  # a modulation module of the tree -> its output in this evaluation


# The tree


class Embedder(nn.Module):
    """Two linear layers that lift a vector (time, guidance or pooled text) to the hidden size."""

    def __init__(self, in_dim: int, hidden_size: int):
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_size)
        self.out_layer = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class ModulationOut(NamedTuple):
    shift: Tensor  # (b, 1, hidden)
    scale: Tensor
    gate: Tensor


class Modulation(nn.Module):
    """Shift, scale and gate from the conditioning vector; two sets in a double-stream block, one in a single."""

    def __init__(self, hidden_size: int, double: bool):
        super().__init__()
        self.multiplier = 6 if double else 3
        self.lin = nn.Linear(hidden_size, self.multiplier * hidden_size)

    def forward(self, vec: Tensor) -> tuple[ModulationOut, ModulationOut | None]:
        out = self.lin(F.silu(vec))[:, None].chunk(self.multiplier, dim=-1)
        return ModulationOut(*out[:3]), ModulationOut(*out[3:]) if self.multiplier == 6 else None


class QKNorm(nn.Module):
    def __init__(self, head_dim: int):
        super().__init__()
        self.query_norm = nn.RMSNorm(head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(head_dim, eps=1e-6)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q).to(v), self.key_norm(k).to(v)


class SelfAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.norm = QKNorm(hidden_size // num_heads)
        self.proj = nn.Linear(hidden_size, hidden_size)


class DoubleStreamBlock(nn.Module):
    """Image and text tokens with weights of their own, joined in the attention."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.num_heads = num_heads
        mlp_size = int(hidden_size * mlp_ratio)
        for stream in ("img", "txt"):
            self.add_module(f"{stream}_mod", Modulation(hidden_size, double=True))
            self.add_module(f"{stream}_norm1", _layer_norm(hidden_size))
            self.add_module(f"{stream}_attn", SelfAttention(hidden_size, num_heads))
            self.add_module(f"{stream}_norm2", _layer_norm(hidden_size))
            mlp = (nn.Linear(hidden_size, mlp_size), nn.GELU(approximate="tanh"), nn.Linear(mlp_size, hidden_size))
            self.add_module(f"{stream}_mlp", nn.Sequential(*mlp))


class SingleStreamBlock(nn.Module):
    """All tokens in one stream; attention and MLP side by side, fused in two linear layers."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.num_heads, self.hidden_size = num_heads, hidden_size
        self.mlp_hidden_dim = int(hidden_size * mlp_ratio)
        self.linear1 = nn.Linear(hidden_size, 3 * hidden_size + self.mlp_hidden_dim)
        self.linear2 = nn.Linear(hidden_size + self.mlp_hidden_dim, hidden_size)
        self.norm = QKNorm(hidden_size // num_heads)
        self.pre_norm = _layer_norm(hidden_size)
        self.mlp_act = nn.GELU(approximate="tanh")
        self.modulation = Modulation(hidden_size, double=False)


class LastLayer(nn.Module):
    def __init__(self, hidden_size: int, out_features: int):
        super().__init__()
        self.norm_final = _layer_norm(hidden_size)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))


class KontextTransformer(nn.Module):
    """The tree built from plain torch modules (training, tests, batch use)."""

    def __init__(self, geometry: Geometry):
        super().__init__()
        g, hidden = geometry, geometry.hidden_size
        self.params = geometry
        self.img_in = nn.Linear(g.in_channels * g.patch_size**2, hidden)
        self.txt_in = nn.Linear(g.context_in_dim, hidden)
        self.time_in = Embedder(256, hidden)
        self.vector_in = Embedder(g.vec_in_dim, hidden)
        self.guidance_in = Embedder(256, hidden) if g.guidance_embed else nn.Identity()
        double = (DoubleStreamBlock(hidden, g.num_heads, g.mlp_ratio) for _ in range(g.depth))
        single = (SingleStreamBlock(hidden, g.num_heads, g.mlp_ratio) for _ in range(g.depth_single_blocks))
        self.double_blocks = nn.ModuleList(double)
        self.single_blocks = nn.ModuleList(single)
        self.final_layer = LastLayer(hidden, g.out_channels * g.patch_size**2)

    def forward(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor | None,
        guidance: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """`forward` of this module over this tree; same arguments, same result."""
        return forward(self, img, img_ids, txt, txt_ids, timesteps, y, guidance, **options)


def checkpoint_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint, in which the weight of a norm is called scale."""
    with torch.device("meta"):
        tree = KontextTransformer(geometry).state_dict()
    return {name.replace("_norm.weight", "_norm.scale"): tuple(tensor.shape) for name, tensor in tree.items()}


def _layer_norm(hidden_size: int) -> nn.LayerNorm:
    return nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)


# Constants of a sampling run


class Constants(NamedTuple):
    """Values that do not change during a sampling run, so that `forward` need not recompute them at every step."""

    pe: Tensor  # rotary table of text, target and references (b, 1, n, head_dim / 2, 2)
    txt: Tensor  # embedded text (b, t, hidden)
    references: Tensor | None  # embedded reference tokens (b, r, hidden)


def precompute(tree: Any, txt: Tensor, txt_ids: Tensor, img_ids: Tensor, references: Tensor | None = None) -> Constants:
    """The constants of a run: `txt` (b, t, context_in_dim), `references` (b, r, 4 * channels) packed latents.

    `img_ids` (b, n, 3) are those of the target followed by those of the references.
    """
    ids = torch.cat((txt_ids, img_ids), dim=1)
    embedded = None if references is None else tree.img_in(references)
    return Constants(rotary_table(ids, tree.params.axes_dim, tree.params.theta), tree.txt_in(txt), embedded)


def rotary_table(ids: Tensor, axes_dim: tuple[int, ...], theta: float) -> Tensor:
    """Cosines and sines of the rotary position embedding, (b, n, axes) -> (b, 1, n, sum(axes_dim) / 2, 2), float32.

    Angles are computed in float64: position times frequency loses precision in float32. Source: flux, `math.rope`.
    """
    positions = ids.cpu().double()  # some devices have no float64
    angles = []
    for axis, dim in enumerate(axes_dim):
        frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles.append(positions[..., axis, None] * frequencies)
    angle = torch.cat(angles, dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()[:, None].to(ids.device)


def apply_rope(x: Tensor, pe: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x (b, heads, n, d) by the angles of `pe` (b, 1, n, d / 2, 2)."""
    # not every device supports complex numbers, and torch.compile fuses the plain form into one pass
    eager = x.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling()
    rotate = _rotate_complex if eager else _rotate
    return rotate(x.float().unflatten(-1, (-1, 2)), pe).flatten(-2).type_as(x)


def _rotate_complex(pairs: Tensor, pe: Tensor) -> Tensor:
    """One pass over memory instead of the seven of `_rotate`."""
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(pe))


def _rotate(pairs: Tensor, pe: Tensor) -> Tensor:
    (even, odd), (cos, sin) = pairs.unbind(-1), pe.unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention, (b, heads, n, d) each -> (b, n, heads * d)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


# The forward


def timestep_embedding(t: Tensor, dim: int = 256, time_factor: float = 1000.0) -> Tensor:
    """Sinusoids of a sigma or a guidance value, (b,) -> (b, dim). Source: flux, `layers.timestep_embedding`."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = (time_factor * t)[:, None].float() * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=-1).to(t)


def conditioning_vector(
    tree: Any, timesteps: Tensor, y: Tensor | None, guidance: Tensor | None, like: Tensor
) -> Tensor:
    """`vec` (b, hidden), which modulates every block: time, guidance and pooled text, summed in this order."""
    vec = tree.time_in(timestep_embedding(timesteps).to(like.dtype))
    if guidance is not None and tree.params.guidance_embed:
        vec = vec + tree.guidance_in(timestep_embedding(guidance).to(like.dtype))
    if y is None:
        y = like.new_zeros(like.shape[0], tree.params.vec_in_dim)
    return vec + tree.vector_in(y[:, : tree.params.vec_in_dim])


def forward(
    tree: Any,
    img: Tensor,
    img_ids: Tensor,
    txt: Tensor,
    txt_ids: Tensor,
    timesteps: Tensor,
    y: Tensor | None,
    guidance: Tensor | None,
    *,
    attention: Attention = sdpa,
    constants: Constants | None = None,
    modulation: Modulate | None = None,
) -> Tensor:
    """One evaluation of the velocity, (b, n, 4 * channels) for the n tokens of `img`. Source: flux, `Flux.forward`.

    img (b, n, 4 * channels)      the target's tokens, followed by the references'
    img_ids (b, n, 3)             their positions
    txt (b, t, context_in_dim)    text tokens; txt_ids (b, t, 3) are all zero
    timesteps, guidance (b,)      sigma, and the guidance value (None: no guidance term)
    y (b, vec_in_dim)             pooled text; None for zeros

    With `constants` (see `precompute`) img holds only the target's tokens, and txt and both ids are not read. With
    `modulation` (see `acceleration.modulation`) timesteps, y and guidance are not read. The last single-stream block
    skips the references' rows, because nothing reads them.
    """
    if modulation is None:
        vec = conditioning_vector(tree, timesteps, y, guidance, like=img)
        modulation = lambda module: module(vec)  # noqa: E731
    target_tokens = img.shape[1]
    if constants is None:
        constants = precompute(tree, txt, txt_ids, img_ids)
    pe, txt, references = constants
    img = tree.img_in(img)
    if references is not None:
        img = torch.cat((img, references), dim=1)
    for block in tree.double_blocks:
        img, txt = double_block(block, img, txt, modulation, pe, attention)
    stream = torch.cat((txt, _finite(img)), dim=1)
    start = txt.shape[1]
    *blocks, last = tree.single_blocks
    for block in blocks:
        stream = single_block(block, stream, modulation, pe, attention)
    finished = single_block(last, stream, modulation, pe, attention, slice(0, start + target_tokens))
    return last_layer(tree.final_layer, finished[:, start:], modulation)


def last_layer(layer: Any, x: Tensor, modulation: Modulate) -> Tensor:
    """From hidden size to velocity, (b, n, hidden) -> (b, n, 4 * channels). Source: flux, `LastLayer`."""
    shift, scale = modulation(layer.adaLN_modulation)[:, None].chunk(2, dim=-1)
    return layer.linear(torch.addcmul(shift, layer.norm_final(x), 1 + scale))


def double_block(
    block: Any, img: Tensor, txt: Tensor, modulation: Modulate, pe: Tensor, attention: Attention
) -> tuple[Tensor, Tensor]:
    """One double-stream block over img (b, n, hidden) and txt (b, t, hidden). Source: flux, `DoubleStreamBlock`."""
    img_mod1, img_mod2 = modulation(block.img_mod)
    txt_mod1, txt_mod2 = modulation(block.txt_mod)

    img_qkv = block.img_attn.qkv(_modulate(block.img_norm1(img), img_mod1))
    txt_qkv = block.txt_attn.qkv(_modulate(block.txt_norm1(txt), txt_mod1))
    img_q, img_k, img_v = _heads(img_qkv, block.num_heads, block.img_attn.norm)
    txt_q, txt_k, txt_v = _heads(txt_qkv, block.num_heads, block.txt_attn.norm)
    q, k, v = (torch.cat(pair, dim=2) for pair in ((txt_q, img_q), (txt_k, img_k), (txt_v, img_v)))
    attn = attention(apply_rope(q, pe), apply_rope(k, pe), v)
    txt_attn, img_attn = attn.split((txt.shape[1], img.shape[1]), dim=1)

    img = img + img_mod1.gate * block.img_attn.proj(img_attn)
    img = img + img_mod2.gate * block.img_mlp(_modulate(block.img_norm2(img), img_mod2))
    txt = txt + txt_mod1.gate * block.txt_attn.proj(txt_attn)
    txt = txt + txt_mod2.gate * block.txt_mlp(_modulate(block.txt_norm2(txt), txt_mod2))
    return img, _finite(txt)


def single_block(
    block: Any, stream: Tensor, modulation: Modulate, pe: Tensor, attention: Attention, rows: slice = slice(None)
) -> Tensor:
    """One single-stream block over [text, target, references] (b, n, hidden). Source: flux, `SingleStreamBlock`.

    Only `rows` are computed and returned; all rows provide keys and values.
    """
    mod, _ = modulation(block.modulation)
    fused = block.linear1(_modulate(block.pre_norm(stream), mod))
    qkv, mlp = fused.tensor_split((3 * block.hidden_size,), dim=-1)
    q, k, v = _heads(qkv, block.num_heads, block.norm)
    attn = attention(apply_rope(q[:, :, rows], pe[:, :, rows]), apply_rope(k, pe), v)
    out = block.linear2(torch.cat((attn, block.mlp_act(mlp[:, rows])), dim=2))
    return _finite(stream[:, rows] + mod.gate * out)


def _modulate(x: Tensor, mod: ModulationOut) -> Tensor:
    return torch.addcmul(mod.shift, x, 1 + mod.scale)


def _heads(qkv: Tensor, num_heads: int, norm: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """(b, n, 3 * hidden) -> normalised q, k and v, each (b, heads, n, d)."""
    q, k, v = qkv.reshape(*qkv.shape[:2], 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = norm(q, k, v)
    return q, k, v


def _finite(x: Tensor) -> Tensor:
    """float16 overflows in deep blocks; the reference implementation clips there, so this does too."""
    return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504) if x.dtype == torch.float16 else x
