"""Distributions over time, on a mesh whose clocks the test moves: vesting, ends, deadlines."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from icto.distribution.v1 import distribution_pb2 as pb
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import Client
from services.kit.money import memos
from services.kit.money.escrow import account_of
from tests.support.administration import administrator, emergency_stop
from tests.support.clocks import travel
from tests.support.distributions import (
    FEE,
    Json,
    Stage,
    act,
    category,
    claimable,
    encoded,
    linear,
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
from tests.support.installation import Installation, kill, until
from tests.support.services import peer, refusal
from tests.support.tokens import somebody

DAY = 86_400
_NOW = "SELECT now() + shift FROM distribution_deployer.kit_clock"
_SET_FEE = "UPDATE ledger.ledgers SET transfer_fee = $2 WHERE id = $1"
_HOLD_LEDGER = "SELECT FROM ledger.ledgers WHERE id = $1 FOR UPDATE"
_SET_BALANCE = "UPDATE ledger.balances SET balance = $3 WHERE ledger_id = $1 AND subaccount = $2"
_SPEC = "SELECT spec FROM distribution_deployer.distributions WHERE id = $1"
_SET_SPEC = "UPDATE distribution_deployer.distributions SET spec = $2 WHERE id = $1"
_HOLD_PAYOUT = "SELECT FROM distribution_deployer.kit_payouts WHERE id = $1 FOR UPDATE"
_RENEWS = """
SELECT EXISTS (SELECT FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE kit_payouts SET created_at_ns%')
"""
_RENEWED = """
UPDATE distribution_deployer.kit_payouts
SET created_at_ns = (extract(epoch FROM clock_timestamp() + shift) * 1000000)::bigint * 1000
FROM distribution_deployer.kit_clock WHERE id = $1 RETURNING created_at_ns
"""
_OVERDUE = re.compile(
    r"^icto_payouts_overdue\{[^}]*distribution_deployer[^}]*\} (\S+)$", re.MULTILINE
)
_EVENTS = """
SELECT count(*) FROM audit_storage.entries WHERE action = $1 AND operation = $2 AND status = $3
"""


@pytest.fixture(scope="module")
async def stage(mesh: Installation) -> AsyncIterator[Stage]:
    async with stage_of(mesh) as made:
        yield made


@pytest.fixture
async def holder(mesh: Installation) -> AsyncIterator[Client]:
    client = await mesh.user(funds=0)
    yield client
    await client.close()


async def wait(stage: Stage, **span: float) -> None:
    await travel(stage.mesh, timedelta(**span))


async def at(stage: Stage, **span: float) -> str:
    """A moment so long after the database's now."""
    async with stage.mesh.superuser() as database:
        now: datetime = await database.fetchval(_NOW)
    return (now + timedelta(**span)).astimezone(UTC).isoformat()


async def by_category(client: Client, name: str) -> dict[int, Json]:
    return {one["categoryId"]: one for one in (await claimable(client, name))["categories"]}


async def test_each_category_unlocks_by_its_own_vesting_and_start(
    stage: Stage, holder: Client
) -> None:
    """F-34, F-35, F-38: the vectors of domain 5, claimed as time goes by; cadence is nothing."""
    whole = 10**14
    mine = whitelist({holder.principal: whole})
    daily = {"linear": {"duration": f"{365 * DAY}s", "frequency": {"interval": "INTERVAL_MONTHLY"}}}
    cliff = {
        "initialUnlockBasisPoints": 500,
        "cliff": {
            "cliffDuration": f"{180 * DAY}s",
            "cliffBasisPoints": 1_000,
            "vestingDuration": f"{365 * DAY}s",
        },
    }
    start = await at(stage, days=10)
    wanted = spec(
        3 * whole,
        category(1, mine, daily | {"initialUnlockBasisPoints": 1_000}, startTime=start),
        category(2, mine, cliff, startTime=start),
        category(3, mine, linear(365 * DAY), startTime=await at(stage, days=20)),
        campaignType="CAMPAIGN_TYPE_VESTING",
    )
    name = await stage.open(wanted)
    assert await refused(act(holder, name, "claim")) == "VESTING_NOT_STARTED"
    await wait(stage, days=10, minutes=5)
    seen = await by_category(holder, name)
    assert [seen[n]["unlocked"] for n in (1, 2, 3)] == ["10000000000000", "5000000000000", "0"]
    claim = await act(holder, name, "claim")
    assert claim["amount"] == "15000000000000"
    assert await refused(act(holder, name, "claim", categoryId=3)) == "VESTING_NOT_STARTED"
    await wait(stage, days=45)
    seen = await by_category(holder, name)
    assert (seen[1]["unlocked"], seen[2]["unlocked"]) == ("17397260273972", "5000000000000")
    assert seen[1]["progressBasisPoints"] == 1_739
    await act(holder, name, "claim", categoryId=1, amount="1000000")
    await wait(stage, days=315)
    seen = await by_category(holder, name)
    assert seen[1]["unlocked"] == "98767123287671"
    await wait(stage, days=600)
    last = await act(holder, name, "claim")
    assert int(last["amount"]) == 3 * whole - 15_000_000_000_000 - 1_000_000
    await paid(holder, last)
    await stage.until_state(name, "COMPLETED")
    assert await stage.held(name) == 0
    assert await stage.balance(holder.principal) == 3 * whole - 3 * FEE


@pytest.mark.parametrize("burned", [False, True])
async def test_an_early_unlock_takes_what_is_left_less_the_penalty_and_closes(
    stage: Stage, holder: Client, *, burned: bool
) -> None:
    """F-39: all categories at once, the unvested too; nothing is left to claim twice."""
    mine = whitelist({holder.principal: 10_000})
    collector = somebody()
    terms = {"penaltyBasisPoints": 2_500, "minimumLock": f"{30 * DAY}s"}
    wanted = spec(
        20_000,
        category(1, mine, linear(100 * DAY)),
        category(2, mine, linear(100 * DAY)),
        earlyUnlock=terms if burned else terms | {"penaltyRecipient": collector},
    )
    name = await stage.open(wanted)
    assert await refused(act(holder, name, "earlyUnlock")) == "MINIMUM_LOCK"
    await wait(stage, days=50)
    before = await stage.balance("aaaaa-aa")
    await act(holder, name, "claim", categoryId=1, amount="4000")
    unlocked = await act(holder, name, "earlyUnlock")
    assert (unlocked["penalty"], unlocked["amount"]) == ("4000", "12000")
    assert [part["amount"] for part in unlocked["parts"]] == ["6000", "10000"]
    for verb in ("claim", "earlyUnlock"):
        assert await refused(act(holder, name, verb)) == "NOTHING_TO_CLAIM"
    await paid(holder, unlocked)
    assert await stage.balance(holder.principal) == 4_000 + 12_000 - 2 * FEE
    await stage.until_state(name, "COMPLETED")

    async def gone() -> bool:
        return await stage.held(name) == 0

    await until(gone)
    lost = 4_000 - FEE
    assert await stage.balance(collector) == (0 if burned else lost)
    assert await stage.balance("aaaaa-aa") == before + (lost if burned else 0)
    told = await stats(stage.creator, name)
    assert (told["claimed"], told["penalties"], told["remaining"]) == ("16000", "4000", "0")


async def test_a_cancellation_takes_back_what_is_not_unlocked_and_nothing_else(
    stage: Stage, holder: Client
) -> None:
    """F-44: the vested part stays claimable, for the recipients of a list as well."""
    listed, tree = await recipient_list(stage.creator, 3, [{holder.principal: 1_000}])
    await act(stage.creator, listed, "seal", root=encoded(tree.root))
    wanted = spec(
        12_000,
        category(1, whitelist({holder.principal: 10_000}), linear(100 * DAY)),
        category(2, {"pool": {"amount": "1000", "maxParticipants": 2}}),
        category(3, {"recipientList": listed}, linear(100 * DAY)),
        cancellable=True,
        earlyUnlock={"penaltyBasisPoints": 0},
    )
    name = await stage.open(wanted)
    await act(holder, name, "register", categoryId=2)
    await wait(stage, days=49, hours=23, minutes=50)
    await act(holder, name, "claim", categoryId=1, amount="1000")
    owner = stage.creator.principal
    before = await stage.balance(owner)
    await act(stage.creator, name, "cancel")
    # 4,999 (minutes short of half) of the whitelist, 500 of the pool, 499 of the list stay.
    back = 12_000 - 4_999 - 500 - 499

    async def returned() -> bool:
        return await stage.balance(owner) == before + back - FEE

    await until(returned)
    await wait(stage, days=50)
    assert await refused(act(holder, name, "earlyUnlock")) == "DISTRIBUTION_CANCELLED"
    assert await refused(act(holder, name, "register", categoryId=2)) == "DISTRIBUTION_CANCELLED"
    claim = await act(holder, name, "claim")
    assert claim["amount"] == str(3_999 + 500)
    proof = {"categoryId": 3, "allocation": "1000", "proof": []}
    await paid(holder, await act(holder, name, "claimWithProof", **proof))
    await paid(holder, claim)
    assert await stage.held(name) == 0


@pytest.mark.parametrize("ending", ["cancel", "end"])
async def test_a_paused_category_is_claimable_again_once_it_is_over(
    stage: Stage, holder: Client, *, ending: str
) -> None:
    """F-44: nobody can resume it then, and the deadline would give what is vested to the owner."""
    wanted = spec(
        1_000,
        category(1, whitelist({holder.principal: 1_000})),
        startTime=await at(stage, minutes=1),
        endTime=await at(stage, days=1),
        claimDeadline=await at(stage, days=30),
        pausable=True,
        cancellable=True,
    )
    name = await stage.open(wanted)
    await wait(stage, minutes=2)
    await act(stage.creator, name, "pauseCategory", categoryId=1)
    assert await refused(act(holder, name, "claim")) == "CATEGORY_PAUSED"
    if ending == "cancel":
        over = await act(stage.creator, name, "cancel")
        assert over.get("pausedCategories", []) == []
    else:
        await wait(stage, days=1)
        await stage.until_state(name, "COMPLETED")
    assert (await claimable(holder, name))["claimable"] == "1000"
    await paid(holder, await act(holder, name, "claim"))
    assert await stage.held(name) == 0


async def test_who_is_on_a_list_unlocks_early_with_their_proof(
    stage: Stage, holder: Client
) -> None:
    """F-39, F-43: under a cliff there is no claim before it that would show the proof."""
    page = {holder.principal: 10_000, somebody(): 5_000}
    listed, tree = await recipient_list(stage.creator, 1, [page])
    await act(stage.creator, listed, "seal", root=encoded(tree.root))
    year = f"{365 * DAY}s"
    cliff = {"cliff": {"cliffDuration": year, "cliffBasisPoints": 5_000, "vestingDuration": year}}
    terms = {"penaltyBasisPoints": 1_000, "penaltyRecipient": somebody()}
    wanted = spec(15_000, category(1, {"recipientList": listed}, cliff), earlyUnlock=terms)
    name = await stage.open(wanted)
    shown = {
        "categoryId": 1,
        "allocation": "10000",
        "proof": [encoded(step) for step in tree.proof(0)],
    }
    assert await refused(act(holder, name, "claimWithProof", **shown)) == "NOTHING_TO_CLAIM"
    assert await refused(act(holder, name, "earlyUnlock")) == "NOT_ELIGIBLE"
    for wrong, reason in (
        ({"allocation": "15000"}, "INVALID_PROOF"),
        ({"proof": []}, "INVALID_PROOF"),
        ({"categoryId": None}, "INVALID_FIELD"),
        ({"allocation": None}, "INVALID_FIELD"),
    ):
        assert await refused(act(holder, name, "earlyUnlock", **shown | wrong)) == reason
    unlocked = await act(holder, name, "earlyUnlock", **shown)
    assert (unlocked["amount"], unlocked["penalty"]) == ("9000", "1000")
    await paid(holder, unlocked)
    for body in (shown, {}):
        assert await refused(act(holder, name, "earlyUnlock", **body)) == "NOTHING_TO_CLAIM"
    assert await refused(act(holder, name, "claimWithProof", **shown)) == "NOTHING_TO_CLAIM"


async def test_claims_leave_nothing_that_could_never_be_claimed(
    stage: Stage, holder: Client
) -> None:
    """F-47: so that everything is claimed in the end, and the distribution completes."""
    linear_one = category(1, whitelist({holder.principal: 1_000}), linear(100 * DAY))
    name = await stage.open(spec(1_000, linear_one))
    await wait(stage, days=99, hours=12)
    assert (await claimable(holder, name))["claimable"] == "995"
    assert await refused(act(holder, name, "claim", amount="992")) == "REST_BELOW_FEE"
    most = await act(holder, name, "claim")
    assert most["amount"] == str(1_000 - FEE - 1)
    assert await refused(act(holder, name, "claim")) == "AMOUNT_BELOW_FEE"
    await wait(stage, days=1)
    last = await act(holder, name, "claim")
    assert last["amount"] == str(FEE + 1)
    await paid(holder, last)
    await stage.until_state(name, "COMPLETED")


async def own_token(stage: Stage, minter: str = "") -> Stage:
    """The stage with a token of its own."""
    ledger = await new_ledger(stage.deployer, stage.creator.principal, minter)
    return replace(stage, ledger=ledger)


async def test_each_claim_costs_what_the_ledger_asks_for_then(stage: Stage, holder: Client) -> None:
    """F-47: the fee is read for each claim, and again when it is paid."""
    own = await own_token(stage)
    ledger_id = own.ledger.partition("/")[2]
    name = await own.open(spec(3_000, category(1, whitelist({holder.principal: 3_000}))))
    first = await paid(holder, await act(holder, name, "claim", amount="1000"))
    assert first["fee"] == str(FEE)
    async with own.mesh.superuser() as database:
        await database.execute(_SET_FEE, ledger_id, 3 * FEE)
        assert (await claimable(holder, name))["fee"] == str(3 * FEE)
        second = await act(holder, name, "claim", amount="1000")
        assert second["fee"] == str(3 * FEE)
        await paid(holder, second)
        # The claim is accepted at one fee and paid at another.
        async with database.transaction():
            await database.execute(_HOLD_LEDGER, ledger_id)
            third = await act(holder, name, "claim")
            await database.execute(_SET_FEE, ledger_id, 5 * FEE)
    assert (third["fee"], third["netAmount"]) == (str(3 * FEE), str(1_000 - 3 * FEE))
    made = await paid(holder, third)
    assert (made["fee"], made["netAmount"]) == (str(5 * FEE), str(1_000 - 5 * FEE))
    assert await own.balance(holder.principal) == 3_000 - 9 * FEE
    assert await own.held(name) == 0
    await own.until_state(name, "COMPLETED")


async def test_what_a_ledger_refuses_is_seen_and_paid_once_it_does_not(
    stage: Stage, holder: Client
) -> None:
    """F-42: what is owed is never given up, not even when the journal has parked it."""
    own = await own_token(stage)
    ledger_id = own.ledger.partition("/")[2]
    created = await own.create(spec(1_000, category(1, whitelist({holder.principal: 1_000}))))
    await own.fund(created)
    name = (await own.activate()).name
    async with own.mesh.superuser() as database:
        account = (ledger_id, created.account.subaccount)
        await database.execute(_SET_BALANCE, *account, 0)
        claim = await act(holder, name, "claim")
        await wait(stage, minutes=2)

        async def shows(number: float) -> bool:
            return await overdue(stage.mesh) == number

        await until(lambda: shows(1), 20)
        assert (await holder.rest("GET", f"/v1/{claim['name']}")).body["state"] == (
            "CLAIM_STATE_PAYING"
        )
        parked = "UPDATE distribution_deployer.kit_pipelines SET state = 5 WHERE id = $1"
        await database.execute(parked, claim["name"].rpartition("/")[2])
        await database.execute(_SET_BALANCE, *account, 1_000)

    async def made() -> bool:
        return await own.balance(holder.principal) == 1_000 - FEE

    await until(made, 30)
    await paid(holder, claim)
    await until(lambda: shows(0), 20)


async def test_a_replica_that_was_frozen_while_another_paid_does_not_pay_again(
    stage: Stage, holder: Client
) -> None:
    """F-8, F-42: whoever found that a transfer was not made may have been away since."""
    own = await own_token(stage)
    ledger_id = own.ledger.partition("/")[2]
    created = await own.create(spec(1_000, category(1, whitelist({holder.principal: 1_000}))))
    await own.fund(created)
    name = (await own.activate()).name
    account = (ledger_id, created.account.subaccount)
    async with own.mesh.superuser() as database, own.mesh.superuser() as watching:
        await database.execute(_SET_BALANCE, *account, 0)
        claim = await act(holder, name, "claim")
        payout = claim["name"].rpartition("/")[2]
        async with database.transaction():
            await database.execute(_HOLD_PAYOUT, payout)
            await travel(stage.mesh, timedelta(days=2))
            # The replica has searched the ledger in vain, and is about to try under a fresh time.
            await until(lambda: watching.fetchval(_RENEWS), 40)
            fresh = await database.fetchval(_RENEWED, payout)
            await database.execute(_SET_BALANCE, *account, 2_000)
    stamped = Timestamp()
    stamped.FromNanoseconds(fresh)
    request = ledger_pb2.PayOutRequest(
        request_id=f"{payout}:{fresh}",
        ledger=own.ledger,
        from_subaccount=created.account.subaccount,
        to=ledger_pb2.Account(owner=holder.principal, subaccount=bytes(32)),
        amount=claim["netAmount"],
        fee=claim["fee"],
        memo=memos.of("payout", payout),
        created_at_time=stamped,
    )
    async with peer(stage.mesh, "distribution_deployer") as other:
        block = await other.call(other.stub(LedgerServiceStub).PayOut, request)
    assert (await paid(holder, claim))["blockIndex"] == str(block.block_index)
    assert await own.balance(holder.principal) == 1_000 - FEE


async def overdue(mesh: Installation) -> float:
    """Payouts of distributions that the metrics say are overdue."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{mesh.metrics_port}/metrics")).text
    return max(float(value) for value in _OVERDUE.findall(text))


async def test_a_penalty_is_burned_where_the_token_can_burn(stage: Stage, holder: Client) -> None:
    """F-39: what is lost leaves the supply; what the fee would take stays as dust."""
    own = await own_token(stage, somebody())
    mine = whitelist({holder.principal: 10_000})
    terms = {"penaltyBasisPoints": 1_000}
    name = await own.open(spec(10_000, category(1, mine, linear(DAY)), earlyUnlock=terms))
    before = await own.supply()
    await paid(holder, await act(holder, name, "earlyUnlock"))

    async def burned() -> bool:
        # The ledger's fee leaves the supply as well.
        return await own.supply() == before - 1_000 - FEE

    await until(burned)
    assert await own.held(name) == 0
    small = whitelist({holder.principal: 10 * FEE})
    name = await own.open(spec(10 * FEE, category(1, small, linear(DAY)), earlyUnlock=terms))
    unlocked = await act(holder, name, "earlyUnlock")
    assert (unlocked["amount"], unlocked["penalty"]) == (str(9 * FEE), str(FEE))
    await paid(holder, unlocked)
    await own.until_state(name, "COMPLETED")
    assert await own.held(name) == FEE
    assert (await stats(own.creator, name))["remaining"] == str(FEE)


async def test_at_its_end_pools_close_and_at_the_deadline_the_rest_goes_back(
    stage: Stage, holder: Client
) -> None:
    """F-46: the end comes though replicas died; what is unlocked stays claimable until then."""
    mine = whitelist({holder.principal: 5_000, somebody(): 5_000})
    window = {"startTime": await at(stage, days=1), "endTime": await at(stage, days=2)}
    wanted = spec(
        11_000,
        category(1, mine),
        category(2, {"pool": {"amount": "1000", "maxParticipants": 3, "registration": window}}),
        startTime=await at(stage, minutes=1),
        endTime=await at(stage, days=10),
        claimDeadline=await at(stage, days=20),
    )
    name = await stage.open(wanted)
    assert await refused(act(holder, name, "register", categoryId=2)) == "REGISTRATION_CLOSED"
    await wait(stage, days=1, minutes=1)
    await act(holder, name, "register", categoryId=2)
    await wait(stage, days=1)
    other = await stage.mesh.user(funds=0)
    assert await refused(act(other, name, "register", categoryId=2)) == "REGISTRATION_CLOSED"
    await other.close()
    owner = stage.creator.principal
    before = await stage.balance(owner)
    for replica in await stage.mesh.replicas("distribution_deployer"):
        kill(replica["pid"])
    await wait(stage, days=8)
    await stage.mesh.until_healthy()
    await stage.until_state(name, "COMPLETED")

    async def holds(amount: int) -> bool:
        return await stage.balance(owner) == amount

    await until(lambda: holds(before + 667 - FEE))
    await paid(holder, await act(holder, name, "claim"))
    await wait(stage, days=10)
    await until(lambda: holds(before + 667 - FEE + 5_000 - FEE))
    assert await refused(act(holder, name, "claim")) == "CLAIM_DEADLINE_PASSED"
    assert await stage.held(name) == 0
    told = await stats(stage.creator, name)
    assert (told["claimed"], told["returned"], told["remaining"]) == ("5333", "5667", "0")


async def test_one_that_cannot_be_looked_at_does_not_hold_the_others_up(stage: Stage) -> None:
    """F-46: whatever is wrong with its row, and though it is always the first one that is due."""
    names = []
    for days in (1, 2):
        end = await at(stage, days=days)
        start = await at(stage, minutes=1)
        mine = category(1, whitelist({somebody(): 1_000}))
        names.append(await stage.open(spec(1_000, mine, startTime=start, endTime=end)))
    broken, sound = names
    async with stage.mesh.superuser() as database:
        number = broken.partition("/")[2]
        kept = await database.fetchval(_SPEC, number)
        await database.execute(_SET_SPEC, number, b"no spec")
        await wait(stage, days=3)
        await stage.until_state(sound, "COMPLETED")
        await database.execute(_SET_SPEC, number, kept)
    await wait(stage, minutes=2)
    await stage.until_state(broken, "COMPLETED")


async def test_what_is_not_funded_in_time_fails_and_tells(stage: Stage) -> None:
    """F-49: the deadline is durable; what came too late or too little goes back to the escrow."""
    wanted = spec(1_000, category(1, whitelist({somebody(): 1_000})), fundingPeriod="3600s")
    created = await stage.create(wanted)
    await stage.fund(created, 600)
    owner = stage.creator.principal
    before = await stage.balance(owner)
    await wait(stage, hours=2)
    await stage.until_state(created.name, "FAILED")
    assert await refusal(stage.activate()) == "DISTRIBUTION_FAILED"

    async def holds(amount: int) -> bool:
        return await stage.balance(owner) == amount

    await until(lambda: holds(before + 590))
    await stage.fund(created, 400)
    await wait(stage, hours=1)
    await until(lambda: holds(before + 590 - 400 - FEE + 390))

    async def told() -> bool:
        async with stage.mesh.superuser() as database:
            failed = events.ACT_STATUS_FAILED
            action, operation = "ActivateDistribution", stage.made[-1]
            return bool(await database.fetchval(_EVENTS, action, operation, failed))

    await until(told)
    answer = await stage.abandon()
    assert not answer.delivered_distribution


async def test_a_late_activation_pushes_the_end_back(stage: Stage) -> None:
    wanted = spec(
        1_000,
        category(1, whitelist({somebody(): 1_000}), linear(DAY)),
        startTime=await at(stage, days=1),
        endTime=await at(stage, days=3),
        claimDeadline=await at(stage, days=4),
        fundingPeriod=f"{10 * DAY}s",
    )
    created = await stage.create(wanted)
    await stage.fund(created)
    await wait(stage, days=3)
    active = await stage.activate()
    asked: pb.DistributionSpec = active.spec
    delay = active.activate_time.seconds - asked.start_time.seconds
    assert delay >= 2 * DAY - 60
    assert abs(active.end_time.seconds - asked.end_time.seconds - delay) <= 1
    assert abs(active.claim_deadline.seconds - asked.claim_deadline.seconds - delay) <= 1
    assert active.start_time == asked.start_time


async def test_the_window_of_a_claim_rate_moves_on(stage: Stage, holder: Client) -> None:
    rate = {"maxClaims": 1, "window": "600s"}
    mine = whitelist({holder.principal: 1_000})
    name = await stage.open(spec(1_000, category(1, mine), claimRate=rate))
    await act(holder, name, "claim", amount="100")
    assert await refused(act(holder, name, "claim")) == "CLAIM_RATE_EXCEEDED"
    await wait(stage, minutes=11)
    await act(holder, name, "claim")


async def test_what_arrives_after_an_operation_was_given_up_goes_back(stage: Stage) -> None:
    """Also for an operation that nobody heard of: the account is looked at for a day."""
    operation, owner = new_operation(), stage.creator.principal
    request = pb.AbandonDistributionRequest(
        request_id=str(uuid4()),
        operation=operation,
        ledger=stage.ledger,
        escrow=ledger_pb2.Account(owner=owner),
    )
    await stage.backend.call(stage.stub.AbandonDistribution, request)
    account = account_of("distribution_deployer", operation)
    await stage.send(account[0], 500, account[1])
    before = await stage.balance(owner)
    await wait(stage, minutes=2)

    async def returned() -> bool:
        return await stage.balance(owner) == before + 500 - FEE

    await until(returned)
    assert await stage.balance(*account) == 0


async def test_a_replica_that_dies_costs_no_claim_and_none_is_paid_twice(
    stage: Stage, mesh: Installation
) -> None:
    """F-41, F-42: claims in flight are answered by another replica, and paid whoever dies."""
    crowd = [await mesh.user(funds=0) for _ in range(6)]
    shares = {client.principal: 10_000 for client in crowd}
    name = await stage.open(spec(60_000, category(1, whitelist(shares))))

    async def claim_all(client: Client) -> list[Json]:
        return [await act(client, name, "claim", amount="1000") for _ in range(10)]

    claiming = asyncio.gather(*(claim_all(client) for client in crowd))
    await asyncio.sleep(0.1)
    kill((await mesh.replicas("distribution_deployer"))[0]["pid"])
    for client, claims in zip(crowd, await claiming, strict=True):
        blocks = [(await paid(client, claim))["blockIndex"] for claim in claims]
        assert len(set(blocks)) == 10
        assert await stage.balance(client.principal) == 10 * (1_000 - FEE)
        await client.close()
    assert await stage.held(name) == 0
    await stage.until_state(name, "COMPLETED")
    await mesh.until_healthy()


async def test_what_is_vested_is_claimed_and_paid_in_an_emergency_stop(
    stage: Stage, holder: Client
) -> None:
    mine = whitelist({holder.principal: 1_000})
    name = await stage.open(spec(1_000, category(1, mine), pausable=True))
    async with administrator(stage.mesh) as admin, emergency_stop(stage.mesh, admin):
        assert await refused(act(stage.creator, name, "pause")) == "EMERGENCY_STOP"
        await paid(holder, await act(holder, name, "claim"))
        assert await stage.held(name) == 0
