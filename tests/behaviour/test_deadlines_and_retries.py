"""Every call ends in time and is tried as often as its contract allows, over however many hops.

Deadlines: the contract's default, the caller's wish up to the contract's ceiling, and what is left
of it for the next hop. Retries: Envoy's alone, for what is safe to repeat, and not once more for a
failure that another hop has retried already.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter
from typing import Any, Final

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contract import loader, wire
from contract.errors import Code
from icto.lab.v1 import lab_pb2
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from observability import EXPORT_MILLISECONDS, names
from tests.conftest import NARROW_IDLE_SECONDS
from tests.support.edge import Edge, Outcome, Rest, Rpc, bearer
from tests.support.installation import Installation, until
from tests.support.lab import JSON, LAB, attempts
from tests.support.tokens import Mint

CONTRACT: Final = loader.load("test")
SLOW: Final = CONTRACT.method(f"{LAB}/Slow")
# Time that a call spends on its way before the service looks at the clock.
ON_THE_WAY: Final = 0.25


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMilliseconds(round(seconds * 1000))
    return made


async def slow_calls(
    edge: Edge, seconds: float, timeout: float | None, *, relay: bool = False
) -> dict[str, Outcome]:
    """A call that takes its time, with the caller's deadline, over each transport."""
    request = lab_pb2.SlowRequest(delay=duration(seconds), relay=relay)
    rest = Rest("GET", f"/v1/lab:slow?delay={seconds}s&relay={str(relay).lower()}")
    rpc = Rpc(SLOW.path, request.SerializeToString())
    # Two hops at a time are all that the lab's breaker has room for.
    return await edge.all(rest, rpc, timeout=timeout, together=not relay)


def answer(outcome: Outcome) -> lab_pb2.SlowResponse:
    """What the lab answered."""
    assert outcome.status == 200, outcome
    if outcome.body.startswith(b"{"):
        return json_format.Parse(outcome.body, lab_pb2.SlowResponse())
    return lab_pb2.SlowResponse.FromString(outcome.body)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (None, SLOW.deadline),
        (0.5, 0.5),
        (2.0, 2.0),
        (10.0, SLOW.deadline_ceiling),
    ],
    ids=["default", "less than the default", "more than the default", "more than the ceiling"],
)
async def test_a_service_sees_how_long_its_caller_waits(
    edge: Edge, asked: float | None, granted: float
) -> None:
    for outcome in (await slow_calls(edge, 0.001, asked)).values():
        # gRPC rounds up, by a hundredth at most.
        assert granted - ON_THE_WAY < answer(outcome).remaining_seconds <= granted * 1.01


@pytest.mark.parametrize("nonsense", ["junk", "", "-1S", "1", "99999999999S", "1S;2S"])
async def test_a_deadline_that_cannot_be_read_is_the_default(edge: Edge, nonsense: str) -> None:
    headers = {"grpc-timeout": nonsense}
    outcome = await edge.rest(Rest("GET", "/v1/lab:slow?delay=0.001s", headers=headers))

    assert outcome.status == 200
    assert 0 < json.loads(outcome.body)["remainingSeconds"] <= SLOW.deadline


@pytest.mark.parametrize(
    ("takes", "asked"),
    [(0.8, None), (2.2, 10.0)],
    ids=["the default", "the ceiling"],
)
async def test_a_call_may_use_its_whole_deadline(
    edge: Edge, takes: float, asked: float | None
) -> None:
    """Asking another replica, when one is slow to answer, must not give the first one up."""
    for outcome in (await slow_calls(edge, takes, asked)).values():
        assert answer(outcome).instance


@pytest.mark.parametrize(
    ("asked", "cut"),
    [(None, SLOW.deadline), (10.0, SLOW.deadline_ceiling)],
    ids=["the default", "the ceiling"],
)
async def test_a_call_is_cut_at_its_deadline(edge: Edge, asked: float | None, cut: float) -> None:
    started = time.monotonic()
    outcomes = await slow_calls(edge, 60.0, asked)
    took = time.monotonic() - started

    assert {outcome.status for outcome in outcomes.values()} == {504}
    assert cut - 0.05 < took < 3 * cut


async def test_the_next_hop_gets_less_than_what_is_left(edge: Edge) -> None:
    for outcome in (await slow_calls(edge, 0.001, 0.5, relay=True)).values():
        response = answer(outcome)
        assert 0 < response.next_remaining_seconds < response.remaining_seconds


async def test_a_deadline_holds_over_two_hops(edge: Edge) -> None:
    """The hop in the middle tells what happened, before its own caller gives up."""
    outcomes = await slow_calls(edge, 60.0, 0.8, relay=True)

    # A native client's own timer may be first; it then has nothing but the code to tell.
    assert {outcome.status for outcome in outcomes.values()} == {504}
    assert outcomes["REST"].reason == outcomes["gRPC-Web"].reason == "DEADLINE_EXCEEDED"


# What a caller itself gives up on.


async def watched(edge: Edge, kind: str, seconds: float, token: str) -> Code | None:
    """How a stream that has no end of its own ends at its caller's deadline."""
    chosen: dict[str, Any] = {
        "timeout": seconds,
        "metadata": tuple(bearer(token).items()),
    }
    if kind == "health":
        health: Any = health_pb2_grpc.HealthStub(edge.channel)  # type: ignore[no-untyped-call]
        call = health.Watch(health_pb2.HealthCheckRequest(), **chosen)
    elif kind == "reflection":
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(edge.channel)  # type: ignore[no-untyped-call]
        call = reflection.ServerReflectionInfo(**chosen)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    else:
        request = lab_pb2.StreamRequest(count=10_000, pause=duration(0.03))
        call = LabServiceStub(edge.channel).Stream(request, **chosen)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return Code(error.code().value[0])
    return None


@pytest.mark.parametrize(
    ("kind", "at_a_time", "rounds"),
    # The lab's breaker has room for no more.
    [("health", 30, 3), ("reflection", 30, 3), ("a service's own", 3, 8)],
)
async def test_a_stream_that_its_caller_gives_up_on_ends_as_that(
    edge: Edge, mint: Mint, kind: str, at_a_time: int, rounds: int
) -> None:
    """By whatever clock is first: the caller's, the replica's, the edge's. Raced many times."""
    found: Counter[Code | None] = Counter()
    for _ in range(rounds):
        patience = [0.30 + 0.15 * step / at_a_time for step in range(at_a_time)]
        found.update(
            await asyncio.gather(*(watched(edge, kind, each, mint.anybody) for each in patience))
        )
    assert found == {Code.DEADLINE_EXCEEDED: rounds * at_a_time}


async def test_a_page_is_told_by_grpc_web_that_its_stream_ran_out_of_time(edge: Edge) -> None:
    request = lab_pb2.StreamRequest(count=10_000, pause=duration(0.03))
    call = Rpc(f"{LAB}/Stream", request.SerializeToString(), {"grpc-timeout": "350m"})
    for _ in range(4):
        told = await asyncio.gather(*(edge.web(call) for _ in range(3)))
        assert {outcome.code for outcome in told} == {Code.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("nonsense", ["junk", "", "-1S", "1", "99999999999S", "1S;2S"])
async def test_a_streams_deadline_that_cannot_be_read_is_the_default(
    edge: Edge, nonsense: str
) -> None:
    request = lab_pb2.StreamRequest(count=2)
    call = Rpc(f"{LAB}/Stream", request.SerializeToString(), {"grpc-timeout": nonsense})
    assert (await edge.web(call)).status == 200
    events = Rest("GET", "/v1/lab:streamEvents?count=1", headers=call.headers)
    assert (await edge.rest(events)).status == 200


# Retries.


async def tries(mesh: Installation, edge: Edge, request: Message) -> dict[str, int]:
    """How often the lab was called for one call of ours, by transport."""
    name = type(request).__name__.removesuffix("Request")
    counted = {}
    for transport in ("REST", "gRPC"):
        request.key = key = secrets.token_hex(8)  # type: ignore[attr-defined]  # all have one
        if transport == "REST":
            body = json_format.MessageToJson(request).encode()
            await edge.rest(Rest("POST", f"/v1/lab:{name[0].lower()}{name[1:]}", body, JSON))
        else:
            await edge.grpc(Rpc(f"{LAB}/{name}", request.SerializeToString()))
        counted[transport] = await attempts(mesh, key)
    return counted


def allowed(mesh: Installation, method: str) -> int:
    """Attempts that a method's route allows on one hop."""
    (resource,) = json.loads(mesh.paths.resource("routes-edge").read_text())["resources"]
    (host,) = resource["virtual_hosts"]
    (route,) = [r["route"] for r in host["routes"] if r.get("name") == method.lstrip("/")]
    return 1 + int(route.get("retry_policy", {}).get("num_retries", 0))


async def test_a_safe_call_that_was_refused_goes_elsewhere(mesh: Installation, edge: Edge) -> None:
    """Drain and overload: the kit says that nothing was done."""
    request = lab_pb2.FailSafelyRequest(code=Code.UNAVAILABLE, reason="NO", retriable=True)
    most = allowed(mesh, f"{LAB}/FailSafely")

    assert most == 3
    assert set((await tries(mesh, edge, request)).values()) == {most}
    request.failures = 1
    assert set((await tries(mesh, edge, request)).values()) == {2}


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.CANCELLED])
async def test_what_a_service_says_is_not_asked_again(
    mesh: Installation, edge: Edge, code: Code
) -> None:
    """Bare UNAVAILABLE as well: whoever says it may have done the work."""
    request = lab_pb2.FailSafelyRequest(code=code, reason="NO")

    assert set((await tries(mesh, edge, request)).values()) == {1}


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED])
async def test_what_may_not_be_repeated_is_tried_once(
    mesh: Installation, edge: Edge, code: Code
) -> None:
    request = lab_pb2.FailRequest(code=code, reason="NO", retriable=True)

    assert set((await tries(mesh, edge, request)).values()) == {1}


async def test_answers_have_no_replica_ejected_whatever_they_say(
    mesh: Installation, edge: Edge
) -> None:
    """In maintenance every replica says UNAVAILABLE: whoever asks often must not take any away."""
    ejected = await mesh.ejections("lab")
    for code in (Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED):
        request = lab_pb2.FailRequest(code=code, reason="NO").SerializeToString()
        for _ in range(4 * CONTRACT.services["lab"].ejection.consecutive_failures):
            assert (await edge.grpc(Rpc(f"{LAB}/Fail", request))).reason == "NO"
    assert await mesh.ejections("lab") == ejected


@pytest.mark.parametrize("retriable", [True, False], ids=["retriable", "plain"])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED])
async def test_two_hops_do_not_multiply_attempts(
    mesh: Installation, edge: Edge, code: Code, retriable: bool
) -> None:
    """What the second hop has retried in vain, the first does not retry again."""
    request = lab_pb2.FailSafelyRequest(code=code, reason="NO", retriable=retriable, relay=True)

    for count in (await tries(mesh, edge, request)).values():
        assert 1 <= count <= allowed(mesh, f"{LAB}/FailSafely")


async def test_a_slow_read_over_two_hops_is_not_asked_more_often_than_over_one(
    mesh: Installation, edge: Edge
) -> None:
    trace_id = secrets.token_hex(16)
    request = lab_pb2.SlowRequest(delay=duration(0.95), relay=True)
    headers = {wire.TRACEPARENT: f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    await edge.web(Rpc(SLOW.path, request.SerializeToString(), headers))

    callers = [span["attributes"][names.CALLER] for span in await settled(mesh, trace_id)]
    assert 1 <= callers.count("lab") <= allowed(mesh, SLOW.path)
    assert 1 <= callers.count(wire.EDGE) <= allowed(mesh, SLOW.path)


async def settled(mesh: Installation, trace_id: str) -> list[dict[str, Any]]:
    """The spans of services in a trace, once no more of them come in."""
    seen: list[dict[str, Any]] = []

    async def stable() -> list[dict[str, Any]]:
        nonlocal seen
        before, seen = (
            seen,
            [s for s in await mesh.spans(trace_id) if names.CALLER in s["attributes"]],
        )
        return seen if len(before) == len(seen) else []

    pause = 2 * EXPORT_MILLISECONDS / 1000  # in which every process has told what it had
    found: list[dict[str, Any]] = await until(stable, pause=pause)
    return found


# Quiet streams.


async def test_quiet_streams_outlive_the_idle_timeout(narrow_edge: Edge) -> None:
    """An event stream beats; a typed one is let be, until its longest life is over."""
    quiet = round(3 * NARROW_IDLE_SECONDS, 3)
    request = lab_pb2.StreamRequest(count=1, pause=duration(quiet))
    rpc = Rpc(f"{LAB}/Stream", request.SerializeToString())
    started = time.monotonic()
    events, native, web = await asyncio.gather(
        narrow_edge.rest(Rest("GET", f"/v1/lab:streamEvents?count=1&pause={quiet}s")),
        narrow_edge.grpc(rpc),
        narrow_edge.web(rpc),
    )

    assert time.monotonic() - started > quiet
    assert events.body.count(b": heartbeat") > quiet / NARROW_IDLE_SECONDS
    assert events.body.endswith(b"event: end\ndata: {}\n\n")
    for outcome in (native, web):
        assert outcome.status == 200
        assert lab_pb2.StreamResponse.FromString(outcome.body).index == 1


async def test_a_long_call_outlives_the_idle_timeout(narrow_edge: Edge) -> None:
    """A deadline is a promise: no other timer cuts a call short."""
    for outcome in (await slow_calls(narrow_edge, 2 * NARROW_IDLE_SECONDS, 3.0)).values():
        assert answer(outcome).instance


@pytest.mark.parametrize("path", ["/v1/lab:fail", "/v1/nowhere", f"{LAB}/Fail"])
async def test_a_request_that_does_not_arrive_is_cut(narrow_edge: Edge, path: str) -> None:
    """Whoever sends a body by the drop holds nothing for long."""
    host, _, port = narrow_edge.target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content_type = "application/grpc" if path.startswith("/icto") else "application/json"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n"
        "content-length: 9\r\n\r\n{"
    )
    writer.write(head.encode())
    try:
        async with asyncio.timeout(10):
            answer = await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 ")


# Callers who go away.


@pytest.mark.parametrize("how", ["gRPC", "gRPC stream", "REST", "event stream"])
async def test_a_caller_who_goes_away_is_noticed(mesh: Installation, edge: Edge, how: str) -> None:
    """The service's own span tells when it stopped."""
    trace_id = secrets.token_hex(16)
    parent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    if how.startswith("gRPC"):
        lab: Any = LabServiceStub(edge.channel)
        metadata = ((wire.TRACEPARENT, parent),)
        if how == "gRPC":
            running = lab.Slow(
                lab_pb2.SlowRequest(delay=duration(60)), metadata=metadata, timeout=3
            )
        else:
            request = lab_pb2.StreamRequest(count=1, pause=duration(60))
            running = lab.Stream(request, metadata=metadata)
            asyncio.ensure_future(running.read()).add_done_callback(lambda task: task.exception())
        await asyncio.sleep(0.2)
        running.cancel()
    else:
        path = "slow?delay=60s" if how == "REST" else "streamEvents?count=1&pause=60s"
        headers = {wire.TRACEPARENT: parent, "grpc-timeout": "3S"}
        with contextlib.suppress(httpx.ReadTimeout):
            async with edge.http.stream(
                "GET", f"/v1/lab:{path}", headers=headers, timeout=httpx.Timeout(10, read=0.2)
            ) as reply:
                await reply.aread()

    (span,) = await settled(mesh, trace_id)
    assert span["attributes"][names.RPC_STATUS] == Code.CANCELLED.name
    assert (span["end"] - span["start"]) / 1e9 < 1.0
