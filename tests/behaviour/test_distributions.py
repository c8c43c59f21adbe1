"""Distributions on a real mesh: escrow, claims, lists and pools, and all that must not work."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from contract.errors import RemoteError
from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from mesh.cli.client import CallError, Client
from services.kit.money.escrow import account_of
from tests.support import launches
from tests.support.distributions import (
    FEE,
    Json,
    Stage,
    act,
    category,
    claimable,
    encoded,
    linear,
    listed,
    new_ledger,
    new_operation,
    paid,
    recipient_list,
    refused,
    spec,
    stage_of,
    stats,
    whitelist,
)
from tests.support.installation import Installation, until
from tests.support.operations import story
from tests.support.services import refusal
from tests.support.tokens import somebody

YEAR = 365 * 86_400
ALL = somebody()
_ALL_PAID = """
SELECT NOT EXISTS (SELECT FROM distribution_deployer.disbursements WHERE block_index IS NULL)
"""
# What a claim in flight holds, and the row of the distribution beside it.
_AS_A_CLAIM_OF = """
WITH one AS (SELECT id FROM distribution_deployer.distributions WHERE id = $1::uuid FOR UPDATE)
SELECT pg_advisory_xact_lock_shared(hashtextextended(one.id::text, 0))
FROM one JOIN distribution_deployer.allocations ON distribution_id = one.id AND principal = $2
FOR UPDATE OF allocations
"""
# What was sent in is read from the ledger's own blocks.
_ACCOUNTS = """
SELECT operation, total, coalesce(sum(gross), 0)::numeric AS sent,
    coalesce(sum(gross) FILTER (WHERE kind IN (1, 2, 3)), 0)::numeric AS claimed,
    (SELECT coalesce(sum(amount), 0)::numeric FROM ledger.blocks
        WHERE ledger_id::text = split_part(distributions.ledger, '/', 2)
        AND to_subaccount =
            sha256(convert_to('icto-escrow:' || distributions.operation, 'UTF8'))) AS funded
FROM distribution_deployer.distributions
LEFT JOIN distribution_deployer.disbursements ON distribution_id = distributions.id
WHERE ledger = $1 GROUP BY distributions.id
"""


@pytest.fixture(scope="module")
async def stage(mesh: Installation) -> AsyncIterator[Stage]:
    async with stage_of(mesh) as made:
        yield made


async def users(mesh: Installation, count: int) -> list[Client]:
    return list(await asyncio.gather(*(mesh.user(funds=0) for _ in range(count))))


async def test_an_airdrop_holds_its_tokens_and_pays_them_once_to_the_unit(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """F-33, F-42, F-47: real escrow; a claim is paid less the fee, and there is no second one."""
    shares = {alice.principal: 1_000, bob.principal: 501}
    created = await stage.create(spec(1_501, category(1, whitelist(shares)), public=True))
    assert await refusal(stage.activate()) == "NOT_FUNDED"
    await stage.fund(created, 1_500)
    assert await refusal(stage.activate()) == "NOT_FUNDED"
    assert await refused(act(alice, created.name, "claim")) == "DISTRIBUTION_CREATED"
    await stage.fund(created, 1)
    assert (await stage.activate()).state == pb.DISTRIBUTION_STATE_ACTIVE
    assert (await claimable(alice, created.name))["claimable"] == "1000"
    body = {"requestId": str(uuid4())}
    claim = (await alice.rest("POST", f"/v1/{created.name}:claim", body)).body
    assert (claim["amount"], claim["fee"], claim["netAmount"]) == ("1000", str(FEE), "990")
    assert (await alice.rest("POST", f"/v1/{created.name}:claim", body)).body == claim
    assert "blockIndex" in await paid(alice, claim)
    assert await stage.balance(alice.principal) == 990
    assert await refused(act(alice, created.name, "claim")) == "NOTHING_TO_CLAIM"
    part = await act(bob, created.name, "claim", amount="100")
    await paid(bob, await act(bob, created.name, "claim"))
    await paid(bob, part)
    assert await stage.balance(bob.principal) == 501 - 2 * FEE
    assert await stage.held(created.name) == 0
    await stage.until_state(created.name, "COMPLETED")
    told = await stats(alice, created.name)
    assert (told["claimed"], told["paid"], told["remaining"]) == ("1501", "1501", "0")
    assert told["completionBasisPoints"] == 10_000


async def test_numbers_are_told_in_base_units_and_payments_once_they_are_on_the_ledger(
    stage: Stage, alice: Client
) -> None:
    """F-45: nothing is rounded for show, and the audit hears of a payment with its block."""
    created = await stage.create(spec(123_456_789, category(1, whitelist({ALL: 123_456_789}))))
    await stage.fund(created, 23_456_789)
    with pytest.raises(RemoteError) as told:
        await stage.activate()
    numbers = (told.value.metadata["balance"], told.value.metadata["required"])
    assert numbers == ("23456789", "123456789")
    name = await stage.open(spec(1_000, category(1, whitelist({alice.principal: 1_000}))))
    claim = await paid(alice, await act(alice, name, "claim"))
    begun, ended = await story(stage.mesh, claim["name"], "ClaimDistribution")
    assert begun.status == events.ACT_STATUS_INITIATED
    assert "block_index" not in begun.details
    assert ended.status == events.ACT_STATUS_COMPLETED
    assert ended.details["block_index"] == claim["blockIndex"]
    assert ended.details["amount"] == claim["netAmount"]


async def test_what_is_not_the_callers_or_more_than_there_is_moves_nothing(
    stage: Stage, alice: Client, bob: Client
) -> None:
    mine = category(1, whitelist({alice.principal: 5_000}))
    name = await stage.open(spec(5_000, mine, public=True))
    for body in ({}, {"categoryId": 1}, {"amount": "100"}):
        assert await refused(act(bob, name, "claim", **body)) == "NOT_ELIGIBLE"
    assert await refused(act(bob, name, "earlyUnlock")) == "NOT_ELIGIBLE"
    assert await refused(act(alice, name, "claim", amount="5001")) == "EXCEEDS_CLAIMABLE"
    assert await refused(act(alice, name, "claim", amount="10")) == "AMOUNT_BELOW_FEE"
    assert await refused(act(alice, name, "claim", amount="0")) == "INVALID_AMOUNT"
    assert await refused(act(alice, name, "claim", amount="-1")) == "INVALID_AMOUNT"
    assert await refused(act(alice, name, "claim", categoryId=2)) == "CATEGORY_NOT_FOUND"
    assert await refused(act(alice, name, "earlyUnlock")) == "NO_EARLY_UNLOCK"
    assert await refused(act(alice, name, "register", categoryId=1)) == "NOT_A_POOL"
    assert await stage.held(name) == 5_000


ONE = somebody()
TWO = somebody()
POOL = {"pool": {"amount": "1000", "maxParticipants": 10}}


def pool(**more: Any) -> Json:
    return {"pool": {"amount": "1000", "maxParticipants": 10} | more}


def steps(*shares: int) -> Json:
    parts = [{"offset": f"{place}s", "basisPoints": share} for place, share in enumerate(shares, 1)]
    return {"stepped": {"steps": parts}}


REFUSED: list[tuple[str, Json, str]] = [
    ("sum", spec(999, category(1, whitelist({ONE: 1_000}))), "ALLOCATIONS_DO_NOT_SUM"),
    (
        "beyond 2^128",
        spec(2**128, category(1, whitelist({ONE: 2**127, TWO: 2**127}))),
        "INVALID_AMOUNT",
    ),
    (
        "category twice",
        spec(2_000, category(1, whitelist({ONE: 1_000})), category(1, whitelist({TWO: 1_000}))),
        "DUPLICATE_CATEGORY",
    ),
    ("no category", spec(1_000), "INVALID_FIELD"),
    (
        "twenty-one categories",
        spec(21_000, *(category(n, whitelist({ONE: 1_000})) for n in range(1, 22))),
        "INVALID_FIELD",
    ),
    ("no recipient", spec(1_000, category(1, whitelist({}))), "INVALID_FIELD"),
    (
        "recipient twice",
        spec(
            2_000,
            category(1, {"whitelist": {"recipients": listed({ONE: 1_000}) * 2}}),
        ),
        "DUPLICATE_RECIPIENT",
    ),
    ("nobody", spec(1_000, category(1, whitelist({"2vxsx-fae": 1_000}))), "INVALID_PRINCIPAL"),
    ("no principal", spec(1_000, category(1, whitelist({"bob": 1_000}))), "INVALID_PRINCIPAL"),
    ("dust", spec(FEE, category(1, whitelist({ONE: FEE}))), "AMOUNT_BELOW_FEE"),
    (
        "too many names",
        spec(
            1_001_000,
            category(1, {"whitelist": {"recipients": listed({ONE: 1_000}) * 1_001}}),
        ),
        "TOO_MANY_RECIPIENTS",
    ),
    (
        "steps that do not sum (F-36)",
        spec(1_000, category(1, whitelist({ONE: 1_000}), steps(5_000, 4_999))),
        "SCHEDULE_SUM",
    ),
    (
        "cliff beyond all (F-36)",
        spec(
            1_000,
            category(
                1,
                whitelist({ONE: 1_000}),
                {
                    "initialUnlockBasisPoints": 6_000,
                    "cliff": {
                        "cliffDuration": "1s",
                        "cliffBasisPoints": 5_000,
                        "vestingDuration": "1s",
                    },
                },
            ),
        ),
        "INVALID_SCHEDULE",
    ),
    (
        "start in the past",
        spec(1_000, category(1, whitelist({ONE: 1_000})), startTime="2020-01-01T00:00:00Z"),
        "START_IN_THE_PAST",
    ),
    (
        "category in the past",
        spec(1_000, category(1, whitelist({ONE: 1_000}), startTime="2020-01-01T00:00:00Z")),
        "START_IN_THE_PAST",
    ),
    (
        "over before it is unlocked",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000}), linear(YEAR)),
            startTime="2040-01-01T00:00:00Z",
            endTime="2040-06-01T00:00:00Z",
        ),
        "OVER_BEFORE_UNLOCKED",
    ),
    (
        "deadline before the end",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000})),
            startTime="2030-01-01T00:00:00Z",
            endTime="2030-06-01T00:00:00Z",
            claimDeadline="2030-05-01T00:00:00Z",
        ),
        "INVALID_FIELD",
    ),
    (
        "vesting without vesting",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000})),
            campaignType="CAMPAIGN_TYPE_VESTING",
        ),
        "INVALID_FIELD",
    ),
    (
        "public without a pool",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000})),
            campaignType="CAMPAIGN_TYPE_PUBLIC",
            public=True,
        ),
        "INVALID_FIELD",
    ),
    (
        "pool too small (F-40)",
        spec(1_000, category(1, pool(amountPerParticipant="101"))),
        "POOL_TOO_SMALL",
    ),
    (
        "pool of dust",
        spec(1_000, category(1, pool(maxParticipants=100))),
        "AMOUNT_BELOW_FEE",
    ),
    (
        "pool without a size",
        spec(1_000, category(1, {"pool": {"amount": "1000"}})),
        "INVALID_FIELD",
    ),
    (
        "NFT (F-37)",
        spec(1_000, category(1, pool(eligibility={"nftHolder": {"collection": "x"}}))),
        "NOT_IMPLEMENTED",
    ),
    (
        "passport (F-37)",
        spec(1_000, category(1, pool(eligibility={"passportScore": {"minScore": 5}}))),
        "NOT_IMPLEMENTED",
    ),
    (
        "hybrid (F-37)",
        spec(1_000, category(1, pool(eligibility={"hybrid": {"all": True}}))),
        "NOT_IMPLEMENTED",
    ),
    (
        "milestones (F-37)",
        spec(
            1_000,
            category(
                1,
                whitelist({ONE: 1_000}),
                {
                    "milestones": {
                        "attestor": TWO,
                        "milestones": [{"id": "a", "basisPoints": 10_000}],
                    }
                },
            ),
        ),
        "NOT_IMPLEMENTED",
    ),
    (
        "holders of no token",
        spec(
            1_000,
            category(
                1,
                pool(
                    eligibility={
                        "tokenHolder": {
                            "ledger": "ledgers/019a0000-0000-7000-8000-000000000001",
                            "minAmount": "1",
                        }
                    }
                ),
            ),
        ),
        "INVALID_FIELD",
    ),
    (
        "a list of nobody's",
        spec(
            1_000,
            category(1, {"recipientList": "recipientLists/019a0000-0000-7000-8000-000000000001"}),
        ),
        "RECIPIENT_LIST_UNUSABLE",
    ),
    (
        "penalty of more than all",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000})),
            earlyUnlock={"penaltyBasisPoints": 10_001},
        ),
        "INVALID_FIELD",
    ),
    (
        "claims never",
        spec(
            1_000,
            category(1, whitelist({ONE: 1_000})),
            claimRate={"maxClaims": 1_001, "window": "60s"},
        ),
        "INVALID_FIELD",
    ),
    (
        "no time to fund it",
        spec(1_000, category(1, whitelist({ONE: 1_000})), fundingPeriod="59s"),
        "INVALID_FIELD",
    ),
]


@pytest.mark.parametrize(
    ("wanted", "reason"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED]
)
async def test_bad_input_is_refused_when_it_is_validated_and_when_it_is_created(
    stage: Stage, wanted: Json, reason: str
) -> None:
    assert await refusal(stage.validate(wanted)) == reason
    assert await refusal(stage.create(wanted)) == reason


async def test_too_many_recipients_are_told_the_paged_way(stage: Stage) -> None:
    wanted = next(one[1] for one in REFUSED if one[0] == "too many names")
    with pytest.raises(Exception, match="POST /v1/recipientLists"):
        await stage.validate(wanted)


async def test_a_spec_is_completed_and_a_completed_one_is_the_same(stage: Stage) -> None:
    wanted = spec(1_000, category(1, {"pool": {"amount": "1000", "maxParticipants": 3}}))
    completed = await stage.validate(wanted)
    (only,) = completed["categories"]
    assert (only["amount"], only["recipientCount"]) == ("1000", 3)
    assert only["pool"]["amountPerParticipant"] == "333"
    assert completed["fundingPeriod"] == "86400s"
    assert await stage.validate(completed) == completed


async def test_one_operation_makes_one_distribution_and_one_payment_pays_one_launch(
    stage: Stage,
) -> None:
    """F-19, F-25: repeats find what there is; another spec, owner or launch is refused."""
    wanted, operation = spec(1_000, category(1, whitelist({ONE: 1_000}))), new_operation()
    payment = f"payments/{uuid4()}"
    first, second = await asyncio.gather(
        *(stage.create(wanted, operation, payment=payment) for _ in range(2))
    )
    assert first.name == second.name
    other = spec(1_001, category(1, whitelist({ONE: 1_001})))
    assert await refusal(stage.create(other, operation, payment=payment)) == "OPERATION_REUSED"
    assert await refusal(stage.create(wanted, operation)) == "OPERATION_REUSED"
    sibling = operation.replace("distribution_1", "distribution_2")
    assert (await stage.create(wanted, sibling, payment=payment)).name != first.name
    foreign = stage.create(wanted, new_operation(), payment=payment)
    assert await refusal(foreign) == "PAYMENT_CONSUMED"


async def test_giving_up_is_for_good_and_gives_the_tokens_back(stage: Stage) -> None:
    wanted = spec(1_000, category(1, whitelist({ONE: 1_000})))
    unknown = new_operation()
    assert not (await stage.abandon(unknown)).delivered_distribution
    assert await refusal(stage.create(wanted, unknown)) == "OPERATION_ABANDONED"
    created = await stage.create(wanted)
    await stage.fund(created, 700)
    before = await stage.balance(stage.creator.principal)
    assert (await stage.abandon()).returned_amount == "690"

    async def arrived() -> bool:
        return await stage.balance(stage.creator.principal) == before + 690

    await until(arrived)
    assert (await stage.abandon()).returned_amount == "0"
    assert await refusal(stage.activate()) == "OPERATION_ABANDONED"
    name = await stage.open(wanted)
    answer = await stage.abandon()
    assert (answer.delivered_distribution, answer.returned_amount) == (name, "0")
    assert await stage.held(name) == 1_000


async def test_a_rehearsed_refusal_is_definite_and_nothing_else_is_left(stage: Stage) -> None:
    wanted = spec(1_000, category(1, whitelist({ONE: 1_000})), displayName="Refused one")
    assert await refusal(stage.create(wanted)) == "DISTRIBUTION_REFUSED"
    assert not (await stage.abandon()).delivered_distribution


async def test_concurrent_claims_take_what_is_there_and_no_more(
    stage: Stage, mesh: Installation
) -> None:
    """F-41, F-42: many claims of one participant, and of many at once, on one distribution."""
    crowd = await users(mesh, 8)
    shares = {client.principal: 1_000 + place for place, client in enumerate(crowd)}
    total = sum(shares.values())
    name = await stage.open(spec(total, category(7, whitelist(shares))))

    async def attempt(client: Client) -> str:
        try:
            await paid(client, await act(client, name, "claim", amount="400"))
        except CallError as error:
            return error.reason
        return "paid"

    outcomes = await asyncio.gather(*(attempt(client) for client in crowd for _ in range(4)))
    assert sorted(set(outcomes)) == ["EXCEEDS_CLAIMABLE", "paid"]
    assert outcomes.count("paid") == 2 * len(crowd)
    balances = [await stage.balance(client.principal) for client in crowd]
    assert balances == [2 * (400 - FEE)] * len(crowd)
    assert await stage.held(name) == total - 800 * len(crowd)
    for client in crowd:
        await client.close()


async def test_claims_wait_for_their_own_participant_and_for_nobody_else(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """Neither another claim in flight nor a lock on the distribution's row holds a claim up."""
    shares = {alice.principal: 1_000, bob.principal: 1_000}
    name = await stage.open(spec(2_000, category(1, whitelist(shares))))
    async with stage.mesh.superuser() as database:
        async with database.transaction():
            await database.execute(_AS_A_CLAIM_OF, name.partition("/")[2], alice.principal)
            await act(bob, name, "claim")
            waiting = asyncio.create_task(act(alice, name, "claim"))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert (await waiting)["amount"] == "1000"


async def test_a_claim_of_all_categories_is_one_payment_split_by_largest_remainder(
    stage: Stage, alice: Client
) -> None:
    mine = [category(n, whitelist({alice.principal: 100})) for n in (3, 1, 2)]
    name = await stage.open(spec(300, *mine))
    claim = await act(alice, name, "claim", amount="100")
    parts = [(part["categoryId"], part["amount"]) for part in claim["parts"]]
    assert parts == [(1, "34"), (2, "33"), (3, "33")]
    assert await refused(act(alice, name, "claim", amount="67", categoryId=1)) == (
        "EXCEEDS_CLAIMABLE"
    )
    await act(alice, name, "claim", amount="66", categoryId=1)
    left = await claimable(alice, name)
    assert [one.get("claimable") for one in left["categories"]] == ["0", "67", "67"]
    assert left["claimable"] == "134"


async def test_a_recipient_list_comes_in_pages_and_is_sealed_by_its_root(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """F-43: pages in order, each once; a wrong root changes nothing; sealed is sealed."""
    creator = stage.creator
    pages = [{somebody(): 100 + n for n in range(50)} for _ in range(3)]
    pages[1][alice.principal] = 5_000
    name, tree = await recipient_list(creator, 4, pages)
    again = await act(creator, name, "addRecipients", page=1, recipients=listed(pages[1]))
    assert (again["pageCount"], again["recipientCount"]) == (3, 151)
    add = {"recipients": listed({somebody(): 1})}
    assert await refused(act(creator, name, "addRecipients", page=1, **add)) == "PAGE_EXISTS"
    assert await refused(act(creator, name, "addRecipients", page=4, **add)) == "PAGE_OUT_OF_ORDER"
    twice = listed({alice.principal: 1})
    repeated = act(creator, name, "addRecipients", page=3, recipients=twice)
    assert await refused(repeated) == "DUPLICATE_RECIPIENT"
    many = listed({ONE: 1}) * 1_001
    crowd = act(creator, name, "addRecipients", page=3, recipients=many)
    assert await refused(crowd) == "INVALID_FIELD"
    mine = act(bob, name, "addRecipients", page=3, **add)
    assert await refused(mine) == "RECIPIENT_LIST_NOT_FOUND"
    unsealed = spec(1, category(4, {"recipientList": name}))
    assert await refusal(stage.validate(unsealed)) == "RECIPIENT_LIST_UNUSABLE"
    wrong = encoded(bytes(32))
    assert await refused(act(creator, name, "seal", root=wrong)) == "ROOT_MISMATCH"
    assert await refused(act(bob, name, "seal", root=encoded(tree.root))) == (
        "RECIPIENT_LIST_NOT_FOUND"
    )
    still = (await creator.rest("GET", f"/v1/{name}")).body
    assert still["state"] == "RECIPIENT_LIST_STATE_OPEN"
    sealed = await act(creator, name, "seal", root=encoded(tree.root))
    assert sealed["state"] == "RECIPIENT_LIST_STATE_SEALED"
    assert (await act(creator, name, "seal", root=encoded(tree.root)))["root"] == sealed["root"]
    assert await refused(act(creator, name, "addRecipients", page=3, **add)) == "LIST_SEALED"
    mine_listed = (await creator.rest("GET", "/v1/recipientLists")).body["recipientLists"]
    assert name in [one["name"] for one in mine_listed]


async def test_a_proof_pays_its_recipient_once_and_nobody_else(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """F-43: replayed, borrowed and inflated proofs, and those of other lists, move nothing."""
    creator = stage.creator
    page = {alice.principal: 3_000, bob.principal: 2_000} | {somebody(): 50 for _ in range(40)}
    total = sum(page.values())
    one, tree = await recipient_list(creator, 1, [page])
    two, other = await recipient_list(creator, 2, [page])
    await act(creator, one, "seal", root=encoded(tree.root))
    await act(creator, two, "seal", root=encoded(other.root))
    wrong_category = spec(total, category(3, {"recipientList": one}))
    assert await refusal(stage.create(wrong_category)) == "RECIPIENT_LIST_UNUSABLE"
    sources = [category(1, {"recipientList": one}), category(2, {"recipientList": two})]
    wanted = spec(2 * total, *sources)
    name = await stage.open(wanted)
    assert await refusal(stage.create(wanted)) == "RECIPIENT_LIST_UNUSABLE"
    shown = (await alice.rest("GET", f"/v1/{one}/proofs/{alice.principal}")).body
    assert shown["amount"] == "3000"
    assert shown["distribution"] == name
    assert [encoded(step) for step in tree.proof(0)] == shown["proof"]
    seen = await claimable(alice, name)
    assert [part["proofRequired"] for part in seen["categories"]] == [True, True]
    assert await refused(act(alice, name, "claim")) == "NOT_ELIGIBLE"

    def with_proof(client: Client, **changes: Any) -> Any:
        body = {"categoryId": 1, "allocation": "3000", "proof": shown["proof"]} | changes
        return act(client, name, "claimWithProof", **body)

    assert await refused(with_proof(bob)) == "INVALID_PROOF"
    assert await refused(with_proof(alice, allocation="3001")) == "INVALID_PROOF"
    assert await refused(with_proof(alice, categoryId=2)) == "INVALID_PROOF"
    assert await refused(with_proof(alice, proof=shown["proof"][1:])) == "INVALID_PROOF"
    assert await refused(with_proof(alice, proof=[])) == "INVALID_PROOF"
    assert await refused(with_proof(alice, proof=["AAAA"])) == "INVALID_FIELD"
    assert await refused(with_proof(alice, amount="3001")) == "EXCEEDS_CLAIMABLE"
    replies = await asyncio.gather(
        *(with_proof(alice, amount="3000") for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(reply, dict) for reply in replies) == 1
    assert await refused(with_proof(alice)) == "NOTHING_TO_CLAIM"
    await paid(alice, next(reply for reply in replies if isinstance(reply, dict)))
    assert await stage.held(name) == 2 * total - 3_000


async def test_a_list_is_deleted_unless_a_distribution_uses_it(stage: Stage, bob: Client) -> None:
    """Nobody is stuck with lists that they got wrong."""
    creator = stage.creator
    page = {somebody(): 1_000 for _ in range(3)}
    name, tree = await recipient_list(creator, 1, [page])
    await act(creator, name, "seal", root=encoded(tree.root))
    deletion = f"/v1/{name}?requestId={uuid4()}"
    assert await refused(bob.rest("DELETE", deletion)) == "RECIPIENT_LIST_NOT_FOUND"
    await stage.create(spec(3_000, category(1, {"recipientList": name})))
    assert await refused(creator.rest("DELETE", deletion)) == "LIST_IN_USE"
    await stage.abandon()
    for _ in range(2):
        assert (await creator.rest("DELETE", deletion)).body == {}
    again = f"/v1/{name}?requestId={uuid4()}"
    assert await refused(creator.rest("DELETE", again)) == "RECIPIENT_LIST_NOT_FOUND"
    async with stage.mesh.superuser() as database:
        for table in ("recipients", "recipient_trees", "recipient_pages"):
            left = f"SELECT count(*) FROM distribution_deployer.{table} WHERE list_id = $1"
            assert await database.fetchval(left, name.partition("/")[2]) == 0
    proof = f"/v1/{name}/proofs/{next(iter(page))}"
    assert await refused(bob.rest("GET", proof)) == "PROOF_NOT_FOUND"
    open_one, _ = await recipient_list(creator, 1, [page])
    await creator.rest("DELETE", f"/v1/{open_one}?requestId={uuid4()}")


async def test_nobody_on_a_list_gets_what_they_could_never_claim(stage: Stage) -> None:
    """F-47: told when it is validated, before anything is paid for."""
    pages = [{somebody(): 1_000}, {somebody(): FEE}, {somebody(): 1_000}]
    name, tree = await recipient_list(stage.creator, 1, pages)
    await act(stage.creator, name, "seal", root=encoded(tree.root))
    wanted = spec(2_000 + FEE, category(1, {"recipientList": name}))
    assert await refusal(stage.validate(wanted)) == "AMOUNT_BELOW_FEE"
    assert await refusal(stage.create(wanted)) == "AMOUNT_BELOW_FEE"
    assert (await stage.validate(wanted, fee=FEE - 1))["totalAmount"] == str(2_000 + FEE)


@pytest.mark.parametrize(
    ("count", "status"), [(1_001, 400), (12_000, 400), (16_000, 413), (25_000, 413)]
)
async def test_a_launch_for_too_many_is_told_the_paged_way_and_costs_nothing(
    alice: Client, count: int, status: int
) -> None:
    """Whoever refuses it: the rules, the bounds of a replica, or those of the edge."""
    crowd = listed({ONE: 1_000}) * count
    many = launches.distribution(ONE, 1_000 * count)
    many["categories"][0]["whitelist"]["recipients"] = crowd
    wanted = launches.spec({"newToken": launches.token()}, [], [many])
    body = {"requestId": str(uuid4()), "spec": wanted, "quote": f"quotes/{uuid4()}"}
    with pytest.raises(CallError, match="POST /v1/recipientLists") as told:
        await alice.rest("POST", "/v1/launches", body)
    assert told.value.status == status
    for what in ("payments", "launches"):
        assert (await alice.rest("GET", f"/v1/{what}")).body[what] == []


async def test_a_list_of_a_given_up_distribution_can_be_used_again(stage: Stage) -> None:
    name, tree = await recipient_list(stage.creator, 1, [{ONE: 1_000}])
    await act(stage.creator, name, "seal", root=encoded(tree.root))
    wanted = spec(1_000, category(1, {"recipientList": name}))
    await stage.create(wanted)
    assert await refusal(stage.create(wanted)) == "RECIPIENT_LIST_UNUSABLE"
    await stage.abandon(stage.made[-2])
    assert (await stage.create(wanted)).name


async def test_a_pool_never_promises_more_than_it_has(stage: Stage, mesh: Installation) -> None:
    """F-40: twelve register at once for three shares; nobody twice."""
    crowd = await users(mesh, 12)
    wanted = spec(
        1_000,
        category(5, {"pool": {"amount": "1000", "maxParticipants": 3}}),
        public=True,
        campaignType="CAMPAIGN_TYPE_PUBLIC",
        cancellable=True,
    )
    name = await stage.open(wanted)

    async def attempt(client: Client) -> str:
        try:
            return str((await act(client, name, "register", categoryId=5))["allocation"])
        except CallError as error:
            return error.reason

    outcomes = await asyncio.gather(*(attempt(client) for client in crowd))
    assert sorted(outcomes) == ["333"] * 3 + ["POOL_EXHAUSTED"] * 9
    winners = [c for c, outcome in zip(crowd, outcomes, strict=True) if outcome == "333"]
    assert await attempt(winners[0]) == "ALREADY_REGISTERED"
    (told,) = (await stats(winners[0], name))["categories"]
    assert (told["allocated"], told["participantCount"]) == ("999", 3)
    for client in winners:
        await paid(client, await act(client, name, "claim"))
    await stage.until_state(name, "COMPLETED")
    # The last unit is less than a fee: it stays where it is.
    assert await stage.held(name) == 1
    for client in crowd:
        await client.close()


async def test_holders_are_those_who_held_enough_after_a_block(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """F-37: what was held at the snapshot counts, not what is held now."""
    ledger = await new_ledger(stage.deployer, alice.principal)

    async def give(giver: Client, taker: Client, amount: int) -> int:
        body = {
            "requestId": str(uuid4()),
            "to": {"owner": taker.principal},
            "amount": str(amount),
        }
        answer = await giver.rest("POST", f"/v1/{ledger}:transfer", body)
        return int(answer.body["blockIndex"])

    await give(alice, bob, 500)
    block = await give(alice, bob, 499)
    after = f"/v1/{ledger}/accounts/{bob.principal}?blockIndex={block}"
    await give(alice, bob, 1_000)
    await give(bob, alice, 1_980)
    assert (await bob.rest("GET", after)).body["balance"] == "999"
    assert await refused(bob.rest("GET", after.replace(f"={block}", "=99"))) == "BLOCK_NOT_FOUND"

    def holding(least: int) -> Json:
        holder = {"ledger": ledger, "minAmount": str(least), "blockIndex": str(block)}
        return pool(eligibility={"tokenHolder": holder})

    name = await stage.open(spec(2_000, category(1, holding(1_000)), category(2, holding(999))))
    assert await refused(act(bob, name, "register", categoryId=1)) == "NOT_ELIGIBLE"
    assert (await act(bob, name, "register", categoryId=2))["allocation"] == "100"
    newest = pool(eligibility={"tokenHolder": {"ledger": ledger, "minAmount": "1000"}})
    late = await stage.open(spec(1_000, category(1, newest)))
    await give(alice, bob, 5_000)
    assert await refused(act(bob, late, "register", categoryId=1)) == "DISTRIBUTION_NOT_FOUND"
    ahead = holding(1)
    ahead["pool"]["eligibility"]["tokenHolder"]["blockIndex"] = "1000"
    assert await refusal(stage.validate(spec(1_000, category(1, ahead)))) == "INVALID_FIELD"


async def test_pauses_hold_claims_and_only_legal_moves_are_made(
    stage: Stage, alice: Client, bob: Client
) -> None:
    """F-41, F-44: whatever the kind of claim; the owner's moves alone, from the right states."""
    creator = stage.creator
    mine = whitelist({alice.principal: 1_000})
    wanted = spec(
        2_000,
        category(1, mine),
        category(2, mine),
        pausable=True,
        cancellable=True,
        earlyUnlock={"penaltyBasisPoints": 0},
    )
    created = await stage.create(wanted)
    name = created.name
    for verb in ("pause", "resume", "cancel"):
        assert await refused(act(creator, name, verb)) == "DISTRIBUTION_CREATED"
    await stage.fund(created)
    await stage.activate()
    for verb in ("pause", "resume", "cancel"):
        assert await refused(act(bob, name, verb)) == "DISTRIBUTION_NOT_FOUND"
    await act(creator, name, "pauseCategory", categoryId=1)
    assert await refused(act(alice, name, "claim", categoryId=1)) == "CATEGORY_PAUSED"
    assert await refused(act(alice, name, "earlyUnlock", categoryId=1)) == "CATEGORY_PAUSED"
    assert await refused(act(creator, name, "pauseCategory", categoryId=9)) == "CATEGORY_NOT_FOUND"
    claim = await act(alice, name, "claim")
    assert [part["categoryId"] for part in claim["parts"]] == [2]
    assert (await act(creator, name, "pause"))["state"] == "DISTRIBUTION_STATE_PAUSED"
    for verb in ("claim", "earlyUnlock"):
        assert await refused(act(alice, name, verb)) == "DISTRIBUTION_PAUSED"
    assert await refused(act(creator, name, "pause")) == "DISTRIBUTION_PAUSED"
    assert (await claimable(alice, name))["claimable"] == "0"
    await act(creator, name, "resume")
    await act(creator, name, "resumeCategory", categoryId=1)
    assert await refused(act(creator, name, "resume")) == "DISTRIBUTION_ACTIVE"
    cancelled = await act(creator, name, "cancel")
    assert cancelled["state"] == "DISTRIBUTION_STATE_CANCELLED"
    for verb in ("pause", "resume", "cancel"):
        assert await refused(act(creator, name, verb)) == "DISTRIBUTION_CANCELLED"
    await paid(alice, await act(alice, name, "claim"))
    assert await stage.held(name) == 0
    fixed = await stage.open(spec(1_000, category(1, mine)))
    assert await refused(act(creator, fixed, "pause")) == "NOT_PAUSABLE"
    assert await refused(act(creator, fixed, "cancel")) == "NOT_CANCELLABLE"


async def test_pausing_while_a_crowd_claims_leaves_no_claim_after_it(
    stage: Stage, mesh: Installation
) -> None:
    crowd = await users(mesh, 6)
    shares = {client.principal: 1_000 for client in crowd}
    wanted = spec(6_000, category(1, whitelist(shares), linear(YEAR, 9_999)), pausable=True)
    name = await stage.open(wanted)

    async def keep_claiming(client: Client) -> int:
        taken = 0
        while True:
            try:
                await act(client, name, "claim", amount="11")
            except CallError as error:
                if error.reason != "DISTRIBUTION_PAUSED":
                    raise
                return taken
            taken += 11

    claiming = [asyncio.create_task(keep_claiming(client)) for client in crowd]
    await asyncio.sleep(0.3)
    await act(stage.creator, name, "pause")
    told = await stats(stage.creator, name)
    taken = sum(await asyncio.gather(*claiming))
    assert int(told["claimed"]) == taken > 0
    for client in crowd:
        await client.close()


async def test_a_participant_claims_as_often_as_the_rate_allows(
    stage: Stage, alice: Client
) -> None:
    """F-41: every claim counts, whatever category it is from."""
    mine = whitelist({alice.principal: 1_000})
    rate = {"maxClaims": 2, "window": "3600s"}
    name = await stage.open(spec(2_000, category(1, mine), category(2, mine), claimRate=rate))
    assert (await claimable(alice, name))["claimsLeft"] == 2
    attempts = [
        refused(act(alice, name, "claim", amount="100", categoryId=number)) for number in (1, 2, 1)
    ]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert [o for o in outcomes if isinstance(o, str)] == ["CLAIM_RATE_EXCEEDED"]
    assert (await claimable(alice, name))["claimsLeft"] == 0


async def test_who_sees_a_distribution(stage: Stage, alice: Client, bob: Client) -> None:
    shares = whitelist({alice.principal: 1_000})
    private = await stage.open(spec(1_000, category(1, shares)))
    public = await stage.open(spec(1_000, category(1, shares), public=True))
    seen = (await alice.rest("GET", f"/v1/{private}")).body
    assert seen["spec"]["categories"][0]["whitelist"]["recipients"] == []
    for path in (private, f"{private}:claimable", f"{private}:stats"):
        assert await refused(bob.rest("GET", f"/v1/{path}")) == "DISTRIBUTION_NOT_FOUND"
    assert (await bob.rest("GET", f"/v1/{public}")).body["name"] == public

    async def names(client: Client, view: str) -> set[str]:
        path = f"/v1/distributions?ledger={stage.ledger}&view=DISTRIBUTION_VIEW_{view}&pageSize=100"
        rows = (await client.rest("GET", path)).body.get("distributions", [])
        return {row["name"] for row in rows}

    assert private in await names(alice, "RECEIVING")
    assert {private, public} <= await names(stage.creator, "CREATED")
    assert await names(bob, "RECEIVING") == set()
    assert public in await names(bob, "PUBLIC")
    assert private not in await names(bob, "PUBLIC")
    claim = await act(alice, private, "claim", amount="500")
    assert await refused(bob.rest("GET", f"/v1/{claim['name']}")) == "CLAIM_NOT_FOUND"
    for client in (alice, stage.creator):
        (row,) = (await client.rest("GET", f"/v1/{private}/claims")).body["claims"]
        assert row["name"] == claim["name"]
    somebodys = f"{private}/claims?principal={alice.principal}"
    for path in (f"{private}/claims", somebodys):
        assert await refused(bob.rest("GET", f"/v1/{path}")) == "DISTRIBUTION_NOT_FOUND"
    assert (await bob.rest("GET", f"/v1/{public}/claims")).body.get("claims", []) == []
    somebodys = f"/v1/{public}/claims?principal={alice.principal}"
    assert await refused(bob.rest("GET", somebodys)) == "ACCESS_DENIED"


async def test_nothing_is_lost_or_made(stage: Stage) -> None:
    """Conservation to the unit, over all that this file did: what came in is there or went out."""

    async def all_paid() -> bool:
        async with stage.mesh.superuser() as database:
            return bool(await database.fetchval(_ALL_PAID))

    await until(all_paid)
    async with stage.mesh.superuser() as database:
        rows = await database.fetch(_ACCOUNTS, stage.ledger)
    assert len(rows) >= 20
    for row in rows:
        held = await stage.balance(*account_of("distribution_deployer", row["operation"]))
        assert (row["operation"], held) == (row["operation"], row["funded"] - row["sent"])
        assert row["claimed"] <= row["total"]
