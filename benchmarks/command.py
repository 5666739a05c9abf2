"""`manage.py bench`: run the measurements of benchmarks/."""

from __future__ import annotations

import argparse
import importlib
import json

from batch import Failure
from benchmarks.results import RESULTS, replace_table

BENCHMARKS = {  # name -> module with measure(quick) -> rows and table(rows) -> str
    "speed": "benchmarks.speed",
    "scale": "benchmarks.scale",
    "quality": "benchmarks.quality",
    "kinds": "benchmarks.kinds",
    "parts": "benchmarks.parts",
    "gpu": "benchmarks.gpu",
    "memory": "benchmarks.memory",
    "preservation": "benchmarks.preservation",
    "keeping": "benchmarks.keeping",
}


def run(options: argparse.Namespace, _: list[str]) -> int:
    """Print a table per benchmark; --json also writes {name: rows}, --write also RESULTS.md. Raises Failure."""
    names = [options.name] if options.name else list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise Failure(f"there is no benchmark {unknown[0]!r}, only {', '.join(BENCHMARKS)}", code=2)
    results = {}
    for name in names:
        module = importlib.import_module(BENCHMARKS[name])
        results[name] = module.measure(options.quick)
        table = module.table(results[name])
        print(table, flush=True)
        if options.write:
            if hasattr(module, "plot"):
                module.plot(results[name], RESULTS.with_name(f"{name}.png"))
                table += f"\n\n![{name}, plotted]({name}.png)"
            try:
                replace_table(name, table)
            except ValueError as error:
                raise Failure(str(error)) from None
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0
