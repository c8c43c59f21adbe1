"""Who may call what: every method as everybody, own and others' resources, against a table.

The table (tests/authorization.toml) is kept by hand. REST and gRPC are asked at the edge; the same
is asked straight at a replica's socket, where no Envoy helps (F-17, F-19, F-20).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from contract import loader, principal, wire
from contract.method import Method
from mesh.cli.call import load_messages, message_class
from mesh.cli.client import Client
from services.kit.testing.rehearsal import REFUSED_PREFIX
from tests.support import authorization, launches
from tests.support.authorization import COLUMNS, OK, ROLES, Line
from tests.support.distributions import category, encoded, recipient_list
from tests.support.edge import Edge, Outcome, Rest, Rpc, Sample, bearer, call_on, sample
from tests.support.installation import Installation, deployed, until
from tests.support.money import get, post, refund_in
from tests.support.tokens import Mint, somebody

CONTRACT: Final = loader.load("test")
load_messages(CONTRACT)
METHODS: Final = {method.full_name: method for method in CONTRACT.methods()}
TABLE: Final = authorization.read()
_REFUSALS: Final = {
    "TOKEN_MISSING", "TOKEN_INVALID", "ACCESS_DENIED", "USER_SUSPENDED", "METHOD_NOT_FOUND",
    "CALLER_UNKNOWN",
}  # fmt: skip
# What never came to the question whose it is.
_UNASKED: Final = {"MALFORMED_REQUEST", "BAD_REQUEST", "INVALID_REQUEST", "INVALID_NAME"}
_AT_ONCE: Final = 12

# What requests about a resource need beside its name, or their form is refused before the question
# whose it is comes up.
OWNER: Final = "the owner"
MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "GetClaimable": {"beneficiary": OWNER},
    "RequestRefund": {"description": "please"},
    "PauseCategory": {"categoryId": 1},
    "ResumeCategory": {"categoryId": 1},
    "AttestMilestone": {"milestone": "one"},
    "SealRecipientList": {"root": "A" * 43 + "="},
    "UpdateProject": {"project": {"displayName": "Another name"}},
    "AddRecipients": {"recipients": [{"principal": somebody(), "amount": "1"}]},
}


def test_every_method_has_its_line() -> None:
    lines = "\n".join(authorization.missing(CONTRACT, TABLE))
    assert not lines, f"think about each cell, then add to tests/authorization.toml:\n{lines}"
    gone = TABLE.keys() - METHODS.keys()
    assert not gone, f"take these lines out of tests/authorization.toml: {sorted(gone)}"


@dataclass(frozen=True)
class World:
    """Somebody with one of everything: by the name that audiences give to its owner.

    A method may need one of its own: then it is under the method's name.
    """

    owner: str
    resources: Mapping[str, str]

    def request(self, method: Method) -> Sample:
        """A request about the owner's resource; the smallest one, if it is about none."""
        name = self.resources.get(method.name, self.resources.get(method.audience.owner))
        if not name:
            return sample(method)
        message: Any = message_class(method.request_type)()
        more = MORE.get(method.name, {})
        told = {field: self.owner if value == OWNER else value for field, value in more.items()}
        json_format.ParseDict(told, message)
        field = _set_name(message, method.audience.owner, name)
        if method.has_request_id:
            message.request_id = str(uuid4())
        return Sample(
            method,
            _rest(method, message, field, name),
            Rpc(method.path, message.SerializeToString()),
        )


def _set_name(message: Any, kind: str, name: str) -> str:
    """Writes the resource's name where this request has it, and returns the path there."""
    fields = {field.name for field in message.DESCRIPTOR.fields}
    field = next((f for f in ("name", "parent", kind) if f in fields), "")
    assert field, f"{message.DESCRIPTOR.name}: where does it name its {kind}?"
    if isinstance(getattr(message, field), Message):
        getattr(message, field).name = name
        return f"{field}.name"
    setattr(message, field, name)
    return field


def _rest(method: Method, message: Message, field: str, name: str) -> Rest | None:
    if not method.http:
        return None
    http = method.http[0]
    before, brace, rest = http.path.partition("{")
    path = before + name + rest.partition("}")[2] if brace else before
    body = json_format.MessageToDict(message)
    if not http.body:
        body.pop(field, None)
        return Rest(http.verb, f"{path}?{urlencode(body)}")
    if http.body == "*" and brace:
        body.pop(field.partition(".")[0] if "." not in field else "", None)
    return Rest(http.verb, path, json.dumps(body).encode() if http.body else b"")


@pytest.fixture(scope="module")
async def world(mesh: Installation) -> AsyncIterator[World]:
    """Somebody who has done everything once."""
    client = await mesh.user()
    yield World(client.principal, await _resources(client))
    await client.close()


async def _resources(client: Client) -> dict[str, str]:
    me = client.principal
    at_once: dict[str, Any] = {"schedule": {"instant": {}}}
    attested: dict[str, Any] = {
        "schedule": {
            "milestones": {"attestor": me, "milestones": [{"id": "one", "basisPoints": 10_000}]}
        }
    }
    used, tree = await recipient_list(client, 1, [{me: 50_000}])
    await post(client, f"/v1/{used}:seal", root=encoded(tree.root))
    listed = category(1, {"recipientList": used})
    wanted = launches.spec(
        {"newToken": launches.token()},
        [launches.lock(me, 5_000, **at_once), launches.lock(me, 6_000, **attested)],
        [launches.distribution(me), launches.distribution(me, categories=[listed])],
    )
    launch = await launches.launched(client, wanted)
    assert launch["state"] == "LAUNCH_STATE_SUCCEEDED", launch
    failed = await deployed(client, displayName=f"{REFUSED_PREFIX}token")
    refund = await refund_in(client, failed["payment"], "COMPLETED")
    lock, milestones = launch["locks"]
    claim = await post(client, f"/v1/{lock}:claim")
    project = await post(client, "/v1/projects", project={"displayName": "A project"})
    people = await post(client, "/v1/recipientLists", categoryId=1)

    async def audited() -> dict[str, Any] | None:
        path = f"auditEntries?operation={failed['name']}"
        entries = (await get(client, path))["entries"]
        return entries[0] if entries else None

    return {
        "deployment": failed["name"],
        "quote": launch["quote"],
        "payment": failed["payment"],
        "invoice": failed["payment"].replace("payments/", "invoices/"),
        "refund": refund["name"],
        "launch": launch["name"],
        "lock": lock,
        "share": lock,
        "AttestMilestone": milestones,
        "claim": claim["name"],
        "distribution": launch["distributions"][0],
        "project": project["name"],
        "recipient_list": people["name"],
        # It is in use, so that it is there for whoever tries next.
        "DeleteRecipientList": used,
        "entry": (await until(audited, 15))["name"],
        "experiment": "",
    }


def test_there_is_one_of_everything(world: World) -> None:
    """A new kind of resource needs one here, or its line is not really tried."""
    kinds = {method.audience.owner for method in METHODS.values() if method.audience.owner}
    assert kinds == {kind for kind in world.resources if kind.islower()}


@dataclass(frozen=True)
class Caller:
    """Whose token it is, and what it says."""

    principal: str
    roles: tuple[str, ...] = ()
    suspended: bool = False


def callers(world: World) -> dict[str, Caller | None]:
    """Who each column is."""
    return {
        "anonymous": None,
        "user": Caller(somebody()),
        "owner": Caller(world.owner),
        **{role: Caller(somebody(), (role,)) for role in ROLES},
        "suspended": Caller(world.owner, suspended=True),
    }


def cell(method: Method, outcome: Outcome) -> str:
    """What an outcome says, in the words of the table."""
    about_one = bool(method.audience.owner)
    if outcome.reason in _REFUSALS or (about_one and outcome.status == 404):
        return str(outcome.status)
    if outcome.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return str(outcome.status)
    unasked = about_one and outcome.reason in _UNASKED
    return f"{outcome.status} {outcome.reason}" if unasked else OK


def differences(line: Line, seen: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Cells that are not as the table says."""
    return [
        f"{column}, {way}: {found}, not {line.cells[column]}"
        for column, ways in seen.items()
        for way, found in ways.items()
        if found != line.cells[column]
    ]


async def tried(work: Mapping[str, Any]) -> dict[str, Any]:
    """Does something for each method, some at a time; what came of it, where anything did."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> Any:
        async with slots:
            return await work[name]

    found = dict(zip(work, await asyncio.gather(*map(one, work)), strict=True))
    return {name: what for name, what in found.items() if what}


async def test_the_edge_answers_everybody_as_the_table_says(
    edge: Edge, mint: Mint, world: World
) -> None:
    tokens = {
        column: mint.token(
            who.principal, who.roles, **({"status": wire.SUSPENDED} if who.suspended else {})
        )
        if who
        else ""
        for column, who in callers(world).items()
    }

    async def ask(name: str) -> list[str]:
        method, seen = METHODS[name], {}
        for column in COLUMNS:
            request = world.request(method)
            rest, rpc = request.signed(tokens[column])
            told = {"gRPC": await edge.grpc(rpc, follow=not request.endless)}
            if rest is not None:
                told["REST"] = await edge.rest(rest, follow=not request.endless)
            seen[column] = {way: cell(method, outcome) for way, outcome in told.items()}
        return differences(TABLE[name], seen)

    assert not await tried({name: ask(name) for name in METHODS.keys() & TABLE.keys()})


@contextlib.asynccontextmanager
async def sockets(mesh: Installation) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """A replica of each service, past every Envoy."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for service in CONTRACT.services:
            replica = (await mesh.replicas(service))[0]
            channel = grpc.aio.insecure_channel(f"unix:{replica['socket']}")
            found[service] = await stack.enter_async_context(channel)
        yield found


def written_by_envoy(who: Caller | None) -> dict[str, str]:
    """Metadata as the edge writes it about a caller."""
    if who is None:
        return {wire.HEADER_CALLER: wire.EDGE}
    told = {
        wire.HEADER_CALLER: wire.EDGE,
        wire.HEADER_PRINCIPAL: who.principal,
        wire.HEADER_ROLES: " ".join(who.roles),
    }
    return told | ({wire.HEADER_STATUS: wire.SUSPENDED} if who.suspended else {})


# Health and reflection are answered to whoever reaches the socket: Envoy probes them as nobody.
OURS: Final = [name for name in METHODS if name in TABLE and not name.startswith("grpc.")]


async def test_a_replica_decides_the_same_by_itself(mesh: Installation, world: World) -> None:
    """Defence in depth: whatever Envoy lets through, the service looks again."""
    people = callers(world)
    async with sockets(mesh) as channels:

        async def ask(name: str) -> list[str]:
            method, line, seen = METHODS[name], TABLE[name], {}
            for column in COLUMNS:
                request = world.request(method)
                headers = written_by_envoy(people[column])
                rpc = Rpc(request.rpc.path, request.rpc.body, headers)
                follow = not request.endless
                outcome = await call_on(channels[method.mesh_name], rpc, follow=follow)
                seen[column] = {"socket": cell(method, outcome)}
            # What the edge does not route, a replica refuses; to the suspended for that.
            inside = Line(dict.fromkeys(COLUMNS, "403"), line.services)
            return differences(inside if line.inside else line, seen)

        assert not await tried({name: ask(name) for name in OURS})


async def test_a_replica_knows_which_services_may_call(mesh: Installation) -> None:
    """F-19: any logged-in user called the deployers. And nobody is welcome without a name."""
    async with sockets(mesh) as channels:

        async def ask(name: str) -> list[str]:
            method, wrong = METHODS[name], []
            request = sample(method)
            forged = bearer("x") | {wire.HEADER_PRINCIPAL: principal.of_service("backend")}
            for caller in ("", *CONTRACT.identities, "envoy"):
                headers = {**forged, wire.HEADER_CALLER: caller} if caller else forged
                outcome = await call_on(
                    channels[method.mesh_name],
                    Rpc(request.rpc.path, request.rpc.body, headers),
                    follow=not request.endless,
                )
                welcome = bool(caller) and TABLE[name].admits_service(caller)
                told = outcome.reason not in _REFUSALS
                if caller == "envoy" and "*" in TABLE[name].services:
                    continue  # it has no listener to call by
                if told != welcome:
                    wrong.append(f"{caller or 'nobody'}: {outcome.reason or 'welcome'}")
            return wrong

        assert not await tried({name: ask(name) for name in OURS})
