"""The database of a store: opening, schema versions, transactions, and errors with advice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

PATIENCE = 30.0  # s to wait for another process's transaction

# Entry n migrates a store from schema version n to n + 1. Entries never change once released.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            created REAL NOT NULL,
            pointer TEXT NOT NULL,
            next_number INTEGER NOT NULL,
            deletion TEXT
        )""",
        "CREATE UNIQUE INDEX live_names ON sessions (name) WHERE deletion IS NULL",
        """CREATE TABLE turns (
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id),
            parent TEXT REFERENCES turns (id),
            number INTEGER NOT NULL,
            created REAL NOT NULL,
            instruction TEXT NOT NULL,
            seed TEXT,
            settings TEXT NOT NULL,
            model TEXT NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            is_global INTEGER NOT NULL,
            kept REAL NOT NULL,
            latent INTEGER NOT NULL,
            note TEXT NOT NULL DEFAULT '',
            star INTEGER NOT NULL DEFAULT 0,
            visited INTEGER NOT NULL,
            digest TEXT NOT NULL,
            deletion TEXT,
            UNIQUE (session, number),
            UNIQUE (parent, digest)
        )""",
        "CREATE TABLE deletions (id TEXT PRIMARY KEY, time REAL NOT NULL, session TEXT NOT NULL, pointer TEXT)",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "INSERT INTO facts VALUES ('revision', 0), ('moves', 0), ('limit', 10000000000)",
    ),
)

ADVICE = (  # part of SQLite's message, advice
    ("disk is full", "The disk is full: free some space."),
    ("readonly", "The folder or the file is read-only: make it writable."),
    ("unable to open", "Make the folder writable, or move a file of that name away."),
    ("locked", "Another process has been writing for too long: close it, or try again."),
    ("not a database", "The file is damaged: move it away to start anew; the pictures beside it are intact PNG files."),
    ("malformed", "The file is damaged: move it away to start anew; the pictures beside it are intact PNG files."),
)


class SessionError(ValueError):
    """Why sessions cannot be read or written, and what to do."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for queries, which see one consistent state of the store. A missing store reads as empty."""
    with _explained(path, "cannot be read"), closing(_connected(path if path.exists() else None)) as connection:
        connection.execute("BEGIN")
        yield connection


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction: afterwards all of it is on disk, or nothing after an exception."""
    with _explained(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connected(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'revision'")
            connection.execute("COMMIT")  # closing without it rolls back


@contextmanager
def _explained(path: Path, problem: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        advice = next((advice for part, advice in ADVICE if part in str(error)), "")
        raise SessionError(f"The session store {path} {problem}: {error}." + f" {advice}" * bool(advice)) from error


def _connected(path: Path | None) -> sqlite3.Connection:
    """A connection to a store with the newest schema; None: an empty one in memory. The caller closes it."""
    connection = sqlite3.connect(path or ":memory:", timeout=PATIENCE, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        if _version(connection) != len(MIGRATIONS):
            _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version in one transaction. Raises SessionError for a newer schema."""
    connection.execute("BEGIN IMMEDIATE")
    version = _version(connection)  # again, inside the transaction: another process may have migrated
    if version > len(MIGRATIONS):
        raise SessionError(
            f"The sessions were written by a newer version of this pack (schema {version}; this one reads up to "
            f"{len(MIGRATIONS)}). Update the pack."
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
