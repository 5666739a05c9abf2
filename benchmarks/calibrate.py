"""Calibrate the error model of Kontext Accelerate: writes `kontext_core/acceleration/calibration.json`.

    python3 manage.py exec -- python -m benchmarks.calibrate --write

Runs only cases of the calibration half (see `benchmarks.cases`), with the embedded model and without ComfyUI. Results
are stored in a folder, so that an interrupted command continues. Three things are measured:

growth      how much a small error at some step grows until the end, as a function of the velocity's slope there
decibels    the PSNR of a run's picture as a function of the error that the run estimated, and the scatter
levels      the PSNR for several tolerances: every kind's median, and what nine of ten cases reach within 5 dB
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from batch.commit import read_lines
from benchmarks import cases as benchmark_cases
from benchmarks.cases import Case, Model, cases
from kontext_core.acceleration import settings
from kontext_core.acceleration.control import Control
from kontext_core.acceleration.forecast import alignment, rms
from kontext_core.acceleration.settings import Settings
from training.editor import stamp
from training.evaluate import psnr

STORE = Path(tempfile.gettempdir()) / "kontext-cases"
TOLERANCES = (0.012, 0.03, 0.08)
PLACES = (0.04, 0.15, 0.3, 0.5, 0.75)  # fractions of a run at which an error is inserted
DISPLACED = 0.005  # rms of that error
BELOW = 0.8  # fraction of the measured growths that the fitted one exceeds
ALLOWED = 5.0  # dB below the level that nine of ten cases may be
ACCELERATION = sorted(Path(settings.__file__).parent.glob("*.py"))
CALIBRATION = Path(settings.__file__).with_name("calibration.json")
COUNT, GROWN = 6, 2  # cases of each kind, and how many of them are used to measure growth


def stamped(store: Path, *deciding: Path) -> Path:
    """The folder within `store` for what the embedded model, the cases and these files determine."""
    return store / stamp(Path(benchmark_cases.__file__), *deciding)


def full_run(model: Model, case: Case, store: Path) -> dict[str, Any]:
    """All states (steps + 1, b, n, 64), velocities and pictures of the full run; read from `store` if present."""
    path = store / f"{case.kind} {case.number}.pt"
    if not path.exists():
        velocity, x, sigmas = model.velocity(case), model.noise(case), model.sigmas(case).tolist()
        states, velocities = [x], []
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            velocities.append(velocity(x, sigma))
            x = x + (following - sigma) * velocities[-1]
            states.append(x)
        whole = {
            "xs": torch.stack(states),
            "vs": torch.stack(velocities),
            "sigmas": sigmas,
            "picture": model.decode(case, x),
        }
        store.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        torch.save(whole, partial)
        partial.replace(path)
    return torch.load(path)


def controlled(model: Model, case: Case, control: Control) -> Tensor:
    """The final state of a run with `control`."""
    velocity, x, sigmas = model.velocity(case), model.noise(case), control.sigmas
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        x = x + (following - sigma) * control.step(step, x, lambda step, x: velocity(x, sigmas[step]))
    return x


def worst_psnr(model: Model, case: Case, x: Tensor, pictures: Tensor) -> float:
    """The worst PSNR in the batch, at most 99."""
    return min(min(psnr(a, b) for a, b in zip(model.decode(case, x), pictures, strict=True)), 99.0)


def measure_growth(model: Model, store: Path) -> Iterator[dict[str, Any]]:
    """How errors grow that are parallel to the change of the velocity."""
    for case in cases("calibration", GROWN):
        whole, velocity = full_run(model, case, store), model.velocity(case)
        sigmas, steps, undecided = whole["sigmas"], case.steps, -1.0
        for step in sorted({max(1, round(place * steps)) for place in PLACES}):
            change = whole["vs"][step] - whole["vs"][step - 1]
            slope = rms(change).max().item() / (sigmas[step - 1] - sigmas[step])
            estimate = whole["xs"][step] - sigmas[step] * whole["vs"][step]
            undecided = max(undecided, alignment(-change, estimate).max().item())
            x = whole["xs"][step] + DISPLACED * change / rms(change)[:, None, None]
            for later in range(step, steps):
                x = x + (sigmas[later + 1] - sigmas[later]) * velocity(x, sigmas[later])
            grown = rms(x - whole["xs"][-1]).max().item() / DISPLACED
            yield {
                "kind": case.kind,
                "number": case.number,
                "sigma": sigmas[step],
                "slope": slope,
                "undecided": undecided,
                "growth": grown,
            }


def measure_runs(model: Model, store: Path, done: set[str]) -> Iterator[dict[str, Any]]:
    """The results at each tolerance."""
    every = cases("calibration", COUNT)
    for case in sorted(every, key=lambda case: case.number):
        for tolerance in TOLERANCES:
            row = {"kind": case.kind, "number": case.number, "tolerance": tolerance}
            if json.dumps(row) in done:
                continue
            whole = full_run(model, case, store)
            control = Control(Settings(fidelity=settings.FIDELITIES["balanced"]), whole["sigmas"])
            control.tolerance = tolerance
            x = controlled(model, case, control)
            decibels = worst_psnr(model, case, x, whole["picture"])
            yield row | {"computed": control.computed, "error": control.error, "psnr": decibels}


def fit_growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The logarithm of growth over sigma, linear in the logarithm of the slope and in the cosine, as in `Control`.

    Not the mean but the value that `BELOW` of the rows stay below: a growth that is taken for too small costs more
    fidelity than one that is taken for too large costs steps. Quantile regression: Koenker and Bassett 1978.
    """
    sigma, undecided = (np.array([row[name] for row in rows]) for name in ("sigma", "undecided"))
    slope, growth = (np.log([max(row[name], 0.02) for row in rows]) for name in ("slope", "growth"))
    known = np.stack([sigma, sigma * slope, sigma * undecided], axis=1)
    each, unit = np.ones(len(rows)), np.eye(len(rows))
    found = linprog(  # growth = known @ coefficients + above - below, with the least weighted sum of both
        np.concatenate((np.zeros(3), BELOW * each, (1 - BELOW) * each)),
        A_eq=np.concatenate((known, unit, -unit), axis=1),
        b_eq=growth,
        bounds=[(None, None)] * 3 + [(0, None)] * 2 * len(rows),
    )
    scale, power, cosine = found.x[:3]
    fitted = {"scale": math.exp(scale), "slope": power, "undecided": cosine}
    return {name: round(float(value), 3) for name, value in fitted.items()}


def fit_decibels(rows: list[dict[str, Any]]) -> dict[str, float]:
    """A line of PSNR over the logarithm of the error, all kinds weighted equally, and the 90 % band around it."""
    chosen = [row for row in rows if row["error"] > 0 and row["psnr"] < 60]
    x, y = np.log10([row["error"] for row in chosen]), np.array([row["psnr"] for row in chosen])
    slope, at_one = np.polyfit(x, y, 1)
    low, high = np.quantile(y - at_one - slope * x, (0.05, 0.95))
    return {
        name: round(float(v), 2) for name, v in (("at_one", at_one), ("slope", slope), ("low", low), ("high", high))
    }


def fit_levels(rows: list[dict[str, Any]]) -> list[list[float]]:
    """What the worst kind reaches at each tolerance: its median, and what nine of ten cases reach within a few dB."""
    levels = []
    for tolerance in TOLERANCES:
        kinds = defaultdict(list)
        for row in rows:
            if row["tolerance"] == tolerance:
                kinds[row["kind"]].append(row["psnr"])
        every = [one for each in kinds.values() for one in each]
        kept = [*map(statistics.median, kinds.values()), float(np.quantile(every, 0.1)) + ALLOWED]
        levels.append([tolerance, round(min(kept), 1)])
    return levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=STORE, help="folder for results")
    parser.add_argument("--write", action="store_true", help="write the table that the pack reads")
    options = parser.parse_args()
    whole, store = stamped(options.store), stamped(options.store, *ACCELERATION)
    store.mkdir(parents=True, exist_ok=True)
    model = Model()
    with torch.inference_mode():
        growth_path, runs_path = store / "growth.json", store / "runs.jsonl"
        if not growth_path.exists():
            growth_path.write_text(json.dumps(list(measure_growth(model, whole))))
        growth = fit_growth(json.loads(growth_path.read_text()))
        settings.calibration()["growth"] = growth  # the runs use it
        runs_path.touch()
        runs = read_lines(runs_path)
        done = {json.dumps({name: row[name] for name in ("kind", "number", "tolerance")}) for row in runs}
        with runs_path.open("a") as file:
            for row in measure_runs(model, whole, done):
                print(json.dumps(row), file=file, flush=True)
                runs.append(row)
    fitted = {
        "growth": growth,
        "levels": fit_levels(runs),
        "decibels": fit_decibels(runs),
    }
    text = json.dumps(fitted, indent=1) + "\n"
    print(text)
    if options.write:
        CALIBRATION.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
