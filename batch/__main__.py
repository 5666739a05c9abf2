"""`python -m batch GRAPH ...` in the pack's folder, with the Python that runs ComfyUI."""

from __future__ import annotations

import argparse
import sys

from . import Failure
from .options import add_options


def main(arguments: list[str]) -> int:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m batch")
    add_options(parser)
    options = parser.parse_args(arguments[:end])
    from .command import run

    return run(options, arguments[end + 1 :])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        print(f"batch: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        print("\nbatch: stopped", file=sys.stderr)
        sys.exit(130)
