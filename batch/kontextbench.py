"""`manage.py kontextbench FOLDER`, or `python -m batch.kontextbench`: evaluate a model or a provider on KontextBench.

Black Forest Labs' benchmark of 1026 edits (arXiv 2506.15742, section 4.1). A folder in its layout may name the right
picture of a row (`right`) and its counterfactuals (`wrong`): then the strict rule is evaluated too.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kontext_core.hosted import PROVIDERS

from . import Failure, commit, faces, metrics, report
from .command import reported, run_rows
from .driver import RESULTS
from .manifest import Row, refuse
from .metrics import METRICS
from .options import add_benchmark_options
from .progress import Progress

CATEGORIES = (
    "Instruction Editing - Local",
    "Instruction Editing - Global",
    "Character Reference",
    "Text Editing",
    "Style Reference",
)
TEXT, CHARACTER = "Text Editing", "Character Reference"
EMBEDDED = "A first edit"
HOW_TO_GET = (
    "It is published as black-forest-labs/kontext-bench (MIT, 56 MB): "
    "hf download black-forest-labs/kontext-bench --repo-type dataset --local-dir FOLDER"
)
SMALL = {"KontextReference.size": "keep ratio", "KontextReference.size.megapixels": 0.016}  # for the embedded model
LARGEST = 256  # px, the largest picture that it gets unreduced
VERSION = 2  # of the measurements; a new number invalidates stored ones
MEASURED = "metrics.jsonl"
TEN = 10
Made = tuple[Callable[..., Any] | None, str]  # a measure, or None and the reason


def run(options: argparse.Namespace, comfyui_arguments: Sequence[str]) -> int:
    """Run the benchmark, measure, and write the report. Raises Failure. Returns 1 if rows have failed."""
    graph, settings = chosen_graph(options)
    out = options.out or Path("output") / "kontextbench" / Path(graph).stem
    rows, answers = read_benchmark(options.folder, settings, small=graph == EMBEDDED)
    other = read_run(options.against) if options.against else None
    likeness = faces.likeness(options.faces) if options.faces else (None, "identity: --faces names no face model")
    fixed = {"graph": graph, "out": out, "pictures": options.folder, "seeds": 1, "name": "{name}", "format": "png"}
    lines = run_rows(argparse.Namespace(**vars(options) | fixed), comfyui_arguments, rows[: options.limit])
    if options.dry_run:
        return 0
    values, left_out = measure(out, lines, answers, other, likeness)
    summary = summarise(lines, values)
    write_report(out, graph, lines, values, summary, left_out)
    print(as_text(table(summary)))
    print("\n".join(f"not measured: {reason}" for reason in left_out))
    if options.json:
        content = {"graph": graph, "rows": len(lines), "summary": summary, "left out": left_out}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(line["status"] == "failed" for line in lines))


def chosen_graph(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The graph, and settings for every row. Raises Failure."""
    if options.graph:
        return options.graph, {}
    model = options.model or "embedded"
    if model == "embedded":
        return EMBEDDED, {}
    if model == "files":
        return "Real model with your files", {}
    kind, _, name = model.partition(":")
    title, _, size = name.partition("/")
    found = [known for known in PROVIDERS if known.casefold() == title.casefold()]
    if kind != "hosted" or not found or (size or "pro") not in PROVIDERS[found[0]].models:
        raise Failure(
            f"--model is {model!r}; it is embedded, files, or hosted:PROVIDER/MODEL, as in hosted:fal/pro. "
            f"Providers: {', '.join(PROVIDERS)}",
            code=2,
        )
    asked = {"provider": found[0], "provider.model": size or "pro", "dry_run": False}
    return "Hosted edit with pro or max", {f"KontextHosted.{name}": value for name, value in asked.items()}


def read_benchmark(
    folder: Path, settings: Mapping[str, Any], small: bool
) -> tuple[list[Row], dict[int, dict[str, Any]]]:
    """The rows of a folder in KontextBench's layout, and the lines with the answers, by row.

    settings  cells for every row     small  whether large pictures are reduced before editing

    Raises Failure with all faults.
    """
    places = [folder / "test" / "metadata.jsonl", folder / "metadata.jsonl"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise Failure(f"{folder} holds no KontextBench: there is no {places[0]}. {HOW_TO_GET}", code=2)
    rows, answers, faults = [], {}, []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not text.strip():
            continue
        where = f"row {number} ({path.name}, line {number})"
        try:
            line = json.loads(text)
            rows.append(Row(number, where, _cells(number, line, path.parent, small) | dict(settings), path.parent))
            answers[number] = {name: line[name] for name in ("right", "wrong", "text") if name in line}
            answers[number]["folder"] = path.parent
        except KeyError as error:
            faults.append(f"{where}: there is no {error}")
        except (ValueError, TypeError, OSError) as error:
            faults.append(f"{where}: {error}")
    refuse(faults, str(path))
    return rows, answers


def _cells(number: int, line: dict[str, Any], folder: Path, small: bool) -> dict[str, Any]:
    if line["category"] not in CATEGORIES:
        raise ValueError(f"category is {line['category']!r}; one of {', '.join(CATEGORIES)} is needed")
    with Image.open(folder / line["file_name"]) as picture:
        large = max(picture.size) > LARGEST
    name = re.sub(r"[^\w.-]", "_", f"{number:04}_{line['key']}")
    cells = {"picture": line["file_name"], "instruction": line["instruction"], "name": name}
    cells |= {"label.category": line["category"], "label.key": str(line["key"])}
    return cells | (SMALL if small and large else {})


def read_run(folder: Path) -> dict[tuple[int, str], Path]:
    """The pictures of another run of the benchmark. Raises Failure."""
    lines = commit.read_lines(folder / RESULTS)
    if not any(line.get("labels", {}).get("key") for line in lines):
        raise Failure(
            f"--against: {folder} holds no run of the benchmark ({RESULTS} is missing or of another batch)", code=2
        )
    return {(line["row"], line["labels"]["key"]): folder / line["output"] for line in lines if line["status"] == "done"}


def measure(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    answers: Mapping[int, Mapping[str, Any]],
    other: Mapping[tuple[int, str], Path] | None,
    likeness: Made,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Output -> values of METRICS for the finished rows, and the metrics that were left out, with reasons.

    likeness  compares faces, or None and the reason

    Earlier measurements are read from metrics.jsonl.
    """
    tools, left_out = _tools(lines, other is not None, likeness)
    named = [name + getattr(tool, "mark", "") for name, tool in sorted(tools.items())]
    known = {line["mark"]: line["values"] for line in commit.read_lines(folder / MEASURED)}
    values: dict[str, dict[str, Any]] = {}
    done = [line for line in lines if line["status"] == "done"]
    progress = Progress(len(done))
    with (folder / MEASURED).open("a", encoding="utf-8") as file:
        for line in done:
            rival = other.get((line["row"], line["labels"]["key"])) if other is not None else None
            rival_key = commit.stored_key(rival) if rival else None
            mark = commit.key_of([VERSION, line["key"], rival_key, named, str(answers[line["row"]])])
            if mark not in known:
                known[mark] = _values(folder / line["output"], line, answers[line["row"]], rival, tools)
                file.write(json.dumps({"mark": mark, "values": known[mark]}) + "\n")
                file.flush()
            values[line["output"]] = {name: line[name] for name in ("seconds", "model_calls")} | known[mark]
            progress.add(failed=False)
    progress.close()
    return values, left_out


def _tools(
    lines: Sequence[Mapping[str, Any]], against: bool, likeness: Made
) -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """The measures whose packages are installed, and the reasons why others are missing."""
    categories = {line["labels"]["category"] for line in lines}
    made: dict[str, Made] = {}
    if TEXT in categories:
        made["text"] = metrics.reader_of_text()
    if CHARACTER in categories:
        made["identity"] = likeness
    if against:
        made |= {"ssim": metrics.structural_similarity(), "lpips": metrics.perceptual_distance()}
    return {name: tool for name, (tool, _) in made.items() if tool}, [why for tool, why in made.values() if not tool]


def _values(
    output: Path, line: Mapping[str, Any], answer: Mapping[str, Any], rival: Path | None, tools: Mapping[str, Any]
) -> dict[str, Any]:
    before, after = metrics.load(Path(line["source"])), metrics.load(output)
    values = metrics.kept(before, after)
    if "right" in answer:
        right, *wrong = (metrics.load(answer["folder"] / name) for name in (answer["right"], *answer.get("wrong", ())))
        values["correct"] = metrics.correct(after, right, wrong)
    wanted = answer.get("text") or metrics.wanted_text(line["instruction"])
    if line["labels"]["category"] == TEXT and "text" in tools and wanted:
        values["text"] = metrics.text_found(wanted, tools["text"](after))
    if line["labels"]["category"] == CHARACTER and "identity" in tools:
        values["identity"] = tools["identity"](before, after)
    if rival is not None:
        theirs = metrics.load(rival)
        mine = metrics.sized(after, theirs)
        values["psnr"] = metrics.psnr(mine, theirs)
        values |= {name: tools[name](mine, theirs) for name in ("ssim", "lpips") if name in tools}
    return values


def summarise(lines: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Category, and "all" -> {"rows": number of finished rows, metric: {"rows", "mean", "low", "high"}}."""
    groups = {name: [line for line in lines if line["labels"]["category"] == name] for name in CATEGORIES}
    summary = {}
    for name, members in {**groups, "all": lines}.items():
        found = [values[line["output"]] for line in members if line["output"] in values]
        if not found:
            continue
        summary[name] = {"rows": len(found)}
        for metric, what in METRICS.items():
            numbers = [float(value[metric]) for value in found if value.get(metric) is not None]
            if numbers:
                mean, low, high = metrics.interval(numbers, what.share)
                if "%" in what.form:  # a fraction
                    low, high = max(low, 0.0), min(high, 1.0)
                summary[name][metric] = {"rows": len(numbers), "mean": mean, "low": low, "high": high}
                if math.isnan(low):
                    summary[name][metric] |= {"low": None, "high": None}
    return summary


def table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary for `report.page`: one row per category, "mean [low, high]", with the number of rows if it
    differs.
    """
    shown = [name for name in METRICS if any(name in group for group in summary.values())]
    body = []
    for name, group in summary.items():
        cells = [
            _cell(group[metric], METRICS[metric].form, group["rows"]) if metric in group else "" for metric in shown
        ]
        body.append([name, str(group["rows"]), *cells])
    title = "By category, with 95 % intervals"
    return {"title": title, "head": ["", "rows", *(METRICS[name].title for name in shown)], "body": body}


def _cell(group: Mapping[str, Any], form: str, rows: int) -> str:
    of = "" if group["rows"] == rows else f" ({group['rows']} of them)"
    if group["low"] is None:
        return form.format(group["mean"]) + of
    mean, low, high = (form.format(group[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]{of}"


def as_text(content: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    rows = [content["head"], ["---"] * len(content["head"]), *content["body"]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def extremes(lines: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The ten worst and the ten best rows of each metric with a direction, for `report.page`."""
    for name, what in METRICS.items():
        if not what.better or what.share:
            continue
        known = [
            (values[line["output"]][name], index)
            for index, line in enumerate(lines)
            if values.get(line["output"], {}).get(name) is not None
        ]
        known.sort(key=lambda pair: pair[0] * what.better)
        for word, part in (("worst", known[:TEN]), ("best", known[::-1][:TEN])):
            rows = [[index, f"{what.title}: {what.form.format(value)}"] for value, index in part]
            if rows:
                yield {"title": f"The {word} by {what.title}", "rows": rows}


def write_report(
    folder: Path,
    graph: str,
    lines: Sequence[dict[str, Any]],
    values: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
    left_out: Sequence[str],
) -> None:
    facts = []
    for line in lines:
        known = values.get(line["output"], {})
        named = [(METRICS[name], value) for name, value in known.items() if name in METRICS and value is not None]
        facts.append([", ".join(f"{what.title} {_shown(what, value)}" for what, value in named)])
    about = [f"graph: {graph}", *report.summary(lines), *(f"not measured: {reason}" for reason in left_out)]
    title = f"KontextBench: {len(lines)} edits"
    report.page(folder, lines, title, about, [table(summary)], list(extremes(lines, values)), facts)


def _shown(what: metrics.Metric, value: Any) -> str:
    if what.share:
        return "yes" if value else "no"
    return what.form.format(value)


def main(arguments: list[str]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m batch.kontextbench")
    add_benchmark_options(parser)
    return run(parser.parse_args(arguments[:end]), arguments[end + 1 :])


if __name__ == "__main__":
    sys.exit(reported(main, "kontextbench"))
