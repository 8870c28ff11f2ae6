"""A plain HTTP client for many requests: one keep-alive connection, one request at a time."""

from __future__ import annotations

import asyncio

from tests.app.wire import Answer, head, read_head


class Client:
    """`async with Client(port) as client: answer = await client.post("/predict", body)`."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        self.send("POST", path, body, **headers)
        return await self.read()

    async def get(self, path: str) -> Answer:
        self.send("GET", path, b"")
        return await self.read()

    def send(self, method: str, path: str, body: bytes, **headers: str) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write(head(path, *lines, length=len(body), method=method) + body)

    async def read(self) -> Answer:
        status, headers = read_head((await self._reader.readuntil(b"\r\n\r\n"))[:-4])
        return Answer(status, headers, await self._reader.readexactly(int(headers["content-length"])))

    def leave(self) -> None:
        """At once, whatever is on its way."""
        self._writer.transport.abort()
