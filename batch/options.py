"""The command line of a batch, for manage.py and for `python -m batch`. The standard library only."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

DESCRIPTION = """Run a saved workflow over many pictures: one output file a row, exactly one, whatever is stopped.
Start the same command again to go on; only what is missing or changed is done."""

EXAMPLES = """examples:
  %(prog)s "Change the light of a photograph" --pictures photos --instruction "make it night" --out night
  %(prog)s my_workflow.json --manifest edits.jsonl --out edits --workers 2
  %(prog)s my_workflow.json --manifest edits.csv --out edits --seeds 4 --name "{name}_{category}_{seed}"
  %(prog)s my_workflow.json --manifest edits.csv --out edits --ray 10.0.0.1:6379 --workers 16

a manifest is a .jsonl file (one object a line) or a .csv file (a header, then one row a line):
  {"picture": "cat.png", "instruction": "make it night", "seed": 7}
  {"picture": "dog.png", "instruction": "put it into this room", "reference_2": "room.jpg", "name": "dog_at_home"}
columns: picture, reference_2 to reference_8 and mask (paths, relative to the manifest), instruction, negative, seed,
name (of the output), label.ANYTHING (only for the report's filter), and 'Node title.input' for any other input of the
graph, as in {"Kontext Sampler.steps": 20}. What a row leaves out stays as saved in the graph. More: batch/README.md.

in OUT: the pictures, report.html (open it in a browser), results.jsonl, failures.jsonl.
"""


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}; a whole number from 1 is needed")
    return int(text)


def dollars(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise argparse.ArgumentTypeError(f"it is {text!r}; an amount from 0 is needed, such as 2.50")
    return float(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options common to both ways to start a batch."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument(
        "graph", metavar="GRAPH", help="a workflow saved by the browser's Save or Export (API), or a template's name"
    )
    rows = parser.add_argument_group("rows").add_mutually_exclusive_group(required=True)
    rows.add_argument("--pictures", type=Path, metavar="FOLDER", help="edit every picture in a folder")
    rows.add_argument("--manifest", type=Path, metavar="FILE", help="a .jsonl or .csv file with one edit a row")
    parser.add_argument("--instruction", help="for rows without one of their own")
    parser.add_argument("--negative", help="for rows without one of their own")
    parser.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="files a row, of consecutive seeds (default: 1)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_running_options(parser)
    parser.add_argument(
        "--name", default="{name}_{seed}", metavar="TEMPLATE",
        help="names of the outputs, from {name}, {seed}, {row} and the manifest's columns; / makes folders "
        "(default: %(default)s; {name} is the picture's, without its ending)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("png", "webp", "jpeg"), default="png", help="png (default) carries the workflow too"
    )


def add_benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run KontextBench and measure what the edits did; the same command again goes on."
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the data set: it holds test/metadata.jsonl")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", help="embedded (default), files, or hosted:PROVIDER/MODEL, as in hosted:fal/pro")
    which.add_argument("--graph", help="a saved workflow or a template's name, in place of --model")
    parser.add_argument(
        "--faces", type=Path, metavar="FOLDER", help="measure identity with the models of AuraFace in this folder"
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with the pictures of another run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's numbers here too")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (default: output/kontextbench/GRAPH)"
    )
    add_running_options(parser)


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Options of execution."""
    parser.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a GPU, or one)")
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="run the workers as Ray actors: on this machine, or on the cluster at ADDRESS (pip install 'ray==2.60.0')",
    )  # fmt: skip
    parser.add_argument("--retry-failed", action="store_true", help="try again what failures.jsonl holds")
    parser.add_argument("--spend", type=dollars, metavar="LIMIT", help="US dollars that hosted nodes may cost")
    parser.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
