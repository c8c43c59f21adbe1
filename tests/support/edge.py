"""The edge as its callers see it: one way to ask and one outcome for REST, gRPC and gRPC-Web."""

import asyncio
import base64
import contextlib
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import unquote

import grpc
import httpx
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from contract import wire
from contract.errors import Code
from contract.method import Http, Kind, Method
from contract.status import DETAILS_TRAILER
from mesh.cli.call import message_class

PROBLEM: Final = "application/problem+json"
WEB: Final = "application/grpc-web+proto"
HTTP_STATUS: Final = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""What google/rpc/code.proto says that a gRPC code is in HTTP."""

_SECONDS: Final = 15.0
_JSON: Final = {"content-type": "application/json"}
_TRAILERS: Final = 0x80
_VARIABLE: Final = re.compile(r"\{([^=}]+)(?:=([^}]*))?\}")
# An address of nobody else's, so that what comes from it is counted by itself.
_LOOPBACK: Final = "127.0.0.1"

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rest:
    """A request as REST makes it."""

    verb: str
    path: str
    body: bytes = b""
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rpc:
    """A request as gRPC and gRPC-Web make it."""

    path: str
    body: bytes = b""
    headers: Headers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        status: HTTP status; over gRPC the one that its code stands for.
        code: gRPC status code, None for OK, and over REST.
        reason: ErrorInfo.reason, empty for a success.
        message: what a person is told.
        domain: ErrorInfo.domain.
        trace_id: as the error tells it.
        headers: headers and trailers, names in lower case.
        body: the body, or the messages, one after the other.
    """

    status: int
    code: Code | None = None
    reason: str = ""
    message: str = ""
    domain: str = ""
    trace_id: str = ""
    headers: Headers = field(default_factory=dict)
    body: bytes = b""

    @property
    def refusal(self) -> tuple[int, str]:
        """What every transport tells alike."""
        return self.status, self.reason

    @property
    def text(self) -> str:
        """All that the caller can read."""
        told = (f"{name}: {value}" for name, value in self.headers.items())
        return "\n".join((*told, self.message, self.body.decode(errors="replace")))


class Edge:
    """A caller of one edge."""

    def __init__(self, target: str, *, local_address: str = _LOOPBACK) -> None:
        self.target = target
        transport = httpx.AsyncHTTPTransport(local_address=local_address)
        self.http = httpx.AsyncClient(
            base_url=f"http://{target}", timeout=_SECONDS, transport=transport
        )
        # It is whoever it says it is: a cookie that somebody else was given would make it more.
        self.http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.channel = grpc.aio.insecure_channel(target)

    async def close(self) -> None:
        await self.http.aclose()
        await self.channel.close()

    async def rest(self, request: Rest, *, follow: bool = True) -> Outcome:
        """Calls by REST. Without `follow` a stream is left after its first part.

        A body is JSON unless the request says otherwise.
        """
        headers = {**(_JSON if request.body else {}), **request.headers}
        async with self.http.stream(
            request.verb, request.path, content=request.body, headers=headers
        ) as reply:
            body = await _read(reply, follow=follow or reply.is_error)
            headers = dict(reply.headers)
            if not reply.is_error or headers.get("content-type") != PROBLEM:
                return Outcome(reply.status_code, headers=headers, body=body)
            problem = httpx.Response(200, content=body).json() if body else {}
            return Outcome(
                status=reply.status_code,
                reason=problem.get("reason", ""),
                message=problem.get("detail", ""),
                domain=problem.get("domain", ""),
                trace_id=problem.get("trace_id") or "",
                headers=headers,
                body=body,
            )

    async def grpc(
        self, request: Rpc, *, follow: bool = True, timeout: float | None = None
    ) -> Outcome:
        """Calls by gRPC."""
        return await call_on(self.channel, request, follow=follow, timeout=timeout)

    async def web(self, request: Rpc, *, follow: bool = True, text: bool = False) -> Outcome:
        """Calls by gRPC-Web, in its text form if asked for."""
        framed = struct.pack(">BI", 0, len(request.body)) + request.body
        content = {"content-type": WEB.replace("web", "web-text") if text else WEB}
        async with self.http.stream(
            "POST",
            request.path,
            content=base64.b64encode(framed) if text else framed,
            headers={**content, "x-grpc-web": "1", **request.headers},
        ) as reply:
            raw = await _read(reply, follow=follow)
            headers = dict(reply.headers)
        # A client takes nothing else than 200 for gRPC-Web.
        assert reply.status_code == 200, (reply.status_code, headers, raw)
        if not follow and raw:
            return Outcome(200, headers=headers, body=raw)
        body, trailers = _unframed(base64.b64decode(raw) if text else raw)
        headers |= trailers
        code = int(headers["grpc-status"])
        if code == 0:
            return Outcome(200, headers=headers, body=body)
        encoded = headers.get(DETAILS_TRAILER)
        details = Status.FromString(base64.b64decode(encoded + "==")) if encoded else None
        return _refused(Code(code), unquote(headers["grpc-message"]), headers, details, body)

    async def all(
        self,
        rest: Rest | None,
        rpc: Rpc | None,
        *,
        follow: bool = True,
        timeout: float | None = None,
        together: bool = True,
    ) -> dict[str, Outcome]:
        """The same call by every way that can make it. Outcomes by the name of the way."""
        asked = {} if timeout is None else {"grpc-timeout": f"{round(timeout * 1000)}m"}
        calls: dict[str, Awaitable[Outcome]] = {}
        if rest is not None:
            timed = replace(rest, headers={**rest.headers, **asked})
            calls["REST"] = self.rest(timed, follow=follow)
        if rpc is not None:
            timed_rpc = replace(rpc, headers={**rpc.headers, **asked})
            calls["gRPC"] = self.grpc(rpc, follow=follow, timeout=timeout)
            calls["gRPC-Web"] = self.web(timed_rpc, follow=follow)
        if together:
            return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))
        return {way: await call for way, call in calls.items()}


async def call_on(
    channel: grpc.aio.Channel, request: Rpc, *, follow: bool = True, timeout: float | None = None
) -> Outcome:
    """Calls by gRPC on a channel, for instance a replica's own socket."""
    call: Any = channel.unary_stream(request.path)
    running = call(
        request.body,
        timeout=timeout,
        metadata=tuple((name.lower(), value) for name, value in request.headers.items()),
    )
    body = b""
    try:
        async for message in running:
            body += message
            if not follow:
                running.cancel()
                return Outcome(200, body=body)
    except grpc.aio.AioRpcError as error:
        metadata = (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ()))
        details = rpc_status.from_call(error)  # type: ignore[no-untyped-call]
        code = Code(error.code().value[0])
        return _refused(code, error.details() or "", _plain(metadata), details, body)
    metadata = (*await running.initial_metadata(), *await running.trailing_metadata())
    return Outcome(200, headers=_plain(metadata), body=body)


@contextlib.asynccontextmanager
async def caller(target: str, *, local_address: str = _LOOPBACK) -> AsyncIterator[Edge]:
    """A caller, closed at the end."""
    edge = Edge(target, local_address=local_address)
    try:
        yield edge
    finally:
        await edge.close()


async def _read(reply: httpx.Response, *, follow: bool) -> bytes:
    if follow:
        return await reply.aread()
    async for part in reply.aiter_raw():
        return part
    return b""


def _unframed(raw: bytes) -> tuple[bytes, dict[str, str]]:
    """Messages and trailers of a gRPC-Web body."""
    body, trailers = b"", dict[str, str]()
    while raw:
        flags, size = struct.unpack(">BI", raw[:5])
        part, raw = raw[5 : 5 + size], raw[5 + size :]
        if flags & _TRAILERS:
            lines = part.decode().strip().split("\r\n")
            trailers |= {
                name.lower(): value for name, _, value in (x.partition(":") for x in lines)
            }
        else:
            body += part
    return body, trailers


def _plain(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else base64.b64encode(value).decode()
        for name, value in metadata
    }


def _refused(
    code: Code, message: str, headers: Headers, details: Status | None, body: bytes
) -> Outcome:
    info = error_details_pb2.ErrorInfo()
    if details is not None:
        assert (details.code, details.message) == (int(code), message)
        for detail in details.details:
            detail.Unpack(info)
    return Outcome(
        status=HTTP_STATUS[code],
        code=code,
        reason=info.reason,
        message=message,
        domain=info.domain,
        trace_id=info.metadata.get("trace_id", ""),
        headers=headers,
        body=body,
    )


def told_trace(outcome: Outcome) -> str:
    """The trace id in the header that every answer has."""
    return outcome.headers.get(wire.HEADER_TRACE_ID, "")


@dataclass(frozen=True, slots=True)
class Sample:
    """The smallest request of a method, by each way that it has."""

    method: Method
    rest: Rest | None
    rpc: Rpc

    def signed(self, token: str) -> tuple[Rest | None, Rpc]:
        """The same request with a token; an empty one sends none."""
        headers = bearer(token)
        rest = self.rest and Rest(self.rest.verb, self.rest.path, self.rest.body, headers)
        return rest, Rpc(self.rpc.path, self.rpc.body, headers)

    @property
    def endless(self) -> bool:
        """Whether an answer need not end."""
        return self.method.kind is not Kind.UNARY


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"authorization": f"Bearer {token}"} if token else {}


def sample(method: Method) -> Sample:
    """The smallest request: empty, but for the fields that its REST path names."""
    if not method.http:
        return Sample(method, None, Rpc(method.path))
    message, http = message_class(method.request_type)(), method.http[0]
    rest = Rest(http.verb, _fill(message, http), b"{}" if http.body else b"")
    return Sample(method, rest, Rpc(method.path, message.SerializeToString()))


def _fill(message: Message, http: Http) -> str:
    """Sets the fields that a path names, and returns the path."""

    def filled(variable: re.Match[str]) -> str:
        name, pattern = variable.groups()
        value = (pattern or "*").replace("*", "x")
        target: Any = message
        *outer, last = name.split(".")
        for part in outer:
            target = getattr(target, part)
        setattr(target, last, value)
        return value

    return _VARIABLE.sub(filled, http.path)
