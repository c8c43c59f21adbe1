"""Forms of a call that are unusual and allowed, or wrong and told at once."""

import asyncio
import json
import struct
import time
from typing import Any, Final
from uuid import uuid4

import pytest

from contract.errors import Code
from mesh.cli.client import Client
from tests.support.edge import WEB, Edge, Rest, bearer
from tests.support.lab import JSON, LAB

SLOW, FAIL = f"{LAB}/Slow", f"{LAB}/Fail"
AT_ONCE: Final = 0.7
"""Seconds; less than any deadline."""


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


@pytest.mark.parametrize(
    "content_type",
    [
        f"{WEB}; charset=utf-8",
        "application/grpc-web;charset=UTF-8",
        "application/grpc-web+proto ; a=b; c=d",
        "Application/GRPC-Web+Proto",
    ],
)
async def test_grpc_web_works_with_parameters_of_its_media_type(
    edge: Edge, content_type: str
) -> None:
    """As clients send it that add a charset to whatever they send; empty, it fails with nothing."""
    reply = await edge.http.post(
        FAIL, content=framed(b""), headers={"content-type": content_type, "x-grpc-web": "1"}
    )
    assert reply.status_code == 200
    assert b"grpc-status:0" in reply.content
    assert reply.headers["content-type"].startswith("application/grpc-web")


@pytest.mark.parametrize("method", [SLOW, f"{LAB}/Stream", f"{LAB}/StreamEvents"])
async def test_a_call_without_a_message_is_answered_at_once(edge: Edge, method: str) -> None:
    """By gRPC and by gRPC-Web: it does not wait for a message that cannot come any more."""
    for call in (no_message, no_web_message):
        began = time.monotonic()
        code, reason = await call(edge, method)
        assert time.monotonic() - began < AT_ONCE
        assert (code, reason) == (Code.INVALID_ARGUMENT, "MESSAGE_MISSING")


async def no_message(edge: Edge, method: str) -> tuple[int, str]:
    """A gRPC call that ends before it has said anything."""
    call: Any = edge.channel.stream_stream(method)(timeout=5)
    await call.done_writing()
    await asyncio.wait_for(call.code(), 6)
    trailers = dict(await call.trailing_metadata()) | dict(await call.initial_metadata())
    return (await call.code()).value[0], str(trailers.get("icto-reason", ""))


async def no_web_message(edge: Edge, method: str) -> tuple[int, str]:
    reply = await edge.http.post(method, headers={"content-type": WEB, "x-grpc-web": "1"})
    lines = reply.content[5:].decode().split("\r\n")
    told = dict(reply.headers) | dict(line.split(":", 1) for line in lines if line)
    return int(told["grpc-status"]), told.get("icto-reason", "")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/ledgers/icp:transfer", {"to": {"owner": "{me}"}, "amount": 5}, "amount"),
        ("/v1/ledgers/icp:transfer", {"to": {"owner": 7}, "amount": "5"}, "owner"),
        ("/v1/ledgers/icp:approve", {"spender": {"owner": "{me}"}, "amount": 1e3}, "amount"),
        ("/v1/tokens", {"spec": {"totalSupply": 10**12}}, "total_supply"),
        ("/v1/launches:validate", {"spec": {"locks": [{}, {"totalAmount": 5}]}}, "total_amount"),
        ("/v1/projects", {"project": {"displayName": True}}, "display_name"),
        ("/v1/projects", {"project": {"state": {}}}, "state"),
    ],
)
async def test_a_value_of_the_wrong_type_is_refused_by_its_name(
    edge: Edge, alice: Client, path: str, body: dict[str, Any], field: str
) -> None:
    """A JSON number loses digits on its way: amounts are text. Whoever sends one is told where."""
    text = json.dumps(body | {"requestId": str(uuid4())}).replace("{me}", alice.principal)
    headers = {**JSON, **bearer(await alice.token())}
    refused = await edge.rest(Rest("POST", path, text.encode(), headers))
    assert refused.refusal == (400, "MALFORMED_REQUEST")
    assert field in refused.message
    assert "TYPE_" not in refused.text
