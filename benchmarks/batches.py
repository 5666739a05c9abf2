"""Kills a batch again and again, and looks whether every file is there once, whole and right; and times its workers.

    python3 manage.py exec -- python -m benchmarks.batches kills FOLDER --rows 200 --kills 20 [--ray]
    python3 manage.py exec -- python -m benchmarks.batches times FOLDER --rows 8 [--ray]

kills: one worker makes all files undisturbed. Then drivers with two workers (with --ray every second one with two Ray
actors) make them in another folder, while SIGKILL ends workers, actors and drivers at random moments.
times: one worker, two workers and two Ray actors make the same files at 256 px in 28 steps, one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from batch import ROOT, commit
from batch.local import temporary_folder

MARK = "KONTEXT_NODES_TRIAL"  # of our own processes' environment: no other is killed
SESSION = 4  # kills of one driver's time, the last of which is its own


def write_rows(folder: Path, count: int, side: int, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        pixels = np.random.default_rng(number).random((side, side, 3))
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"p{number:04}.png")
        lines.append({"picture": f"p{number:04}.png", "KontextSampler.steps": steps})
    (folder / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def start(folder: Path, out: str, *more: str, mark: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "batch", "A first edit", "--manifest", str(folder / "edits.jsonl")]
    command += ["--out", str(folder / out), *more, "--", "--base-directory", str(folder / "comfyui")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: mark}
    with (folder / "drivers.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def workers_of(mark: str) -> Iterator[psutil.Process]:
    """Our worker processes and Ray actors that have been asked to edit something, or are starting."""
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if ("spawn_main" in line or line.startswith("ray::Actor")) and process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:
            continue


class Witness:
    """Sees each file by its inode, which a second commit would change."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seen: dict[str, int] = {}
        self.twice: set[str] = set()

    def look(self) -> int:
        """How many files there are."""
        there = {entry.name: entry.inode() for entry in os.scandir(self.folder) if entry.name.endswith(".png")}
        self.twice |= {name for name, inode in there.items() if self.seen.get(name, inode) != inode}
        self.seen |= there
        return len(there)


def kills(folder: Path, rows: int, count: int, ray: bool, seed: int) -> dict[str, Any]:
    """What became of the files, and how often what was killed."""
    chance, mark = random.Random(seed), uuid.uuid4().hex
    write_rows(folder, rows, side=64, steps=2)
    if start(folder, "undisturbed", "--workers", "1").wait():
        raise SystemExit((folder / "drivers.log").read_text())
    out, killed = folder / "disturbed", Counter()
    out.mkdir(exist_ok=True)
    witness, session = Witness(out), 0
    while sum(killed.values()) < count:
        with_ray = ray and session % 2 == 1
        more = ["--ray"] if with_ray else []
        driver = start(folder, "disturbed", "--workers", "2", *more, mark=mark)
        for left in range(SESSION - 1, -1, -1):
            wanted = witness.look() + chance.randint(1, max(1, 2 * rows // (count + 2) - 2))
            while witness.look() < min(wanted, rows) and driver.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.random() / 3)
            if driver.poll() is not None or sum(killed.values()) == count:
                break
            victims = list(workers_of(mark)) if left else []
            if victims:
                chance.choice(victims).kill()
                killed["Ray actor" if with_ray else "worker"] += 1
            else:
                driver.kill()
                killed["driver of Ray actors" if with_ray else "driver of workers"] += 1
            print(f"{witness.look()} files, {sum(killed.values())} killed", flush=True)
        session += 1
        driver.kill()
        driver.wait()
        if witness.look() == rows:
            break
    code = start(folder, "disturbed", "--workers", "1").wait()
    witness.look()
    undisturbed, disturbed = whole(folder / "undisturbed"), whole(out)
    return {
        "rows": rows,
        "killed": dict(killed),
        "last run": f"code {code}",
        "whole files": len(disturbed),
        "equal to the undisturbed run": sum(undisturbed[name] == disturbed.get(name) for name in undisturbed),
        "made again after the commit": len(witness.twice),
        "temporary files": len([path for path in out.iterdir() if commit.TEMPORARY.fullmatch(path.name)])
        + temporary_folder(out.resolve()).exists(),
    }


def processor_seconds() -> float:
    """Of all our children that have ended: where other work runs, the only measure of what two workers cost."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def times(folder: Path, rows: int, ray: bool) -> list[dict[str, Any]]:
    """A line for one worker, for two and for two Ray actors: rows a second, processor time, time outside the graph."""
    write_rows(folder, rows, side=256, steps=28)
    ways: dict[str, Sequence[str]] = {"one worker": ("--workers", "1"), "two workers": ("--workers", "2")}
    if ray:
        ways["two Ray actors"] = ("--ray", "--workers", "2")
    found, first = [], {}
    for number, (way, more) in enumerate(ways.items()):
        began, used = time.perf_counter(), processor_seconds()
        if start(folder, f"way {number}", *more).wait():
            raise SystemExit((folder / "drivers.log").read_text())
        seconds = time.perf_counter() - began
        lines = commit.read_lines(folder / f"way {number}" / "results.jsonl")
        inside = sorted(line["seconds"] for line in lines)
        files = whole(folder / f"way {number}")
        first = first or files
        found.append(
            {
                "way": way,
                "seconds in all": round(seconds, 1),
                "processor seconds in all": round(processor_seconds() - used, 1),  # not those of Ray's processes
                "seconds a row (median)": round(inside[len(inside) // 2], 2),
                "outside the graph": round(sum(line["outside"] for line in lines) / sum(inside), 4),
                "equal files": sum(files[name] == content for name, content in first.items()),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "times"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.what == "kills":
        print(json.dumps(kills(options.folder, options.rows, options.kills, options.ray, options.seed), indent=1))
    else:
        times(options.folder, options.rows, options.ray)
