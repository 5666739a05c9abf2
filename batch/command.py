"""`manage.py batch`, or `python -m batch` in the folder of a published pack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import Failure, commit, driver, report
from .binding import Binding
from .local import LocalWorkers, Setup, available_gpus
from .manifest import Row, read_folder, read_manifest, refuse
from .plan import Task, pack_version, plan, read_graph, with_keys
from .spend import Budget


def run(options: argparse.Namespace, comfyui_arguments: Sequence[str]) -> int:
    """Print the plan, execute it, and write the report. Raises Failure. Returns 1 if rows have failed."""
    rows = wanted_rows(options)
    lines = run_rows(options, comfyui_arguments, rows)
    return int(any(line["status"] == "failed" for line in lines))


def wanted_rows(options: argparse.Namespace) -> list[Row]:
    given = {name: getattr(options, name) for name in ("instruction", "negative")}
    defaults = {name: value for name, value in given.items() if value is not None}
    rows = read_folder(options.pictures, defaults) if options.pictures else read_manifest(options.manifest, defaults)
    if options.pictures:
        _require_another_folder(options)
    return rows[: options.limit]


def _require_another_folder(options: argparse.Namespace) -> None:
    """Raises Failure if the outputs would lie among --pictures: the next run would read them too."""
    folder = (options.out / options.name).parent
    if folder.is_dir() and folder.samefile(options.pictures):
        raise Failure(
            f"--out: the results would be written into {folder}, the folder of --pictures, where they could overwrite "
            f"your pictures and the next run would edit them too. Give another --out, such as {folder / 'edits'}",
            code=2,
        )


def run_rows(
    options: argparse.Namespace,
    comfyui_arguments: Sequence[str],
    rows: Sequence[Row],
) -> list[dict[str, Any]]:
    """Run a graph over rows; returns the lines of results.jsonl. Raises Failure; the report is written first.

    options  as made by `options.add_options`
    """
    prompt, workflow = read_graph(options.graph)
    try:
        binding = Binding.of(prompt)
    except ValueError as error:
        raise Failure(f"{options.graph}: {error}", code=2) from None
    what = str(options.pictures or options.manifest)
    suffix = commit.SUFFIXES[options.format]
    tasks = plan(binding, rows, seeds=options.seeds, name=options.name, suffix=suffix, out=options.out, what=what)
    budget = Budget(options.spend)
    estimate = budget.check(tasks)
    with driver.locked(options.out):
        workers = make_workers(options, Setup(options.out.resolve(), workflow, tuple(comfyui_arguments)))
        try:
            tasks = inspected(workers, tasks, options.format, what)
            running = driver.Run(options.out, tasks, options.retry_failed, budget)
            print(running.summary(), flush=True)
            if estimate:
                print(
                    f"All rows cost ${estimate:.2f} by the providers' lists; --spend is ${options.spend:.2f}.",
                    flush=True,
                )
            if options.dry_run:
                for task in list(running.waiting)[:20]:
                    print(f"  {task.where} -> {task.output}")
                return []
            try:
                running.work(workers, ready=1)
            finally:
                lines = driver.results(options.out, tasks, running.done, running.failures)
                write_report(options.out, lines)
        finally:
            workers.stop()
    if budget.spent:
        print(f"Spent ${budget.spent:.2f}.")
    if running.failures:
        print(f"{len(running.failures)} failed: {options.out / driver.FAILURES}")
    return lines


def write_report(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write results.jsonl and report.html; a failure is reported but costs no picture."""
    try:
        commit.write_lines(folder / driver.RESULTS, lines)
        report.write(folder, lines)
        print(f"Report: {folder / report.NAME}", flush=True)
    except OSError as error:
        print(f"No report: {folder}: {error.strerror}. The same command writes it when that is mended.", flush=True)


def make_workers(options: argparse.Namespace, setup: Setup) -> driver.Workers:
    if options.ray is not None:
        from .cluster import RayWorkers

        return RayWorkers(setup, options.workers, options.ray or None)
    gpus = available_gpus()
    count = options.workers or max(1, len(gpus))
    return LocalWorkers(setup, count, gpus, options.out / driver.OWN)


def inspected(workers: driver.Workers, tasks: Sequence[Task], kind: str, what: str) -> list[Task]:
    """The tasks with keys, after ComfyUI validated one of each variant. Raises Failure with its errors."""
    variants = {task.variant: task for task in tasks}
    answers = driver.first_answer(workers, "inspect", list(variants.values()))
    found = dict(zip(variants, answers, strict=True))
    refuse([f"{task.where}: {found[name][0]}" for name, task in variants.items() if found[name][0]], what)
    models = {name: digests for name, (_, digests) in found.items()}
    return with_keys(tasks, models, [kind, pack_version()])


def reported(main: Callable[[list[str]], int], name: str) -> int:
    """The exit code of a program, with its Failure on one line."""
    try:
        return main(sys.argv[1:])
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return failure.code
    except OSError as error:
        print(f"{name}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped", file=sys.stderr)
        return 130
