"""A REST caller that costs little, so that what is measured is not the caller."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

LOST: Final = 0
"""Status of a call whose connection broke before it was answered."""


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(
        self, verb: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{verb} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n{told}\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in answer[1:])
        }
        content = await self._reader.readexactly(int(fields.get("content-length", "0")))
        return int(answer[0].split()[1]), content

    def close(self) -> None:
        """Closes it."""
        if self._writer is not None:
            self._writer.close()


class RefusedError(Exception):
    """An answer that is none: its status and its text."""

    def __init__(self, path: str, status: int, text: str) -> None:
        super().__init__(f"{path}: {status} {text}")
        self.status = status


class Pool:
    """Connections to one edge, as many as are in use at the same time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def call(
        self, verb: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, bytes]:
        """Status and body of an answer.

        Raises:
            RefusedError: LOST, the connection broke.
        """
        connection = self._idle.pop() if self._idle else Connection(self._port)
        try:
            answer = await connection.call(verb, path, headers, body)
        except (OSError, EOFError) as error:
            connection.close()
            raise RefusedError(path, LOST, repr(error)) from None
        self._idle.append(connection)
        return answer

    async def post(self, path: str, token: str, body: Any) -> dict[str, Any]:
        """The body of an answer.

        Raises:
            RefusedError: it is a refusal.
        """
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        status, content = await self.call("POST", path, headers, json.dumps(body).encode())
        if status != 200:
            raise RefusedError(path, status, content.decode())
        answer: dict[str, Any] = json.loads(content)
        return answer

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._idle:
            connection.close()
