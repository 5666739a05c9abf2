"""The wordings of instructions: for each task those for training, and those held out for evaluation.

Every word of a held-out wording occurs in a training wording of some task: the evaluation tests whether words are
understood in new combinations, not whether sentences are memorised. For the same reason training drops words at random
where the meaning stays.
"""

from __future__ import annotations

import random

from kontext_core.embedded.text_encoder import FILLERS

LOOSE = frozenset(  # words that may be dropped: they carry little meaning
    ["all", "be", "change", "convert", "into", "make", "only", "scene", "show", "that", "this", "turn", "with"]
)
LEFT_OUT = 0.25  # probability that training drops one of them

_EFFECT = (
    "make it {effect}",
    "make the scene {effect}",
    "make all {effect}",
    "make all colours {effect}",
    "turn it {effect}",
    "turn the scene {effect}",
    "turn the colours {effect}",
    "change it to be {effect}",
    "change the colours to be {effect}",
    "change the scene to be {effect}",
    "convert to {effect} colours",
    "use {effect} colours",
    "{effect} colours",
    "{effect}",
)
_HOUR = (
    "make it {hour}",
    "make the scene {hour}",
    "make all {hour}",
    "turn it into {hour}",
    "turn the scene into {hour}",
    "change the scene to {hour}",
    "change all to {hour}",
    "convert it to {hour}",
    "bring the {hour}",
    "show it at {hour}",
    "show the scene at {hour}",
    "use {hour} colours",
    "{hour}",
)


def _each(wordings: tuple[str, ...], **field: str) -> tuple[str, ...]:
    return tuple(wording.format(**field) for wording in wordings)


WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # task or effect -> (training, held out)
    "background": (
        (
            "change the background to {to}",
            "change the background into {to}",
            "only change the background to {to}",
            "make the background {to}",
            "make the background all {to}",
            "convert the background to {to}",
            "recolour the background to {to}",
            "use a {to} background",
            "put it on a {to} background",
            "show it on a {to} background",
            "turn it to a {to} background",
            "paint a {to} background",
            "replace the background with {to}",
            "{to} background",
        ),
        ("turn the background {to}", "paint the background {to}"),
    ),
    "negative": (
        (
            "invert the colours",
            "invert all colours",
            "invert the scene",
            "make it a negative",
            "make the scene a negative",
            "turn the scene into a negative",
            "convert it to a negative",
            "change it to a negative",
            "use negative colours",
            "show the negative",
            "negative",
        ),
        ("turn it into a negative", "invert it"),
    ),
    "grey": (
        (
            "make it grey",
            "make the scene grey",
            "make all colours grey",
            "turn the scene grey",
            "turn the colours grey",
            "turn it into greyscale",
            "change it to grey",
            "change the colours to grey",
            "change the scene to black and white",
            "convert to black and white",
            "make it black and white",
            "show it in black and white",
            "use only black and white",
            "make it greyscale",
            "remove all colour",
            "remove the colours",
            "take all colour away",
            "delete the colours",
            "grey",
        ),
        ("turn it grey", "change it to black and white"),
    ),
    "night": (_each(_HOUR, hour="night"), ("change it to night",)),
    "day": (_each(_HOUR, hour="day"), ("change it to day",)),
    "warmer": (_each(_EFFECT, effect="warmer"), ("make the colours warmer",)),
    "colder": (_each(_EFFECT, effect="colder"), ("make the colours colder",)),
    "darker": (_each(_EFFECT, effect="darker"), ("make the colours darker",)),
    "brighter": (_each(_EFFECT, effect="brighter"), ("make the colours brighter",)),
    "recolour": (
        (
            "make {thing} {colour}",
            "make only {thing} {colour}",
            "only make {thing} {colour}",
            "change the colour of {thing} to {colour}",
            "change {thing} to {colour}",
            "turn {thing} {colour}",
            "turn the colour of {thing} to {colour}",
            "recolour {thing} to {colour}",
            "recolour only {thing} to {colour}",
            "paint {thing} {colour}",
        ),
        ("paint only {thing} {colour}", "make the colour of {thing} {colour}"),
    ),
    "remove": (
        (
            "remove {thing}",
            "remove {thing} only",
            "only remove {thing}",
            "remove all of {thing}",
            "delete {thing}",
            "delete only {thing}",
            "erase {thing}",
            "erase only {thing}",
            "only erase {thing}",
            "take away {thing}",
            "take away only {thing}",
            "take {thing} away",
            "only take {thing} away",
            "make {thing} go away",
            "make only {thing} go away",
        ),
        ("remove only {thing}", "take only {thing} away"),
    ),
    "add": (
        (
            "add a {thing} {at} {cell}",
            "put a {thing} {at} {cell}",
            "insert a {thing} {at} {cell}",
            "draw a {thing} {at} {cell}",
            "add a {thing} to the scene {at} {cell}",
            "{at} {cell} put a {thing}",
            "{at} {cell} draw a {thing}",
        ),
        ("place a {thing} {at} {cell}", "{at} {cell} add a {thing}"),
    ),
    "replace": (
        (
            "turn {thing} into a {shape}",
            "turn only {thing} into a {shape}",
            "replace {thing} with a {shape}",
            "replace only {thing} with a {shape}",
            "change {thing} to a {shape}",
            "change {thing} into a {shape}",
            "convert {thing} to a {shape}",
            "make {thing} into a {shape}",
        ),
        ("make {thing} a {shape}",),
    ),
    "move": (
        (
            "move {thing} to the {cell}",
            "only move {thing} to the {cell}",
            "shift {thing} to the {cell}",
            "shift only {thing} to the {cell}",
            "bring {thing} to the {cell}",
            "bring only {thing} to the {cell}",
            "to the {cell} move {thing}",
        ),
        ("take {thing} to the {cell}", "move only {thing} to the {cell}"),
    ),
    "resize": (
        (
            "make {thing} {way}",
            "make only {thing} {way}",
            "turn {thing} {way}",
            "change only {thing} to be {way}",
            "resize {thing} to be {way}",
            "resize only {thing} to be {way}",
        ),
        ("change {thing} to be {way}",),
    ),
    "letter": (
        (
            "change the letter {old} to {new}",
            "convert the letter {old} to {new}",
            "replace the letter {old} with {new}",
            "change the text {old} to {new}",
            "change the letter to {new}",
            "change the text to {new}",
            "turn '{old}' into '{new}'",
            "replace '{old}' with '{new}'",
        ),
        ("turn the letter {old} into {new}", "replace the text {old} with {new}"),
    ),
    "character": (
        (
            "place this object {at} {cell} on a {to} background",
            "place the same object {at} {cell} on a {to} background",
            "put the same object {at} {cell} on a {to} background",
            "put this shape {at} {cell} on a {to} background",
            "show this shape {at} {cell} on a {to} background",
            "show this object {at} {cell} on a {to} background",
            "draw this object {at} {cell} on a {to} background",
        ),
        ("put this object {at} {cell} on a {to} background", "show the same object {at} {cell} on a {to} background"),
    ),
    "style": (
        (
            "in the same style draw a {thing} {at} {cell}",
            "using this style draw a {thing} {at} {cell}",
            "same background but only a {thing} {at} {cell}",
            "{at} {cell} draw a {thing} in the same style",
        ),
        ("using the same style draw a {thing} {at} {cell}", "use this style to draw a {thing} {at} {cell}"),
    ),
    "two references": (
        (
            "put this object {at} {cell} of that scene",
            "place this object {at} {cell} of that scene",
            "draw this object {at} {cell} of that scene",
            "insert the same object {at} {cell} of that scene",
            "add this object to that scene {at} {cell}",
            "{at} {cell} of that scene put this object",
        ),
        ("insert this object {at} {cell} of that scene",),
    ),
    "open add": (
        (
            "add something {colour}",
            "add something {colour} to the scene",
            "put something {colour} in the scene",
            "draw something {colour}",
            "add something {colour} {at} {cell}",
            "draw something {at} {cell}",
            "put something {at} {cell}",
            "add another object",
            "draw another object",
            "add something",
            "add something else",
            "add a {shape}",
            "draw a {shape}",
            "add another {shape}",
        ),
        ("put something {colour} {at} {cell}", "add something {at} {cell}", "put another object in the scene"),
    ),
    "open background": (
        (
            "change the background",
            "use a different background",
            "use another background",
            "draw another background",
            "put it on another background",
            "a different background",
            "change the background to something else",
            "change the background to something {colour}",
        ),
        ("change to a different background", "put the scene on a different background"),
    ),
    "open recolour": (
        (
            "make {thing} a different colour",
            "change the colour of {thing}",
            "change {thing} to another colour",
            "recolour {thing}",
            "paint {thing} a different colour",
            "use another colour for {thing}",
        ),
        ("turn {thing} a different colour", "paint {thing} another colour"),
    ),
    "unchanged": (
        (
            "leave everything unchanged",
            "keep everything unchanged",
            "keep everything as is",
            "leave everything as is",
            "leave the scene unchanged",
            "keep the scene as is",
            "everything unchanged",
            "unchanged",
            "change nothing",
            "make no change",
            "no change",
        ),
        ("make everything unchanged", "leave the scene as is", "keep the scene unchanged"),
    ),
    "text to image": (
        (
            "{things} on a {to} background",
            "draw {things} on a {to} background",
            "paint {things} on a {to} background",
            "put {things} on a {to} background",
            "add {things} to a {to} background",
            "{things} with a {to} background",
            "{to} background with {things}",
        ),
        ("show {things} on a {to} background", "place {things} on a {to} background"),
    ),
}


def read(wording: str) -> tuple[str, ...]:
    """The words of a wording that the text encoder reads: without fillers."""
    return tuple(word for word in wording.split() if word not in FILLERS and word != "{at}")


HELD_OUT = frozenset(read(wording) for _, held_out in WORDINGS.values() for wording in held_out)


def draw_wording(rng: random.Random, task: str, held_out: bool) -> str:
    """A wording of a task or effect with its fields filled in; for training, some loose words are dropped."""
    training, unseen = WORDINGS[task]
    if held_out:
        return rng.choice(unseen)
    while True:
        words = rng.choice(training).split()
        kept = " ".join(word for word in words if word not in LOOSE or rng.random() >= LEFT_OUT)
        if read(kept) and read(kept) not in HELD_OUT:
            return kept
