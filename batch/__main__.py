"""`python -m batch GRAPH ...` in the pack's folder, with the Python that runs ComfyUI."""

from __future__ import annotations

import argparse
import sys

from .command import reported, run
from .options import add_options


def main(arguments: list[str]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m batch")
    add_options(parser)
    return run(parser.parse_args(arguments[:end]), arguments[end + 1 :])


if __name__ == "__main__":
    sys.exit(reported(main, "batch"))
