"""report.html: one self-contained page with before and after of every row."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageOps

from . import commit
from .progress import duration

NAME = "report.html"
PAGE = Path(__file__).with_name("report_page.html")
LONGEST = 360  # px, the longer side of a picture in the page; the row's title links to the file
MOST_ROWS = 2000  # per page, about 40 MB
MOST_VALUES = 50  # of a column that can be used as a filter


def write(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """The report of a batch, from the lines of its results.jsonl."""
    page(folder, lines, f"{len(lines)} edits", summary(lines), [], [])


def page(
    folder: Path,
    lines: Sequence[dict[str, Any]],
    title: str,
    about: list[str],
    tables: list[dict[str, Any]],
    extremes: list[dict[str, Any]],
    facts: Sequence[Sequence[str]] = (),
) -> None:
    """Writes folder/report.html.

    tables    {"title", "head": [text], "body": [[text]]}
    extremes  {"title", "rows": [[index of the line, text]]}
    facts     further lines of text for each row
    """
    shown = list(lines[:MOST_ROWS])
    if len(lines) > len(shown):
        about = [*about, f"Only the first {len(shown)} rows are shown; results.jsonl has all."]
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(lambda pair: _row(folder, *pair), zip(shown, [*facts, *[()] * len(shown)], strict=False)))
    kept = [ten | {"rows": [pair for pair in ten["rows"] if pair[0] < len(shown)]} for ten in extremes]
    data = {"title": title, "about": about, "tables": tables, "extremes": kept, "rows": rows, "filters": _filters(rows)}
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no row's text can end the script
    content = PAGE.read_text(encoding="utf-8").replace("__DATA__", text).encode()
    commit.write_whole(folder / NAME, lambda file: file.write(content), "0" * 12)


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """A summary of a batch, in words."""
    counts = {status: sum(line["status"] == status for line in lines) for status in ("done", "failed", "missing")}
    about = [", ".join(f"{count} {status}" for status, count in counts.items() if count)]
    seconds = sorted(line["seconds"] for line in lines if line.get("seconds") is not None)
    if seconds:
        total, middle = sum(seconds), seconds[len(seconds) // 2]
        about.append(f"{duration(total)} of work, {middle:.1f} s a row (median), {seconds[-1]:.1f} s the slowest")
    return about


def _row(folder: Path, line: Mapping[str, Any], facts: Sequence[str]) -> dict[str, Any]:
    after = folder / line["output"] if line["status"] == "done" else None
    lines = [f"seed {line['seed']}"] if line["seed"] is not None else []
    if line.get("seconds") is not None:
        lines[:] = [", ".join([*lines, f"{line['seconds']:.1f} s, {line['model_calls']} model calls"])]
    values = {"status": line["status"], **line["labels"], **line["settings"]}
    lines += [f"{name}: {value}" for name, value in (line["labels"] | line["settings"]).items()]
    if line.get("negative"):
        lines.append(f"negative: {line['negative']}")
    return {
        "title": line["output"],
        "link": quote(line["output"]) if after else None,
        "instruction": line.get("instruction", ""),
        "error": line.get("error", ""),
        "lines": [*lines, *facts],
        "values": {name: str(value) for name, value in values.items()},
        "before": _embedded(Path(line["source"])) if line["source"] else None,
        "after": _embedded(after) if after else None,
    }


def _embedded(path: Path) -> str | None:
    """A small copy as a data URI; None for a picture that is missing or damaged."""
    try:
        with Image.open(path) as picture:
            small = ImageOps.exif_transpose(picture).convert("RGB")
    except Exception:  # damage can raise SyntaxError, ValueError, TypeError and others in Pillow
        return None
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def _filters(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Columns with more than one value, but not too many."""
    columns: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row["values"].items():
            columns.setdefault(name, set()).add(value)
    return [{"name": n, "values": sorted(v)} for n, v in columns.items() if 1 < len(v) <= MOST_VALUES]
