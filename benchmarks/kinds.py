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
from benchmarks.frontier import Point, lead
from benchmarks.rivals import BlockCache, EasyCache, MagCache, TeaCache
from kontext_core.acceleration.control import Control
from kontext_core.acceleration.settings import FIDELITIES, PRESETS
from kontext_core.solvers import euler, multistep

COUNT = 4  # cases of each kind
FEWER = {"euler": (10, 5), "multistep": (14, 10, 7, 5, 3)}  # for 28 steps; proportional for others
THRESHOLDS = {EasyCache: (0.05, 0.1, 0.2), TeaCache: (0.22,), MagCache: (0.05, 0.1)}
ALLOWED = 5.0  # dB below the promised fidelity that nine of ten cases stay within

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
    found: dict[str, Callable[[Model, Case], Result]] = {name: partial(preset, name) for name in FIDELITIES}
    for solver, name in ((multistep, "multistep"), (euler, "euler")):
        for steps in sorted({max(round(fewer * case.steps / 28), 1) for fewer in FEWER[name]}):
            found[f"{name} {steps}"] = partial(solved, solver, steps)
    for rule, thresholds in THRESHOLDS.items():
        found |= {f"{rule.__name__} {threshold:g}": partial(cached, rule, threshold) for threshold in thresholds}
    return found


def solved(solver: Callable, steps: int, model: Model, case: Case) -> Result:
    return solver(model.velocity(case), model.noise(case), model.sigmas(case, steps)), steps, {}


def preset(name: str, model: Model, case: Case) -> Result:
    control = Control(PRESETS[name], model.sigmas(case).tolist())
    x = controlled(model, case, control)
    expected = control.expected()
    return x, control.computed, {} if expected is None else expected._asdict()


def cached(rule: type[EasyCache | BlockCache], threshold: float, model: Model, case: Case) -> Result:
    velocity = rule(model.velocity(case), case.steps, threshold)
    return euler(velocity, model.noise(case), model.sigmas(case)), velocity.calls, {}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the fidelity of each preset on each kind, then the lead over the best rival, then the expectation."""
    held = defaultdict(list)
    for row in rows:
        held[row["kind"], row["way"]].append(row)
    kinds = [name for name in KINDS if any(kind == name for kind, _ in held)]
    lines = [
        f"Embedded model, {len(held[kinds[0], 'quality'])} held-out cases of each kind. Model "
        "calls; median / lowest PSNR in dB to the case's full run; ratio of calls of the best rival at the "
        "same mean PSNR (`>`: every rival is less exact; `<`: all are more exact).",
        "",
        f"| kind | {' | '.join(f'*{name}*, {aim:g} dB' for name, aim in FIDELITIES.items())} | multistep 7 |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [kind_line(kind, held) for kind in kinds]
    return "\n".join([*lines, "", *kept_lines(rows), "", *expectation_lines(rows)])


def kind_line(kind: str, held: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    cells = [kind]
    for name in FIDELITIES:
        mine = held[kind, name]
        found = leading(kind, name, held)
        cells.append(f"{mean(mine, 'calls'):.1f}: {median(mine):.1f} / {lowest(mine):.1f}, {found}")
    steps = next(iter(held[kind, "quality"]))["steps"]
    rival = held[kind, f"multistep {max(round(7 * steps / 28), 1)}"]
    return "| " + " | ".join([*cells, f"{median(rival):.1f} / {lowest(rival):.1f}"]) + " |"


def leading(kind: str, name: str, held: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The ratio of the best rival's model calls to ours."""
    curves = defaultdict(list)
    for (other, way), rows in held.items():
        if other == kind and way not in FIDELITIES and len(rows) == len(held[kind, name]):
            curves[way.rsplit(" ", 1)[0]].append(Point(way, 28 / mean(rows, "calls"), mean(rows, "psnr")))
    mine = Point(name, 28 / mean(held[kind, name], "calls"), mean(held[kind, name], "psnr"))
    found = lead(mine, curves.values())
    return f"{found.bound} {found.times:.2f}x".strip()


def kept_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name, decibels in FIDELITIES.items():
        reached = [row["psnr"] for row in rows if row["way"] == name]
        kept = statistics.mean(one >= decibels - ALLOWED for one in reached)
        lines.append(
            f"*{name}*: median {statistics.median(reached):.1f} dB, {kept:.0%} of {len(reached)} cases at "
            f"{decibels - ALLOWED:g} dB or more, the lowest {min(reached):.1f} dB."
        )
    return lines


def expectation_lines(rows: list[dict[str, Any]]) -> list[str]:
    told = [row for row in rows if "decibels" in row]
    off = np.array([row["psnr"] - row["decibels"] for row in told])
    inside = statistics.mean(row["low"] <= row["psnr"] <= row["high"] for row in told)
    near, over = np.mean(np.abs(off) <= 4), np.mean(off < -8)
    return [
        f"Expected against true PSNR, {len(told)} runs: within 4 dB in {near:.0%}, between the two bounds told in "
        f"{inside:.0%}, more than 8 dB too much in {over:.0%}."
    ]


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


def median(rows: list[dict[str, Any]]) -> float:
    return statistics.median(row["psnr"] for row in rows)


def lowest(rows: list[dict[str, Any]]) -> float:
    return min(row["psnr"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=STORE, help="folder for results")
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    options = parser.parse_args()
    print(table(measure(False, options.store, options.count, tuple(options.kinds))))


if __name__ == "__main__":
    main()
