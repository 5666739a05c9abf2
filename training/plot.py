"""Draw a run's loss against samples and hours.

python -m training.plot --log runs/1/log.jsonl --out training/curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    rows = [json.loads(line) for line in options.log.read_text("utf-8").splitlines()]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
    for panel, label, value in (
        (panels[0], "thousand samples", lambda row: row["samples"] / 1000),
        (panels[1], "hours", lambda row: row["seconds"] / 3600),
    ):
        for side in sorted({row["side"] for row in rows}):
            part = [row for row in rows if row["side"] == side]
            panel.plot([value(row) for row in part], [row["loss"] for row in part], ".-", label=f"{side} px")
        panel.set(xlabel=label, yscale="log")
        panel.grid(True, which="both", alpha=0.3)
    panels[0].set_ylabel("weighted velocity loss, one reference")
    panels[0].legend()
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
