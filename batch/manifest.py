"""Manifests: the requested edits, one per row, from a JSONL or CSV file or from a folder of pictures.

Columns: `picture`, `reference_2` to `reference_8`, `mask` (paths, relative to the manifest), `instruction`, `negative`,
`seed`, `name` (of the output), `label.ANYTHING` (only for the report's filter), and `Node title.input`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import Failure

PICTURES = ("picture", *(f"reference_{number}" for number in range(2, 9)))
FILES = (*PICTURES, "mask")
TEXTS = ("instruction", "negative")
COLUMNS = (*FILES, *TEXTS, "seed", "name")
LABEL = "label."
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOST_SEED = 2**64 - 1
SHOWN = 20  # largest number of listed errors


@dataclass(frozen=True)
class Row:
    """One requested edit. `values`: the non-empty cells, by column; from a CSV all are text."""

    number: int  # from 1
    where: str  # for messages: "row 3 (edits.csv, line 4)"
    values: Mapping[str, Any]
    folder: Path  # base of relative paths

    def path(self, column: str) -> Path | None:
        value = self.values.get(column)
        return None if value is None else self.folder / value

    @property
    def labels(self) -> dict[str, Any]:
        return {name[len(LABEL) :]: value for name, value in self.values.items() if name.startswith(LABEL)}

    @property
    def settings(self) -> dict[str, Any]:
        """The cells of columns `Node title.input`."""
        return {name: value for name, value in self.values.items() if is_setting(name)}


def is_setting(column: str) -> bool:
    return "." in column and not column.startswith(LABEL)


def read_manifest(path: Path, defaults: Mapping[str, Any]) -> list[Row]:
    """The rows of a .jsonl or .csv file, with `defaults` where a cell is empty. Raises Failure with all faults."""
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise Failure(f"{path} is neither .jsonl nor .csv; a manifest is one of the two", code=2)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"the manifest {path} cannot be read: {error}", code=2) from None
    rows, faults = [], []
    for number, (line, cells) in enumerate(_lines(path, text), 1):
        where = f"row {number} ({path.name}, line {line})"
        if isinstance(cells, str):
            faults.append(f"{where}: {cells}")
            continue
        row = Row(number, where, {**defaults, **cells}, path.parent)
        faults += [f"{where}: {fault}" for fault in _faults(row)]
        rows.append(row)
    refuse(faults, str(path))
    if not rows:
        raise Failure(f"{path} has no rows", code=2)
    return rows


def read_folder(folder: Path, defaults: Mapping[str, Any]) -> list[Row]:
    """A row for each picture in a folder, sorted by name. Raises Failure if there is none."""
    if not folder.is_dir():
        raise Failure(f"there is no folder {folder}", code=2)
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not names:
        raise Failure(f"{folder} holds no picture ({', '.join(SUFFIXES)})", code=2)
    rows = [Row(i, f"row {i} ({name})", {**defaults, "picture": name}, folder) for i, name in enumerate(names, 1)]
    refuse([f"{row.where}: {fault}" for row in rows for fault in _faults(row)], str(folder))
    return rows


def refuse(faults: list[str], what: str) -> None:
    """Raises Failure with the faults, if there are any."""
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise Failure("\n".join([f"{what}: nothing was run", *faults[:SHOWN], *more]), code=2)


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number and cells of each row, or its error."""
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):  # texts may contain other line separators
            if line.strip():
                yield number, _json_cells(line)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = [name.strip() for name in cells]
                if doubled := {name for name in header if header.count(name) > 1}:
                    raise Failure(f"{path}: the header names {sorted(doubled)[0]!r} twice", code=2)
            elif len(cells) > len(header):
                yield reader.line_num, f"{len(cells)} cells for {len(header)} columns; quote cells that hold commas"
            elif cells:
                yield reader.line_num, {k: v for k, v in zip(header, cells, strict=False) if v.strip()}
    except csv.Error as error:
        yield reader.line_num, f"this is no CSV: {error}"


def _json_cells(line: str) -> dict[str, Any] | str:
    try:
        cells = json.loads(line)
    except ValueError as error:
        return f"this is no JSON: {error}"
    if not isinstance(cells, dict):
        return f'it is {line.strip()[:40]}; a row is an object, as in {{"picture": "a.png"}}'
    return {name: value for name, value in cells.items() if value is not None}


def _faults(row: Row) -> Iterator[str]:
    """Errors of a row that do not depend on the graph."""
    for column, value in row.values.items():
        if column not in COLUMNS and "." not in column:
            yield f"unknown column {column!r}; there are {', '.join(COLUMNS)}, label.ANYTHING and 'Node title.input'"
        elif column in (*FILES, *TEXTS, "name") and not isinstance(value, str):
            yield f"{column} is {value!r}; text is needed"
        elif column in TEXTS and not value.strip():
            yield f"{column} is empty; leave the column out, or say what is wanted"
        elif column == "seed" and not is_seed(value):
            yield f"seed is {value!r}; a whole number from 0 to 2^64 - 1 is needed"
        elif column in FILES and not (row.folder / value).is_file():
            yield f"{column}: there is no file {row.folder / value}"


def is_seed(value: Any) -> bool:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,20}", str(value)):
        return False
    return int(value) <= MOST_SEED
