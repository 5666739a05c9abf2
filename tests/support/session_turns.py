"""Turns for tests of the session store, and the laws that hold of any store."""

import sqlite3

import numpy as np
import torch

from kontext_core.sessions import Made, Result, store

SIDES = (24, 32)  # px


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIDES, 3), np.uint8)


def result(seed, latent=False):
    mask = np.zeros(SIDES, np.uint8)
    mask[: seed % SIDES[0] + 1] = 255
    return Result(picture(seed), mask, torch.full((16, 3, 4), float(seed)) if latent else None)


def chain(opened, length, name="a session"):
    """The ids of turn 0 and `length` turns, each a child of the previous one."""
    session = opened.begin(name, picture(0))
    ids = [session.pointer]
    for number in range(1, length + 1):
        (turn,) = opened.add(ids[-1], [result(number)], Made(f"make it {number}"))
        ids.append(turn.id)
    return session.id, ids


def require_laws(opened, known=frozenset()):
    """The invariants that a reader may rely on. Files do not change, so those of `known` turns are not read again."""
    for session in opened.sessions():
        with sqlite3.connect(opened.database) as db:
            digests = dict(db.execute("SELECT id, digest FROM turns WHERE session = ?", (session.id,)))
        turns = {turn.id: turn for turn in opened.turns(session.id)}
        assert session.pointer in turns
        assert session.turns == len(turns)
        assert sorted({turn.number for turn in turns.values()}) == [turn.number for turn in turns.values()]
        assert [turn for turn in turns.values() if turn.parent is None] == [min(turns.values(), key=lambda t: t.number)]
        assert not opened.missing(session.id)
        for turn in turns.values():
            assert turn.parent is None or turn.parent in turns
            if turn.id in known:
                continue
            pixels = opened.picture(turn)
            assert pixels.shape == (turn.height, turn.width, 3)
            assert opened.mask(turn).shape == pixels.shape[:2]
            assert (opened.latent(turn) is not None) == turn.latent
            assert digests[turn.id] == store._digest(turn.parent, Made(turn.instruction), pixels)
