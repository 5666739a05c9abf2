"""Tables in benchmarks/RESULTS.md, each between two markers, so that a run can replace it."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def replace_table(name: str, table: str, path: Path = RESULTS) -> None:
    """Replace the table of the benchmark `name`. ValueError if it has no markers."""
    start, end = f"<!-- {name}: made by manage.py bench {name} --write -->\n", "<!-- end -->"
    before, found, after = path.read_text(encoding="utf-8").partition(start)
    _, closed, rest = after.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no place for {name}; put these lines where it belongs: {start}{end}")
    path.write_text(f"{before}{start}{table}\n{closed}{rest}", encoding="utf-8")
