"""Attribute binding: a third loss, on the text encoder only.

To draw "a small red ring in the top left and a large blue star in the centre", the encoder must know which words belong
together. The velocity loss teaches that slowly, since most instructions name one thing; so linear heads predict the
colour, the size and the cell of a thing from the context of its noun. The heads are not shipped. Texts are cheap: no
picture is drawn.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext_core.embedded.text_encoder import WIDTH, TextEncoder, Vocabulary
from training import recipe
from training.instructions import Edit, sample
from training.world import CELLS, COLOURS, LETTERS, RADIUS, SHAPES, Thing

VALUES: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "size": tuple(RADIUS), "cell": tuple(CELLS)}
CLASSES = [len(values) for values in VALUES.values()]
NOUNS = frozenset(noun.lower() for noun in (*SHAPES, *LETTERS))
TASKS = ("text to image", "add", "style")  # tasks whose texts describe a thing completely


def described_things(edit: Edit) -> tuple[Thing, ...]:
    """The things that the text of an edit of `TASKS` describes, in text order."""
    return edit.target.things if edit.task == "text to image" else (edit.target.things[edit.index],)


def noun_labels(vocabulary: Vocabulary, edits: list[Edit]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (b, 20); row and position of every noun in them (m, 2); labels of each noun's thing (m, 3)."""
    ids = [vocabulary.encode(edit.instruction)[0] for edit in edits]
    words = {token: word for word, token in zip(vocabulary.words, range(2, len(vocabulary)), strict=True)}
    places, truth = [], []
    for row, (line, edit) in enumerate(zip(ids, edits, strict=True)):
        found = [place for place, token in enumerate(line) if words.get(token) in NOUNS]
        for place, thing in zip(found, described_things(edit), strict=True):
            places.append((row, place))
            truth.append([values.index(getattr(thing, name)) for name, values in VALUES.items()])
    return torch.tensor(ids), torch.tensor(places), torch.tensor(truth)


class Binding(nn.Linear):
    """Predicts the labels of a thing from the context of its noun."""

    def __init__(self) -> None:
        super().__init__(WIDTH, sum(CLASSES))

    def loss(self, encoder: TextEncoder, ids: Tensor, places: Tensor, truth: Tensor) -> Tensor:
        """Mean cross entropy over all labels of all nouns; arguments as returned by `noun_labels`."""
        context, _ = encoder(ids)
        logits = self(context[places[:, 0], places[:, 1]]).float().split(CLASSES, dim=-1)
        return torch.stack([F.cross_entropy(*pair) for pair in zip(logits, truth.unbind(-1), strict=True)]).mean()


def texts(rng: random.Random) -> list[Edit]:
    """A batch of edits of which only the texts and the things are used."""
    return [sample(rng, rng.choice(TASKS)) for _ in range(recipe.BINDING_TEXTS)]
