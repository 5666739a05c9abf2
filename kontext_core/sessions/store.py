"""A user's sessions in a folder: one database, and one folder of files per session."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from torch import Tensor

from . import cleanup, files
from .database import SessionError, reading, writing
from .records import ID, Made, Result, Session, Turn, turn_of

LONGEST_NAME, LONGEST_NOTE = 200, 10_000  # characters
STEPS = ("undo", "redo", "next sibling", "previous sibling")
_SESSIONS = """SELECT s.id, s.name, s.created, s.pointer, count(t.id) AS turns FROM sessions s
    JOIN turns t ON t.session = s.id AND t.deletion IS NULL WHERE s.deletion IS NULL {} GROUP BY s.id
    ORDER BY max(t.created) DESC"""


class Store:
    """The sessions in a folder, which is created on the first write. All methods raise SessionError.

    Objects hold no state except the folder: several threads and processes may use one folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.database = folder / "sessions.sqlite3"
        self.pictures = folder / "pictures"

    # Reading

    def fact(self, name: str) -> int:
        """`revision` counts changes, `moves` counts moves of a pointer by hand; `limit` is in bytes."""
        with reading(self.database) as db:
            return _fact(db, name)

    def sessions(self) -> list[Session]:
        """The live sessions, the one with the newest turn first."""
        with reading(self.database) as db:
            return [Session(*row) for row in db.execute(_SESSIONS.format(""))]

    def session(self, identity: str) -> Session:
        with reading(self.database) as db:
            return _session(db, identity)

    def find(self, name: str) -> Session | None:
        """The live session of this name."""
        with reading(self.database) as db:
            row = db.execute(_SESSIONS.format("AND s.name = ?"), (_clean_name(name),)).fetchone()
        return row and Session(*row)

    def turns(self, session: str) -> list[Turn]:
        """The live turns in the order of their numbers: a parent comes before its children."""
        with reading(self.database) as db:
            _session(db, session)
            return _turns(db, session)

    def turn(self, identity: str, *, deleted: bool = False) -> Turn:
        """A live turn; with `deleted` also one that can be restored."""
        with reading(self.database) as db:
            return turn_of(_row(db, identity, deleted=deleted))

    def path(self, turn: str) -> list[Turn]:
        """The turns from the first picture to this one."""
        with reading(self.database) as db:
            return [turn_of(_row(db, each)) for each in reversed(_ancestry(db, turn))]

    def file(self, turn: Turn, ending: str) -> Path:
        """The path of a turn's picture, mask, latent or thumbnail; `ending` is one of those in `files`."""
        return self.pictures / turn.session / f"{turn.id}{ending}"

    def picture(self, turn: Turn) -> np.ndarray:
        """(h, w, 3) uint8."""
        return files.read_picture(self.file(turn, files.PICTURE), f"turn {turn.number}")

    def mask(self, turn: Turn) -> np.ndarray:
        """(h, w) uint8: 0 where the pixel equals the parent's, bit for bit. Turn 0 is new everywhere."""
        if turn.parent is None:
            return np.full((turn.height, turn.width), 255, np.uint8)
        return files.read_picture(self.file(turn, files.MASK), f"the mask of turn {turn.number}")

    def latent(self, turn: Turn) -> Tensor | None:
        """(c, h, w), or None where none was stored."""
        return (
            files.read_latent(self.file(turn, files.LATENT), f"the latent of turn {turn.number}")
            if turn.latent
            else None
        )

    def thumbnail(self, turn: Turn) -> bytes:
        """A small JPEG, stored on first use if the disk allows it."""
        path = self.file(turn, files.THUMBNAIL)
        with suppress(OSError):
            return path.read_bytes()
        content = files.thumbnail(self.picture(turn))
        with suppress(SessionError):
            files.write_whole(path, lambda file: file.write(content))
        return content

    def missing(self, session: str) -> set[str]:
        """The ids of live turns whose picture file is missing."""
        try:
            present = {path.name for path in (self.pictures / session).iterdir()}
        except OSError:
            present = set()
        return {turn.id for turn in self.turns(session) if turn.id + files.PICTURE not in present}

    # Adding

    def begin(self, name: str, picture: np.ndarray, metadata: dict[str, str] | None = None) -> Session:
        """The live session of this name; if there is none, a new one with this first picture, (h, w, 3) uint8."""
        name = _clean_name(name)
        if existing := self.find(name):
            return existing
        session, turn = uuid.uuid4().hex, uuid.uuid4().hex
        made = Made(metadata=metadata or {})
        self._write_files(session, turn, Result(picture), made)
        try:
            with writing(self.database) as db:
                now = time.time()
                db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, 0, NULL)", (session, name, now, turn))
                _insert(db, session, turn, None, Result(picture), made, _digest(None, made, picture))
        except SessionError as error:
            self._remove_files(session, [turn])
            if isinstance(error.__cause__, sqlite3.IntegrityError) and (existing := self.find(name)):
                return existing  # another process began it at the same moment
            raise
        return self.session(session)

    def add(self, parent: str, results: Sequence[Result], made: Made) -> list[Turn]:
        """Store the results of one run as siblings and move the pointer to the first. Returns their turns.

        A result that exists already (same picture, instruction and parent) is not stored again. A deleted turn is
        restored, with the parent and its ancestors. Raises SessionError, and stores nothing, if the parent was cleaned
        up or a file cannot be written.
        """
        with reading(self.database) as db:
            session = _row(db, parent, deleted=True)["session"]
            known = {row["digest"]: row["id"] for row in db.execute("SELECT * FROM turns WHERE parent = ?", (parent,))}
        digests = [_digest(parent, made, result.picture) for result in results]
        new: dict[str, tuple[str, Result]] = {}
        written: list[str] = []
        stored: list[Turn] = []
        try:
            for digest, result in zip(digests, results, strict=True):
                turn = known.get(digest) or uuid.uuid4().hex
                if digest not in new and not (self.pictures / session / (turn + files.PICTURE)).exists():
                    written += [turn] if digest not in known else []
                    self._write_files(session, turn, result, made)
                    new[digest] = turn, result
            with writing(self.database) as db:
                _row(db, parent, deleted=True)
                for digest, (turn, result) in new.items():
                    if not db.execute(
                        "SELECT 1 FROM turns WHERE parent = ? AND digest = ?", (parent, digest)
                    ).fetchone():
                        _insert(db, session, turn, parent, result, made, digest)
                found = [_by_digest(db, parent, digest) for digest in digests]
                for turn in found:
                    _revive(db, turn)
                _forget_emptied(db)
                _point(db, session, found[0])
                stored = [turn_of(_row(db, turn)) for turn in found]
            return stored
        finally:  # also those of a result that another process has stored at the same moment
            self._remove_files(session, [turn for turn in written if turn not in {one.id for one in stored}])

    # Moving and marking

    def move(self, turn: str) -> None:
        """Move the pointer of the turn's session to this turn."""
        with writing(self.database) as db:
            _move(db, _row(db, turn)["session"], turn)

    def step(self, session: str, how: str) -> Turn:
        """Move the pointer by one of STEPS if possible; returns the turn that it points to then.

        undo     to the parent
        redo     to the child whose subtree the pointer visited last
        sibling  to the next or previous child of the same parent, cyclically
        """
        with writing(self.database) as db:
            pointer = _session(db, session).pointer
            target = _stepped(_turns(db, session), pointer, how)
            if target != pointer:
                _move(db, session, target)
            return turn_of(_row(db, target))

    def star(self, turn: str, star: bool) -> None:
        self._mark(turn, "star", int(star))

    def note(self, turn: str, note: str) -> None:
        """Raises SessionError for a note that is too long."""
        if len(note) > LONGEST_NOTE:
            raise SessionError(f"The note has {len(note)} characters; at most {LONGEST_NOTE} are allowed.")
        self._mark(turn, "note", note)

    def rename(self, session: str, name: str) -> None:
        """Raises SessionError when another live session has the name, or for an invalid name."""
        name = _clean_name(name)
        with writing(self.database) as db:
            _session(db, session)
            other = db.execute("SELECT id FROM sessions WHERE name = ? AND deletion IS NULL", (name,)).fetchone()
            if other and other["id"] != session:
                raise SessionError(f"Another session has the name {name!r}; choose another name.")
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, session))

    def set_limit(self, size: int) -> None:
        """Set the size in bytes that the store should not exceed; 0: no limit. Nothing is deleted automatically."""
        if not 0 <= size < 1 << 62:
            raise SessionError(f"The limit is {size} bytes; give 0 or more.")
        with writing(self.database) as db:
            db.execute("UPDATE facts SET value = ? WHERE name = 'limit'", (size,))

    # Deleting, restoring, cleaning up

    def delete_turn(self, turn: str) -> str:
        """Delete a turn and its descendants; returns an id for `restore`. A pointer among them moves to the parent.

        Raises SessionError for turn 0.
        """
        with writing(self.database) as db:
            row = _row(db, turn)
            if row["parent"] is None:
                raise SessionError("Turn 0 is the first picture and cannot be deleted alone; delete the session.")
            session = _session(db, row["session"])
            below = _descendants(_turns(db, session.id), turn)
            inside = session.pointer in below
            deletion = _deletion(db, session.id, session.pointer if inside else None)
            db.executemany("UPDATE turns SET deletion = ? WHERE id = ?", [(deletion, each) for each in below])
            if inside:
                _move(db, session.id, row["parent"])
            return deletion

    def delete_session(self, session: str) -> str:
        """Delete a session with all its turns; returns an id for `restore`."""
        with writing(self.database) as db:
            _session(db, session)
            deletion = _deletion(db, session, None)
            db.execute("UPDATE sessions SET deletion = ? WHERE id = ?", (deletion, session))
            return deletion

    def restore(self, deletion: str) -> str:
        """Restore one deletion, with the pointer if it is still where the deletion put it.

        Returns the session's id. Raises SessionError when it was restored or cleaned up already.
        """
        with writing(self.database) as db:
            row = db.execute("SELECT * FROM deletions WHERE id = ?", (deletion,)).fetchone()
            if row is None:
                raise SessionError("This was restored already, or cleaned up.")
            _revive_session(db, row["session"])
            turns = [each["id"] for each in db.execute("SELECT id FROM turns WHERE deletion = ?", (deletion,))]
            for turn in turns:
                _revive(db, turn)
            parents = {db.execute("SELECT parent FROM turns WHERE id = ?", (turn,)).fetchone()[0] for turn in turns}
            if row["pointer"] and _session(db, row["session"]).pointer in parents:
                _move(db, row["session"], row["pointer"])
            _forget_emptied(db)
            return row["session"]

    def usage(self) -> tuple[int, int]:
        """The store's disk usage, and its limit (0: none), in bytes."""
        with reading(self.database) as db:
            return cleanup.usage(self.pictures), _fact(db, "limit")

    def plan(self) -> cleanup.Plan:
        """The store's disk usage, and what `clean` would free."""
        with reading(self.database) as db:
            return cleanup.plan(db, self.pictures, _fact(db, "limit"))

    def clean(self, plan: cleanup.Plan) -> int:
        """Remove permanently what a plan names, and nothing else; returns the number of bytes freed."""
        names = list(plan.unnamed)
        if self.database.exists():
            with writing(self.database) as db:
                names = cleanup.forget(db, plan)
        return cleanup.remove(self.pictures, names)

    # Internal

    def _mark(self, turn: str, column: str, value: str | int) -> None:
        with writing(self.database) as db:
            _row(db, turn)
            db.execute(f"UPDATE turns SET {column} = ? WHERE id = ?", (value, turn))

    def _write_files(self, session: str, turn: str, result: Result, made: Made) -> None:
        stem = self.pictures / session / turn
        try:
            if result.mask is not None:
                files.write_picture(stem.with_name(turn + files.MASK), result.mask, {})
            if result.latent is not None:
                files.write_latent(stem.with_name(turn + files.LATENT), result.latent)
            files.write_picture(stem.with_name(turn + files.PICTURE), result.picture, made.metadata)
        except SessionError:
            self._remove_files(session, [turn])
            raise

    def _remove_files(self, session: str, turns: Sequence[str]) -> None:
        for turn in turns:
            for ending in (files.PICTURE, files.MASK, files.LATENT, files.THUMBNAIL):
                with suppress(OSError):
                    (self.pictures / session / (turn + ending)).unlink(missing_ok=True)


def _clean_name(name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise SessionError(
            f"A session needs a name of 1 to {LONGEST_NAME} characters, without control characters; "
            f"this one has {len(name)}."
        )
    return name


def _digest(parent: str | None, made: Made, picture: np.ndarray) -> str:
    """Identifies equal results of the same parent and instruction."""
    head = json.dumps([parent, made.instruction, picture.shape])
    return hashlib.sha256(head.encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


def _fact(db: sqlite3.Connection, name: str) -> int:
    return db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0]


def _session(db: sqlite3.Connection, identity: str) -> Session:
    _require_id(identity)
    row = db.execute(_SESSIONS.format("AND s.id = ?"), (identity,)).fetchone()
    if row is None:
        raise SessionError("There is no such session; it may have been deleted. Choose another.")
    return Session(*row)


def _row(db: sqlite3.Connection, turn: str, *, deleted: bool = False) -> sqlite3.Row:
    """A turn's row; with `deleted` also one that can be restored."""
    _require_id(turn)
    row = db.execute(
        "SELECT t.*, t.deletion IS NULL AND s.deletion IS NULL AS live FROM turns t "
        "JOIN sessions s ON s.id = t.session WHERE t.id = ?",
        (turn,),
    ).fetchone()
    if row is None or not (row["live"] or deleted):
        raise SessionError("There is no such turn; it may have been deleted. Choose another.")
    return row


def _require_id(identity: str) -> None:
    if not ID.fullmatch(identity):
        raise SessionError("An id has 32 digits of 0-9 and a-f.")


def _turns(db: sqlite3.Connection, session: str) -> list[Turn]:
    rows = db.execute("SELECT * FROM turns WHERE session = ? AND deletion IS NULL ORDER BY number", (session,))
    return [turn_of(row) for row in rows]


def _insert(
    db: sqlite3.Connection, session: str, turn: str, parent: str | None, result: Result, made: Made, digest: str
) -> None:
    (number,) = db.execute("SELECT next_number FROM sessions WHERE id = ?", (session,)).fetchone()
    height, width = result.picture.shape[:2]
    kept = 0.0 if result.mask is None else float((result.mask == 0).mean())
    values = {
        "id": turn,
        "session": session,
        "parent": parent,
        "number": number,
        "created": time.time(),
        "instruction": made.instruction,
        "seed": made.seed,
        "settings": json.dumps(dict(made.settings)),
        "model": made.model,
        "width": width,
        "height": height,
        "is_global": result.is_global,
        "kept": kept,
        "latent": result.latent is not None,
        "visited": _fact(db, "revision"),
        "digest": digest,
    }
    places = ", ".join(f":{name}" for name in values)
    db.execute(f"INSERT INTO turns ({', '.join(values)}) VALUES ({places})", values)
    db.execute("UPDATE sessions SET next_number = ? WHERE id = ?", (number + 1, session))


def _by_digest(db: sqlite3.Connection, parent: str, digest: str) -> str:
    row = db.execute("SELECT id FROM turns WHERE parent = ? AND digest = ?", (parent, digest)).fetchone()
    if row is None:
        raise SessionError("This turn was cleaned up while it was being stored again. Run again.")
    return row["id"]


def _point(db: sqlite3.Connection, session: str, turn: str) -> None:
    db.execute("UPDATE sessions SET pointer = ? WHERE id = ?", (turn, session))
    db.execute("UPDATE turns SET visited = ? WHERE id = ?", (_fact(db, "revision") + 1, turn))


def _move(db: sqlite3.Connection, session: str, turn: str) -> None:
    """Move the pointer by hand."""
    _point(db, session, turn)
    db.execute("UPDATE facts SET value = value + 1 WHERE name = 'moves'")


def _ancestry(db: sqlite3.Connection, turn: str) -> list[str]:
    """The ids from a turn up to turn 0."""
    line: list[str] = []
    parent: str | None = turn
    while parent is not None:
        line.append(parent)
        parent = _row(db, parent, deleted=True)["parent"]
    return line


def _revive(db: sqlite3.Connection, turn: str) -> None:
    """Make a turn live again, with its ancestors and its session."""
    line = _ancestry(db, turn)
    db.executemany("UPDATE turns SET deletion = NULL WHERE id = ?", [(each,) for each in line])
    _revive_session(db, _row(db, turn, deleted=True)["session"])


def _revive_session(db: sqlite3.Connection, session: str) -> None:
    """Make a deleted session live again, under another name if its name is taken now."""
    row = db.execute("SELECT * FROM sessions WHERE id = ?", (session,)).fetchone()
    if row["deletion"] is None:
        return
    taken = {each["name"] for each in db.execute("SELECT name FROM sessions WHERE deletion IS NULL")}
    names = [row["name"], *(f"{row['name']} ({count})" for count in range(2, len(taken) + 3))]
    name = next(name for name in names if name not in taken)
    db.execute("UPDATE sessions SET deletion = NULL, name = ? WHERE id = ?", (name, session))


def _deletion(db: sqlite3.Connection, session: str, pointer: str | None) -> str:
    deletion = uuid.uuid4().hex
    db.execute("INSERT INTO deletions VALUES (?, ?, ?, ?)", (deletion, time.time(), session, pointer))
    return deletion


def _forget_emptied(db: sqlite3.Connection) -> None:
    """Remove deletions that no turn or session refers to any more."""
    db.execute(
        "DELETE FROM deletions WHERE id NOT IN (SELECT deletion FROM turns WHERE deletion IS NOT NULL "
        "UNION SELECT deletion FROM sessions WHERE deletion IS NOT NULL)"
    )


def _descendants(turns: Sequence[Turn], top: str) -> set[str]:
    """The ids of a turn and its descendants."""
    below = {top}
    for turn in turns:  # parents come first
        if turn.parent in below:
            below.add(turn.id)
    return below


def _stepped(turns: Sequence[Turn], pointer: str, how: str) -> str:
    here = next(turn for turn in turns if turn.id == pointer)
    if how == "undo":
        return here.parent or pointer
    if how == "redo":
        visits = {turn.id: turn.visited for turn in turns}
        children = [turn.id for turn in turns if turn.parent == pointer]
        last = {child: max(visits[each] for each in _descendants(turns, child)) for child in children}
        return max(children, key=lambda child: last[child], default=pointer)
    if how not in STEPS:
        raise SessionError(f"{how!r} is not a step; give one of {', '.join(STEPS)}.")
    siblings = [turn.id for turn in turns if turn.parent == here.parent]
    return siblings[(siblings.index(pointer) + (1 if how == "next sibling" else -1)) % len(siblings)]
