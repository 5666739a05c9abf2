"""The disk usage of a store, and the files that may be removed from it permanently."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..disk import PARTIAL
from . import files

SETTLED = 3600.0  # s: a younger file without a row may belong to a run that is being stored now


@dataclass(frozen=True)
class Deleted:
    """The turns of one deletion."""

    id: str
    session: str  # its name
    time: float  # s since 1970
    turns: int
    whole: bool  # the session itself was deleted
    size: int  # bytes


@dataclass(frozen=True)
class Plan:
    """What a clean-up would free, in bytes and by name, so that it removes nothing that was added later."""

    used: int  # bytes, as all sizes
    limit: int  # 0: none
    deleted: tuple[Deleted, ...]
    unnamed: tuple[str, ...]  # files that belong to no turn, relative to the store's pictures
    unnamed_size: int
    latents: tuple[str, ...]  # ids of turns; only if the rest is not enough to get below the limit
    latents_size: int

    @property
    def freed(self) -> int:
        return sum(each.size for each in self.deleted) + self.unnamed_size + self.latents_size


def plan(db: sqlite3.Connection, pictures: Path, limit: int) -> Plan:
    """Deleted turns, files without a turn, and as many latents, oldest first, as the limit requires."""
    sizes = _sizes(pictures)
    by_turn: dict[str, int] = {}
    for path, (size, _) in sizes.items():
        turn = path.name.split(".")[0]
        by_turn[turn] = by_turn.get(turn, 0) + size
    rows = db.execute("SELECT t.*, s.deletion AS session_deletion FROM turns t JOIN sessions s ON s.id = t.session")
    turns = rows.fetchall()
    deleted = [
        _deleted(row, turns, by_turn)
        for row in db.execute(
            "SELECT d.*, s.name, s.deletion = d.id AS whole FROM deletions d JOIN sessions s ON s.id = d.session "
            "ORDER BY d.time DESC"
        )
    ]
    known = {row["id"] for row in turns}
    old = time.time() - SETTLED
    unnamed = {p: size for p, (size, changed) in sizes.items() if _unnamed(p, known) and changed < old}
    used, unnamed_size = sum(size for size, _ in sizes.values()), sum(unnamed.values())
    over = used - unnamed_size - sum(each.size for each in deleted) - limit if limit else 0
    latents, latents_size = _latents(turns, {p: size for p, (size, _) in sizes.items()}, pictures, over)
    names = tuple(sorted(str(path.relative_to(pictures)) for path in unnamed))
    return Plan(used, limit, tuple(deleted), names, unnamed_size, latents, latents_size)


def usage(pictures: Path) -> int:
    """The size of all files of the turns, in bytes."""
    return sum(size for size, _ in _sizes(pictures).values())


def forget(db: sqlite3.Connection, plan: Plan) -> list[str]:
    """Delete the rows that a plan names from the database; the names of the files that may go now."""
    gone: list[str] = []
    for each in plan.deleted:
        rows = db.execute(
            "SELECT t.session, t.id FROM turns t JOIN sessions s ON s.id = t.session WHERE t.deletion = ? OR "
            "s.deletion = ?",
            (each.id, each.id),
        ).fetchall()
        db.execute("DELETE FROM turns WHERE deletion = ?", (each.id,))
        db.execute("DELETE FROM turns WHERE session IN (SELECT id FROM sessions WHERE deletion = ?)", (each.id,))
        db.execute(
            "DELETE FROM deletions WHERE id = ? OR session IN (SELECT id FROM sessions WHERE deletion = ?)",
            (each.id, each.id),
        )
        db.execute("DELETE FROM sessions WHERE deletion = ?", (each.id,))
        endings = (files.PICTURE, files.MASK, files.LATENT, files.THUMBNAIL)
        gone += [f"{session}/{turn}{ending}" for session, turn in rows for ending in endings]
    for turn in plan.latents:
        row = db.execute("SELECT session FROM turns WHERE id = ?", (turn,)).fetchone()
        if row is not None:
            db.execute("UPDATE turns SET latent = 0 WHERE id = ?", (turn,))
            gone.append(f"{row['session']}/{turn}{files.LATENT}")
    known = {row["id"] for row in db.execute("SELECT id FROM turns")}
    unnamed = [name for name in plan.unnamed if _unnamed(Path(name), known)]
    return [*gone, *unnamed]


def remove(pictures: Path, names: Iterable[str]) -> int:
    """Remove files, and folders that become empty; the number of bytes freed."""
    freed = 0
    for name in names:
        path = pictures / name
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            freed += size
        with suppress(OSError):
            path.parent.rmdir()
    return freed


def _sizes(pictures: Path) -> dict[Path, tuple[int, float]]:
    """Every file of the turns: bytes, and time of the last change."""
    found = {}
    for path in pictures.glob("*/*"):
        with suppress(OSError):
            facts = path.stat()
            found[path] = facts.st_size, facts.st_mtime
    return found


def _unnamed(path: Path, known: set[str]) -> bool:
    """Whether the file belongs to no turn."""
    return path.name.split(".")[0] not in known or path.name.endswith(PARTIAL)


def _deleted(row: sqlite3.Row, turns: Iterable[sqlite3.Row], sizes: dict[str, int]) -> Deleted:
    taken = [t["id"] for t in turns if (t["deletion"] or t["session_deletion"]) == row["id"]]
    size = sum(sizes.get(turn, 0) for turn in taken)
    return Deleted(row["id"], row["name"], row["time"], len(taken), bool(row["whole"]), size)


def _latents(
    turns: Iterable[sqlite3.Row], sizes: dict[Path, int], pictures: Path, over: int
) -> tuple[tuple[str, ...], int]:
    """The oldest latents of live turns without a star that together free `over` bytes, or all of them."""
    chosen, total = [], 0
    for row in sorted(turns, key=lambda row: row["created"]):
        path = pictures / row["session"] / (row["id"] + files.LATENT)
        if total >= over:
            break
        if row["deletion"] is None and row["session_deletion"] is None and path in sizes and not row["star"]:
            chosen.append(row["id"])
            total += sizes[path]
    return tuple(chosen), total
