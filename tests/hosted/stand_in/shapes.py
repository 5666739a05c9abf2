"""Undocumented answers: one value of an answer is replaced."""

from __future__ import annotations

import json
import random
from typing import Any

DEEP = "@deep@"
STRANGE: list[Any] = [
    *(None, True, -1, 0.5, 1e308, 10**300, "", "x", "not an address", "//[zz", "http://10.0.0.1/", "javascript:1"),
    *([], {}, [None], [[]], {"x": 1}, "9" * 10_000, "\x00\ud800", "NaN", float("nan"), float("inf"), DEEP, "free"),
]


def places(said: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in an answer, including its own, ()."""
    items = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def shaken(said: Any, chance: random.Random) -> str:
    """An answer as JSON (or as Python accepts it) with one value replaced or removed; ids are kept, because tests use
    them to find charged requests."""
    others = [place for place in places(said) if place[-1:] not in (("id",), ("request_id",), ("taskUUID",))]
    return changed(said, chance.choice(others), chance.choice([*STRANGE, KeyError]))


def changed(said: Any, place: tuple[Any, ...], value: Any) -> str:
    """An answer as JSON with `value` at `place`, or with the place removed for KeyError."""
    said = json.loads(json.dumps(said))
    if not place:
        said = None if value is KeyError else value
    else:
        inside = said
        for key in place[:-1]:
            inside = inside[key]
        if value is KeyError:
            del inside[place[-1]]
        else:
            inside[place[-1]] = value
    return json.dumps(said).replace(f'"{DEEP}"', "[" * 20_000 + "]" * 20_000)
