"""A plain HTTP client for many requests: one keep-alive connection, one request at a time."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """`async with Client(port) as client: answer = await client.post("/predict", body)`."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        self.send("POST", path, body, **headers)
        return await self.read()

    async def get(self, path: str) -> Answer:
        self.send("GET", path, b"")
        return await self.read()

    def send(self, method: str, path: str, body: bytes, **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def read(self) -> Answer:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        return Answer(int(first[9:12]), headers, await self._reader.readexactly(int(headers[b"content-length"])))

    def leave(self) -> None:
        """At once, whatever is on its way."""
        self._writer.transport.abort()
