"""Who gets in at the edge: the contract decides, the same over REST, gRPC and gRPC-Web.

With the filters in a wrong order REST fails open (F-17), so every method is tried by every kind of
caller over every transport. Identity comes from the token alone (F-20), and services' own methods
are out of reach (F-19).
"""

import asyncio
import contextlib
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf import json_format
from google.protobuf.message import Message

from contract import loader, principal, wire
from contract.errors import Code
from contract.method import Method
from contract.status import from_rpc_error
from contract.tokens import COOKIE
from gateway import domain
from icto.identity.v1 import identity_pb2
from icto.identity.v1.identity_pb2_grpc import IdentityServiceStub
from icto.lab.v1 import lab_pb2
from mesh import topology
from mesh.cli.call import load_messages
from mesh.render import Paths, Renderer, largest_body
from observability import names
from tests.conftest import NARROW_SIGN_INS, PAGE
from tests.support.edge import Edge, Outcome, Rest, Rpc, bearer, caller, sample, told_trace
from tests.support.installation import Installation, until
from tests.support.lab import JSON, LAB, attempts, shifted
from tests.support.tokens import Mint, mint_of, somebody

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
IDENTITY: Final = "/icto.identity.v1.IdentityService"
WHO: Final = Rest("GET", "/v1/whoami"), Rpc(f"{IDENTITY}/WhoAmI")
GRANT: Final = (
    Rest("POST", "/v1/principals/2vxsx-fae:grantRole", b"{}", JSON),
    Rpc(f"{IDENTITY}/GrantRole"),
)
ADMINS: Final = CONTRACT.method("/icto.audit.v1.AuditService/ListCheckpoints")
LIMITED: Final = CONTRACT.method(f"{LAB}/Limited")
SERVICE_ONLY: Final = next(m for m in CONTRACT.methods() if not m.audience.from_outside)
REFUSALS: Final = {
    "TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "ACCESS_DENIED", "USER_SUSPENDED",
    "METHOD_NOT_FOUND", "METHOD_NOT_ALLOWED", "MALFORMED_REQUEST", "BAD_REQUEST",
}  # fmt: skip

NOBODY, BAD, USER, SUSPENDED, ADMIN = "nobody", "bad token", "user", "suspended admin", "admin"
SUPER: Final = (domain.SUPER_ADMIN,)


@dataclass(frozen=True)
class NextKey:
    """A signing key that is published, but does not sign yet."""

    kid: str
    activate_time: datetime
    listeners: list[str]
    """Envoy's count of listener changes before."""


@pytest.fixture(scope="module", autouse=True)
async def next_key(mesh: Installation) -> AsyncIterator[NextKey]:
    """Made before the other tests, since it takes Envoy some seconds to hear of it."""
    activate = datetime.now(UTC) + timedelta(minutes=10)
    made = NextKey(f"next-{uuid4().hex}", activate, await listener_changes(mesh))
    raw_key = Ed25519PrivateKey.generate().private_bytes(
        Encoding.Raw, PrivateFormat.Raw, NoEncryption()
    )
    async with mesh.superuser() as database:
        await database.execute(
            "INSERT INTO gateway.signing_keys VALUES ($1, $2, $3, $4)",
            made.kid, raw_key, made.activate_time, domain.retirement(made.activate_time),
        )  # fmt: skip
        yield made
        await database.execute("DELETE FROM gateway.signing_keys WHERE kid = $1", made.kid)


def verdict(method: Method, caller: str) -> tuple[int, str] | None:
    """What the contract says about a caller: HTTP status and reason, or None for welcome."""
    audience = method.audience
    if not audience.from_outside:
        return 501, "METHOD_NOT_FOUND"
    if caller == BAD:
        return 401, "TOKEN_INVALID"
    if caller == NOBODY and not audience.public:
        return 401, "TOKEN_MISSING"
    if caller == SUSPENDED and not method.allowed_when_suspended:
        return 403, "USER_SUSPENDED"
    if caller == USER and not (audience.public or audience.user or audience.owner):
        return 403, "ACCESS_DENIED"
    return None


def welcome(outcome: Outcome) -> bool:
    """Whether the edge let a call in, whatever the service said."""
    return outcome.reason not in REFUSALS


@pytest.mark.parametrize("caller", [NOBODY, BAD, USER, SUSPENDED, ADMIN])
async def test_every_method_answers_a_caller_alike_by_every_transport(
    edge: Edge, mint: Mint, caller: str
) -> None:
    token = {
        NOBODY: "",
        BAD: mint.forged,
        USER: mint.anybody,
        SUSPENDED: mint.token(roles=SUPER, status=wire.SUSPENDED),
        ADMIN: mint.token(roles=SUPER),
    }[caller]
    wrong = []
    for method in CONTRACT.methods():
        request = sample(method)
        told = await edge.all(*request.signed(token), follow=not request.endless)
        refusals = {outcome.refusal for outcome in told.values()}
        expected = verdict(method, caller)
        if expected is not None:
            agreed = refusals == {expected}
        else:
            agreed = all(map(welcome, told.values())) and len(refusals) == 1
        if not agreed:
            wrong.append((method.full_name, expected, told))
    assert not wrong


# Identity.

VICTIM: Final = somebody()
FORGED: Final = {
    wire.HEADER_CALLER: "operator",
    wire.HEADER_PRINCIPAL: VICTIM,
    wire.HEADER_ROLES: domain.SUPER_ADMIN,
    wire.HEADER_STATUS: wire.SUSPENDED,
    wire.HEADER_ON_BEHALF_OF: VICTIM,
    wire.HEADER_HEALTH_TARGET: "ledger",
    wire.HEADER_TRACE_ID: "f" * 32,
    wire.HEADER_ADDRESS: "192.0.2.1",
}
"""Everything that Envoy tells services, said by somebody outside."""


def test_every_identity_header_is_tried() -> None:
    assert set(FORGED) == set(wire.IDENTITY_HEADERS)


@pytest.mark.parametrize("spelling", [str.lower, str.title])
async def test_forged_identity_headers_change_nothing(
    edge: Edge, mint: Mint, spelling: Any
) -> None:
    """F-20: who calls is what the token says."""
    forged = {spelling(name): value for name, value in FORGED.items()}
    user = somebody()

    for outcome in (await edge.all(*with_headers(WHO, forged))).values():
        assert outcome.refusal == (401, "TOKEN_MISSING")
        assert told_trace(outcome) != FORGED[wire.HEADER_TRACE_ID]
    signed = forged | bearer(mint.token(user))
    for outcome in (await edge.all(*with_headers(WHO, signed))).values():
        assert caller_of(outcome) == (user, [])
    for outcome in (await edge.all(*with_headers(GRANT, signed))).values():
        assert outcome.refusal == (403, "ACCESS_DENIED")


async def test_a_service_sees_who_really_called(mesh: Installation, edge: Edge) -> None:
    calls = Rest("POST", "/v1/lab:fail", b"{}", JSON | FORGED), Rpc(f"{LAB}/Fail", headers=FORGED)
    for outcome in (await edge.all(*calls)).values():
        span = await server_span(mesh, told_trace(outcome))
        assert span["attributes"][names.CALLER] == wire.EDGE
        assert span["attributes"][names.PRINCIPAL] == principal.ANONYMOUS


async def server_span(mesh: Installation, trace_id: str) -> dict[str, Any]:
    """The span of the service that served a trace."""

    async def found() -> dict[str, Any] | None:
        spans = await mesh.spans(trace_id)
        return next((span for span in spans if names.CALLER in span["attributes"]), None)

    span: dict[str, Any] = await until(found)
    return span


ENVOYS_OWN: Final = {
    "x-envoy-original-path": "/v1/whoami",
    "x-envoy-internal": "true",
    "x-envoy-retry-on": "5xx,unavailable,retriable-headers",
    "x-envoy-retry-grpc-on": "unavailable,internal,cancelled",
    "x-envoy-retriable-header-names": wire.TRAILER_RETRIABLE,
    "x-envoy-max-retries": "9",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-hedge-on-per-try-timeout": "true",
}
"""How services may steer Envoy. Nobody outside may."""


async def test_nobody_outside_speaks_envoys_language(mesh: Installation, edge: Edge) -> None:
    slow = lab_pb2.SlowRequest()
    slow.delay.FromMilliseconds(200)
    calls = (
        Rest("GET", "/v1/lab:slow?delay=0.2s", headers=ENVOYS_OWN),
        Rpc(f"{LAB}/Slow", slow.SerializeToString(), ENVOYS_OWN),
    )
    for outcome in (await edge.all(*calls)).values():
        assert outcome.status == 200, "no time-out of the caller's making"

    key = uuid4().hex
    fail = lab_pb2.FailRequest(code=14, reason="NO", retriable=True, key=key)
    calls = (
        Rest("POST", "/v1/lab:fail", body_of(fail), JSON | ENVOYS_OWN),
        Rpc(f"{LAB}/Fail", fail.SerializeToString(), ENVOYS_OWN),
    )
    told = await edge.all(*calls)
    assert {outcome.refusal for outcome in told.values()} == {(503, "NO")}
    assert await attempts(mesh, key) == len(told), "no retries of the caller's making"


@pytest.mark.parametrize("place", ["query", "another scheme"])
async def test_a_token_counts_in_its_place_alone(edge: Edge, mint: Mint, place: str) -> None:
    """A token in the query would end up in logs."""
    token = mint.anybody
    rest, rpc = WHO
    headers = {"authorization": f"Basic {token}"} if place == "another scheme" else {}
    query = f"?access_token={token}" if place == "query" else ""
    told = await edge.all(
        Rest(rest.verb, rest.path + query, headers=headers), Rpc(rpc.path + query, headers=headers)
    )

    for outcome in told.values():
        assert outcome.refusal in {(401, "TOKEN_MISSING"), (400, "MALFORMED_REQUEST")}


def with_cookie(token: str) -> dict[str, str]:
    """What a browser sends, among cookies of other people's."""
    return {"cookie": f"theme=dark; {COOKIE}={token}; other=1"}


@pytest.mark.parametrize("kind", [USER, BAD])
async def test_a_cookie_signs_in_a_browser_that_follows_events_and_nobody_else(
    edge: Edge, mint: Mint, kind: str
) -> None:
    """Pages of other people's make browsers send it: it must not let them do anything (F-20)."""
    cookie = with_cookie(mint.anybody if kind == USER else mint.forged)
    disguised = {"x-envoy-original-path": "/v1/lab:streamEvents", "x-envoy-original-method": "GET"}
    followed, wrong = [], []
    for method in CONTRACT.methods():
        request = sample(method)
        told = await edge.all(
            request.rest and Rest(request.rest.verb, request.rest.path, request.rest.body, cookie),
            Rpc(request.rpc.path, request.rpc.body, cookie | disguised),
            follow=not request.endless,
        )
        for way, outcome in told.items():
            counts = way == "REST" and method.takes_cookie
            expected = verdict(method, kind if counts else NOBODY)
            followed += [method.name] if counts else []
            if not (outcome.refusal == expected or (not expected and welcome(outcome))):
                wrong.append((method.full_name, way, expected, outcome))
    assert not wrong
    assert "WatchLaunchEvents" in followed


def test_no_credential_of_a_caller_reaches_a_service(tmp_path: Path) -> None:
    contract, folder = CONTRACT, Paths(tmp_path, tmp_path)
    (routes,) = Renderer(contract, topology.load(contract, None), folder).resource("routes-edge")[
        "resources"
    ]
    assert set(routes["request_headers_to_remove"]) == {"authorization", "cookie"}


async def test_signing_in_sets_the_cookie_for_browsers(edge: Edge, narrow_edge: Edge) -> None:
    for place, secure in ((edge, []), (narrow_edge, ["Secure"])):
        signer = Signer()
        answer = signer.answer(await signer.challenge(place))
        outcome = await place.rest(Rest("POST", "/v1/sessions", body_of(answer), JSON))
        cookie, *attributes = outcome.headers["set-cookie"].split("; ")
        assert cookie.startswith(f"{COOKIE}=")
        assert [a for a in attributes if not a.startswith("Max-Age=")] == [
            "HttpOnly", "SameSite=Strict", "Path=/v1", *secure,
        ]  # fmt: skip
    refused = await edge.rest(Rest("POST", "/v1/sessions", body_of(answer), JSON))
    assert (refused.reason, "set-cookie" in refused.headers) == ("CHALLENGE_INVALID", False)


async def test_the_cookie_outlives_every_stream_that_it_may_open(edge: Edge) -> None:
    """A browser whose stream grew too old comes back with it; it is good for nothing else."""
    signer = Signer()
    answer = signer.answer(await signer.challenge(edge))
    outcome = await edge.rest(Rest("POST", "/v1/sessions", body_of(answer), JSON))
    cookie, _, attributes = outcome.headers["set-cookie"].partition("; ")
    token = cookie.partition("=")[2]
    access = json.loads(outcome.body)["accessToken"]
    opened_last = claims_of(access)["exp"] - claims_of(access)["iat"]
    longest = max(m.deadline_ceiling for m in CONTRACT.methods() if m.takes_cookie)
    lives = int(attributes.partition("Max-Age=")[2].partition(";")[0])
    assert lives >= opened_last + longest
    assert claims_of(token)["exp"] - claims_of(token)["iat"] >= lives
    followed = await edge.rest(
        Rest("GET", "/v1/lab:streamEvents?count=1", headers={"cookie": cookie})
    )
    assert followed.status == 200
    refused = await edge.rest(Rest("GET", "/v1/whoami", headers=bearer(token)))
    assert refused.refusal == (401, "TOKEN_INVALID")


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_a_method_cannot_be_overridden(edge: Edge, mint: Mint) -> None:
    override = {"x-http-method-override": "DELETE", "x-http-method": "DELETE"}
    outcome = await edge.rest(Rest("GET", "/v1/whoami", headers=override | bearer(mint.anybody)))

    assert outcome.status == 200


# Paths.

TRICKS: Final = (
    "/{0}", "//{0}", "/./{0}", "/x/../{0}", "/v1/../{0}", "/{0}/", "/{0}//", "/{0};x=1", "/{0}?x=1",
    "/{0}#x", "/{0}%00", "/{0}%20", "/%2e/{0}", "/%2e%2e/{0}", "/%2F{0}", "/\\{0}", "/{0}%3Fx=1",
    "http://operator/{0}", "/{1}", "/{2}",
)  # fmt: skip


def disguises(path: str) -> list[str]:
    """A path in all the ways that parsers have disagreed about."""
    plain = path.lstrip("/")
    encoded = f"{plain[:-1]}%{ord(plain[-1]):02x}"
    return [trick.format(plain, encoded, plain.swapcase()) for trick in TRICKS]


@pytest.mark.parametrize("trick", range(len(TRICKS)), ids=TRICKS)
async def test_no_path_leads_past_the_rules(edge: Edge, mint: Mint, trick: int) -> None:
    user, admin = mint.anybody, mint.token(roles=SUPER)
    for path, content_type, token in (
        (ADMINS.http[0].path, "application/json", user),
        (ADMINS.path, "application/grpc", user),
        (ADMINS.path, "application/json", admin),
        (SERVICE_ONLY.path, "application/grpc", admin),
        (SERVICE_ONLY.path, "application/grpc-web+proto", admin),
    ):
        disguised = disguises(path)[trick]
        verb = "GET" if path.startswith("/v1") else "POST"
        status, grpc_status = await raw(edge, verb, disguised, content_type, token)
        assert status >= 400 or grpc_status not in {"", "0"}, (disguised, status, grpc_status)


async def raw(edge: Edge, verb: str, path: str, content_type: str, token: str) -> tuple[int, str]:
    """HTTP and gRPC status of a request that no client library has tidied up."""
    host, _, port = edge.target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b"" if verb == "GET" else b"\0\0\0\0\0"
    head = (
        f"{verb} {path} HTTP/1.1\r\nhost: {edge.target}\r\nauthorization: Bearer {token}\r\n"
        f"content-type: {content_type}\r\nte: trailers\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    writer.close()
    await writer.wait_closed()
    headers = answer.partition("\r\n\r\n")[0].lower().split("\r\n")
    told = [line.partition(": ")[2] for line in headers if line.startswith("grpc-status: ")]
    return int(headers[0].split()[1]), told[0] if told else ""


async def test_the_rules_let_those_in_whom_they_should(edge: Edge, mint: Mint) -> None:
    """The disguises above are of paths that exist."""
    admin, (http,) = mint.token(roles=SUPER), ADMINS.http

    assert await raw(edge, http.verb, http.path, "application/json", admin) == (200, "")
    status, grpc_status = await raw(edge, "POST", ADMINS.path, "application/grpc", admin)
    assert status == 200
    assert grpc_status in {"", "0"}


# The mesh behind.


async def test_nobody_else_can_speak_as_a_service(mesh: Installation) -> None:
    """A service is known by its listener: a socket that only the operator can open."""
    assert stat.S_IMODE(mesh.run.sockets.stat().st_mode) == 0o700
    for identity in CONTRACT.identities:
        assert stat.S_IMODE(mesh.paths.egress(identity).stat().st_mode) == 0o600
    assert stat.S_IMODE(mesh.paths.admin.stat().st_mode) == 0o600
    if os.getuid() == 0:
        # As root the modes can be put to the test.
        for path in (mesh.paths.egress("backend"), mesh.paths.admin, mesh.run.control):
            assert await may_connect(path, None)
            assert not await may_connect(path, 65534)


async def may_connect(path: Path, user: int | None) -> bool:
    """Whether a user may write to a socket, which is what connecting takes."""
    child = await asyncio.create_subprocess_exec("test", "-w", str(path), user=user)
    return await child.wait() == 0


@pytest.mark.parametrize("host", ["egress-operator", "operator", "ledger", "mesh"])
async def test_a_host_name_leads_nowhere_else(edge: Edge, mint: Mint, host: str) -> None:
    headers = {"host": host} | bearer(mint.token(roles=SUPER))
    outcome = await edge.web(Rpc(SERVICE_ONLY.path, headers=headers))

    assert outcome.refusal == (501, "METHOD_NOT_FOUND")


# Signing in.


class Signer:
    """A key and what it signs."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    async def challenge(self, edge: Edge) -> identity_pb2.CreateChallengeResponse:
        request = identity_pb2.CreateChallengeRequest(
            public_key=self.public, origin=f"http://{edge.target}"
        )
        return await IdentityServiceStub(edge.channel).CreateChallenge(request)

    def answer(
        self, challenge: identity_pb2.CreateChallengeResponse, message: bytes | None = None
    ) -> identity_pb2.SignInRequest:
        return identity_pb2.SignInRequest(
            challenge_id=challenge.challenge_id,
            public_key=self.public,
            signature=self.key.sign(challenge.message if message is None else message),
        )


@contextlib.asynccontextmanager
async def gateways(mesh: Installation) -> AsyncIterator[list[IdentityServiceStub]]:
    """Each replica of the gateway by itself, as the edge would call it."""
    async with contextlib.AsyncExitStack() as stack:
        stubs = []
        for replica in await mesh.replicas("gateway"):
            channel = grpc.aio.insecure_channel(f"unix:{replica['socket']}")
            stubs.append(IdentityServiceStub(await stack.enter_async_context(channel)))
        assert len(stubs) == 2
        yield stubs


async def refused(stub: IdentityServiceStub, request: identity_pb2.SignInRequest) -> str:
    """The reason for which a sign-in is refused; empty when it is not."""
    try:
        await stub.SignIn(request, metadata=((wire.HEADER_CALLER, wire.EDGE),))
    except grpc.aio.AioRpcError as error:
        remote = from_rpc_error(error)
        assert remote.code is Code.UNAUTHENTICATED
        return remote.reason
    return ""


async def test_a_challenge_is_good_once_at_whatever_replica(mesh: Installation, edge: Edge) -> None:
    signer = Signer()
    async with gateways(mesh) as replicas:
        for first in replicas:
            answer = signer.answer(await signer.challenge(edge))
            assert not await refused(first, answer)
            for replica in replicas:
                assert await refused(replica, answer) == "CHALLENGE_INVALID"


async def test_a_challenge_that_is_used_ten_times_at_once_is_good_once(
    mesh: Installation, edge: Edge
) -> None:
    signer = Signer()
    answer = signer.answer(await signer.challenge(edge))
    async with gateways(mesh) as replicas:
        reasons = await asyncio.gather(*(refused(replica, answer) for replica in replicas * 5))

    assert sorted(reasons) == ["", *["CHALLENGE_INVALID"] * 9]


async def test_a_challenge_expires_after_a_minute(mesh: Installation, edge: Edge) -> None:
    signer = Signer()
    stub = IdentityServiceStub(edge.channel)
    old, older = [signer.answer(await signer.challenge(edge)) for _ in range(2)]

    async with shifted(mesh, "gateway", "55 seconds"):
        assert not await refused(stub, old)
    async with shifted(mesh, "gateway", "61 seconds"):
        assert await refused(stub, older) == "CHALLENGE_INVALID"


async def test_only_the_challenged_key_signs_in(edge: Edge) -> None:
    """And a wrong answer uses the challenge up: nobody guesses twice."""
    signer, other = Signer(), Signer()
    stub = IdentityServiceStub(edge.channel)

    challenge = await signer.challenge(edge)
    assert await refused(stub, other.answer(challenge)) == "CHALLENGE_INVALID"
    stolen = other.answer(challenge)
    stolen.public_key = signer.public
    assert await refused(stub, stolen) == "SIGNATURE_INVALID"
    assert await refused(stub, signer.answer(challenge)) == "CHALLENGE_INVALID"


async def test_a_challenge_signed_for_another_audience_is_worth_nothing(edge: Edge) -> None:
    """Another installation may relay our challenge under its own name: users sign what it says."""
    signer = Signer()
    challenge = await signer.challenge(edge)
    named = challenge.audience.encode()
    assert challenge.message.endswith(b"\n- urn:icto:audience:" + named)
    elsewhere = challenge.message.replace(named, b"elsewhere")

    answer = signer.answer(challenge, elsewhere)
    assert await refused(IdentityServiceStub(edge.channel), answer) == "SIGNATURE_INVALID"


# Limits.


@pytest.mark.parametrize("method", ["challenges", "sessions"])
@pytest.mark.parametrize("kind", [NOBODY, USER])
async def test_sign_ins_of_an_address_are_limited_whatever_token_comes_along(
    narrow: Installation, method: str, kind: str
) -> None:
    """With a limit for each principal, a token for each call would lead out of it."""
    mint, request = await mint_of(narrow), Rest("POST", f"/v1/{method}", b"{}", JSON)
    place = f"127.0.{1 + (method == 'sessions')}.{1 + (kind == USER)}"
    signed = [
        replace(request, headers=JSON | (bearer(mint.anybody) if kind == USER else {}))
        for _ in range(6 * NARROW_SIGN_INS)
    ]
    began = time.monotonic()
    async with caller(narrow.target, local_address=place) as address:
        told = await asyncio.gather(*map(address.rest, signed))
    let_in = sum(outcome.reason != "RATE_LIMITED" for outcome in told)
    assert NARROW_SIGN_INS <= let_in <= NARROW_SIGN_INS + 1 + time.monotonic() - began
    async with caller(narrow.target, local_address=f"{place}1") as other:
        assert (await other.rest(request)).reason != "RATE_LIMITED"


async def test_a_limit_is_not_forgotten_over_many_other_callers(edge: Edge, mint: Mint) -> None:
    """Envoy keeps 20 buckets by default: whoever was limited was fresh again after 20 others."""
    bucket, user = CONTRACT.buckets[LIMITED.rate_limit], mint.anybody

    async def let_in(tokens: Iterable[str]) -> int:
        calls = [Rpc(LIMITED.path, headers=bearer(token)) for token in tokens]
        outcomes = [outcome for call in calls for outcome in [await edge.grpc(call)]]
        assert {outcome.reason for outcome in outcomes} <= {"", "RATE_LIMITED"}
        return [outcome.reason for outcome in outcomes].count("")

    began = time.monotonic()
    assert await let_in([user] * bucket.capacity) == bucket.capacity
    assert await let_in([mint.anybody for _ in range(40)]) == 40
    again = await let_in([user] * bucket.capacity)
    assert again <= 1 + bucket.per_second * (time.monotonic() - began)


# Pages.

STRANGER: Final = "https://elsewhere.example"
ANSWERS: Final = {
    "200": (200, Rest("POST", "/v1/lab:fail", b"{}", JSON)),
    "a service's error": (404, Rest("POST", "/v1/lab:fail", b'{"code":5,"reason":"NO"}', JSON)),
    "no token": (401, Rest("GET", "/v1/whoami")),
    "unknown path": (404, Rest("GET", "/v1/nowhere")),
    "wrong verb": (405, Rest("DELETE", "/v1/lab:fail")),
    "broken body": (400, Rest("POST", "/v1/lab:fail", b"{", JSON)),
    "too large": (413, Rest("POST", "/v1/lab:fail", b"x" * (largest_body(CONTRACT) + 1), JSON)),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_pages_of_an_allowed_origin_may_read_every_answer(
    narrow_edge: Edge, answer: str
) -> None:
    """Errors too: to a page an answer without CORS headers is a network failure."""
    status, request = ANSWERS[answer]
    allowed = {}
    for origin in (PAGE, STRANGER):
        headers = {**request.headers, "origin": origin}
        outcome = await narrow_edge.rest(Rest(request.verb, request.path, request.body, headers))
        assert outcome.status == status
        allowed[origin] = [
            outcome.headers.get(f"access-control-allow-{what}")
            for what in ("origin", "credentials")
        ]
    assert allowed == {PAGE: [PAGE, "true"], STRANGER: [None, None]}


async def test_grpc_web_pages_may_read_what_went_wrong(narrow_edge: Edge) -> None:
    outcome = await narrow_edge.web(Rpc(WHO[1].path, headers={"origin": PAGE}))

    assert outcome.headers["access-control-allow-origin"] == PAGE
    exposed = outcome.headers["access-control-expose-headers"].split(", ")
    assert {"grpc-status", "grpc-message", "grpc-status-details-bin"} <= set(exposed)


@pytest.mark.parametrize("path", ["/v1/whoami", "/v1/lab:fail", f"{LAB}/Fail"])
async def test_a_preflight_is_answered_for_allowed_origins_alone(
    narrow_edge: Edge, path: str
) -> None:
    wants = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,idempotency-key",
    }
    allowed = await narrow_edge.rest(Rest("OPTIONS", path, headers=wants | {"origin": PAGE}))
    refused = await narrow_edge.rest(Rest("OPTIONS", path, headers=wants | {"origin": STRANGER}))

    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert allowed.headers["access-control-allow-credentials"] == "true"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert refused.refusal == (403, "ORIGIN_NOT_ALLOWED")
    assert not [name for name in refused.headers if name.startswith("access-control")]


# Keys. Last, so that the next one has been published by now.


async def test_keys_rotate_without_a_change_of_the_listener(
    mesh: Installation, edge: Edge, next_key: NextKey
) -> None:
    """The next key is published before it signs; tokens of the last one stay good."""

    async def published() -> bool:
        return next_key.kid in mesh.paths.resource("tokens").read_text()

    await until(published, seconds=30)
    signer, stub = Signer(), IdentityServiceStub(edge.channel)
    before = (await stub.SignIn(signer.answer(await signer.challenge(edge)))).access_token
    async with shifted(mesh, "gateway", "11 minutes"):
        after = (await stub.SignIn(signer.answer(await signer.challenge(edge)))).access_token

    signed_by = [jwt.get_unverified_header(token)["kid"] for token in (before, after)]
    assert signed_by[0] != signed_by[1] == next_key.kid
    for token in (before, after):
        for outcome in (await edge.all(*with_headers(WHO, bearer(token)))).values():
            assert caller_of(outcome) == (principal.of_public_key(signer.public), [])
    assert await listener_changes(mesh) == next_key.listeners


async def listener_changes(mesh: Installation) -> list[str]:
    """How often Envoy took a listener in."""
    text = await mesh.envoy("/stats?filter=listener_manager.listener_(added|modified)")
    return sorted(text.splitlines())


def with_headers(call: tuple[Rest, Rpc], headers: dict[str, str]) -> tuple[Rest, Rpc]:
    """A call with other headers."""
    rest, rpc = call
    return (
        Rest(rest.verb, rest.path, rest.body, {**rest.headers, **headers}),
        Rpc(rpc.path, rpc.body, headers),
    )


def caller_of(outcome: Outcome) -> tuple[str, list[str]]:
    """Principal and roles, as WhoAmI tells them."""
    assert outcome.status == 200, outcome
    if outcome.headers.get("content-type") == "application/json":
        told = json.loads(outcome.body)
        return told["principal"], told["roles"]
    response = identity_pb2.WhoAmIResponse.FromString(outcome.body)
    return response.principal, [str(role) for role in response.roles]


def body_of(request: Message) -> bytes:
    """A request as REST sends it."""
    return json_format.MessageToJson(request).encode()
