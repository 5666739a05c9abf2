"""A client for a running ComfyUI, like its frontend: HTTP and one websocket, behind plain blocking calls."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp

from batch.events import Event, ExecutionFailed, Interrupted, PromptRefused, binary_event, json_event

from . import Failure

T = TypeVar("T")
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


class Client:
    """A connection to the server at `url`, with a client id of its own; a context manager."""

    def __init__(self, url: str):
        self.url = url
        self.id = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._session, self._socket = self._wait(self._connect())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wait(self._session.close())
        self._loop.close()

    def post(self, prompt: dict[str, Any]) -> str:
        """Queue a graph in API format; returns its prompt id. Raises PromptRefused."""
        status, body = self._wait(self._request("POST", "/prompt", json={"prompt": prompt, "client_id": self.id}))
        answer = json.loads(body)
        if status != 200:
            raise PromptRefused(answer)
        return answer["prompt_id"]

    def events(self, prompt_id: str, timeout: float = 600) -> Iterator[Event]:
        """The server's events for one prompt, up to its end; Failure after `timeout` s without an event."""
        while True:
            event = self._wait(self._receive(timeout))
            if event.data.get("prompt_id", prompt_id) != prompt_id:
                continue
            yield event
            if event.type in ENDINGS:
                return

    def run(self, prompt: dict[str, Any], on_event: Callable[[Event], object] | None = None) -> dict[str, Any]:
        """Run a graph; returns the outputs that its nodes show: node id -> {"images": [...], "text": [...], ...}.

        Raises PromptRefused, ExecutionFailed or Interrupted.
        """
        outputs: dict[str, Any] = {}
        for event in self.events(self.post(prompt)):
            if on_event:
                on_event(event)
            if event.type == "executed":
                outputs[event.data["node"]] = event.data["output"]
            elif event.type == "execution_error":
                raise ExecutionFailed(event.data)
            elif event.type == "execution_interrupted":
                raise Interrupted(f"stopped in {event.data['node_type']} (node {event.data['node_id']})")
        return outputs

    def get(self, path: str, **query: str) -> Any:
        """The JSON response of an address."""
        return json.loads(self._ask("GET", path, params=query))

    def history(self, prompt_id: str) -> dict[str, Any]:
        return self.get(f"/history/{prompt_id}")[prompt_id]

    def object_info(self, node_type: str = "") -> dict[str, Any]:
        """Node type -> schema, for one type or for all."""
        return self.get(f"/object_info/{node_type}".rstrip("/"))

    def view(self, picture: dict[str, str]) -> bytes:
        """The bytes of a file named as in a node's output: {"filename", "subfolder", "type"}."""
        return self._ask("GET", "/view", params=picture)

    def upload(self, name: str, content: bytes) -> str:
        """Upload a picture into the server's input folder; returns the name for LoadImage."""
        form = aiohttp.FormData()
        form.add_field("image", content, filename=name)
        form.add_field("overwrite", "true")
        return json.loads(self._ask("POST", "/upload/image", data=form))["name"]

    def interrupt(self) -> None:
        self._ask("POST", "/interrupt")

    def free(self) -> None:
        """Have the server drop its models and caches before the next run."""
        self._ask("POST", "/free", json={"unload_models": True, "free_memory": True})

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():  # Ctrl-C stopped the loop, but not the task
                task.cancel()
                with suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)

    async def _connect(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse[bool]]:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))
        return session, await session.ws_connect(f"{self.url}/ws?clientId={self.id}", max_msg_size=0)

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        async with self._session.request(method, self.url + path, **options) as answer:
            return answer.status, await answer.read()

    def _ask(self, method: str, path: str, **options: Any) -> bytes:
        status, body = self._wait(self._request(method, path, **options))
        if status != 200:
            raise Failure(f"ComfyUI answered {status} to {method} {path}: {body[:300].decode(errors='replace')}")
        return body

    async def _receive(self, timeout: float) -> Event:
        while True:
            try:
                message = await self._socket.receive(timeout)
            except TimeoutError:
                raise Failure(f"ComfyUI sent nothing for {timeout:.0f} s") from None
            if message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                return json_event(event["type"], event["data"])
            if message.type != aiohttp.WSMsgType.BINARY:
                raise Failure("ComfyUI closed the connection; has it ended?")
            if event := binary_event(message.data):
                return event
