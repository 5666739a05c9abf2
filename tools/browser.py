"""A real, headless Chromium, driven over its DevTools protocol: no driver program and no further package.

Protocol: https://chromedevtools.github.io/devtools-protocol/ (domains Page, Runtime, Log, Input).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp

from batch.scratch import scratch_folder

from . import Failure, children

T = TypeVar("T")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root, where Chromium refuses its sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)

# The middle of an element if a click there reaches it.
MIDDLE = """(async () => {
    const element = %s;
    element.scrollIntoView({block: "nearest"});
    await new Promise((done) => setTimeout(done, 200));
    const box = element.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    return element.contains(document.elementFromPoint(x, y)) && [x, y];
})()"""


class Message(NamedTuple):
    """An error or a warning on the page's console, or an uncaught exception."""

    level: str  # "error" or "warning"
    text: str
    url: str  # its script or resource, "" if unknown


def find_browser() -> str | None:
    """The path of a Chromium, Chrome or Edge on PATH."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """A browser with one page and a profile of its own; a context manager. Calls block."""

    def __init__(self, width: int = 1600, height: int = 1000, language: str = "en"):
        program = find_browser()
        if program is None:
            raise Failure("no Chromium on PATH: install chromium (Debian), or Google Chrome")
        self.messages: list[Message] = []
        self._scratch = ExitStack()
        self._profile = self._scratch.enter_context(scratch_folder())
        options = [
            f"--user-data-dir={self._profile}",
            f"--window-size={width},{height}",
            f"--lang={language}",
        ]
        self._process = children.start(
            [program, *FLAGS, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        try:
            self._session, self._socket = self._wait(self._connect())
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._session.close())
        self._stop()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol; returns its result. Raises Failure."""
        return self._wait(self._call(method, parameters))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression, awaited if it is a promise. Raises Failure if it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Failure(f"the page threw: {_description(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Wait for a truthy value of an expression; exceptions count as falsy. Raises Failure after `seconds`."""
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                if last := self.evaluate(expression):
                    return last
            except Failure as failure:
                last = failure
            time.sleep(0.1)
        raise Failure(f"after {seconds:.0f} s the page still gave {last!r} for {expression}")

    def wait_for_workflow(self, seconds: float) -> None:
        """Wait until ComfyUI's page has opened a workflow, which may be the last one and empty. Raises Failure."""
        self.wait_for("!!window.app?.extensionManager?.workflow?.activeWorkflow", seconds)

    def click(self, element: str) -> None:
        """A real click on the middle of the element that a JavaScript expression returns.

        Waits until the element exists, is at rest and is not covered. Raises Failure.
        """
        x, y = self.wait_for(MIDDLE % element)
        while (x, y) != (position := tuple(self.wait_for(MIDDLE % element))):
            x, y = position
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _stop(self) -> None:
        children.stop(self._process)
        self._loop.close()
        self._scratch.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _connect(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse[bool]]:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        try:
            async with session.get(f"http://127.0.0.1:{await self._port()}/json/list") as answer:
                targets = json.loads(await answer.text())
            page = next(target for target in targets if target["type"] == "page")
            return session, await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        except BaseException:
            await session.close()
            raise

    async def _port(self, seconds: float = 60) -> str:
        """The port that Chromium chose; Chromium writes it into its profile when it listens."""
        file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + seconds
        while not (file.is_file() and file.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failure("Chromium did not start; run it by hand with --headless=new to see why")
            await asyncio.sleep(0.05)
        return file.read_text().splitlines()[0]

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive(timeout=600)
            if message.type != aiohttp.WSMsgType.TEXT:
                raise Failure("Chromium closed the connection")
            event = json.loads(message.data)
            if event.get("id") == number:
                if "error" in event:
                    raise Failure(f"{method}: {event['error']['message']}")
                return event["result"]
            if event.get("method") == "Page.javascriptDialogOpening":  # such as "leave without saving?"
                accept = {"method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                await self._socket.send_json({"id": next(self._numbers), **accept})
            self._note(event)

    def _note(self, event: dict[str, Any]) -> None:
        """Store errors and warnings of the page; ignore other events."""
        data = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.messages.append(Message("error", _description(details), details.get("url", "")))
        elif event.get("method") == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning"):
            text = " ".join(str(part.get("value", part.get("description", ""))) for part in data["args"])
            frames = data.get("stackTrace", {}).get("callFrames", [])
            self.messages.append(Message(data["type"], text, frames[0]["url"] if frames else ""))
        elif event.get("method") == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
            entry = data["entry"]
            self.messages.append(Message(entry["level"], entry["text"], entry.get("url", "")))


def _description(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]
