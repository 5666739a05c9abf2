"""Fidelity by kind of case: the presets of Kontext Accelerate, and rivals with equally many model calls.

    python3 manage.py bench kinds

Cases of the held-out half (`benchmarks.cases`), on the embedded model without ComfyUI. Each case is judged by the PSNR
of its picture (in a batch the worst) against its own full run with Euler. Rivals are fewer Euler steps, the
second-order multistep solver, and the rules of `benchmarks.rivals`. Results are stored in a folder, so that an
interrupted command continues; several commands can share it, each with other kinds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batch.commit import read_lines
from benchmarks import rivals
from benchmarks.calibrate import ACCELERATION, CALIBRATION, STORE, controlled, full_run, stamped, worst_psnr
from benchmarks.cases import KINDS, Case, Model, cases
from benchmarks.frontier import Point, lead, psnr_at
from benchmarks.rivals import EasyCache, MagCache, Rule, TeaCache
from kontext_core.acceleration.control import Control
from kontext_core.acceleration.settings import FIDELITIES, Settings
from kontext_core.solvers import euler, multistep

COUNT = 24  # cases of each kind
FEWER = {"euler": (16, 10, 5), "multistep": (14, 10, 7, 5, 3)}  # for 28 steps; proportional for others
THRESHOLDS = {EasyCache: (0.05, 0.1, 0.2), TeaCache: (0.22,), MagCache: (0.05, 0.1)}
ALLOWED = 5.0  # dB below the promised fidelity that nine of ten cases stay within
ASKED = {f"{decibels:g} dB": decibels for decibels in (44.0, 48.0)}  # of *custom*, to find what *quality* lacks

Result = tuple[Tensor, int, dict[str, Any]]  # final state, model calls, other reported values


def measure(
    quick: bool, store: Path = STORE, count: int = COUNT, kinds: tuple[str, ...] = tuple(KINDS)
) -> list[dict[str, Any]]:
    """One row per case and way."""
    model, whole = Model(), stamped(store)
    path = stamped(store, *ACCELERATION, CALIBRATION, Path(rivals.__file__)) / "kinds.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_lines(path)
    done = {(row["kind"], row["number"], row["way"]) for row in rows}
    chosen = sorted(cases("held out", 1 if quick else count, kinds), key=lambda case: case.number)
    with torch.inference_mode(), path.open("a") as file:
        for case in chosen:
            for way, run in ways(case).items():
                if (case.kind, case.number, way) not in done:
                    x, calls, told = run(model, case)
                    decibels = worst_psnr(model, case, x, full_run(model, case, whole)["picture"])
                    row = {"kind": case.kind, "number": case.number, "steps": case.steps, "way": way}
                    rows.append(row | {"calls": calls, "psnr": decibels} | told)
                    print(json.dumps(rows[-1]), file=file, flush=True)
    wanted = {(case.kind, case.number) for case in chosen}
    return [row for row in rows if (row["kind"], row["number"]) in wanted]


def ways(case: Case) -> dict[str, Callable[[Model, Case], Result]]:
    found: dict[str, Callable[[Model, Case], Result]] = {
        name: partial(aiming, decibels) for name, decibels in {**FIDELITIES, **ASKED}.items()
    }
    for solver, name in ((multistep, "multistep"), (euler, "euler")):
        for steps in sorted({max(round(fewer * case.steps / 28), 1) for fewer in FEWER[name]}):
            found[f"{name} {steps}"] = partial(solved, solver, steps)
    for rule, thresholds in THRESHOLDS.items():
        found |= {f"{rule.__name__} {threshold:g}": partial(cached, rule, threshold) for threshold in thresholds}
    return found


def solved(solver: Callable, steps: int, model: Model, case: Case) -> Result:
    return solver(model.velocity(case), model.noise(case), model.sigmas(case, steps)), steps, {}


def aiming(decibels: float, model: Model, case: Case) -> Result:
    control = Control(Settings(fidelity=decibels), model.sigmas(case).tolist())
    x = controlled(model, case, control)
    expected = control.expected()
    return x, control.computed, {} if expected is None else expected._asdict()


def cached(rule: type[Rule], threshold: float, model: Model, case: Case) -> Result:
    velocity = rule(model.velocity(case), case.steps, threshold)
    return euler(velocity, model.noise(case), model.sigmas(case)), velocity.calls, {}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each preset its fidelity on each kind and the lead over rivals, then all kinds together."""
    held = defaultdict(list)
    for row in rows:
        held[row["kind"], row["way"]].append(row)
    kinds = [name for name in KINDS if any(kind == name for kind, _ in held)]
    count = len(held[kinds[0], "quality"])
    lines = [f"Embedded model, {count} held-out cases of each kind; PSNR to the case's full run."]
    for name, decibels in FIDELITIES.items():
        lines += ["", f"*{name}*, {decibels:g} dB:", ""]
        lines += [
            f"| kind | model calls | median dB | lowest dB | {decibels - ALLOWED:g} dB or more "
            "| a rival's calls at equal dB | a rival's dB at equal calls |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [kind_line(kind, name, held) for kind in kinds]
    return "\n".join([*lines, "", *kept_lines(rows), "", *expectation_lines(rows), "", *asked_lines(kinds, held)])


def kind_line(kind: str, name: str, held: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """One kind of case: a preset and the best rival. `<` and `>`: the rivals' curves do not reach that far."""
    mine, curves = held[kind, name], rival_curves(kind, held)
    point = Point(name, 28 / mean(mine, "calls"), mean(mine, "psnr"))
    found = lead(point, curves)
    bound = {"": "", ">": "more than ", "<": "less than "}[found.bound]
    other = psnr_at(point.ratio, curves)
    cells = (
        kind,
        f"{mean(mine, 'calls'):.1f}",
        f"{statistics.median(row['psnr'] for row in mine):.1f}",
        f"{min(row['psnr'] for row in mine):.1f}",
        f"{statistics.mean(reaches(row, name) for row in mine):.0%}",
        f"{bound}{28 / found.rival.ratio:.1f} ({found.times:.2f}x)",
        "-" if other is None else f"{other - point.psnr:+.1f}",
    )
    return f"| {' | '.join(cells)} |"


def reaches(row: dict[str, Any], name: str) -> bool:
    """Whether a case is at most ALLOWED below what a preset names."""
    return row["psnr"] >= FIDELITIES[name] - ALLOWED


def rival_curves(kind: str, held: dict[tuple[str, str], list[dict[str, Any]]]) -> list[list[Point]]:
    """One curve for each rival that was run on all cases of a kind."""
    curves = defaultdict(list)
    for (other, way), rows in held.items():
        if other == kind and way not in (*FIDELITIES, *ASKED) and len(rows) == len(held[kind, "quality"]):
            curves[way.rsplit(" ", 1)[0]].append(Point(way, 28 / mean(rows, "calls"), mean(rows, "psnr")))
    return [*curves.values()]


def kept_lines(rows: list[dict[str, Any]]) -> list[str]:
    """All kinds together, for each preset."""
    lines = []
    for name, decibels in FIDELITIES.items():
        mine = [row for row in rows if row["way"] == name]
        found = [row["psnr"] for row in mine]
        kept = statistics.mean(reaches(row, name) for row in mine)
        by_kind = defaultdict(list)
        for row in mine:
            by_kind[row["kind"]].append(reaches(row, name))
        nine = sum(statistics.mean(reached) >= 0.9 for reached in by_kind.values())
        lines.append(
            f"*{name}*: median {statistics.median(found):.1f} dB, {kept:.0%} of {len(found)} cases at "
            f"{decibels - ALLOWED:g} dB or more (nine of ten in {nine} of {len(by_kind)} kinds), the lowest "
            f"{min(found):.1f} dB."
        )
    return lines


def expectation_lines(rows: list[dict[str, Any]]) -> list[str]:
    told = [row for row in rows if row["way"] in FIDELITIES and "decibels" in row]
    off = np.array([row["psnr"] - row["decibels"] for row in told])
    inside = statistics.mean(row["low"] <= row["psnr"] <= row["high"] for row in told)
    near, over = np.mean(np.abs(off) <= 4), np.mean(off < -8)
    return [
        f"Expected against true PSNR, {len(told)} runs: within 4 dB in {near:.0%}, between the two bounds told in "
        f"{inside:.0%}, more than 8 dB too much in {over:.0%}."
    ]


def asked_lines(kinds: list[str], held: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """What it takes until nine of ten cases of every kind are as near as *quality* promises."""
    least = FIDELITIES["quality"] - ALLOWED
    lines = [
        f"| aim | model calls, mean of kinds | cases at {least:g} dB or more, worst kind | kinds with nine of ten |",
        "| --- | --- | --- | --- |",
    ]
    for way in ("quality", *ASKED):
        mine = [held[kind, way] for kind in kinds]
        kept = [statistics.mean(reaches(row, "quality") for row in found) for found in mine]
        calls = statistics.mean(mean(found, "calls") for found in mine)
        lines.append(f"| {way} | {calls:.1f} | {min(kept):.0%} | {sum(one >= 0.9 for one in kept)} of {len(kept)} |")
    return lines


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=STORE, help="folder for results")
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    options = parser.parse_args()
    print(table(measure(False, options.store, options.count, tuple(options.kinds))))


if __name__ == "__main__":
    main()
