"""What a request may look like at the edge: every field in one place, every name known, and the
parts of HTTP and CORS that clients take for granted.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, TypeVar
from uuid import uuid4

import pytest

from contract import loader
from contract.errors import Code
from icto.lab.v1 import lab_pb2
from mesh.cli.call import load_messages
from mesh.cli.client import CallError, Client
from tests.conftest import PAGE
from tests.support.bindings import bindings, forms, misspelled
from tests.support.edge import PROBLEM, Edge, Outcome, Rest, Rpc, bearer, told_trace
from tests.support.installation import deployed
from tests.support.lab import JSON, LAB
from tests.support.money import approve, balance, get, post, quote_for
from tests.support.tokens import Mint, somebody

T = TypeVar("T")

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
BINDINGS: Final = bindings(CONTRACT.methods())
WHO: Final = "/icto.identity.v1.IdentityService/WhoAmI"
STRANGER: Final = "https://elsewhere.example"
# As many as an impatient client has open; more would only wait for one another.
_TOGETHER: Final = 16


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """All of it, some at a time."""
    places = asyncio.Semaphore(_TOGETHER)

    async def placed(one: Awaitable[T]) -> T:
        async with places:
            return await one

    return await asyncio.gather(*map(placed, work))


def transfer_body(client: Client, **more: Any) -> dict[str, Any]:
    return {"requestId": str(uuid4()), "to": {"owner": client.principal}, "amount": "7"} | more


# A field that the path or the body gives is not the query's.


@pytest.mark.parametrize(
    "query",
    ["project.name={}", "project%2Ename={}", "%70roject.name={}", "project.display_name=Mine"],
)
async def test_a_query_leads_no_change_to_another_project(alice: Client, query: str) -> None:
    one, other = [
        (await post(alice, "/v1/projects", project={"displayName": name}))["name"]
        for name in ("One", "Other")
    ]
    body = {
        "requestId": str(uuid4()),
        "project": {"displayName": "Changed"},
        "updateMask": "displayName",
    }
    with pytest.raises(CallError) as refused:
        await alice.rest("PATCH", f"/v1/{one}?{query.format(other)}", body)
    assert refused.value.reason == "MISPLACED_FIELD"
    assert [(await get(alice, name))["displayName"] for name in (one, other)] == ["One", "Other"]


@pytest.mark.parametrize(
    "query",
    [
        "ledger=ledgers/icp", "%6cedger=ledgers/icp", "ledge%72=ledgers%2Ficp",
        "ledger=ledgers/x&ledger=ledgers/icp", "amount=5", "to.owner=aaaaa-aa",
        "createdAtTime=2020-01-01T00:00:00Z", "created_at_time=2020-01-01T00:00:00Z",
    ],
)  # fmt: skip
async def test_a_query_makes_no_transfer_another_one(
    alice: Client, bob: Client, query: str
) -> None:
    token = (await deployed(alice))["token"]
    token = (await get(alice, token))["ledger"]
    before = [await balance(bob), await balance(bob, ledger=token)]
    path = f"/v1/{token}:transfer?{query}"
    with pytest.raises(CallError) as refused:
        await alice.rest("POST", path, transfer_body(bob))
    assert refused.value.reason == "MISPLACED_FIELD"
    assert [await balance(bob), await balance(bob, ledger=token)] == before


async def test_a_field_of_the_path_or_the_body_is_nowhere_taken_from_the_query(
    edge: Edge,
) -> None:
    """Every REST path of the contract, with every field that it binds; spellings take turns."""
    named = [(b, list(forms(name))) for b in BINDINGS for name in sorted(b.bound)]
    asked = [
        Rest(b.http.verb, f"{b.path}?{query}", b"{}" if b.http.body else b"", JSON)
        for turn, (b, spelled) in enumerate(named)
        for query in (spelled[0], spelled[turn % len(spelled)])
    ]
    told = await together(map(edge.rest, asked))
    wrong = [
        (request.verb, request.path, outcome.refusal)
        for request, outcome in zip(asked, told, strict=True)
        if outcome.refusal != (400, "MISPLACED_FIELD")
    ]
    assert not wrong
    assert len(named) > len(BINDINGS) > 90


@pytest.mark.parametrize("method", ["Transfer", "UpdateProject", "ListBlocks"])
async def test_no_spelling_of_a_field_hides_it(edge: Edge, method: str) -> None:
    (b,) = [one for one in BINDINGS if one.method.name == method]
    queries = [query for name in sorted(b.bound) for query in forms(name)]
    asked = [
        Rest(b.http.verb, f"{b.path}?{q}", b"{}" if b.http.body else b"", JSON) for q in queries
    ]
    told = await together(map(edge.rest, asked))
    assert {o.refusal for o in told} == {(400, "MISPLACED_FIELD")}


async def test_a_field_that_nothing_else_gives_is_still_the_querys(edge: Edge) -> None:
    asked = [
        Rest(b.http.verb, f"{b.path}?{name}=")
        for b in BINDINGS
        if not b.method.sends_events
        for name in sorted(b.free)
    ]
    told = await together(map(edge.rest, asked))
    assert [o for o in told if o.reason == "MISPLACED_FIELD"] == []
    assert len(asked) > 40


# A name that the method does not know is not dropped in silence.


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("expiresAt", "expireTime"),
        ("expires_at", "expireTime"),
        ("expectedAllowence", "expectedAllowance"),
    ],
)
async def test_an_approval_with_a_name_that_nobody_knows_is_not_made(
    alice: Client, wrong: str, meant: str
) -> None:
    quote = await quote_for(alice, ("base", "PAID_SERVICE_PIPELINE"))
    with pytest.raises(CallError) as refused:
        await approve(alice, quote, 5_000_000, **{wrong: "2030-01-01T00:00:00Z"})
    assert refused.value.reason == "UNKNOWN_FIELD"
    assert f"'{wrong}'" in str(refused.value)
    assert f"'{meant}'" in str(refused.value)
    assert (await get(alice, f"{quote['name']}:checkApproval"))["allowance"] == "0"


async def test_no_body_of_the_contract_loses_a_field_in_silence(edge: Edge, mint: Mint) -> None:
    """Every field of every body, misspelled; the message names the one that was meant."""
    headers = JSON | bearer(mint.anybody)
    asked = [
        (meant, path, Rest(b.http.verb, b.path, json.dumps(body).encode(), headers))
        for b, path, meant, body in misspelled(b for b in BINDINGS if b.http.body)
    ]
    told = await together(edge.rest(request) for _, _, request in asked)
    wrong = [
        (request.verb, request.path, path, outcome.refusal, outcome.message)
        for (meant, path, request), outcome in zip(asked, told, strict=True)
        if outcome.refusal != (400, "UNKNOWN_FIELD")
        or path not in outcome.message
        or f"'{meant}'" not in outcome.message
    ]
    assert not wrong
    assert len(asked) > 200


# HTTP.


async def test_a_path_that_is_read_answers_head_as_get_without_its_body(
    edge: Edge, alice: Client
) -> None:
    signed = bearer(await alice.token())
    paths = [b.path for b in BINDINGS if b.http.verb == "GET" and not b.method.sends_events]
    asked = [*paths, "/v1/ledgers/icp", "/v1/tokens?pageSize=1", "/v1/ledgers/icp?nonsense=1"]
    wrong = []
    for path in asked:
        got = await edge.rest(Rest("GET", path, headers=signed))
        head = await edge.http.head(path, headers=signed)
        if (head.status_code, head.content, head.headers["content-type"]) != (
            got.status, b"", got.headers["content-type"],
        ):  # fmt: skip
            wrong.append((path, got.refusal, head.status_code, dict(head.headers)))
    assert not wrong
    plain = await edge.http.head("/v1/ledgers/icp")
    assert (plain.status_code, int(plain.headers["content-length"]) > 100) == (200, True)


async def test_head_of_a_stream_does_not_wait_for_its_end(edge: Edge) -> None:
    head = await edge.http.head("/v1/lab:streamEvents?count=1000&pause=1s")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "text/event-stream"


async def test_options_names_what_a_path_takes(edge: Edge) -> None:
    verbs: dict[str, set[str]] = {}
    for b in BINDINGS:
        verbs.setdefault(b.path, {"OPTIONS"}).update(
            {b.http.verb, "HEAD"} if b.http.verb == "GET" else {b.http.verb}
        )
    wrong = []
    for path, expected in verbs.items():
        outcome = await edge.rest(Rest("OPTIONS", path))
        allowed = set(re.split(", *", outcome.headers.get("allow", "")))
        if (outcome.status, allowed) != (204, expected):
            wrong.append((path, outcome.status, allowed, expected))
    assert not wrong
    nowhere = await edge.rest(Rest("OPTIONS", "/v1/nowhere"))
    assert nowhere.refusal == (404, "METHOD_NOT_FOUND")
    wrong_verb = await edge.rest(Rest("PUT", "/v1/tokens", b"{}", JSON))
    assert wrong_verb.headers["allow"] == "GET, HEAD, POST, OPTIONS"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "bearer  "])
async def test_the_scheme_of_a_token_is_known_in_any_case(
    edge: Edge, mint: Mint, scheme: str
) -> None:
    user = somebody()
    headers = {"authorization": f"{scheme} {mint.token(user)}"}
    told = await edge.all(Rest("GET", "/v1/whoami", headers=headers), Rpc(WHO, headers=headers))
    assert {outcome.status for outcome in told.values()} == {200}
    assert json.loads(told["REST"].body)["principal"] == user


@pytest.mark.parametrize("name", ["x_trace", "x_icto_principal", "a_b"])
async def test_a_header_with_an_underscore_is_refused_in_the_shape_of_errors(
    edge: Edge, name: str
) -> None:
    fail, headers = lab_pb2.FailRequest(), {name: "x"}
    told = await edge.all(
        Rest("POST", "/v1/lab:fail", b"{}", JSON | headers),
        Rpc(f"{LAB}/Fail", fail.SerializeToString(), headers),
    )
    for outcome in told.values():
        assert outcome.refusal == (400, "HEADER_NAME_INVALID"), outcome
        assert outcome.code in {None, Code.INVALID_ARGUMENT}
        assert "underscore" in outcome.message
        assert outcome.trace_id == told_trace(outcome)


async def said(edge: Edge, text: str) -> tuple[str, str]:
    """Head and body of the answer to a request in its own words."""
    host, _, port = edge.target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.replace("\n", "\r\n").encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return head, body


@pytest.mark.parametrize("host", ["", "host: icto\n"])
@pytest.mark.parametrize("connection", ["", "connection: keep-alive\nx-last: 1\n"])
async def test_http_1_0_is_answered_in_words(edge: Edge, host: str, connection: str) -> None:
    close = connection and "connection: close\n"
    head, body = await said(edge, f"GET /v1/ledgers/icp HTTP/1.0\n{host}{close}\n")
    assert " 200 " in head.splitlines()[0]
    assert json.loads(body)["symbol"] == "ICP"
    assert "chunked" not in head.lower()
    head, body = await said(edge, f"GET /v1/nowhere HTTP/1.0\n{host}\n")
    assert " 404 " in head.splitlines()[0]
    assert json.loads(body)["reason"] == "METHOD_NOT_FOUND"


# Pages of other origins.

PREFLIGHT: Final = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "traceparent,tracestate,baggage",
}


async def test_a_page_may_send_what_belongs_to_its_trace(narrow_edge: Edge) -> None:
    told = await narrow_edge.rest(
        Rest("OPTIONS", "/v1/tokens", headers=PREFLIGHT | {"origin": PAGE})
    )
    allowed = set(re.split(", *", told.headers["access-control-allow-headers"]))
    assert {"traceparent", "tracestate", "baggage"} <= allowed


@pytest.mark.parametrize("origin", [PAGE, STRANGER, ""])
async def test_a_cache_keeps_the_answers_of_origins_apart(narrow_edge: Edge, origin: str) -> None:
    headers = {"origin": origin} if origin else {}
    asked = [
        Rest("GET", "/v1/tokens", headers=headers),
        Rest("GET", "/v1/whoami", headers=headers),
        Rest("GET", "/v1/nowhere", headers=headers),
        Rest("PUT", "/v1/tokens", b"{}", headers),
        Rest("OPTIONS", "/v1/tokens", headers=headers | PREFLIGHT),
    ]
    told = [await narrow_edge.rest(request) for request in asked]
    told.append(await narrow_edge.web(Rpc(WHO, headers=headers)))
    for outcome in told:
        varies = re.split(", *", outcome.headers.get("vary", "").lower())
        assert varies.count("origin") == 1, outcome


@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/nowhere", WHO])
async def test_a_preflight_of_an_origin_that_is_not_listed_says_where_the_list_is(
    edge: Edge, narrow_edge: Edge, path: str
) -> None:
    for place in (edge, narrow_edge):
        for origin in (STRANGER, "null", f"{PAGE}.evil.example", PAGE.upper()):
            request = Rest("OPTIONS", path, headers=PREFLIGHT | {"origin": origin})
            told = await place.rest(request)
            assert told.refusal == (403, "ORIGIN_NOT_ALLOWED")
            assert "cors_origins" in told.message
            assert told.headers["content-type"] == PROBLEM
            assert not [name for name in told.headers if name.startswith("access-control")]


# Values.


async def test_a_principal_is_known_in_capitals(alice: Client, bob: Client) -> None:
    """The Internet Computer's text form: printed in lower case, read in any."""
    loud = bob.principal.upper()
    before = await balance(bob)
    assert await balance(alice, loud) == before
    assert (await get(alice, f"ledgers/icp/accounts/{loud}"))["account"]["owner"] == bob.principal
    await post(alice, "/v1/ledgers/icp:transfer", to={"owner": loud}, amount="7")
    assert await balance(bob) == before + 7
    await post(alice, "/v1/ledgers/icp:approve", spender={"owner": loud}, amount="70000")
    name = f"ledgers/icp/accounts/{alice.principal.upper()}/allowances/{loud}"
    assert (await get(bob, name))["allowance"] == "70000"
    source = {"owner": alice.principal.upper()}
    await post(
        bob, "/v1/ledgers/icp:transferFrom", **{"from": source}, to={"owner": loud}, amount="9"
    )
    assert await balance(bob) == before + 16


async def test_what_belongs_to_something_absent_is_not_found(alice: Client) -> None:
    """Every list below a resource: an empty page would say that the resource is there."""
    nothing = "01890000-0000-7000-8000-000000000000"
    found = [b for b in BINDINGS if "{parent=" in b.http.path]
    assert len(found) > 2
    for b in found:
        path = b.path.replace("/x/", f"/{nothing}/")
        with pytest.raises(CallError) as refused:
            await alice.rest("GET", path)
        assert (refused.value.status, refused.value.reason) == (404, refused.value.reason), path
        assert refused.value.reason.endswith("_NOT_FOUND")


def keyed(*keys: str) -> list[tuple[str, str]]:
    """Headers of one request, the same one repeated."""
    return [*[("idempotency-key", key) for key in keys], *JSON.items()]


async def ordered(edge: Edge, client: Client, keys: Sequence[str], **body: Any) -> Outcome:
    """A project, asked for under these keys."""
    signed = [("authorization", f"Bearer {await client.token()}")]
    project = {"project": {"displayName": "Keyed"}} | body
    reply = await edge.http.post("/v1/projects", json=project, headers=[*signed, *keyed(*keys)])
    told = reply.json()
    return Outcome(
        reply.status_code, reason=told.get("reason", ""), body=told.get("name", "").encode()
    )


async def test_of_two_idempotency_keys_none_counts(edge: Edge, alice: Client) -> None:
    one, other = str(uuid4()), str(uuid4())
    for keys in ([one, other], [one, one], [f"{one}, {other}"], [f'"{one}", "{other}"']):
        refused = await ordered(edge, alice, keys)
        assert refused.refusal == (400, "IDEMPOTENCY_KEY_INVALID"), keys
    listed = (await alice.rest("GET", "/v1/projects")).body["projects"]
    assert listed == []


async def test_an_idempotency_key_is_the_same_in_quotes_and_without(
    edge: Edge, alice: Client
) -> None:
    """The draft RFC sends it as a quoted string; many clients send it bare."""
    key = str(uuid4())
    told = [
        await ordered(edge, alice, [f'"{key}"']),
        await ordered(edge, alice, [key]),
        await ordered(edge, alice, [f'"{key}"'], requestId=key),
        await ordered(edge, alice, [], requestId=key),
    ]
    assert {(outcome.status, outcome.body) for outcome in told} == {(200, told[0].body)}
    assert (await ordered(edge, alice, [f'"{key}'])).refusal == (400, "IDEMPOTENCY_KEY_INVALID")
