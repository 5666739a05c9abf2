"""Average a run's weights with the shipped ones, from which it started.

    python -m training.blend --run runs/free --fraction 0.7 --out runs/blended

Training on other data makes a model worse on the data before. On the line between the weights before and after, most of
both is kept (Wortsman et al. 2022, arXiv 2109.01903). The result is a run to evaluate and to export, not to continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from training.train import Student, load_shipped


def blended(before: dict[str, Tensor], after: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Each tensor of `after`, moved to `before` by 1 - fraction."""
    return {name: torch.lerp(before[name].float(), tensor.float(), fraction) for name, tensor in after.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--fraction", type=float, required=True, help="the run's part, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args()

    student = Student()
    load_shipped(student)
    checkpoint = torch.load(options.run / "checkpoint.pt")
    average = blended(student.state_dict(), checkpoint["average"], options.fraction)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({"average": average, "progress": checkpoint["progress"]}, options.out / "checkpoint.pt")


if __name__ == "__main__":
    main()
