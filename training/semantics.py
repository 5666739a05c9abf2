"""Semantic labels of every token: a second loss, which trains the transformer's features faster than pixels do.

The velocity of a picture says little about *what* to draw, and noise dominates its gradient; but a synthetic world
knows the contents of its pictures. So linear heads at two depths predict for every token of target and references the
nearest thing, the position of its centre, the background behind it and the effect on the picture. The
heads are not shipped. After REPA (arXiv 2410.06940), which aligns the same features with another model's.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core import transformer
from training.instructions import Edit, Picture
from training.world import COLOURS, EFFECTS, LETTERS, PATTERNS, SHAPES, Scene, centre_of, radius_of

DEPTHS = (0, 2)  # indices of the single-stream blocks whose input is read
TOKEN = 16  # px per token
STEP = TOKEN // 2
REACH = 4  # a thing's centre is labelled up to this many steps from the middle of a token that it touches
RADII = (8, 11.5, 14.5, 20, 28, 40)  # px; bounds of the classes of radius
UNKNOWN = -100  # no label: ignored by `cross_entropy`
VALUES: dict[str, tuple] = {  # label -> its values
    "pattern": PATTERNS,
    "first": tuple(COLOURS),
    "second": tuple(COLOURS),
    "effect": (None, *EFFECTS),
    "thing": (False, True),  # whether a thing is here; the labels below describe the nearest one
    "shape": (*SHAPES, *LETTERS),
    "colour": tuple(COLOURS),
    "size": tuple(range(len(RADII) + 1)),
    "right": tuple(range(-REACH, REACH + 1)),
    "down": tuple(range(-REACH, REACH + 1)),
    "meant": (False, True),  # whether the edit is about this thing
}
CLASSES = [len(values) for values in VALUES.values()]
CODES = {label: {value: code for code, value in enumerate(values)} for label, values in VALUES.items()}
COLUMNS = {label: column for column, label in enumerate(VALUES)}


def labels_of(picture: Picture, meant: int | None, effect: str | None, width: int, height: int) -> np.ndarray:
    """The labels of a picture's tokens, (n, 11) int64, row by row.

    `meant` is the index of the thing that the edit is about; `effect` is that of a picture that is not a scene, which
    has no other labels.
    """
    rows, columns = height // TOKEN, width // TOKEN
    found = np.full((rows, columns, len(VALUES)), UNKNOWN, np.int64)

    def put(label: str, value: object, where: Any = ...) -> None:
        found[where][..., COLUMNS[label]] = CODES[label][value]

    if not isinstance(picture, Scene):
        put("effect", effect)
        return found.reshape(-1, len(VALUES))
    put("effect", picture.effect)
    if picture.background.crop is None:  # a photograph has no pattern or colour names
        for label in ("pattern", "first", "second"):
            put(label, getattr(picture.background, label))
    put("thing", False)
    middle_y, middle_x = np.mgrid[0:rows, 0:columns] * TOKEN + TOKEN // 2
    nearest = np.full((rows, columns), np.inf)
    for index, thing in enumerate(picture.things):
        x, y = centre_of(thing, width, height)
        radius = radius_of(thing)
        away_x, away_y = abs(x - middle_x), abs(y - middle_y)
        distance = np.maximum(away_x, away_y)
        if thing.place is None:
            touched = distance < radius + TOKEN // 2
        else:  # the thing's circle reaches into the token
            gap = np.hypot(np.maximum(away_x - TOKEN // 2, 0), np.maximum(away_y - TOKEN // 2, 0))
            touched = gap < radius
        for row, column in np.argwhere(touched & (distance < nearest)):
            place = row, column
            nearest[place] = distance[place]
            put("shape", thing.shape, place)
            put("colour", thing.colour, place)
            put("size", bisect(RADII, radius), place)
            put("right", _step(x - middle_x[place]), place)
            put("down", _step(y - middle_y[place]), place)
            put("thing", True, place)
            put("meant", index == meant, place)
    return found.reshape(-1, len(VALUES))


def _step(distance: float) -> int:
    return max(-REACH, min(REACH, int(distance // STEP)))


def labels(edits: list[Edit], size: tuple[int, int]) -> Tensor:
    """The labels of a batch's image tokens in the transformer's order, target first: (b, n, 11)."""
    return torch.from_numpy(np.stack([_labels_of_edit(edit, size) for edit in edits]))


def _labels_of_edit(edit: Edit, size: tuple[int, int]) -> np.ndarray:
    day = edit.effect == "day"  # the edit that removes an effect
    drawn = None if edit.task in ("remove", "text to image") else edit.index
    shown = {"two references": (0, None), "style": (None,)}.get(edit.task, (edit.index,))
    parts = [labels_of(edit.target, drawn, None if day else edit.effect, *size)]
    for source, index in zip(edit.sources, shown, strict=False):
        parts.append(labels_of(source, index, "night" if day else None, *size))
    return np.concatenate(parts)


class Heads(nn.Module):
    """One linear layer per depth, from normalised features to all labels."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_size, sum(CLASSES)) for _ in DEPTHS)

    def forward(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Features (b, n, hidden) of each depth -> logits (b, n, classes) of each label at each depth."""
        pairs = zip(self.layers, features, strict=True)
        return [list(layer(F.layer_norm(x, x.shape[-1:])).float().split(CLASSES, dim=-1)) for layer, x in pairs]


def semantic_loss(heads: Heads, features: list[Tensor], truth: Tensor, weight: Tensor) -> Tensor:
    """Mean cross entropy over all labels at all depths; truth (b, n, 11), weight of each token (b, n)."""
    losses = []
    for logits in heads(features):
        for part, label in zip(logits, truth.unbind(-1), strict=True):
            each = F.cross_entropy(part.transpose(1, 2), label, reduction="none", ignore_index=UNKNOWN)
            known = weight * (label != UNKNOWN)
            losses.append((each * known).sum() / known.sum().clamp_min(1))
    return torch.stack(losses).mean()


@contextmanager
def block_inputs(tree: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of the blocks at `DEPTHS` while the context is open: streams of [text, target, references]."""
    plain, blocks, seen = transformer.single_block, [tree.single_blocks[depth] for depth in DEPTHS], []

    def single_block(block: nn.Module, stream: Tensor, *rest: Any) -> Tensor:
        if any(block is one for one in blocks):
            seen.append(stream)
        return plain(block, stream, *rest)

    transformer.single_block = single_block
    try:
        yield seen
    finally:
        transformer.single_block = plain
