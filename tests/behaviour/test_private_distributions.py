"""What strangers learn of a distribution or a list that is not theirs: nothing, by any method."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from contract import ids, loader
from contract.method import Http
from mesh.cli.client import CallError, Client
from tests.support.distributions import (
    Stage,
    act,
    category,
    encoded,
    listed,
    recipient_list,
    refused,
    spec,
    stage_of,
    whitelist,
)
from tests.support.edge import Edge, Outcome, Rest, bearer
from tests.support.installation import Installation
from tests.support.tokens import somebody

POOL: Final = {"amount": "1000", "maxParticipants": 10}
DISTRIBUTION, LIST, CLAIM, PROOF = "distribution", "list", "claim", "proof"
KINDS: Final = {
    "distributions/*": DISTRIBUTION,
    "recipientLists/*": LIST,
    "distributions/*/claims/*": CLAIM,
    "recipientLists/*/proofs/*": PROOF,
}
METHODS: Final = [
    (method, http, KINDS[pattern])
    for method in loader.load("test").methods()
    for http in method.http[:1]
    for pattern in [http.path.partition("=")[2].partition("}")[0]]
    if pattern in KINDS
]
# Bodies that say all that there is to say, and name what is there and what is not.
BODIES: Final[Mapping[str, list[dict[str, Any]]]] = {
    "Register": [{"categoryId": 1}, {"categoryId": 2}, {"categoryId": 9}],
    "Claim": [{}, {"categoryId": 1}, {"categoryId": 9}, {"amount": "1"}],
    "ClaimWithProof": [
        {"categoryId": number, "allocation": "1000", "proof": []} for number in (1, 2, 9)
    ],
    "EarlyUnlock": [{}, {"categoryId": 1}, {"categoryId": 9}],
    "PauseCategory": [{"categoryId": 1}, {"categoryId": 9}],
    "ResumeCategory": [{"categoryId": 1}, {"categoryId": 9}],
    "AddRecipients": [{"page": 0, "recipients": listed({somebody(): 1})}],
    "SealRecipientList": [{"root": encoded(bytes(32))}],
    "ListClaims": [{}, {"principal": somebody()}],
}
# What a recipient may not do, since it is the owner's.
OWNERS: Final = {
    "PauseDistribution", "ResumeDistribution", "PauseCategory", "ResumeCategory",
    "CancelDistribution", "AddRecipients", "SealRecipientList", "DeleteRecipientList",
    "GetRecipientList",
}  # fmt: skip
# A proof is its recipient's.
RECIPIENTS: Final = {"GetRecipientProof"}


@dataclass(frozen=True)
class Scene:
    """Private things of an owner, with a recipient; names by kind."""

    owner: Client
    recipient: Client
    stranger: Client
    names: Mapping[str, str]

    @property
    def absent(self) -> Mapping[str, str]:
        """Names like those, of nothing."""
        parent, _, child = self.names[PROOF].partition("/proofs/")
        fresh = {
            one: f"{one.partition('/')[0]}/{ids.new_id(str(uuid4()))}"
            for one in (self.names[DISTRIBUTION], parent)
        }
        return {
            DISTRIBUTION: fresh[self.names[DISTRIBUTION]],
            LIST: fresh[parent],
            CLAIM: f"{fresh[self.names[DISTRIBUTION]]}/claims/{ids.new_id(str(uuid4()))}",
            PROOF: f"{fresh[parent]}/proofs/{child}",
        }


@pytest.fixture(scope="module")
async def stage(mesh: Installation) -> AsyncIterator[Stage]:
    async with stage_of(mesh) as made:
        yield made


@pytest.fixture(scope="module", params=["running", "paused", "not yet paid for"])
async def scene(
    stage: Stage, mesh: Installation, request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    recipient, stranger = await mesh.user(funds=0), await mesh.user(funds=0)
    page = {recipient.principal: 1_000, somebody(): 1_000}
    people, tree = await recipient_list(stage.creator, 2, [page])
    await act(stage.creator, people, "seal", root=encoded(tree.root))
    wanted = spec(
        5_000,
        category(1, whitelist({recipient.principal: 3_000})),
        category(2, {"recipientList": people}),
        pausable=True,
        cancellable=True,
        earlyUnlock={"penaltyBasisPoints": 0},
    )
    made = await stage.create(wanted)
    claim = f"{made.name}/claims/{ids.new_id(str(uuid4()))}"
    if request.param != "not yet paid for":
        await stage.fund(made)
        await stage.activate()
        claim = (await act(recipient, made.name, "claim", categoryId=1, amount="100"))["name"]
    if request.param == "paused":
        await act(stage.creator, made.name, "pause")
    names = {
        DISTRIBUTION: made.name,
        LIST: people,
        CLAIM: claim,
        PROOF: f"{people}/proofs/{recipient.principal}",
    }
    yield Scene(stage.creator, recipient, stranger, names)
    for client in (recipient, stranger):
        await client.close()


def asked(http: Http, name: str, body: Mapping[str, Any], token: str) -> Rest:
    """A request of a method about a resource."""
    before, _, rest = http.path.partition("{")
    path, whole = f"{before}{name}{rest.partition('}')[2]}", {"requestId": str(uuid4()), **body}
    headers = {"content-type": "application/json"} | bearer(token)
    if http.body:
        return Rest(http.verb, path, json.dumps(whole).encode(), headers)
    return Rest(
        http.verb, f"{path}?{urlencode(whole if http.verb == 'DELETE' else body)}", b"", headers
    )


def told(outcome: Outcome, name: str) -> tuple[Any, ...]:
    """All that a caller learns, apart from the name that they told themselves."""
    found = json.loads(outcome.body)
    for field in ("trace_id", "traceId"):
        found.pop(field, None)
    for detail in found.get("details", []):
        detail.get("metadata", {}).pop("trace_id", None)
    return outcome.status, json.dumps(found, sort_keys=True).replace(name, "NAME")


async def test_absent_and_invisible_are_told_alike_by_every_method(
    edge: Edge, scene: Scene
) -> None:
    """They told of categories, pauses and pools, and ListClaims answered 200."""
    for who in (scene.stranger, None):
        token = await who.token() if who else ""
        for method, http, kind in METHODS:
            for body in BODIES.get(method.name, [{}]):
                names = scene.names[kind], scene.absent[kind]
                invisible, absent = [
                    told(await edge.rest(asked(http, name, body, token)), name) for name in names
                ]
                assert invisible == absent, (method.full_name, body)
                assert invisible[0] in {404, 401}, (method.full_name, body, invisible)


async def test_whoever_it_is_for_is_told_what_is_the_matter(edge: Edge, scene: Scene) -> None:
    """The test above would pass if nobody saw anything."""
    for who, hidden in ((scene.owner, RECIPIENTS), (scene.recipient, OWNERS)):
        token, unseen = await who.token(), set()
        for method, http, kind in METHODS:
            if kind == CLAIM:
                continue
            if method.name in {"CancelDistribution", "DeleteRecipientList"}:
                unseen |= {method.name} & hidden
                continue
            body = BODIES.get(method.name, [{}])[0]
            outcome = await edge.rest(asked(http, scene.names[kind], body, token))
            if outcome.reason.endswith("_NOT_FOUND"):
                unseen.add(method.name)
        assert unseen == hidden


async def test_a_proof_is_given_to_its_recipient_alone_unless_it_is_public(
    stage: Stage, mesh: Installation, edge: Edge
) -> None:
    """Proofs of private lists told anybody everybody's amounts."""
    recipient, other = await mesh.user(funds=0), await mesh.user(funds=0)
    page = {recipient.principal: 1_000, other.principal: 2_000}
    for public in (False, True):
        people, tree = await recipient_list(stage.creator, 1, [page])
        await act(stage.creator, people, "seal", root=encoded(tree.root))
        path = f"/v1/{people}/proofs/{recipient.principal}"
        for when in ("before", "after"):
            if when == "after":
                await stage.open(spec(3_000, category(1, {"recipientList": people}), public=public))
            assert (await recipient.rest("GET", path)).body["amount"] == "1000"
            told = "" if public and when == "after" else "PROOF_NOT_FOUND"
            assert (await edge.rest(Rest("GET", path))).reason == told
            for client in (other, stage.creator):
                assert await reason(client, path) == told
    for client in (recipient, other):
        await client.close()


async def test_a_pool_shows_a_private_distribution_to_those_it_is_for(
    stage: Stage, mesh: Installation
) -> None:
    """Whoever may register takes part; whoever may not does not learn that it is there."""
    holder, other = await mesh.user(funds=0), await mesh.user(funds=0)
    await stage.send(holder.principal, 5_000)
    asks = {"eligibility": {"tokenHolder": {"ledger": stage.ledger, "minAmount": "5000"}}}
    name = await stage.open(spec(1_000, category(1, {"pool": POOL | asks})))
    assert await refused(act(other, name, "register", categoryId=1)) == "DISTRIBUTION_NOT_FOUND"
    assert await reason(other, f"/v1/{name}") == "DISTRIBUTION_NOT_FOUND"
    assert await reason(holder, f"/v1/{name}") == ""
    assert (await act(holder, name, "register", categoryId=1))["allocation"] == "100"
    for client in (holder, other):
        await client.close()


async def reason(client: Client, path: str) -> str:
    """The reason of a refused reading."""
    try:
        await client.rest("GET", path)
    except CallError as error:
        return error.reason
    return ""
