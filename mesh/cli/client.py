"""A user of the platform: a key, sign-in, REST and gRPC calls."""

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from contract import principal, sign_in, wire
from mesh.cli.address import Address

_SECONDS: Final = 15.0
_REFRESH_SECONDS: Final = 30.0


class CallError(Exception):
    """The platform refused a call."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.reason = str(problem.get("reason", "UNKNOWN"))
        super().__init__(f"{status} {self.reason}: {problem.get('detail', '')}")


class KeyFileError(Exception):
    """The user's key cannot be used. The message names its file and says what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the REST API and the trace that it belongs to."""

    body: dict[str, Any]
    trace_id: str


def load_key(file: Path) -> Ed25519PrivateKey:
    """The user's key, made now if there is none. The file is private (0600).

    Raises:
        KeyFileError: it cannot be read or made, or holds no key.
    """
    try:
        return _read_key(file) if file.exists() else _made_key(file)
    except OSError as error:
        raise KeyFileError(
            f"Your key in {file} cannot be used: {error.strerror}. Make it yours to read and write,"
            " or set XDG_CONFIG_HOME to a folder that is."
        ) from None


def _read_key(file: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text()))
    except ValueError:
        raise KeyFileError(
            f"{file} does not hold a key of 64 hexadecimal digits any more. Put back what it held;"
            " without it you become somebody new: move it away, and the next command makes a key."
        ) from None


def _made_key(file: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(raw.hex() + "\n")
    return key


class Client:
    """One user at one edge."""

    def __init__(self, edge: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._address = Address.parse(edge)
        self._http = self._address.http(_SECONDS)
        self._origin = sign_in.origin_of(self._address.origin)
        self._channel: grpc.aio.Channel | None = None
        self._token = ""
        self._expires = 0.0
        self.principal = ""
        self.roles: list[str] = []

    async def sign_in(self) -> None:
        """Exchanges a signed challenge for an access token.

        Raises:
            CallError: it was refused.
        """
        session = await self._send("POST", "/v1/sessions", await self.session_request())
        self._token = session.body["accessToken"]
        self._expires = time.monotonic() + 300 - _REFRESH_SECONDS
        self.principal = session.body["principal"]
        self.roles = [role.removeprefix("ROLE_") for role in session.body["roles"]]

    async def token(self) -> str:
        """An access token that is good for a while."""
        if time.monotonic() > self._expires:
            await self.sign_in()
        return self._token

    async def session_request(self) -> dict[str, str]:
        """What signs this user in, once: a challenge, signed.

        Whatever answers may pass on what it was sent by somebody else. So the text is built here,
        around the origin that this client is connected to, and nothing else is ever signed.

        Raises:
            CallError: there is none to be had.
        """
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        encoded = base64.b64encode(public).decode()
        body = {"publicKey": encoded, "origin": self._origin}
        challenge = (await self._send("POST", "/v1/challenges", body)).body
        signature = self._key.sign(_text(self._origin, principal.of_public_key(public), challenge))
        return {
            "challengeId": challenge["challengeId"],
            "publicKey": encoded,
            "signature": base64.b64encode(signature).decode(),
        }

    def forget_token(self) -> None:
        """Has the next call sign in anew: the platform does not take the token any more."""
        self._expires = 0.0

    async def rest(
        self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """A REST call as this user.

        Raises:
            CallError: it was refused.
        """
        bearer = {"authorization": f"Bearer {await self.token()}"}
        return await self._send(verb, path, body, bearer | (headers or {}))

    async def _send(
        self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        reply = await self._http.request(verb, path, json=body, headers=headers)
        if reply.is_error:
            raise CallError(reply.status_code, _problem(reply))
        return Answer(reply.json(), reply.headers.get(wire.HEADER_TRACE_ID, ""))

    async def quote(self, *items: tuple[str, str]) -> dict[str, Any]:
        """A quote for steps and the services that they are priced by, approved on the ledger.

        Raises:
            CallError: it was refused.
        """
        quote = await self.price(*items)
        await self.approve(quote["ledger"], quote["spender"], quote["approvalAmount"])
        return quote

    async def price(self, *items: tuple[str, str]) -> dict[str, Any]:
        """A quote that nothing is approved for yet.

        Raises:
            CallError: it was refused.
        """
        order = [{"step": step, "service": service} for step, service in items]
        body = {"requestId": str(uuid4()), "items": order}
        return (await self.rest("POST", "/v1/quotes", body)).body

    async def approve(self, ledger: str, spender: dict[str, str], amount: str) -> None:
        """Lets an account take so much of what this user holds.

        Raises:
            CallError: it was refused.
        """
        approval = {"requestId": str(uuid4()), "spender": spender, "amount": amount}
        await self.rest("POST", f"/v1/{ledger}:approve", approval)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that signs a gRPC call in."""
        return (("authorization", f"Bearer {await self.token()}"),)

    @property
    def channel(self) -> grpc.aio.Channel:
        """A gRPC channel to the edge."""
        if self._channel is None:
            self._channel = self._address.channel()
        return self._channel

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()
        if self._channel is not None:
            await self._channel.close()


def _text(origin: str, user: str, challenge: Mapping[str, Any]) -> bytes:
    """What is signed for a challenge. Nothing of it but numbers, times and a name is the edge's.

    Raises:
        CallError: the answer is not a challenge.
    """
    try:
        return sign_in.message(
            origin,
            user,
            UUID(challenge["challengeId"]),
            challenge["audience"],
            datetime.fromisoformat(challenge["issueTime"]),
            datetime.fromisoformat(challenge["expireTime"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        problem = {
            "reason": "CHALLENGE_UNREADABLE",
            "detail": f"{origin} sent no challenge: {error}",
        }
        raise CallError(HTTPStatus.OK, problem) from None


def _problem(reply: httpx.Response) -> dict[str, Any]:
    try:
        problem: dict[str, Any] = reply.json()
    except ValueError:
        return {"reason": "UNREADABLE", "detail": reply.text[:200]}
    return problem
