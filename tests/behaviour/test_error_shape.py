"""Every failure has one shape, whoever made it and however the caller asked.

REST: application/problem+json (RFC 9457). gRPC and gRPC-Web: google.rpc.Status with ErrorInfo. All
of them name a reason that a program can switch on and the trace that an operator can look up, and
none tells what the inside looks like.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from contract import loader
from contract.errors import Code
from contract.limits import DEFAULT_MAX_REQUEST_BYTES, MAX_HEADER_KB
from contract.method import Method
from icto.identity.v1 import identity_pb2
from icto.lab.v1 import lab_pb2
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from mesh.render import largest_body
from services.lab import service as lab_service
from tests.support.edge import HTTP_STATUS, PROBLEM, Edge, Outcome, Rest, Rpc, bearer, told_trace
from tests.support.installation import Installation, until
from tests.support.lab import JSON, LAB
from tests.support.tokens import Mint

CONTRACT: Final = loader.load("test")
IDENTITY: Final = "/icto.identity.v1.IdentityService"
FAIL, SLOW, LIMITED = f"{LAB}/Fail", f"{LAB}/Slow", f"{LAB}/Limited"
WHO, GRANT = f"{IDENTITY}/WhoAmI", f"{IDENTITY}/GrantRole"
TRACE_ID: Final = "[0-9a-f]{32}"

# What an outsider has no business reading: our parts, our places, our code.
INSIDE: Final = (
    ".sock", "/tmp/", "/work/", "envoy", "upstream", "jwt_authn", "rbac", "transcod",
    "direct_response",
    "Traceback", ".py", "asyncpg", "postgres", "soft limit", lab_service.LabBrokenError.__name__,
    lab_service._SECRET,
)  # fmt: skip

Condition = Callable[[Installation, Edge], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to fail, how to bring it about, and what the caller is told."""

    name: str
    code: Code
    reason: str
    rest: Rest | None = None
    rpc: Rpc | None = None
    status: int = 0
    """HTTP status, where it is not the one that the code stands for."""
    token: str = ""
    """Attribute of the Mint."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that REST answers with besides."""
    tries: int = 1
    """Calls until it fails."""
    under: Condition | None = None
    traced: bool = True
    """Whether Envoy has a trace for it: what is no HTTP request has none."""

    def __str__(self) -> str:
        return self.name


def ways(path: str, request: Message) -> dict[str, Any]:
    """The same request by REST, as its http rule says, and by gRPC."""
    method: Method = CONTRACT.method(path)
    (http,) = method.http
    fields: dict[str, Any] = json_format.MessageToDict(request)
    if http.body:
        rest = Rest(http.verb, _path(http.path), json.dumps(fields).encode(), JSON)
    else:
        query = str(httpx.QueryParams(fields))
        rest = Rest(http.verb, f"{_path(http.path)}?{query}" if query else http.path)
    return {"rest": rest, "rpc": Rpc(path, request.SerializeToString())}


def _path(template: str) -> str:
    return template.replace("{name=principals/*}", "principals/2vxsx-fae")


def failing(code: int, reason: str = "", message: str = "") -> dict[str, Any]:
    """A call that the lab ends as asked."""
    return ways(FAIL, lab_pb2.FailRequest(code=code, reason=reason, message=message))


def slow(seconds: float) -> dict[str, Any]:
    """A call that takes its time."""
    request = lab_pb2.SlowRequest()
    request.delay.FromMilliseconds(int(seconds * 1000))
    return ways(SLOW, request)


def padded(size: int) -> dict[str, Any]:
    """A large call."""
    return ways(FAIL, lab_pb2.FailRequest(padding=b"x" * size))


@contextlib.asynccontextmanager
async def full_breaker(mesh: Installation, edge: Edge) -> AsyncIterator[None]:
    """As many streams as the lab's breaker lets through."""
    del mesh
    lab = LabServiceStub(edge.channel)
    request = lab_pb2.StreamRequest(count=1)
    request.pause.FromSeconds(20)
    limit = CONTRACT.services["lab"].breaker.max_requests
    streams = [lab.Stream(request) for _ in range(2 * limit)]
    reading = [asyncio.ensure_future(stream.read()) for stream in streams]
    try:
        # One was turned away, so there is no room left.
        done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(task.exception(), grpc.aio.AioRpcError) for task in done)
        yield
    finally:
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def no_replica(mesh: Installation, edge: Edge) -> AsyncIterator[None]:
    """The lab's replicas hang, and the mesh has noticed."""
    del edge
    async with mesh.frozen("lab"):
        yield


def typed(code: Code) -> Failure:
    """A typed error of a service."""
    name = f"a service says {code.name}"
    return Failure(name, code, "LAB_SAYS_SO", **failing(int(code), "LAB_SAYS_SO", "As asked."))


TABLE: Final = (
    # No such thing.
    Failure(
        "unknown path", Code.UNIMPLEMENTED, "METHOD_NOT_FOUND", status=404,
        rest=Rest("GET", "/v1/nowhere"), rpc=Rpc(f"{LAB}/Nowhere"),
    ),
    Failure(
        "a gRPC path without gRPC", Code.UNIMPLEMENTED, "METHOD_NOT_FOUND", status=404,
        rest=Rest("POST", FAIL, b"{}", JSON),
    ),
    Failure(
        "wrong verb", Code.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", status=405,
        rest=Rest("DELETE", "/v1/lab:slow"), headers={"allow": "GET"},
    ),
    Failure(
        "wrong verb of two", Code.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", status=405,
        rest=Rest("PUT", "/v1/tokens", b"{}", JSON),
        headers={"allow": "GET, HEAD, POST, OPTIONS"},
    ),
    # A request that cannot be understood.
    Failure(
        "broken body", Code.INVALID_ARGUMENT, "MALFORMED_REQUEST",
        rest=Rest("POST", "/v1/lab:fail", b'{"code":', JSON), rpc=Rpc(FAIL, b"\xff\xff\xff"),
    ),
    Failure(
        "wrong type", Code.INVALID_ARGUMENT, "MALFORMED_REQUEST",
        rest=Rest("POST", "/v1/lab:fail", b'{"code":"five"}', JSON),
    ),
    Failure(
        "unknown query parameter", Code.INVALID_ARGUMENT, "MALFORMED_REQUEST",
        rest=Rest("GET", "/v1/lab:slow?nonsense=1"),
    ),
    Failure(
        "a field out of bounds", Code.INVALID_ARGUMENT, "INVALID_FIELD",
        **ways(FAIL, lab_pb2.FailRequest(code=17)),
    ),
    Failure(
        "bad path", Code.INVALID_ARGUMENT, "BAD_REQUEST", traced=False,
        rest=Rest("GET", "/v1/tokens%2Fx"),
    ),
    Failure(
        "headers too large", Code.RESOURCE_EXHAUSTED, "HEADERS_TOO_LARGE", status=431, traced=False,
        rest=Rest("GET", "/v1/system/status", headers={"x-large": "x" * MAX_HEADER_KB * 1024}),
    ),
    Failure(
        "too many headers", Code.RESOURCE_EXHAUSTED, "HEADERS_TOO_LARGE", status=431, traced=False,
        rest=Rest("GET", "/v1/system/status", headers={f"x-{i}": "x" for i in range(120)}),
    ),
    # Who is calling.
    Failure(
        "no token", Code.UNAUTHENTICATED, "TOKEN_MISSING",
        **ways(WHO, identity_pb2.WhoAmIRequest()),
    ),
    *(
        Failure(
            f"{kind} token", Code.UNAUTHENTICATED, reason, token=kind,
            headers={"www-authenticate": "Bearer"}, **ways(WHO, identity_pb2.WhoAmIRequest()),
        )
        for kind, reason in {
            "expired": "TOKEN_EXPIRED", "forged": "TOKEN_INVALID", "unsigned": "TOKEN_INVALID",
            "confused": "TOKEN_INVALID", "elsewhere": "TOKEN_INVALID", "foreign": "TOKEN_INVALID",
        }.items()
    ),
    Failure(
        "a bad token where none is needed", Code.UNAUTHENTICATED, "TOKEN_INVALID", token="forged",
        **failing(0),
    ),
    Failure(
        "forbidden", Code.PERMISSION_DENIED, "ACCESS_DENIED", token="anybody",
        **ways(GRANT, identity_pb2.GrantRoleRequest()),
    ),
    # Too much.
    Failure(
        "too large for the edge", Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", status=413,
        **padded(largest_body(CONTRACT)),
    ),
    Failure(
        "too large for the method", Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", status=413,
        **padded(DEFAULT_MAX_REQUEST_BYTES),
    ),
    Failure(
        "rate limited", Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", token="anybody", tries=100,
        headers={"retry-after": "1"}, **ways(LIMITED, lab_pb2.LimitedRequest()),
    ),
    # A service that cannot be had.
    Failure("timeout", Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", **slow(5.0)),
    Failure("breaker open", Code.UNAVAILABLE, "OVERLOADED", under=full_breaker, **failing(0)),
    Failure(
        "no healthy replica", Code.UNAVAILABLE, "SERVICE_UNAVAILABLE", under=no_replica,
        **failing(0),
    ),
    # What a service says.
    *(typed(code) for code in Code),
    Failure("an error of no known type", Code.INTERNAL, "INTERNAL", **failing(Code.NOT_FOUND)),
    Failure(
        "an owner nobody checked", Code.INTERNAL, "INTERNAL", token="anybody",
        **ways(f"{LAB}/ForgetOwner", lab_pb2.ForgetOwnerRequest()),
    ),
)  # fmt: skip


@pytest.mark.parametrize("failure", TABLE, ids=str)
async def test_a_failure_is_told_alike_by_every_transport(
    mesh: Installation, edge: Edge, mint: Mint, failure: Failure
) -> None:
    headers = bearer(getattr(mint, failure.token)) if failure.token else {}
    rest = failure.rest and replace(failure.rest, headers={**failure.rest.headers, **headers})
    rpc = failure.rpc and replace(failure.rpc, headers=headers)
    condition = failure.under(mesh, edge) if failure.under else contextlib.nullcontext()

    async with condition:
        for _ in range(failure.tries):
            told = await edge.all(rest, rpc)
            if all(outcome.reason for outcome in told.values()):
                break

    if rest:
        check_problem(told["REST"], failure)
    if rpc:
        check_status(told["gRPC"], failure)
        check_status(told["gRPC-Web"], failure)
    for outcome in told.values():
        check_inside_stays_inside(outcome)


def check_problem(outcome: Outcome, failure: Failure) -> None:
    """An answer of REST has the shape of RFC 9457."""
    status = failure.status or HTTP_STATUS[failure.code]
    assert outcome.refusal == (status, failure.reason), outcome
    assert outcome.headers["content-type"] == PROBLEM
    body = json.loads(outcome.body)
    title = HTTPStatus(status).phrase if status != 499 else "Client Closed Request"
    expected = {
        "type": f"https://icto.dev/errors/{failure.reason}",
        "title": title,
        "status": status,
        "domain": "icto",
        "trace_id": told_trace(outcome) if failure.traced else None,
    }
    assert {name: body[name] for name in expected} == expected
    assert body["detail"]
    for name, value in failure.headers.items():
        assert outcome.headers[name].startswith(value)
    check_trace(outcome, failure)


def check_status(outcome: Outcome, failure: Failure) -> None:
    """An answer of gRPC has a google.rpc.Status."""
    assert (outcome.code, outcome.reason) == (failure.code, failure.reason), outcome
    assert outcome.domain == "icto"
    assert outcome.message
    check_trace(outcome, failure)


def check_trace(outcome: Outcome, failure: Failure) -> None:
    """The trace that it tells is the one that it belongs to."""
    assert outcome.trace_id == told_trace(outcome)
    assert len(outcome.trace_id) == (32 if failure.traced else 0)


def check_inside_stays_inside(outcome: Outcome) -> None:
    """Nothing of ours is told."""
    found = [word for word in INSIDE if word.lower() in outcome.text.lower()]
    assert not found, outcome


@pytest.mark.parametrize(
    "message",
    [
        'He said "reason":"x" and "message":"y".',
        '{"code":5,"message":"z","details":[]}',
        "Ünï¢ode — 雪 🜲 \u2028 \u202e",
        "back\\slash, tab\t, line\nbreak, bell\x07, %41 %s %1 %%",
        "ü" * 4000,
    ],
    ids=["json inside", "an error inside", "unicode", "escapes", "long"],
)
async def test_a_message_reaches_every_caller_as_it_was_said(edge: Edge, message: str) -> None:
    told = await edge.all(**failing(Code.ABORTED, "AS_SAID", message))

    for outcome in told.values():
        assert outcome.reason == "AS_SAID"
        assert outcome.message
        # Only its length is bounded: a client takes 8 KiB of trailers.
        assert message.startswith(outcome.message)
        assert outcome.message == message or len(outcome.message.encode()) > 800
    assert len({outcome.message for outcome in told.values()}) == 1


async def test_a_stream_that_breaks_says_so_by_grpc(edge: Edge) -> None:
    request = lab_pb2.StreamRequest(count=2, code=Code.DATA_LOSS)
    told = await edge.all(None, Rpc(f"{LAB}/Stream", request.SerializeToString()))

    for outcome in told.values():
        assert (outcome.code, outcome.reason) == (Code.DATA_LOSS, "STREAM_ENDED")
        assert len(outcome.trace_id) == 32
        assert len(outcome.body) == 4, "both messages came before"


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(f"code={Code.DATA_LOSS:d}", "STREAM_ENDED"), ("broken=true", "INTERNAL")],
)
async def test_a_stream_that_breaks_says_so_by_an_event(
    edge: Edge, ending: str, reason: str
) -> None:
    """A browser takes a connection that closes for the end: an error is an event of its own."""
    outcome = await edge.rest(Rest("GET", f"/v1/lab:streamEvents?count=2&{ending}"))

    assert outcome.status == 200
    assert outcome.headers["content-type"] == "text/event-stream"
    *events, last = outcome.body.decode().strip().split("\n\n")
    assert [event.splitlines()[0] for event in events] == ["retry: 1000", "id: 1", "id: 2"]
    name, data = last.split("\n")
    assert name == "event: error"
    problem = json.loads(data.removeprefix("data: "))
    (info,) = problem["details"]
    assert info["reason"] == reason
    assert info["metadata"]["trace_id"] == told_trace(outcome)
    check_inside_stays_inside(outcome)


async def test_a_stream_that_ends_says_so_by_an_event(edge: Edge) -> None:
    outcome = await edge.rest(Rest("GET", "/v1/lab:streamEvents?count=1"))

    assert outcome.body.decode().endswith("event: end\ndata: {}\n\n")


async def test_grpc_callers_with_huge_metadata_are_cut_off_without_a_word(edge: Edge) -> None:
    """HTTP/2 resets such a stream: there is no answer that could have a shape."""
    outcome = await edge.grpc(Rpc(FAIL, headers={"x-large": "x" * MAX_HEADER_KB * 1024}))

    assert outcome.code is Code.INTERNAL
    check_inside_stays_inside(outcome)


async def test_headers_that_the_edge_lets_in_reach_the_service(edge: Edge) -> None:
    """A replica that refuses what the edge let in would answer in gRPC's own words."""
    large = {"x-large": "x" * (MAX_HEADER_KB - 2) * 1024} | {f"x-{i}": "x" for i in range(40)}
    ok = failing(0)
    told = await edge.all(
        replace(ok["rest"], headers={**JSON, **large}), replace(ok["rpc"], headers=large)
    )

    assert {outcome.status for outcome in told.values()} == {200}


async def test_a_rest_success_has_nothing_of_grpc_in_it(edge: Edge) -> None:
    for rest in (failing(0)["rest"], Rest("GET", "/v1/lab:streamEvents?count=1")):
        outcome = await edge.rest(rest)
        assert outcome.status == 200
        assert len(told_trace(outcome)) == 32
        assert not [name for name in outcome.headers if name.startswith(("grpc-", "x-envoy-"))]


async def test_what_callers_do_wrong_is_not_logged_as_our_failure(
    mesh: Installation, edge: Edge
) -> None:
    """Whoever sends nonsense must not fill the log that operators read."""
    log = mesh.run.logs / "envoy.log"
    by_caller = [
        *(await edge.all(Rest("GET", "/v1/nowhere"), Rpc(WHO))).values(),
        await edge.rest(Rest("POST", "/v1/lab:fail", b"{", JSON)),
        await edge.rest(Rest("DELETE", "/v1/lab:fail")),
        await edge.rest(padded(12 * DEFAULT_MAX_REQUEST_BYTES)["rest"]),
        *(await edge.all(**failing(0))).values(),
    ]
    by_us = (await edge.all(**failing(Code.INTERNAL, "OURS"))).values()

    async def logged() -> bool:
        text = log.read_text()
        return all(told_trace(outcome) in text for outcome in by_us)

    await until(logged)
    text = log.read_text()
    assert not [outcome for outcome in by_caller if told_trace(outcome) in text]
