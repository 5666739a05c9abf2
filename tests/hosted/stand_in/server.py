"""The server: it records every request, simulates the requested faults, and counts accepted pictures."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.abc import AbstractResolver

from . import providers
from .pictures import PICTURE
from .proxy import Proxy

FOREIGN = "collector.example"
HOSTS = (*providers.HOSTS, FOREIGN)
OVERSIZED = 33 << 20


class Request(NamedTuple):
    host: str
    method: str
    path: str  # with the query
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return f"{self.method} {self.host}{self.path} {self.headers} {self.body!r}"


class Loopback(AbstractResolver):
    """Resolves the providers' names to the stand-in; no other name resolves."""

    def __init__(self, port: int):
        self.port = port

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        if host not in HOSTS:
            raise OSError(f"no such host: {host}")
        place = {"host": "127.0.0.1", "port": self.port, "family": socket.AF_INET, "proto": 0}
        return [{"hostname": host, "flags": socket.AI_NUMERICHOST, **place}]

    async def close(self) -> None:
        pass


class StandIn:
    """A context manager; the server runs in its own thread.

    faults    stage -> the faults of the next requests of that stage, in order; or a function that is called for each.
              Stages: "submit", "poll", "download".
    change    for the fault "changed": the place in the answer, and the value to put there
    pending   number of polls that are answered with "not yet"
    limit     active tasks above which "too many" is answered
    """

    def __init__(self, certificate: Any):
        self.certificate = certificate
        self.faults: dict[str, list[str] | Callable[[], str]] = {}
        self.change: tuple[tuple[Any, ...], Any] = ((), None)
        self.changes: dict[int, tuple[str, tuple[tuple[Any, ...], Any]]] = {}  # by seed: a stage and its change, always
        self.said: Callable[[Any, str], object] = lambda said, stage: None  # called with every answer and its stage
        self.last_accepted = 0  # a seed
        self.chance = random.Random(1)  # for the fault "shaken"
        self.proxy = Proxy(HOSTS)
        self.pending = 1
        self.limit = 1000
        self.picture = PICTURE
        self.requests: list[Request] = []
        self.refused: list[tuple[Request, web.Response]] = []  # requests that the provider would reject
        self.accepted: Counter[int] = Counter()  # by seed: what would be billed
        self.tasks: dict[str, providers.Task] = {}
        self.most_active = 0
        self.streamed = 0  # bytes of answers that are written in pieces
        self._ids = itertools.count(1)

    def __enter__(self) -> StandIn:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.proxy.server.close)
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def reset(self) -> None:
        self.faults, self.pending, self.limit, self.picture = {}, 1, 1000, PICTURE
        self.changes.clear()
        self.requests.clear()
        self.refused.clear()
        self.accepted.clear()
        self.tasks.clear()
        self.most_active = self.streamed = 0
        self.proxy.seen.clear()
        self.proxy.carried.clear()
        self.proxy.refuses = False

    @property
    def connections(self) -> int:
        """Sockets that are open now."""
        return len(self._runner.server.connections)

    def of(self, method: str, host: str = "") -> list[Request]:
        return [request for request in list(self.requests) if request.method == method and host in request.host]

    async def _start(self) -> int:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.2, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.certificate.serve)
        await site.start()
        port = self._runner.addresses[0][1]
        await self.proxy.start(port)
        return port

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        host = request.host.split(":")[0]
        self.requests.append(Request(host, request.method, request.path_qs, dict(request.headers), body))
        stage = providers.stage(host, request, body)
        if (refusal := providers.refusal(host, stage, request, body)) is not None:
            self.refused.append((self.requests[-1], refusal))
            return refusal
        fault = self._next_fault(stage) if stage in ("submit", "poll", "download", "upload") else ""
        before = await self._before(fault, request)
        if before is not None:
            return before
        if stage == "submit" and self._active() >= self.limit:
            return providers.error(host, 429)
        answer = providers.answer(self, host, stage, fault, request, body)
        return await self._after(fault, answer, request)

    def _next_fault(self, stage: str) -> str:
        faults = self.faults.get(stage, [])
        if callable(faults):
            return faults()
        return faults.pop(0) if faults else ""

    async def _before(self, fault: str, request: web.Request) -> web.StreamResponse | None:
        """Faults that happen before anything is accepted."""
        host = request.host.split(":")[0]
        if fault.isdigit():
            return providers.error(host, int(fault))
        if fault == "429 later":
            refusal = providers.error(host, 429)
            refusal.headers["Retry-After"] = "0"
            return refusal
        if fault == "429 much later":
            refusal = providers.error(host, 429)
            refusal.headers["Retry-After"] = "86400"
            return refusal
        if fault == "later clock":
            return web.Response(status=403, headers={"Date": "Fri, 01 Jan 2100 00:00:00 GMT"})
        if fault == "stall":
            await asyncio.sleep(30)
        if fault in ("die", "stall"):
            return self._hang_up(request)
        if fault == "redirect":
            raise web.HTTPTemporaryRedirect(f"https://{FOREIGN}{request.path_qs}")
        if fault == "redirect in the clear":
            raise web.HTTPFound(f"http://{FOREIGN}/picture.png")
        if fault == "redirect in circles":
            raise web.HTTPFound(request.path_qs)
        if fault.startswith("to "):
            return web.Response(status=302, headers={"Location": fault.removeprefix("to ")})
        return None

    async def _after(self, fault: str, answer: web.Response, request: web.Request) -> web.StreamResponse:
        """Faults of an answer in transit: by now a task may have been accepted."""
        if fault == "die after":
            return self._hang_up(request)
        if fault == "stall after":
            await asyncio.sleep(30)
        if fault == "500 after":
            return providers.error(request.host.split(":")[0], 500)
        if fault == "not json":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        if fault == "wrong type":
            return web.Response(body=answer.body, content_type="text/html")
        if fault == "not a picture":
            return web.Response(text="<html>Sign in</html>", content_type="image/png")
        if fault in ("truncated", "slow", "oversized"):
            return await self._stream(fault, answer, request)
        return answer

    async def _stream(self, fault: str, answer: web.Response, request: web.Request) -> web.StreamResponse:
        content = bytes(OVERSIZED) if fault == "oversized" else bytes(answer.body or b"")
        stream = web.StreamResponse(headers={"Content-Type": answer.content_type, "Content-Length": str(len(content))})
        await stream.prepare(request)
        with suppress(ConnectionError):
            for start in range(0, len(content), step := max(1, len(content) // 8)):
                if fault == "truncated" and start:
                    return self._hang_up(request)
                await stream.write(content[start : start + step])
                self.streamed += step
                await asyncio.sleep(0.01 if fault == "slow" else 0)
        return stream

    def _hang_up(self, request: web.Request) -> web.Response:
        if request.transport:
            request.transport.abort()
        return web.Response()

    def accept(self, seed: int, key: str = "") -> providers.Task:
        """The task is billed from here on."""
        self.accepted[seed] += 1
        self.last_accepted = seed
        task = providers.Task(f"task-{next(self._ids):04}", seed, self.pending, key=key)
        self.tasks[task.id] = task
        self.most_active = max(self.most_active, self._active())
        return task

    def _active(self) -> int:
        return sum(not task.over for task in list(self.tasks.values()))
