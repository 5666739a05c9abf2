"""The help pages in Korean, Japanese and Chinese: web/docs/<node>/<language>.md, where the browser looks for them.

Whenever a node's words in locales/ or its English page have changed:
`python3 manage.py exec -- python -m tools.help_pages`

They are the translated names and tooltips as a page. What only the English page has follows in English.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from . import ROOT

DOCS, LOCALES, SCHEMAS = ROOT / "web" / "docs", ROOT / "locales", ROOT / "tests" / "host" / "schemas.json"
OUTPUTS = "## Outputs"  # the sections after it say what no tooltip does
WORDS = {  # headings: inputs, outputs, details
    "ja": ("入力", "出力", "詳細(英語)"),
    "ko": ("입력", "출력", "자세한 내용(영어)"),
    "zh": ("输入", "输出", "详细说明（英文）"),
}


def main() -> int:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def pages() -> dict[Path, str]:
    """Every translated page by its path."""
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return {
        DOCS / node / f"{language}.md": page(node, schema, words, WORDS[language])
        for language in WORDS
        for node, words in json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")).items()
        if (schema := schemas[node])
    }


def page(node: str, schema: dict[str, Any], words: dict[str, Any], headings: tuple[str, str, str]) -> str:
    names = dict.fromkeys(entry["name"] for entry in schema["inputs"])
    inputs = [(name, words["inputs"].get(name.replace(".", "_"))) for name in names]
    outputs = [(name, words["outputs"].get(str(place))) for place, (name, _) in enumerate(schema["outputs"])]
    english = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    _, found, details = english.partition(OUTPUTS)[2].partition("\n## ")
    parts = [f"# {words['display_name']}", words["description"]]
    for heading, rows in zip(headings, (inputs, outputs), strict=False):
        lines = [f"| {entry['name']} `{name}` | {_plain(entry['tooltip'])} |" for name, entry in rows if entry]
        parts += ["\n".join((f"## {heading}", "", "| | |", "| --- | --- |", *lines))] if lines else []
    return "\n\n".join(parts + ([f"## {headings[2]}\n\n### {details.rstrip()}"] if found else [])) + "\n"


def _plain(text: str) -> str:
    """So that `[max](...)` is no link, nor a bar the end of a cell."""
    return text.replace("](", "] (").replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
