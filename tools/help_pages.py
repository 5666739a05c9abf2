"""The help pages in Korean, Japanese and Chinese: web/docs/<node>/<language>.md, where the browser looks for them.

Whenever a node's words in locales/ have changed: `python3 manage.py exec -- python -m tools.help_pages`

It writes the translated names and tooltips as tables. What only the English page has follows, translated by hand, below
a comment with the digest of the English text; the tool keeps that part as it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from . import ROOT

DOCS, LOCALES, SCHEMAS = ROOT / "web" / "docs", ROOT / "locales", ROOT / "tests" / "host" / "schemas.json"
OUTPUTS = "## Outputs"  # the sections after it say what no tooltip does
WORDS = {"ja": ("入力", "出力"), "ko": ("입력", "출력"), "zh": ("输入", "输出")}  # headings: inputs, outputs
MARK = "<!-- English: "


def main() -> int:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def pages() -> dict[Path, str]:
    """Every translated page by its path."""
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    found = {}
    for language, headings in WORDS.items():
        for node, words in json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")).items():
            path = DOCS / node / f"{language}.md"
            parts = [*tables(schemas[node], words, headings), translated(path)]
            found[path] = "\n\n".join(filter(None, parts)) + "\n"
    return found


def tables(schema: dict[str, Any], words: dict[str, Any], headings: tuple[str, str]) -> list[str]:
    """The title, the description, and the tables of inputs and outputs."""
    names = dict.fromkeys(entry["name"] for entry in schema["inputs"])
    inputs = [(name, words["inputs"].get(name.replace(".", "_"))) for name in names]
    outputs = [(name, words["outputs"].get(str(place))) for place, (name, _) in enumerate(schema["outputs"])]
    parts = [f"# {words['display_name']}", words["description"]]
    for heading, rows in zip(headings, (inputs, outputs), strict=True):
        lines = [f"| {entry['name']} `{name}` | {_plain(entry['tooltip'])} |" for name, entry in rows if entry]
        parts += ["\n".join((f"## {heading}", "", "| | |", "| --- | --- |", *lines))] if lines else []
    return parts


def english(node: str) -> str:
    """The sections of a node's English page that follow its outputs; empty if there are none."""
    page = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    _, found, sections = page.partition(OUTPUTS)[2].partition("\n## ")
    return f"## {sections.rstrip()}" if found else ""


def mark(text: str) -> str:
    """The comment that says which English text a translation renders."""
    return f"{MARK}{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:12]} -->"


def translated(path: Path) -> str:
    """The part of a translated page that is written by hand, from its comment on; empty if there is none."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    return MARK + page.partition(MARK)[2].rstrip() if MARK in page else ""


def _plain(text: str) -> str:
    """So that `[max](...)` is no link, nor a bar the end of a cell."""
    return text.replace("](", "] (").replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
