"""A ComfyUI process with the pack in it: for the demo, the tests that need a server, and the browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from batch.comfyui import CPU, FOLDERS, comfyui_folder

from . import ROOT, Failure, children

PACK = "kontext-nodes"  # the folder's name inside custom_nodes, regardless of the clone's name


def lay_out(base_directory: Path) -> None:
    """Make a ComfyUI base directory: this pack as a link in custom_nodes, and the picture that graphs may name.

    A pack that is installed there already, as from an archive, stays.
    """
    for name in FOLDERS:
        (base_directory / name).mkdir(parents=True, exist_ok=True)
    picture = comfyui_folder() / "input" / "example.png"  # ComfyUI's own, unless it was deleted
    if picture.is_file():
        shutil.copy(picture, base_directory / "input")
    link = base_directory / "custom_nodes" / PACK
    if link.exists() and link.resolve() in (ROOT, link.parent.resolve() / PACK):
        return
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        junction = ["cmd", "/c", "mklink", "/J", str(link), str(ROOT)]  # unlike a symlink, needs no rights
        subprocess.run(junction, check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(base_directory: Path, port: int, arguments: Sequence[str]) -> list[str]:
    """The command line of a ComfyUI that loads only our custom nodes and keeps its data in a folder."""
    own = ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK]
    own += ["--base-directory", str(base_directory), "--database-url", "sqlite:///:memory:"]
    return [sys.executable, str(comfyui_folder() / "main.py"), "--port", str(port), *own, *arguments]


class Server:
    """A running ComfyUI that ends with this process; a context manager that stops it. Raises Failure when it does not
    answer.

    Its output goes to base_directory/server.log, or with `foreground` to this process's output.
    """

    def __init__(
        self, base_directory: Path, port: int = 0, arguments: Sequence[str] = CPU, *, foreground: bool = False
    ):
        lay_out(base_directory)
        self.base_directory = base_directory
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = None if foreground else base_directory / "server.log"
        with self.log.open("wb") if self.log else nullcontext() as output:
            self.process = children.start(
                command(base_directory, self.port, arguments),
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        children.stop(self.process)

    def ask(self, path: str, body: object, method: str = "POST", **headers: str) -> bytes:
        """The answer to a request with a JSON body. Raises Failure with what the server says when it refuses."""
        headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise Failure(f"{method} {path} is answered with {error.code}: {said}") from error

    def last_lines(self, count: int = 15) -> str:
        """The end of the log; empty for a server in the foreground."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log else ""
        return "\n".join(text.splitlines()[-count:])

    def _wait_until_it_answers(self, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not self._answers():
            if self.process.poll() is not None:
                raise Failure(f"ComfyUI ended with code {self.process.returncode}:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise Failure(f"ComfyUI did not answer within {seconds:.0f} s:\n{self.last_lines()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
