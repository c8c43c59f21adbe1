"""What pages of other sites can send, and what browsers do with answers."""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Final

import pytest

from contract import loader
from contract.method import Method
from mesh.cli.call import load_messages
from tests.conftest import tool
from tests.support.edge import PROBLEM, Edge, Rest, Rpc, sample, told_trace
from tests.support.installation import Installation

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
METHODS: Final = [m for m in CONTRACT.methods() if m.audience.from_outside]
REST: Final = [m for m in METHODS if m.http and m.http[0].verb != "GET"]
# What a form can say, and a script without a preflight; and near misses.
FOREIGN: Final = (
    "text/plain",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain; application/json",
    "application/jsonp",
    "application/json, text/plain",
    "application/octet-stream",
    "",
)
OURS: Final = ("application/json", "application/json; charset=utf-8", "Application/JSON")


def foreign(method: Method, media_type: str) -> Rest:
    """A request of a method with a body that says it is something else."""
    request = sample(method).rest
    assert request is not None
    return Rest(request.verb, request.path, b'{"x":1}', {"content-type": media_type})


async def test_a_body_that_is_not_json_is_refused_before_it_is_read(edge: Edge) -> None:
    """A form of another site planted a session: text/plain needs no preflight."""
    for method in REST:
        for media_type in FOREIGN:
            outcome = await edge.rest(foreign(method, media_type))
            told = (method.full_name, media_type, *outcome.refusal)
            assert told == (method.full_name, media_type, 415, "MEDIA_TYPE_UNSUPPORTED")
            assert "application/json" in outcome.message
            assert outcome.headers["content-type"] == PROBLEM
            assert outcome.trace_id == told_trace(outcome) != ""
            assert "set-cookie" not in outcome.headers


async def test_json_and_no_body_at_all_go_through(edge: Edge) -> None:
    for media_type in OURS:
        request = Rest("POST", "/v1/lab:fail", b"{}", {"content-type": media_type})
        assert (await edge.rest(request)).status == 200, media_type
    assert (await edge.rest(Rest("POST", "/v1/lab:fail"))).refusal != (
        415,
        "MEDIA_TYPE_UNSUPPORTED",
    )
    bare = await raw(edge, b"POST /v1/lab:fail HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b" 415 " not in bare.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "body",
    [b"content-length: 2\r\n\r\n{}", b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
)
async def test_a_body_without_a_type_is_a_body(edge: Edge, body: bytes) -> None:
    head = b"POST /v1/lab:fail HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    told = await raw(edge, head + body)
    assert told.startswith(b"HTTP/1.1 415 "), told


async def test_a_body_without_length_or_type_is_a_body_by_http2(edge: Edge) -> None:
    assert await by_http2(edge, "--upload-file", "-") == "415"
    assert await by_http2(edge) == "200"


async def by_http2(edge: Edge, *arguments: str) -> str:
    """The status of a call by HTTP/2 that says nothing of its body."""
    child = await asyncio.create_subprocess_exec(
        tool("curl"), "-sS", "--http2-prior-knowledge", "-X", "POST", *arguments,
        "-o", os.devnull, "-w", "%{http_code}", f"http://{edge.target}/v1/lab:fail",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await child.communicate(b"{}")
    return output.decode()


async def test_a_foreign_form_plants_no_cookie(mesh: Installation, edge: Edge) -> None:
    """The whole attack: a good sign-in of the attacker's, sent by the victim's browser."""
    client = await mesh.user(funds=0)
    body = json.dumps(await client.session_request()).encode()
    headers = {"content-type": "text/plain", "origin": "https://elsewhere.example"}
    outcome = await edge.rest(Rest("POST", "/v1/sessions", body, headers))
    assert "set-cookie" not in outcome.headers
    assert outcome.status == 415
    await client.close()


async def raw(edge: Edge, request: bytes) -> bytes:
    host, _, port = edge.target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


ANSWERS: Final[Mapping[str, bytes]] = {
    "an answer": b"GET /v1/system/status HTTP/1.1\r\nhost: x\r\n",
    "no token": b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n",
    "no such path": b"GET /nowhere HTTP/1.1\r\nhost: x\r\n",
    "another verb": b"DELETE /v1/whoami HTTP/1.1\r\nhost: x\r\n",
    "a preflight": b"OPTIONS /v1/whoami HTTP/1.1\r\nhost: x\r\n",
    "no json": b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n{",
    "an escaped slash": b"GET /v1%2Fwhoami HTTP/1.1\r\nhost: x\r\n",
    "an underscore": b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\nx_y: z\r\n",
    "headers too large": b"GET / HTTP/1.1\r\nhost: x\r\nx-y: " + b"z" * 200_000 + b"\r\n",
    "no http": b"GARBAGE\r\n",
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_browsers_take_every_answer_for_what_it_says_it_is(edge: Edge, what: str) -> None:
    answer = await raw(edge, ANSWERS[what] + b"connection: close\r\n\r\n")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 "), answer
    assert b"\r\nx-content-type-options: nosniff" in head, head


async def test_native_callers_are_told_the_same(edge: Edge) -> None:
    for request in (Rpc("/icto.lab.v1.LabService/Fail"), Rpc("/icto.nowhere.v1.Service/Method")):
        for outcome in (await edge.grpc(request), await edge.web(request)):
            assert outcome.headers["x-content-type-options"] == "nosniff"


async def test_what_holds_a_token_is_kept_by_no_cache(mesh: Installation, edge: Edge) -> None:
    client = await mesh.user(funds=0)
    body = json.dumps(await client.session_request()).encode()
    request = Rest("POST", "/v1/sessions", body, {"content-type": "application/json"})
    outcome = await edge.rest(request)
    assert outcome.status == 200
    assert outcome.headers["cache-control"] == "no-store"
    await client.close()
