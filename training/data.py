"""The batches that training learns from, drawn and made ready by processes of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kontext_core.embedded.text_encoder import Vocabulary
from training import recipe
from training.binding import noun_labels, texts
from training.instructions import Edit, picture_of, sample
from training.semantics import labels

TOKEN = 16  # px


@dataclass(frozen=True)
class Batch:
    """Edits of one canvas with the same number of references, as tensors."""

    size: tuple[int, int]  # (width, height)
    references: list[Tensor]  # (b, 3, h, w) each, in 0..1
    target: Tensor  # (b, 3, h, w)
    text: Tensor  # token ids (b, 20)
    told: Tensor  # (b,) 1 where the text says something
    weight: Tensor  # of each of the target's tokens (b, n), mean 1
    truth: Tensor  # labels of all image tokens (b, n of target and references, 11)
    nouns: tuple[Tensor, Tensor, Tensor]  # what `binding.noun_labels` gives of other texts

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{field.name: _moved(getattr(self, field.name), device) for field in fields(self)})


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list | tuple):
        return type(value)(_moved(one, device) for one in value)
    return value


def draw_task(rng: random.Random) -> tuple[str, bool]:
    """A task and whether its scene is free of the grid, by the recipe's weights."""
    free = rng.random() < recipe.FREE
    weights = recipe.FREE_WEIGHTS if free else recipe.TASK_WEIGHTS
    return rng.choices(list(weights), list(weights.values()))[0], free


def references_of(task: str) -> int:
    """How many references an edit of a task has."""
    return {"text to image": 0, "two references": 2}.get(task, 1)


def draw_batch(shared: random.Random) -> tuple[int, tuple[int, int]]:
    """How many references the next batch has, and its canvas (width, height): the same in every process."""
    references = references_of(draw_task(shared)[0])
    return references, shared.choices(list(recipe.CANVASES), list(recipe.CANVASES.values()))[0]


def samples_of(batch: int, size: tuple[int, int], references: int) -> int:
    """How many samples of a canvas cost about as much as `batch` of 128x128 px with one reference."""
    tokens = 20 + (1 + references) * size[0] * size[1] // TOKEN**2
    return max(2, round(batch * 148 / tokens))


def edit_batch(rng: random.Random, count: int, size: tuple[int, int], references: int) -> list[Edit]:
    """Edits that all have the same number of references."""
    edits = []
    while len(edits) < count:
        task, free = draw_task(rng)
        if references_of(task) == references:
            photograph = free and rng.random() < recipe.PHOTOGRAPHS
            edits.append(sample(rng, task, width=size[0], height=size[1], free=free, photograph=photograph))
    return edits


def make_batch(rng: random.Random, vocabulary: Vocabulary, edits: list[Edit], size: tuple[int, int]) -> Batch:
    """Draw the pictures of edits, and say what their tokens show and how much each of them weighs."""
    columns = [*zip(*(edit.sources for edit in edits), strict=True), [edit.target for edit in edits]]
    pictures = [torch.stack([torch.from_numpy(picture_of(p, *size)) for p in column]) for column in columns]
    *references, target = [picture.permute(0, 3, 1, 2).contiguous() for picture in pictures]
    told = [edit.instruction if rng.random() >= recipe.TEXT_DROPOUT / 2 else "" for edit in edits]
    return Batch(
        size,
        references,
        target,
        torch.tensor([vocabulary.encode(text)[0] for text in told]),
        torch.tensor([float(text != "") for text in told]),
        token_weights(references, target),
        labels(edits, size),
        noun_labels(vocabulary, texts(rng)),
    )


def token_weights(references: list[Tensor], target: Tensor) -> Tensor:
    """The loss weight of the target's tokens (b, n), more where the edit changes something; mean 1."""
    weight = torch.ones(len(target), target.shape[2] * target.shape[3] // TOKEN**2)
    if references:
        change = (references[-1] - target).abs().amax(1, keepdim=True)
        weight += recipe.CHANGED_WEIGHT * (F.max_pool2d(change, TOKEN).flatten(1) > recipe.CHANGED_LEVEL)
    return weight / weight.mean(1, keepdim=True)


class Batches(IterableDataset):
    """Batches without end; every process of the training gets others, of the same canvases in the same order."""

    def __init__(self, vocabulary: Vocabulary, batch: int, rank: int, start: int):
        self.vocabulary, self.batch, self.rank, self.start = vocabulary, batch, rank, start

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            name = f"{self.start} {number}"
            references, size = draw_batch(random.Random(name))
            own = random.Random(f"{name} {self.rank}")
            count = samples_of(self.batch, size, references)
            yield make_batch(own, self.vocabulary, edit_batch(own, count, size, references), size)
            number += step


def loader(vocabulary: Vocabulary, batch: int, rank: int, start: int, workers: int) -> Iterator[Batch]:
    """Batches made ahead by `workers` processes; `start` tells the calls of a run apart."""
    ahead = {"prefetch_factor": 4} if workers else {}
    return iter(DataLoader(Batches(vocabulary, batch, rank, start), batch_size=None, num_workers=workers, **ahead))
