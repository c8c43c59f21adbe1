"""Signing in through somebody else, at another installation, and without a key."""

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.cli.client import CallError, Client
from tests.support.edge import Edge, Rest, bearer
from tests.support.installation import Installation

JSON: Final = {"content-type": "application/json"}
CHOSEN: Final = b"I owe the bearer everything"
_NEW_LINE: Final = b"\r\n"


@dataclass
class Relay:
    """A server of somebody else that passes on what it is sent, after its own fashion.

    Attributes:
        target: host and port of the platform.
        host: what it says in `Host` and in forwarded headers.
        origin: whether it replaces the origin that clients tell by the platform's own.
        text: what it replaces in the answer to a request for a challenge.
    """

    target: str
    host: str
    origin: bool
    text: Mapping[str, str]
    port: int = 0
    offered: list[bytes] = field(default_factory=list)
    signed: list[tuple[bytes, bytes]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_NEW_LINE * 2)
        first, *lines = head.decode().split("\r\n")
        verb, path, _ = first.split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, told = await self.passed_on(verb, path, json.loads(body) if body else {})
        answer = json.dumps(told).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(answer)}\r\n\r\n".encode()
            + answer
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def passed_on(self, verb: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        named = self.host or f"127.0.0.1:{self.port}"
        headers = {
            "host": named, "x-forwarded-host": named, "x-forwarded-proto": "http",
            "forwarded": f"host={named};proto=http", "origin": f"http://{named}",
        }  # fmt: skip
        if self.origin and "publicKey" in body and "signature" not in body:
            body["origin"] = f"http://{self.target}"
        if "signature" in body:
            key, signature = (base64.b64decode(body[name]) for name in ("publicKey", "signature"))
            self.signed.append((key, signature))
        async with httpx.AsyncClient(base_url=f"http://{self.target}") as client:
            reply = await client.request(verb, path, json=body, headers=headers)
        told = reply.json()
        if "message" in told and reply.is_success:
            self.offered.append(base64.b64decode(told["message"]))
            told |= self.text
            self.offered.append(base64.b64decode(told["message"]))
        if "accessToken" in told:
            self.sessions.append(told)
        return reply.status_code, told


@contextlib.asynccontextmanager
async def relay(mesh: Installation, **how: Any) -> AsyncIterator[Relay]:
    made = Relay(mesh.target, **how)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


TEXTS: Final[Mapping[str, Mapping[str, str]]] = {
    "as it is": {},
    "bytes of its choice": {"message": base64.b64encode(CHOSEN).decode()},
    "a name of its choice": {"audience": "elsewhere"},
    "lines of its choice": {"audience": "x\n\nI owe the bearer everything"},
    "a nonce of its choice": {"challengeId": "I owe the bearer everything"},
    "a time of its choice": {"expireTime": "I owe the bearer everything"},
}


def verifies(public: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("origin", [False, True])
async def test_whoever_passes_a_challenge_on_gets_no_session_and_no_signature(
    mesh: Installation, text: str, origin: bool
) -> None:
    """Clients signed whatever they were sent, and a challenge was good wherever it came from."""
    for host in ("", mesh.target):
        async with relay(mesh, host=host, origin=origin, text=TEXTS[text]) as between:
            client = Client(between.address, Ed25519PrivateKey.generate())
            with contextlib.suppress(CallError):
                await client.sign_in()
            await client.close()
            assert not between.sessions
            for (public, signature), offered in itertools.product(between.signed, between.offered):
                assert not verifies(public, signature, offered)


async def test_the_command_line_signs_for_where_it_is_connected(
    mesh: Installation, tmp_path: Path
) -> None:
    async with relay(mesh, host=mesh.target, origin=True, text={}) as between:
        code, output = await mesh.icto("login", "--edge", between.address, home=tmp_path)
        assert not between.sessions, output
        assert code == 1
        assert "SIGNATURE_INVALID" in output
    code, output = await mesh.icto("login", "--edge", mesh.edge, home=tmp_path)
    assert code == 0, output


async def test_where_a_caller_is_connected_is_what_it_says_and_no_header(
    mesh: Installation, edge: Edge
) -> None:
    key = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    evil, ours = "icto.evil.example", mesh.target
    for named, origin in itertools.product((evil, ours), (f"http://{evil}", "", f"https://{ours}")):
        headers = JSON | {
            "host": named, "x-forwarded-host": named, "forwarded": f"host={named}",
            "origin": f"http://{named}", "referer": f"http://{named}/",
        }  # fmt: skip
        body = json.dumps({"publicKey": key, "origin": origin}).encode()
        outcome = await edge.rest(Rest("POST", "/v1/challenges", body, headers))
        assert outcome.status == 400, (named, origin)
        assert outcome.reason == ("ORIGIN_UNKNOWN" if origin else "INVALID_FIELD")


async def test_every_name_of_this_machine_s_is_an_origin(mesh: Installation, edge: Edge) -> None:
    key = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    for host in ("localhost", "127.0.0.1"):
        body = json.dumps({"publicKey": key, "origin": f"http://{host}:{mesh.port}"}).encode()
        outcome = await edge.rest(Rest("POST", "/v1/challenges", body, JSON))
        text = base64.b64decode(json.loads(outcome.body)["message"]).decode()
        assert f"\nURI: http://{host}:{mesh.port}\n" in text


async def test_a_token_of_one_installation_is_none_at_another(
    mesh: Installation, narrow: Installation, edge: Edge
) -> None:
    """They were told apart by their keys alone: all had one audience."""
    names = set()
    for place in (mesh, narrow):
        client = await place.user(funds=0)
        claims = jwt.decode(await client.token(), options={"verify_signature": False})
        names.add(claims["aud"])
        if place is narrow:
            whoami = Rest("GET", "/v1/whoami", headers=bearer(await client.token()))
            assert (await edge.rest(whoami)).refusal == (401, "TOKEN_INVALID")
        await client.close()
    assert len(names) == 2


IDENTITY: Final = b"\x01" + bytes(31)
SMALL: Final = (
    IDENTITY,
    bytes(32),
    bytes(31) + b"\x80",
    b"\xec" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    b"\xee" + b"\xff" * 30 + b"\x7f",  # 1, a second time
    b"\xed" + b"\xff" * 30 + b"\x7f",  # 0, a second time
)


@pytest.mark.parametrize("public", SMALL, ids=bytes.hex)
async def test_nobody_signs_in_without_a_key(mesh: Installation, edge: Edge, public: bytes) -> None:
    """For these, a signature is guessed: the point of order 1, 2, 4 or 8 and no scalar."""
    guess = base64.b64encode(IDENTITY + bytes(32)).decode()
    encoded = base64.b64encode(public).decode()
    for _ in range(40):
        asked = json.dumps({"publicKey": encoded, "origin": f"http://{mesh.target}"}).encode()
        challenge = await edge.rest(Rest("POST", "/v1/challenges", asked, JSON))
        given = json.loads(challenge.body).get("challengeId", "0" * 36)
        answer = {"challengeId": given, "publicKey": encoded, "signature": guess}
        session = await edge.rest(Rest("POST", "/v1/sessions", json.dumps(answer).encode(), JSON))
        assert session.status != 200, "signed in without a key"
        if challenge.reason == session.reason == "INVALID_KEY":
            return
    raise AssertionError("a key that nobody holds was given challenges")
