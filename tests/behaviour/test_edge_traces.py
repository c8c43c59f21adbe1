"""Traces begin at the edge: a caller's own is linked to ours, and neither continued nor obeyed.

Whoever sends a `traceparent` could otherwise write into somebody else's trace, or leave a write of
theirs without any.
"""

import asyncio
import secrets
from typing import Any, Final

import pytest

from contract import wire
from icto.lab.v1 import lab_pb2
from tests.support.edge import Edge, Outcome, Rest, Rpc, told_trace
from tests.support.installation import Installation, until
from tests.support.lab import JSON, LAB

LINKED: Final = {
    "sampled": "00-{trace}-{span}-01",
    "not sampled": "00-{trace}-{span}-00",
    "a later version": "cc-{trace}-{span}-01-what-comes-later",
}
NOT_LINKED: Final = {
    "garbage": "garbage",
    "empty": "",
    "no version that there may be": "ff-{trace}-{span}-01",
    "a version in capitals": "0A-{trace}-{span}-01",
    "capitals": "00-{TRACE}-{span}-01",
    "a trace of zeros": f"00-{'0' * 32}-{{span}}-01",
    "a span of zeros": f"00-{{trace}}-{'0' * 16}-01",
    "zeros": f"00-{'0' * 32}-{'0' * 16}-00",
    "too long": "00-{trace}-{span}-01-more",
    "too short": "00-{trace}-{span}",
    "no digits": f"00-{{trace}}-{'x' * 16}-01",
    "spaces": "00 {trace} {span} 01",
}


async def asked(edge: Edge, traceparent: str, **more: str) -> dict[str, Outcome]:
    """A call by every way, with what its caller says of its own trace."""
    headers = {"traceparent": traceparent, **more}
    told = await edge.all(
        Rest("POST", "/v1/lab:fail", b"{}", JSON | headers),
        Rpc(f"{LAB}/Fail", lab_pb2.FailRequest().SerializeToString(), headers),
    )
    assert {outcome.status for outcome in told.values()} == {200}
    return told


async def served(mesh: Installation, trace_id: str) -> list[dict[str, Any]]:
    """The spans of a trace, once that of the service that served it is there, and Envoy's."""

    async def complete() -> list[dict[str, Any]]:
        spans = await mesh.spans(trace_id)
        services = {span["service"] for span in spans}
        return spans if services == {"envoy", "lab"} else []

    found: list[dict[str, Any]] = await until(complete)
    return found


@pytest.mark.parametrize("kind", [*LINKED, *NOT_LINKED])
async def test_a_callers_trace_is_linked_to_ours_when_w3c_can_read_it(
    mesh: Installation, edge: Edge, kind: str
) -> None:
    theirs = "ab" + secrets.token_hex(15)
    text = (LINKED | NOT_LINKED)[kind].format(
        trace=theirs, TRACE=theirs.upper(), span=secrets.token_hex(8)
    )
    told = await asked(edge, text, tracestate="vendor=opaque", baggage="user=them")
    ours = {told_trace(outcome) for outcome in told.values()}
    assert len(ours) == len(told)
    assert theirs not in ours
    kept = await asyncio.gather(*(served(mesh, trace_id) for trace_id in ours))
    for spans in kept:
        (root,) = [span for span in spans if not span["parent_id"]]
        assert root["service"] == "envoy"
        assert "them" not in str(spans)
    found = {span["trace_id"] for span in await mesh.spans(theirs)}
    assert found == (ours if kind in LINKED else set())


async def test_a_trace_is_drawn_for_the_id_that_its_caller_knows(
    mesh: Installation, edge: Edge
) -> None:
    theirs = secrets.token_hex(16)
    told = await asked(edge, f"00-{theirs}-{secrets.token_hex(8)}-01")
    for outcome in told.values():
        await served(mesh, told_trace(outcome))
    status, drawn = await mesh.icto("trace", theirs.upper())
    assert status == 0
    for outcome in told.values():
        assert f"trace {told_trace(outcome)}" in drawn
    assert "LabService/Fail" in drawn


@pytest.mark.parametrize("header", wire.CALLERS_TRACE.values())
async def test_nobody_outside_writes_the_link_itself(
    mesh: Installation, edge: Edge, header: str
) -> None:
    theirs = secrets.token_hex(16)
    forged = f"00-{theirs}-{secrets.token_hex(8)}-01"
    told = await edge.all(
        Rest("POST", "/v1/lab:fail", b"{}", JSON | {header: forged}),
        Rpc(f"{LAB}/Fail", lab_pb2.FailRequest().SerializeToString(), {header: forged}),
    )
    for outcome in told.values():
        await served(mesh, told_trace(outcome))
    assert await mesh.spans(theirs) == []


async def test_nobody_outside_has_a_trace_kept(mesh: Installation, edge: Edge) -> None:
    """Nor given another id: the ratio alone decides."""
    forced = {"x-client-trace-id": "mine", "x-envoy-force-trace": "true", "x-request-id": "mine"}
    told = await asked(edge, "garbage", **forced)
    for outcome in told.values():
        assert "mine" not in str(await served(mesh, told_trace(outcome)))
