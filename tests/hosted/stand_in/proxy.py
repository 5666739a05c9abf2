"""An HTTP proxy: it opens a tunnel to the stand-in for the providers' names, and records what a proxy can see."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Proxy:
    """`seen` holds the requests for tunnels, as received; `carried` all bytes that clients sent through them."""

    def __init__(self, hosts: tuple[str, ...]):
        self.hosts = hosts
        self.port = 0
        self.target = 0  # the stand-in's port
        self.seen: list[str] = []
        self.carried = bytearray()
        self.refuses = False

    async def start(self, target: int) -> None:
        self.target = target
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.seen.append(head)
            host = head.split()[1].split(":")[0]
            if self.refuses or not head.startswith("CONNECT ") or host not in self.hosts:
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                await asyncio.gather(self._pipe(reader, back, record=True), self._pipe(there, writer, record=False))
        writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bool) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                if record:
                    self.carried += chunk
                writer.write(chunk)
                await writer.drain()
        with suppress(ConnectionError, OSError):
            writer.close()
