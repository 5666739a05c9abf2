"""The embedded model's text encoder: a closed vocabulary and a small transformer over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS = 20  # every text is padded to this length, so that prompts of different lengths share a batch exactly
WIDTH, HEADS, LAYERS = 128, 4, 2
PAD, END = 0, 1  # the first ids; words follow

FILLERS = frozenset(
    ["a", "an", "at", "in", "it", "of", "on", "please", "the", "to"]
)  # have no meaning in the training world; dropped before encoding
PUNCTUATION = frozenset(".,;:!?'\"()-‘’“”–—…")  # has no meaning here, and needs no warning
_WORD = re.compile(r"[^\W_]+")
ALIASES = {
    "color": "colour",
    "colors": "colours",
    "gray": "grey",
    "grayscale": "greyscale",
    "center": "centre",
    "recolor": "recolour",
    "checkerboard": "checkered",
    "monochrome": "greyscale",
    "middle": "centre",
    "daytime": "day",
    "nighttime": "night",
    "lighter": "brighter",
}


class Vocabulary:
    """The words that the encoder knows, in the order of their ids; the weight file's metadata stores them."""

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: 2 + index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return 2 + len(self.words)

    def encode(self, text: str) -> tuple[list[int], list[str], int]:
        """The ids of a text padded to 20, the unknown words (left out), and how many words did not fit."""
        written: list[str] = _WORD.findall(text.lower())
        words = [ALIASES.get(word, word) for word in written]
        words = [word for word in words if word not in FILLERS]
        ids = [self._ids[word] for word in words if word in self._ids]
        unknown = [word for word in dict.fromkeys(words) if word not in self._ids]
        kept = ids[: TOKENS - 1]
        return [*kept, END, *(TOKENS - 1 - len(kept)) * [PAD]], unknown, len(ids) - len(kept)

    def unread(self, text: str) -> tuple[list[str], list[str], int]:
        """The unknown words, the characters other than punctuation, and the total number of words and characters."""
        written: list[str] = _WORD.findall(text.lower())
        known = FILLERS | self._ids.keys()
        unknown = [word for word in written if ALIASES.get(word, word) not in known]
        signs = [sign for sign in _WORD.sub("", text) if not sign.isspace() and sign not in PUNCTUATION]
        return unknown, signs, len(written) + len(signs)


class TextEncoder(nn.Module):
    """Two transformer layers; the mean over the words is the pooled vector.

    `operations` supplies the layers (torch.nn, or a host's own that cast on use).
    """

    def __init__(
        self,
        vocabulary_size: int,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.words = operations.Embedding(vocabulary_size, WIDTH, **factory)
        self.positions = operations.Embedding(TOKENS, WIDTH, **factory)
        self.layers = nn.ModuleList(_Layer(operations, factory) for _ in range(LAYERS))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (b, 20) long -> context (b, 20, 128), zero at the padding, and pooled (b, 128)."""
        x = self.words(ids) + self.positions(torch.arange(TOKENS, device=ids.device))
        real = ids != PAD
        for layer in self.layers:
            x = layer(x, real[:, None, None])
        context = F.layer_norm(x, (WIDTH,)) * real[..., None]
        return context, context.sum(1) / real.sum(1, keepdim=True)


class _Layer(nn.Module):
    def __init__(self, operations: Any, factory: dict[str, Any]):
        super().__init__()
        self.qkv = operations.Linear(WIDTH, 3 * WIDTH, **factory)
        self.proj = operations.Linear(WIDTH, WIDTH, **factory)
        self.up = operations.Linear(WIDTH, 4 * WIDTH, **factory)
        self.down = operations.Linear(4 * WIDTH, WIDTH, **factory)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(F.layer_norm(x, (WIDTH,))).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attention = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(attention.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, (WIDTH,))), approximate="tanh"))
