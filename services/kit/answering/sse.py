"""Server-sent events: a watch as `text/event-stream`, for browsers.

Each event carries its id, so that a browser that lost the connection resumes after it. A quiet
stream beats, and every stream ends with `event: end` or `event: error`: a connection that just
closes looks like a clean end otherwise.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.message import Message

from contract import status, wire
from contract.errors import Code, Error, internal
from observability.tracing import trace_id
from services.kit.serving.call import Call

CONTENT_TYPE: Final = "text/event-stream"
_MARGIN_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


def nothing_more(call: Call) -> None:
    """Has a browser that knows every event already stay away: it comes back until it is told 204.

    The handler then ends without an event.
    """
    call.headers.append((wire.HEADER_HTTP_STATUS, "204"))


async def encode(
    events: AsyncIterator[tuple[str, str, Message]], call: Call, heartbeat: float, after: str = ""
) -> AsyncIterator[HttpBody]:
    """Events (id, name, data) as chunks of an event stream; a beat when there was none for a while.

    `heartbeat` is `Settings.heartbeat_seconds`; `after` is the id of the event before the first, so
    that a browser that is told nothing but the end does not come back as if it knew nothing.
    """
    known = f"id: {after}\n" if after else ""
    # Said at once, so that headers leave before the first event.
    yield _chunk(f"retry: 1000\n{known}\n")
    try:
        async with contextlib.aclosing(_with_heartbeat(events, heartbeat, call)) as beating:
            async for event in beating:
                yield _chunk(": heartbeat\n\n" if event is None else _event(*event))
    except Error as error:
        yield _error(error, call)
    except Exception:
        # Whatever it was, the reader must not take it for the end. It tells nothing else.
        log.exception("%s failed", call.method.full_name)
        yield _error(internal(), call)
    else:
        yield _chunk("event: end\ndata: {}\n\n")


def _error(error: Error, call: Call) -> HttpBody:
    return _chunk(_event("", "error", status.to_status(error, trace_id(call.span))))


async def _with_heartbeat(
    events: AsyncIterator[tuple[str, str, Message]], seconds: float, call: Call
) -> AsyncGenerator[tuple[str, str, Message] | None]:
    """The events, and None whenever there was none for a while.

    Raises:
        Error: DEADLINE_EXCEEDED, shortly before the stream would be cut at its longest life.
    """
    # Some way before the deadline, or there would be no time left to tell.
    margin = min(_MARGIN_SECONDS, call.remaining / 4)
    pending: asyncio.Future[tuple[str, str, Message]] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            left = call.remaining - margin
            done, _ = await asyncio.wait([pending], timeout=max(0.0, min(seconds, left)))
            if not done and left <= seconds:
                raise _too_long()
            if not done:
                yield None
                continue
            try:
                yield pending.result()
            except StopAsyncIteration:
                return
            pending = None
    finally:
        if pending is not None:
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Error):
                await pending


def _too_long() -> Error:
    return Error(
        Code.DEADLINE_EXCEEDED,
        "STREAM_TOO_LONG",
        "The stream is as old as it may be; go on after the last event.",
    )


def _event(identifier: str, name: str, data: Message) -> str:
    text = json_format.MessageToJson(data, indent=None)
    head = f"id: {identifier}\n" if identifier else ""
    return f"{head}event: {name}\ndata: {text}\n\n"


def _chunk(text: str) -> HttpBody:
    return HttpBody(content_type=CONTENT_TYPE, data=text.encode())
