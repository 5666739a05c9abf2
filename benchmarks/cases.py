"""Cases on which Kontext Accelerate is calibrated and evaluated: well-specified edits and underspecified ones.

A case is a picture (or a batch) for the embedded model to make, without ComfyUI. Every kind has cases in two halves
with disjoint seeds: `calibration` determines constants, `held out` gives the published figures. The kind "rough" is
only in the second half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import pack, place_references, position_ids, unpack
from kontext_core.transformer import KontextTransformer, precompute
from training.editor import Editor
from training.evaluate import as_tensor, held_out_edits
from training.instructions import TASKS, Edit

GUIDANCE = 2.5
UNKNOWN = (
    "imagine an elegant dusk over ancient ruins",
    "transform this into watercolour with dreamy pastel tones",
    "what would a carnival look like here",
    "paint like an impressionist master",
    "put a dragon beside the waterfall",
    "wear sunglasses and smile",
    "let it look like an old film",
    "as if it rained all night",
    "give everybody an umbrella",
    "a marble statue instead",
)
VAGUE = (
    "a picture",
    "something else",
    "shapes",
    "a scene with things",
    "many colours",
    "red or blue",
    "objects and letters",
    "a drawing",
    "one thing",
    "letters and circles",
    "something large",
    "a background",
)
DISTURBANCE = 0.12  # noise added to a matrix, relative to its own standard deviation
HALVES = ("calibration", "held out")


@dataclass(frozen=True)
class Request:
    """The inputs of one picture."""

    text: str | None  # None: a zero embedding
    sources: tuple[Tensor, ...]  # (3, h, w) in 0..1
    edit: Edit | None = None  # its rule decides whether the picture is right


@dataclass(frozen=True)
class Case:
    """One run: pictures of the same size and number of references."""

    kind: str
    number: int
    requests: tuple[Request, ...]
    side: int = 128  # px
    steps: int = 28
    cfg: float = 1.0
    disturbed: float = 0.0
    seed: int = 0

    @property
    def half(self) -> str:
        return HALVES[self.number % 2] if self.kind != "rough" else "held out"


KINDS: dict[str, Callable[[int], Case]] = {}  # name -> function from a number to a case


def kind(name: str) -> Callable[[Callable[[str, int], Case]], Callable[[str, int], Case]]:
    """Register a function from a number to a case."""

    def register(make: Callable[[str, int], Case]) -> Callable[[str, int], Case]:
        KINDS[name] = partial(make, name)
        return make

    return register


@cache
def _edits(tasks: tuple[str, ...], side: int, seed: int, count: int = 4) -> tuple[Edit, ...]:
    return tuple(edit for edit in held_out_edits(seed, count, side, side) if edit.task in tasks)


def _edit(number: int, side: int = 128, tasks: tuple[str, ...] = tuple(TASKS)) -> Edit:
    """Cycles through the tasks in either half; no edit is in both."""
    task = tasks[(number // 2) % len(tasks)]
    edits = _edits((task,), side, 100 + number % 2, 3)
    return edits[number // 2 // len(tasks) % len(edits)]


WITH_REFERENCE = tuple(task for task in TASKS if task not in ("text to image", "two references"))


def _request(edit: Edit, side: int, text: str | None = "") -> Request:
    sources = tuple(as_tensor(picture, side, side) for picture in edit.sources)
    return Request(edit.instruction if text == "" else text, sources, edit if text == "" else None)


def _clear(name: str, number: int, side: int = 128, **values: object) -> Case:
    return Case(name, number, (_request(_edit(number, side), side),), side, seed=1000 + number, **values)


@kind("clear edits")
def _(name: str, number: int) -> Case:
    return _clear(name, number)


def _own(texts: tuple[str, ...], number: int) -> str:
    """Cycles through every second text, so that no text is in both halves."""
    chosen = texts[number % 2 :: 2]
    return chosen[number // 2 % len(chosen)]


@kind("unknown words")
def _(name: str, number: int) -> Case:
    text = _own(UNKNOWN, number)
    return Case(name, number, (_request(_edit(number, tasks=WITH_REFERENCE), 128, text),), seed=2000 + number)


@kind("wrong instruction")
def _(name: str, number: int) -> Case:
    """The instruction of another picture."""
    text = _edit(number + 26, tasks=WITH_REFERENCE[3:] + WITH_REFERENCE[:3]).instruction
    return Case(name, number, (_request(_edit(number, tasks=WITH_REFERENCE), 128, text),), seed=3000 + number)


@kind("empty text, reference")
def _(name: str, number: int) -> Case:
    request = replace(_request(_edit(number, tasks=WITH_REFERENCE), 128, None), text=" ")
    return Case(name, number, (request,), seed=4000 + number)


@kind("vague text")
def _(name: str, number: int) -> Case:
    return Case(name, number, (Request(_own(VAGUE, number), ()),), seed=5000 + number)


@kind("empty text")
def _(name: str, number: int) -> Case:
    return Case(name, number, (Request(" ", ()),), seed=6000 + number)


@kind("zeroed text")
def _(name: str, number: int) -> Case:
    return Case(name, number, (Request(None, ()),), seed=7000 + number)


@kind("clear edits, cfg 3")
def _(name: str, number: int) -> Case:
    return replace(_clear(name, number, cfg=3.0), seed=8000 + number)


@kind("two references")
def _(name: str, number: int) -> Case:
    edit = _edits(("two references",), 128, 300 + number, 1)[0]
    return Case(name, number, (_request(edit, 128),), seed=9000 + number)


@kind("disturbed weights")
def _(name: str, number: int) -> Case:
    return replace(_clear(name, number, disturbed=DISTURBANCE), seed=10000 + number)


@kind("12 steps")
def _(name: str, number: int) -> Case:
    return _mixed(name, number, 12)


@kind("20 steps")
def _(name: str, number: int) -> Case:
    return _mixed(name, number, 20)


@kind("50 steps")
def _(name: str, number: int) -> Case:
    return _mixed(name, number, 50)


def _mixed(name: str, number: int, steps: int) -> Case:
    """Alternates well-specified edits, empty text with a reference, and empty text without one."""
    made = (_clear, KINDS["empty text, reference"].func, KINDS["empty text"].func)[number // 2 % 3](name, number)  # type: ignore[attr-defined]
    return replace(made, steps=steps, seed=11000 + 100 * steps + number)


@kind("batch of four")
def _(name: str, number: int) -> Case:
    """Two well-specified edits and two without text."""
    clear = [_request(_edit(4 * number + 2 * i + number % 2, tasks=WITH_REFERENCE), 128) for i in range(2)]
    nothing = [
        replace(_request(_edit(4 * number + 2 * i + number % 2, tasks=WITH_REFERENCE), 128, None), text=" ")
        for i in (7, 8)
    ]
    return Case(name, number, (*clear, *nothing), seed=12000 + number)


@kind("256 px, clear edits")
def _(name: str, number: int) -> Case:
    return replace(_clear(name, number, 256), seed=13000 + number)


@kind("256 px, empty text")
def _(name: str, number: int) -> Case:
    request = Request(" ", ())
    if number // 2 % 2:
        request = replace(_request(_edit(number, 256, WITH_REFERENCE), 256, None), text=" ")
    return Case(name, number, (request,), 256, seed=14000 + number)


@kind("rough")
def _(name: str, number: int) -> Case:
    return Case(
        name,
        number,
        (Request(_own(VAGUE, number), ()),),
        cfg=ROUGH_CFG,
        disturbed=ROUGH_DISTURBANCE,
        seed=15000 + number,
    )


ROUGH_CFG, ROUGH_DISTURBANCE = 4.0, 0.3


def cases(half: str, count: int, kinds: tuple[str, ...] = ()) -> list[Case]:
    """`count` cases of each kind (default: all kinds) in a half."""
    found = []
    for name in kinds or KINDS:
        offset = HALVES.index(half)
        made = [KINDS[name](2 * i + offset) for i in range(count)]
        found += [case for case in made if case.half == half]
    return found


class Velocity:
    """(x, sigma) -> the velocity after guidance, (b, n, 64); `evaluate` can be replaced by a rule that skips calls."""

    def __init__(
        self, tree: KontextTransformer, text: Tensor, pooled: Tensor, ids: Tensor, references: Tensor | None, cfg: float
    ):
        self.tree, self.text, self.pooled, self.ids, self.cfg = tree, text, pooled, ids, cfg
        self.txt_ids = text.new_zeros(1, text.shape[1], 3)
        self.constants = precompute(tree, text, self.txt_ids, ids, references)
        self.guidance = text.new_full((len(text),), GUIDANCE)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        x = x if self.cfg == 1 else x.repeat(2, 1, 1)
        v = self.evaluate(x, x.new_full((len(x),), float(sigma)))
        return v if self.cfg == 1 else torch.lerp(*reversed(v.chunk(2)), self.cfg)

    def evaluate(self, x: Tensor, times: Tensor) -> Tensor:
        """One model call before guidance: with `cfg` the second half of x is without text."""
        ids = (self.ids, self.text, self.txt_ids)
        return self.tree(x, *ids, times, self.pooled, self.guidance, constants=self.constants)


class Model:
    """The embedded model as a `Velocity` for each case."""

    def __init__(self) -> None:
        self.editor = Editor.shipped()
        self._disturbed: dict[float, KontextTransformer] = {0.0: self.editor.transformer.requires_grad_(False)}

    def tree(self, case: Case) -> KontextTransformer:
        if case.disturbed not in self._disturbed:
            tree = copy.deepcopy(self.editor.transformer)
            generator = torch.Generator().manual_seed(0)
            for parameter in tree.parameters():
                if parameter.ndim == 2:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += case.disturbed * parameter.std() * noise
            self._disturbed[case.disturbed] = tree
        return self._disturbed[case.disturbed]

    def noise(self, case: Case) -> Tensor:
        """(b, n, 64)"""
        generator = torch.Generator().manual_seed(case.seed)
        shape = (len(case.requests), 16, case.side // 8, case.side // 8)
        return pack(torch.randn(shape, generator=generator))

    def sigmas(self, case: Case, steps: int | None = None) -> Tensor:
        return flow_sigmas(steps or case.steps, (case.side // 16) ** 2)

    def decode(self, case: Case, x: Tensor) -> Tensor:
        return self.editor.decode(unpack(x, case.side // 8, case.side // 8))

    def velocity(self, case: Case) -> Velocity:
        grid = (case.side // 8, case.side // 8)
        columns = list(zip(*(request.sources for request in case.requests), strict=True))
        references = [self.editor.encode(torch.stack(column)) for column in columns]
        shapes = [tuple(reference.shape[-2:]) for reference in references]
        ids = [position_ids(*grid)]
        ids += [
            position_ids(*shape, *place) for shape, place in zip(shapes, place_references(shapes, grid), strict=True)
        ]
        packed = torch.cat([pack(reference) for reference in references], dim=1) if references else None
        text, pooled = self._read([request.text for request in case.requests])
        if case.cfg != 1:
            text, pooled = (torch.cat((part, torch.zeros_like(part))) for part in (text, pooled))
            packed = None if packed is None else packed.repeat(2, 1, 1)
        return Velocity(self.tree(case), text, pooled, torch.cat(ids)[None], packed, case.cfg)

    def _read(self, texts: list[str | None]) -> tuple[Tensor, Tensor]:
        vocabulary = self.editor.vocabulary
        context, pooled = self.editor.text_encoder(torch.tensor([vocabulary.encode(text or " ")[0] for text in texts]))
        real = torch.tensor([text is not None for text in texts])
        return context * real[:, None, None], pooled * real[:, None]
