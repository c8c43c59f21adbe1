"""Whatever is sent: a typed error, nothing changed, and nothing of the inside is told."""

import asyncio
import base64
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, Final, TypeVar
from uuid import uuid4

import pytest
from google.protobuf.message import Message

from contract import loader
from contract.errors import Code
from contract.method import Kind, Method
from icto.backend.v1 import projects_pb2
from mesh.cli.call import load_messages, message_class
from mesh.cli.client import CallError, Client
from tests.support.edge import Edge, Outcome, Rest, Rpc, bearer, sample
from tests.support.installation import (
    Installation,
    approve_everything,
    deployed,
    finished,
    quoted_body,
)
from tests.support.requests import extremes
from tests.support.texts import places

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
# The lab does what it is told, and is told to fail; it has tests of its own.
METHODS: Final = [
    method
    for method in CONTRACT.methods()
    if method.audience.from_outside and method.kind is Kind.UNARY and method.mesh_name != "lab"
]
JSON: Final = {"content-type": "application/json"}
INSIDE: Final = (".py", "Traceback", "asyncpg", "postgres", "/work", "/tmp/", ".sock")
OURS: Final = {Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS}
"""Codes that say that we are at fault."""
SEED: Final = 20_241_218
_AT_ONCE: Final = 16
T = TypeVar("T")

TEXTS: Final = (
    "\0", "\ud7ff\ue000", "\u202etxt.exe", "\ufeff", "a\u0301" * 40, "\U0001f600" * 200,
    "' OR 1=1 --", "../../etc/passwd", "{name=*}", "%00", "\r\nx-icto-principal: x",
    "null", "-1", "NaN", "1e400", "٣", "x" * 5000,
)  # fmt: skip
NUMBERS: Final = (-1, 2**31, 2**63, 2**64, -(2**63) - 1, 0.5, 1e400, "NaN", "x", "0x10", "", "٣")


def assert_typed(outcome: Outcome, what: Any) -> None:
    """Passes for an answer, and for a refusal with a reason that is the caller's fault."""
    if outcome.status == 200:
        return
    assert outcome.code not in OURS, (what, outcome)
    assert outcome.reason, (what, outcome)
    assert outcome.status < 500 or outcome.status in (501, 503, 504), (what, outcome)
    told = outcome.text
    assert not any(part in told for part in INSIDE), (what, told)


async def test_random_bytes_are_refused_by_every_method(edge: Edge, alice: Client) -> None:
    chance = random.Random(SEED)
    headers = bearer(await alice.token())
    for method in METHODS:
        for size in (1, 7, 300):
            noise = chance.randbytes(size)
            assert_typed(await edge.grpc(Rpc(method.path, noise, headers)), method.path)
            assert_typed(await edge.web(Rpc(method.path, noise, headers)), method.path)
            rest = sample(method).rest
            if rest is not None and method.http[0].body:
                outcome = await edge.rest(Rest(rest.verb, rest.path, noise, headers | JSON))
                assert_typed(outcome, method.path)
                assert outcome.status in (400, 403, 404), (method.path, outcome)


def with_one_wrong(message: Message) -> Iterator[dict[str, Any]]:
    """JSON bodies in which one field has a type or a value that it cannot have."""
    for field in message.DESCRIPTOR.fields:
        values: tuple[Any, ...]
        if field.is_repeated:
            values = ("x", 7, [None], [[]], {"x": 1})
        elif field.message_type is not None:
            values = ("x", 7, [], [7], {"unknown": 1})
        elif field.cpp_type == field.CPPTYPE_STRING:
            values = (7, True, [], {}, *TEXTS)
        else:
            values = (*NUMBERS, True, [], {})
        yield from ({field.json_name: value} for value in values)


def batches(many: Iterator[T]) -> Iterator[list[T]]:
    """What is sent at the same time."""
    while some := list(itertools.islice(many, _AT_ONCE)):
        yield some


async def test_wrong_types_and_strange_texts_are_refused_by_every_method(
    edge: Edge, alice: Client
) -> None:
    """Over REST, where anybody can write anything into a body."""
    headers = bearer(await alice.token()) | JSON
    count = 0
    for method in METHODS:
        rest = sample(method).rest
        if rest is None or not method.http[0].body:
            continue
        for some in batches(with_one_wrong(message_class(method.request_type)())):
            bodies = [json.dumps({"requestId": str(uuid4())} | wrong).encode() for wrong in some]
            outcomes = await asyncio.gather(
                *(edge.rest(Rest(rest.verb, rest.path, body, headers)) for body in bodies)
            )
            for wrong, outcome in zip(some, outcomes, strict=True):
                assert_typed(outcome, (method.path, wrong))
            count += len(some)
    assert count > 500


async def test_extreme_values_in_requests_that_are_well_formed_are_refused_or_served(
    edge: Edge, alice: Client
) -> None:
    """Far times, endless durations, numbers at the edge of their type, in each field there is."""
    headers = bearer(await alice.token())
    count = 0
    for method in METHODS:
        for some in batches(extremes(method, alice.principal, "ledgers/icp")):
            outcomes = await asyncio.gather(
                *(edge.grpc(Rpc(method.path, one.SerializeToString(), headers)) for _, one in some)
            )
            for (what, _), outcome in zip(some, outcomes, strict=True):
                assert_typed(outcome, (method.path, what))
            count += len(some)
    assert count > 500


async def test_fields_that_nobody_knows_are_ignored_in_protobuf_alone(
    edge: Edge, alice: Client
) -> None:
    """As proto3 has it: a newer client may say more than an older platform knows.

    In JSON a field that nobody knows is more often a slip, and what it meant would be lost.
    """
    headers = bearer(await alice.token()) | JSON
    project = {"displayName": "A project", "colour": "red"}
    body = {"requestId": str(uuid4()), "project": project}
    refused = await edge.rest(Rest("POST", "/v1/projects", json.dumps(body).encode(), headers))
    assert (refused.status, refused.reason) == (400, "UNKNOWN_FIELD")
    request = projects_pb2.CreateProjectRequest(request_id=str(uuid4()))
    request.project.display_name = "A project"
    later = request.SerializeToString() + b"\xfa\x7f\x03red"  # field 2047
    method = "icto.backend.v1.ProjectService/CreateProject"
    call: Any = alice.channel.unary_unary(f"/{method}")
    answer = await call(later, metadata=await alice.metadata(), timeout=10)
    assert projects_pb2.Project.FromString(answer).display_name == "A project"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a":' * 200, b"{" * 100_000]
)
async def test_a_body_that_is_no_object_is_refused(edge: Edge, alice: Client, body: bytes) -> None:
    headers = bearer(await alice.token()) | JSON
    outcome = await edge.rest(Rest("POST", "/v1/projects", body, headers))
    assert_typed(outcome, body[:20])
    assert outcome.status == 400


def methods_by_size() -> list[Method]:
    """One method of users for each size that the contract allows."""
    found = {m.max_request_bytes: m for m in METHODS if m.has_request_id and m.audience.user}
    return [found[size] for size in sorted(found)]


@pytest.mark.parametrize("method", methods_by_size(), ids=lambda method: method.full_name)
async def test_huge_requests_are_refused_before_they_are_read(
    edge: Edge, alice: Client, method: Method
) -> None:
    headers = bearer(await alice.token())
    request: Any = message_class(method.request_type)()
    rest = sample(method).rest
    assert rest is not None
    text = "x" * method.max_request_bytes
    body = json.dumps({"requestId": text}).encode()
    outcome = await edge.rest(Rest(rest.verb, rest.path, body, headers | JSON))
    assert (outcome.status, outcome.reason) == (413, "REQUEST_TOO_LARGE")
    request.request_id = text
    outcome = await edge.grpc(Rpc(method.path, request.SerializeToString(), headers))
    assert (outcome.code, outcome.reason) == (Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")


AMOUNTS: Final = (
    "-1", "-0", "+1", "1.0", "1e3", "0x1", " 1", "1 ", "01", "", "٣", "1_000", "NaN", "Infinity",
    str(2**128), str(2**256), "9" * 39, "9" * 1000, -1, 1.5, None, True,
)  # fmt: skip


async def test_no_amount_that_is_none_moves_anything(alice: Client, bob: Client) -> None:
    """Negative, overflowing, fractional, in other digits: refused, and nobody has more or less."""
    token = await deployed(alice)
    ledger = token["token"].replace("tokens/", "ledgers/")
    before = await holdings(alice, ledger, alice.principal, bob.principal)
    for amount in AMOUNTS:
        to = {"owner": bob.principal}
        for verb, fields in (
            ("transfer", {"to": to}),
            ("transferFrom", {"to": to, "from": to}),
        ):
            body = {"requestId": str(uuid4()), "amount": amount, **fields}
            with pytest.raises(CallError) as caught:
                await alice.rest("POST", f"/v1/{ledger}:{verb}", body)
            assert caught.value.status == 400, (verb, amount)
    assert await holdings(alice, ledger, alice.principal, bob.principal) == before


async def holdings(client: Client, ledger: str, *owners: str) -> list[str]:
    """What owners have, and what there is of it altogether."""
    paths = [f"/v1/{ledger}/accounts/{owner}" for owner in owners]
    balances = [(await client.rest("GET", path)).body["balance"] for path in paths]
    return [*balances, (await client.rest("GET", f"/v1/{ledger}")).body["totalSupply"]]


async def test_no_text_of_any_method_reaches_a_terminal_as_a_command(
    edge: Edge, alice: Client
) -> None:
    """Who sends a control sequence is told where; whoever may not call is told that first."""
    headers = bearer(await alice.token())
    tried, taken, untold = 0, [], []
    for method in METHODS:
        plain = message_class(method.request_type)().SerializeToString()
        outcome = await edge.grpc(Rpc(method.path, plain, headers))
        if outcome.code in (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED):
            continue
        for place in places(method.request_type):
            message = place.holding("a\x1b[2Jb", message_class(method.request_type)())
            outcome = await edge.grpc(Rpc(method.path, message.SerializeToString(), headers))
            logo = place.field.name == "logo"
            wanted = "must be an https URL, or a PNG" if logo else "must not hold U+001B"
            if outcome.code is not Code.INVALID_ARGUMENT:
                taken.append((method.path, place.name))
            elif wanted not in outcome.message:
                untold.append((method.path, place.name, outcome.message))
            tried += 1
    assert taken == []
    assert untold == []
    assert tried > len(METHODS)


TRICKS: Final = {
    "nothing but space": "\u2003\u2003\u2003\u2003",
    "zero width": "\u200b\u200b\u200b\u200b",
    "right to left": "abc\u202edef",
    "a line break": "abc\ndef",
    "a terminal's escape": "abc\x1b[31m",
    "unassigned": "abc\U000e0fff",
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_name_that_deceives_the_eye_names_nothing(alice: Client, trick: str) -> None:
    await approve_everything(alice)
    project = {"requestId": str(uuid4()), "project": {"displayName": TRICKS[trick]}}
    for path, body in (
        ("/v1/projects", project),
        ("/v1/tokens", await quoted_body(alice, displayName=TRICKS[trick])),
    ):
        with pytest.raises(CallError) as caught:
            await alice.rest("POST", path, body)
        assert caught.value.status == 400, path
    assert (await alice.rest("GET", "/v1/projects")).body["projects"] == []
    assert (await alice.rest("GET", "/v1/deployments")).body["deployments"] == []


async def test_names_that_look_alike_are_one_name(alice: Client) -> None:
    """A composed letter and its parts: kept in one form (NFC)."""
    await approve_everything(alice)
    order = await quoted_body(alice, displayName="  Cafe\u0301 coin ")
    accepted = (await alice.rest("POST", "/v1/tokens", order)).body
    assert accepted["spec"]["displayName"] == "Caf\u00e9 coin"
    await finished(alice, accepted["name"])


async def test_a_request_id_with_another_body_changes_nothing(alice: Client) -> None:
    body = {"requestId": str(uuid4()), "project": {"displayName": "The first"}}
    first = (await alice.rest("POST", "/v1/projects", body)).body
    body["project"] = {"displayName": "The second"}
    with pytest.raises(CallError, match="REQUEST_ID_REUSED"):
        await alice.rest("POST", "/v1/projects", body)
    assert (await alice.rest("GET", "/v1/projects")).body["projects"] == [first]


@pytest.mark.parametrize(
    "token", ["x", "=", "é", base64.urlsafe_b64encode(b'["x"]').decode(), "bnVsbA", "9" * 250]
)
async def test_a_page_token_that_we_did_not_make_is_refused(alice: Client, token: str) -> None:
    lists = [
        method
        for method in METHODS
        if method.name.startswith(("List", "Search"))
        and method.audience.user
        and "{" not in method.http[0].path
    ]
    assert len(lists) > 3
    for method in lists:
        rest = sample(method).rest
        assert rest is not None
        with pytest.raises(CallError) as caught:
            await alice.rest("GET", f"{rest.path}?pageToken={token}")
        assert (caught.value.status, caught.value.reason) == (400, "INVALID_PAGE_TOKEN")


@pytest.fixture(scope="module", autouse=True)
async def before(mesh: Installation) -> tuple[list[int], int]:
    """The replicas' process ids, and how much was logged."""
    return await process_ids(mesh), len(mesh.output())


async def process_ids(mesh: Installation) -> list[int]:
    return [replica["pid"] for replica in (await mesh.status())["replicas"]]


async def test_after_all_that_every_replica_is_the_one_that_it_was(
    mesh: Installation, before: tuple[list[int], int]
) -> None:
    """Nothing that was sent has ended a process, or gone where nobody thought of it."""
    await mesh.until_healthy()
    pids, logged = before
    assert await process_ids(mesh) == pids
    assert b"Traceback" not in mesh.output(logged)
