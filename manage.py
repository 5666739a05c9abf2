#!/usr/bin/env python3
"""The project's commands. Needs only Python: everything else is set up on the first run."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

if sys.version_info < (3, 11):  # noqa: UP036 - older ones do get here
    sys.exit("manage.py: Python 3.11 or newer is needed; this is Python " + sys.version.split()[0])

from batch import Failure
from batch.options import add_benchmark_options, add_options
from tools.provision import ensure_host, host_environment

RINGS = ("static", "core", "host", "browser")
HANDED_OVER = "KONTEXT_NODES_HANDED_OVER"
MODULES = {  # other commands are in tools.<command>
    "batch": "batch.command",
    "bench": "benchmarks.command",
    "kontextbench": "batch.kontextbench",
}


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def steps(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps; give at least 1")
    return int(text)


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed; give a whole number from 0 to 2^64 - 1")
    return int(text)


def instruction(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; say what to change, as in: make the background red")
    return text


def existing_file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def command_line() -> argparse.ArgumentParser:
    parser = Parser(prog="manage.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="edit a picture in a real ComfyUI and save before and after")
    demo.add_argument("--image", type=existing_file, help="your picture (default: a bundled one)")
    demo.add_argument("--instruction", type=instruction, help="what to change (default: the workflow's own)")
    demo.add_argument("--seed", type=seed, help="another number, another picture")
    demo.add_argument("--steps", type=steps, help="sampling steps (default: the workflow's own)")
    demo.add_argument("--output", type=Path, default=Path("output"), help="folder for the pictures")

    test = commands.add_parser("test", help="static checks and test rings; other arguments go to pytest")
    test.add_argument("rings", nargs="*", choices=[[], *RINGS], metavar="RING", help=", ".join(RINGS))

    serve = commands.add_parser("serve", help="ComfyUI with the pack; arguments after -- go to ComfyUI")
    serve.add_argument("--port", type=int, default=8188)
    serve.add_argument("--listen", action="store_true", help="for other machines too, not only this one")
    serve.add_argument("--no-browser", action="store_true", help="only say the address")

    commands.add_parser("exec", help="run a command in the same environment: exec -- CMD ...")

    bench = commands.add_parser("bench", help="measure the pack against ComfyUI's own nodes")
    bench.add_argument("name", nargs="?", help="one benchmark (default: all)")
    bench.add_argument("--quick", action="store_true", help="fewer repeats and small sizes")
    bench.add_argument("--json", type=Path, help="write the rows here too")
    bench.add_argument("--write", action="store_true", help="put the tables and the plot into benchmarks/RESULTS.md")

    add_options(commands.add_parser("batch", help="run a saved workflow over a folder of pictures or a manifest"))

    add_benchmark_options(commands.add_parser("kontextbench", help="run KontextBench and measure what the edits did"))

    weights = commands.add_parser("weights", help="write the embedded model as one file for UNETLoader")
    weights.add_argument("folder", type=Path)
    return parser


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(arguments for our own parser, arguments passed on to pytest, ComfyUI or a command)."""
    if arguments[:1] == ["test"]:
        end = 1 + len(list(takewhile(lambda word: word in (*RINGS, "-h", "--help"), arguments[1:])))
    else:
        end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + (arguments[end : end + 1] == ["--"]) :]


def replace_process(command: list[str], environment: dict[str, str]) -> None:
    """Continue as `command`. Windows has no exec that keeps the console, so there it runs as a child."""
    if os.name == "nt":
        sys.exit(subprocess.call(command, env=environment))
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}", code=127) from None


def main(arguments: list[str]) -> int:
    own, passed = split(arguments)
    options = command_line().parse_args(own)
    if passed and options.command not in ("test", "serve", "exec", "batch", "kontextbench"):
        raise Failure(f"{options.command} takes nothing after --", code=2)
    if options.command == "exec" and not passed:
        raise Failure("exec needs a command, as in: manage.py exec -- pytest tests/core", code=2)
    if os.environ.pop(HANDED_OVER, None) is None:
        host = ensure_host()
        environment = host_environment(host)
        if options.command == "exec":
            replace_process(passed, environment)
        environment[HANDED_OVER] = "1"
        replace_process([str(host.python), os.path.abspath(__file__), *arguments], environment)
    return importlib.import_module(MODULES.get(options.command, f"tools.{options.command}")).run(options, passed)


def stop_on(*names: str) -> None:
    """Treat these signals as Ctrl-C, so that cleanup runs. Signals that are ignored (nohup) stay ignored."""
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    stop_on("SIGTERM", "SIGHUP")
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        print(f"manage.py: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # disk full, no permission, missing path
        where = f"{error.filename}: " if error.filename else ""
        print(f"manage.py: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nmanage.py: stopped", file=sys.stderr)
        sys.exit(130)
