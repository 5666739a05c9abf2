"""The contents of a store, sessions and turns, as plain values."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

ID = re.compile(r"[0-9a-f]{32}")  # id of a session, turn or deletion; use fullmatch


class Session(NamedTuple):
    """A tree of turns. `pointer` is the turn that the next run continues from."""

    id: str
    name: str
    created: float  # s since 1970
    pointer: str
    turns: int  # number of live turns, including turn 0


class Turn(NamedTuple):
    """One instruction and its result; `parent` is None for turn 0, the first picture."""

    id: str
    session: str
    parent: str | None
    number: int  # within the session, from 0
    created: float  # s since 1970
    instruction: str
    seed: str | None  # decimal: seeds exceed the integers of JavaScript and SQLite
    settings: dict[str, Any]
    model: str
    width: int  # px
    height: int
    is_global: bool  # the edit changed the whole picture
    kept: float  # fraction of pixels equal to the parent's, bit for bit
    latent: bool  # whether a latent is stored
    note: str
    star: bool
    visited: int  # increases with every move of the pointer, over all turns


@dataclass(frozen=True)
class Made:
    """How the pictures of one run were made."""

    instruction: str = ""
    seed: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)  # texts for the PNG file, as ComfyUI writes them


@dataclass(frozen=True)
class Result:
    """A new picture for the store."""

    picture: np.ndarray  # (h, w, 3) uint8
    mask: np.ndarray | None = None  # (h, w) uint8: 0 where the pixel is the parent's; None for a first picture
    latent: Tensor | None = None  # (c, h, w)
    is_global: bool = False


def turn_of(row: sqlite3.Row) -> Turn:
    """The turn of a row of the table of turns."""
    values = {name: row[name] for name in Turn._fields}
    flags = {name: bool(values[name]) for name in ("is_global", "latent", "star")}
    return Turn(**{**values, **flags, "settings": json.loads(values["settings"])})
