"""Server-sent events as a reader that is no browser sees them (WHATWG HTML, 9.2.6)."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: Any
    id: str = ""


def parse(text: str) -> list[Event]:
    """The events of a stream, without what is a comment or is not complete."""
    found = []
    *blocks, _ = text.split("\n\n")
    for block in blocks:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            fields[field] = value.removeprefix(" ")
        if "data" in fields:
            data = json.loads(fields["data"])
            found.append(Event(fields.get("event", "message"), data, fields.get("id", "")))
    return found


async def follow(edge: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[Event]:
    """Events as they come; ends when the stream does, however it does."""
    text = ""
    async with (
        httpx.AsyncClient(base_url=edge, timeout=httpx.Timeout(30.0)) as client,
        client.stream("GET", path, headers=headers) as reply,
    ):
        reply.raise_for_status()
        async for part in reply.aiter_text():
            *complete, text = (text + part).split("\n\n")
            for block in complete:
                for event in parse(block + "\n\n"):
                    yield event
