"""Locks on a running mesh: real escrow, claims at simulated times, and every unit accounted for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from contract import principal
from icto.events.v1 import events_pb2 as events
from icto.lock.v1 import lock_pb2 as pb
from mesh.cli.client import CallError, Client
from services.kit.money.escrow import account_of
from services.kit.testing.rehearsal import REFUSED_PREFIX
from tests.support.administration import administrator, emergency_stop
from tests.support.clocks import travel
from tests.support.installation import Installation, kill, until
from tests.support.operations import story
from tests.support.services import Peer, peer, refusal
from tests.support.vaults import Vault, account, claim, new_operation, vault

T = 10**14
LINEAR = {"linear": {"duration": "31536000s"}}
MONTHLY = {
    "initialUnlockBasisPoints": 1000,
    "linear": {"duration": "31536000s", "frequency": {"interval": "INTERVAL_MONTHLY"}},
}
INSTANT: dict[str, Any] = {"instant": {}}


@pytest.fixture(scope="module")
async def backend(mesh: Installation) -> AsyncIterator[Peer]:
    """The service that creates locks."""
    async with peer(mesh, "backend") as made:
        yield made


@pytest.fixture(scope="module")
async def token(mesh: Installation, backend: Peer) -> AsyncIterator[Vault]:
    """A token to lock."""
    made = await vault(mesh, backend)
    yield made
    await made.owner.close()


@pytest.fixture(scope="module")
async def ann(mesh: Installation) -> AsyncIterator[Client]:
    """A beneficiary."""
    client = await mesh.user(funds=0)
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def ben(mesh: Installation) -> AsyncIterator[Client]:
    """Another one."""
    client = await mesh.user(funds=0)
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def admin(mesh: Installation) -> AsyncIterator[Client]:
    """A super-admin."""
    async with administrator(mesh) as client:
        yield client


def spec(schedule: dict[str, Any], *parts: tuple[Client | str, int], **more: Any) -> dict[str, Any]:
    """What is locked for whom."""
    return {
        "displayName": "Team",
        "type": "LOCK_TYPE_TEAM",
        "totalAmount": str(sum(amount for _, amount in parts)),
        "schedule": schedule,
        "beneficiaries": [
            {"principal": who if isinstance(who, str) else who.principal, "amount": str(amount)}
            for who, amount in parts
        ],
        **more,
    }


async def refused(running: Any) -> str:
    """The reason for which a user's call was refused."""
    with pytest.raises(CallError) as caught:
        await running
    return caught.value.reason


async def claimable(client: Client, lock: pb.Lock, query: str = "") -> dict[str, Any]:
    return (await client.rest("GET", f"/v1/{lock.name}:claimable{query}")).body


async def acted(mesh: Installation, lock: pb.Lock, action: str) -> Any:
    """The audit's entry of an act on a lock, once it is there."""

    async def found() -> Any:
        async with mesh.superuser() as database:
            return await database.fetchrow(
                "SELECT * FROM audit_storage.entries WHERE subject = $1 AND action = $2",
                lock.name,
                action,
            )

    return await until(found, 15)


async def test_a_lock_pays_what_its_vectors_say_when_they_say(
    mesh: Installation, token: Vault, ann: Client, ben: Client
) -> None:
    """F-33, F-34, F-35: real escrow, claims at simulated times, 10 % and then monthly."""
    lock = await token.create(spec(MONTHLY, (ann, T), (ben, 3 * T)))
    assert (lock.state, lock.owner) == (pb.LOCK_STATE_CREATED, token.owner.principal)
    assert await refused(claim(ann, lock)) == "LOCK_NOT_ACTIVE"
    assert await refusal(token.activate(lock.operation)) == "NOT_FUNDED"
    await token.pay_in(account(lock), 4 * T - 1)
    assert await refusal(token.activate(lock.operation)) == "NOT_FUNDED"
    await token.pay_in(account(lock), 1)
    active = await token.activate(lock.operation)
    assert active.state == pb.LOCK_STATE_LOCKED
    assert active.start_time == active.activate_time
    assert (await token.activate(lock.operation)).start_time == active.start_time

    first = await claim(ann, lock)
    assert (int(first["amount"]), int(first["fee"])) == (10_000_000_000_000, token.fee)
    assert await token.paid(first)
    assert await token.balance(ann.principal) == 10_000_000_000_000 - token.fee
    assert await refused(claim(ann, lock)) == "NOTHING_TO_CLAIM"

    await travel(mesh, timedelta(days=30) - timedelta(minutes=5))
    assert await refused(claim(ann, lock)) == "NOTHING_TO_CLAIM"
    following = await claimable(ann, lock)
    assert int(following["nextUnlockAmount"]) == 17_397_260_273_972 - 10_000_000_000_000
    started = active.start_time.ToDatetime(UTC)
    assert datetime.fromisoformat(following["nextUnlockTime"]) == started + timedelta(days=30)

    await travel(mesh, timedelta(days=15))
    found = await claimable(ann, lock)
    assert int(found["unlockedAmount"]) == 17_397_260_273_972
    assert found["progressBasisPoints"] == 1739
    second = await claim(ann, lock, 5_000_000)
    rest = await claim(ann, lock)
    assert int(second["amount"]) + int(rest["amount"]) == 17_397_260_273_972 - 10_000_000_000_000
    state = await token.check(lock)
    assert state["state"] == "LOCK_STATE_PARTIALLY_CLAIMED"

    await travel(mesh, timedelta(days=360))
    for who in (ann, ben):
        await claim(who, lock)
        assert await refused(claim(who, lock)) == "NOTHING_TO_CLAIM"
    state = await token.check(lock)
    assert state["state"] == "LOCK_STATE_COMPLETED"
    assert await token.balance(account(lock)) == 0
    assert await token.balance(ann.principal) == T - 4 * token.fee
    assert await token.balance(ben.principal) == 3 * T - token.fee
    begun, ended = await story(mesh, rest["name"], "ClaimLock")
    assert (begun.status, ended.status) == (
        events.ACT_STATUS_INITIATED,
        events.ACT_STATUS_COMPLETED,
    )
    assert (ended.principal, ended.method) == (ann.principal, "icto.lock.v1.LockService/ClaimLock")
    assert ended.details["amount"] == rest["netAmount"]


async def test_a_lock_is_funded_before_it_is_active(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """What was seen on its account is remembered by itself, with its time."""
    lock = await token.create(spec(LINEAR, (ann, T)))
    await token.pay_in(account(lock), T)

    async def told() -> dict[str, Any]:
        return (await token.owner.rest("GET", f"/v1/{lock.name}")).body

    async def funded() -> bool:
        return bool((await told())["state"] == "LOCK_STATE_FUNDED")

    async with mesh.superuser() as database, database.transaction():
        # Activations wait until they can keep their answers.
        await database.execute("LOCK TABLE lock_deployer.kit_answers IN SHARE MODE")
        activating = asyncio.create_task(token.activate(lock.operation))
        await until(funded)
        assert "activateTime" not in await told()
    active = await activating
    assert active.state == pb.LOCK_STATE_LOCKED
    assert lock.create_time.ToNanoseconds() < active.fund_time.ToNanoseconds()
    assert active.fund_time.ToNanoseconds() < active.activate_time.ToNanoseconds()


async def test_other_times_can_be_asked_for(token: Vault, ann: Client) -> None:
    """F-38: whatever was asked before, the moment that is asked for decides."""
    lock = await token.active(spec(LINEAR, (ann, T)))
    started = lock.start_time.ToDatetime(UTC)
    for seconds, unlocked in (
        (31_535_999, 99_999_996_829_020),
        (0, 0),
        (1, 3_170_979),
        (2_592_000, 8_219_178_082_191),
        (31_536_000, T),
    ):
        moment = (started + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        found = await claimable(ann, lock, f"?atTime={moment}")
        assert int(found["claimableAmount"]) == unlocked, seconds
        assert ("nextUnlockTime" in found) == (unlocked < T)


async def test_a_hundred_claims_at_once_take_no_more_than_there_is(
    token: Vault, ann: Client
) -> None:
    """F-41, F-42: each takes its part or is refused, and every part is paid once."""
    part = 1_000_000
    before = await token.balance(ann.principal)
    lock = await token.active(spec(INSTANT, (ann, 10 * part)))
    answers = await asyncio.gather(
        *(claim(ann, lock, part) for _ in range(100)), return_exceptions=True
    )
    made = [answer for answer in answers if isinstance(answer, dict)]
    told = {answer.reason for answer in answers if isinstance(answer, CallError)}
    assert len(made) == 10
    assert told <= {"NOTHING_TO_CLAIM"}
    state = await token.check(lock)
    assert state["state"] == "LOCK_STATE_COMPLETED"
    assert await token.balance(ann.principal) == before + 10 * (part - token.fee)


async def test_a_claim_repeated_is_one_claim(token: Vault, ann: Client) -> None:
    lock = await token.active(spec(INSTANT, (ann, 10**6)))
    body = {"requestId": str(uuid4()), "amount": "20000"}
    answers = await asyncio.gather(
        *(ann.rest("POST", f"/v1/{lock.name}:claim", body) for _ in range(5))
    )
    assert len({answer.body["name"] for answer in answers}) == 1
    assert (await token.check(lock))["claimedAmount"] == "20000"


async def test_claims_that_cannot_be_paid_are_refused(token: Vault, ann: Client) -> None:
    """F-47: at most the fee is told as that, and nothing is taken."""
    lock = await token.active(spec(INSTANT, (ann, 10**6)))
    assert await refused(claim(ann, lock, token.fee)) == "CLAIM_BELOW_FEE"
    assert await refused(claim(ann, lock, 10**6 + 1)) == "EXCEEDS_CLAIMABLE"
    assert await refused(claim(ann, lock, 0)) == "CLAIM_BELOW_FEE"
    assert await refused(claim(ann, lock, 10**6 - token.fee)) == "REST_BELOW_FEE"
    assert (await token.check(lock))["claimedAmount"] == "0"
    await claim(ann, lock, 10**6 - token.fee - 1)
    await claim(ann, lock)
    assert (await token.check(lock))["state"] == "LOCK_STATE_COMPLETED"


async def test_only_a_beneficiary_claims_and_sees_only_their_part(
    token: Vault, ann: Client, ben: Client, admin: Client
) -> None:
    """F-40: nobody else moves anything, the owner and administrators included."""
    lock = await token.active(spec(INSTANT, (ann, 10**6), (admin, 10**6)))
    for other in (ben, token.owner):
        assert await refused(claim(other, lock)) == "SHARE_NOT_FOUND"
    assert await refused(ben.rest("GET", f"/v1/{lock.name}")) == "LOCK_NOT_FOUND"
    assert await refused(claimable(ben, lock)) == "LOCK_NOT_FOUND"
    assert await refused(ben.rest("GET", f"/v1/{lock.name}/claims")) == "LOCK_NOT_FOUND"
    made = await claim(ann, lock, 20_000)
    assert await refused(ben.rest("GET", f"/v1/{made['name']}")) == "CLAIM_NOT_FOUND"
    assert (await ann.rest("GET", f"/v1/{made['name']}")).body["beneficiary"] == ann.principal

    seen = (await ann.rest("GET", f"/v1/{lock.name}")).body
    assert [b["principal"] for b in seen["spec"]["beneficiaries"]] == [ann.principal]
    assert seen["beneficiaryCount"] == 2
    for whole in (token.owner, admin):
        everything = (await whole.rest("GET", f"/v1/{lock.name}")).body
        assert len(everything["spec"]["beneficiaries"]) == 2
    theirs = f"?beneficiary={admin.principal}"
    assert await refused(claimable(ann, lock, theirs)) == "BENEFICIARY_NOT_FOUND"
    assert (await claimable(token.owner, lock, theirs))["claimableAmount"] == "1000000"
    await token.check(lock)


async def test_locks_are_listed_for_those_who_made_them_and_those_who_benefit(
    mesh: Installation, backend: Peer, ann: Client, admin: Client
) -> None:
    mine = await vault(mesh, backend)
    newcomer = await mesh.user(funds=0)
    locks = [await mine.create(spec(INSTANT, (newcomer, 10**6))) for _ in range(3)]
    names = [lock.name for lock in reversed(locks)]

    async def listed(client: Client, query: str = "") -> list[str]:
        body = (await client.rest("GET", f"/v1/locks{query}")).body
        return [lock["name"] for lock in body.get("locks", [])]

    assert await listed(mine.owner) == names
    assert await listed(newcomer) == []
    benefits = f"?beneficiary={newcomer.principal}"
    assert await listed(newcomer, benefits) == names
    assert await listed(admin, benefits) == names
    assert await refused(listed(ann, benefits)) == "ACCESS_DENIED"
    assert await refused(listed(ann, f"?owner={mine.owner.principal}")) == "ACCESS_DENIED"
    first = (await mine.owner.rest("GET", "/v1/locks?pageSize=2")).body
    assert [lock["name"] for lock in first["locks"]] == names[:2]
    assert await listed(mine.owner, f"?pageToken={first['nextPageToken']}") == names[2:]
    await newcomer.close()
    await mine.owner.close()


async def test_a_revocation_returns_what_is_not_unlocked_and_no_more(
    mesh: Installation, token: Vault, ann: Client, ben: Client
) -> None:
    """F-44: one payment to the owner; what is unlocked stays claimable; it ends once."""
    lock = await token.active(spec(LINEAR, (ann, T), (ben, T), revocable=True))
    await travel(mesh, timedelta(days=73))
    await claim(ann, lock, 10**13)
    for other in (ann, ben):
        assert await refused(revoke(other, lock)) == "LOCK_NOT_FOUND"
    before = await token.balance(token.owner.principal)
    revoked = await revoke(token.owner, lock)
    assert revoked["state"] == "LOCK_STATE_REVOKED"
    returned = int(revoked["returnedAmount"])
    await token.until_balance(token.owner.principal, before + returned - token.fee)
    assert await refused(revoke(token.owner, lock)) == "LOCK_NOT_ACTIVE"

    await travel(mesh, timedelta(days=400))
    parts = [int((await claimable(who, lock))["claimableAmount"]) for who in (ann, ben)]
    assert 10**13 + sum(parts) + returned == 2 * T
    assert parts[1] == pytest.approx(T // 5, rel=0.01)
    for who in (ann, ben):
        await claim(who, lock)
    state = await token.check(lock)
    assert state["state"] == "LOCK_STATE_REVOKED"
    assert await token.balance(account(lock)) == 0


async def test_dust_goes_back_with_a_revocation(
    mesh: Installation, token: Vault, ann: Client, ben: Client
) -> None:
    """F-47: a share of which less than the fee is unlocked is nobody's dust on the account."""
    lock = await token.active(spec(LINEAR, (ann, T), (ben, 10 * token.fee), revocable=True))
    await travel(mesh, timedelta(days=18))
    assert 0 < int((await claimable(ben, lock))["claimableAmount"]) <= token.fee
    revoked = await revoke(token.owner, lock)
    assert await refused(claim(ben, lock)) == "NOTHING_TO_CLAIM"
    made = await claim(ann, lock)
    assert int(made["amount"]) + int(revoked["returnedAmount"]) == T + 10 * token.fee
    await token.check(lock)
    assert await token.balance(account(lock)) == 0


async def revoke(client: Client, lock: pb.Lock) -> dict[str, Any]:
    body = {"requestId": str(uuid4())}
    return (await client.rest("POST", f"/v1/{lock.name}:revoke", body)).body


async def test_revocations_and_claims_at_once_leave_nothing_over(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """F-42, F-44: whoever comes first, the parts are the whole."""
    lock = await token.active(spec(LINEAR, (ann, T), revocable=True))
    await travel(mesh, timedelta(days=100))
    await asyncio.gather(
        *(revoke(token.owner, lock) for _ in range(5)),
        *(claim(ann, lock, 10**10) for _ in range(20)),
        return_exceptions=True,
    )
    await claim(ann, lock)
    state = await token.check(lock)
    assert int(state["claimedAmount"]) + int(state["returnedAmount"]) == T
    assert await token.balance(account(lock)) == 0


async def test_what_does_not_allow_it_is_neither_revoked_nor_unlocked(
    token: Vault, ann: Client, admin: Client
) -> None:
    lock = await token.active(spec(LINEAR, (ann, T)))
    assert await refused(revoke(token.owner, lock)) == "LOCK_NOT_REVOCABLE"
    assert await refused(unlock(admin, lock)) == "EMERGENCY_UNLOCK_NOT_ALLOWED"
    done = await token.active(spec(INSTANT, (ann, 10**6), revocable=True))
    assert await refused(revoke(token.owner, done)) == "NOTHING_TO_REVOKE"


async def unlock(
    client: Client, lock: pb.Lock, justification: str = "The key was lost"
) -> dict[str, Any]:
    body = {"requestId": str(uuid4()), "justification": justification}
    return (await client.rest("POST", f"/v1/{lock.name}:emergencyUnlock", body)).body


async def test_an_emergency_unlock_needs_an_administrator_and_a_reason(
    mesh: Installation, token: Vault, ann: Client, admin: Client
) -> None:
    """F-44: everything becomes claimable, and the audit knows who, why, and how grave it was."""
    lock = await token.active(spec(LINEAR, (ann, T), emergencyUnlock=True))
    for other in (ann, token.owner):
        assert await refused(unlock(other, lock)) == "ACCESS_DENIED"
    assert await refused(unlock(admin, lock, "")) == "INVALID_FIELD"
    assert (await unlock(admin, lock))["state"] == "LOCK_STATE_EMERGENCY_UNLOCKED"
    assert await refused(unlock(admin, lock)) == "LOCK_NOT_ACTIVE"
    made = await claim(ann, lock)
    assert int(made["amount"]) == T
    await token.check(lock)
    assert await token.balance(account(lock)) == 0
    entry = await acted(mesh, lock, "EmergencyUnlock")
    assert entry["principal"] == admin.principal
    assert entry["severity"] == 4


async def test_milestones_unlock_by_their_attestor_alone(
    token: Vault, ann: Client, ben: Client
) -> None:
    milestones = {
        "attestor": ben.principal,
        "milestones": [
            {"id": "beta", "basisPoints": 3333},
            {"id": "launch", "basisPoints": 6667},
        ],
    }
    lock = await token.active(spec({"milestones": milestones}, (ann, 1_000_001)))

    async def attest(client: Client, milestone: str) -> dict[str, Any]:
        body = {"requestId": str(uuid4()), "milestone": milestone}
        return (await client.rest("POST", f"/v1/{lock.name}:attestMilestone", body)).body

    for other in (ann, token.owner):
        assert await refused(attest(other, "beta")) == "LOCK_NOT_FOUND"
    assert await refused(attest(ben, "gamma")) == "MILESTONE_NOT_FOUND"
    assert await refused(claim(ann, lock)) == "NOTHING_TO_CLAIM"
    told = await attest(ben, "launch")
    assert [a["milestone"] for a in told["attestations"]] == ["launch"]
    assert (await attest(ben, "launch"))["attestations"] == told["attestations"]
    assert (await ben.rest("GET", f"/v1/{lock.name}")).body["name"] == lock.name
    assert int((await claim(ann, lock))["amount"]) == 666_700
    await attest(ben, "beta")
    assert int((await claim(ann, lock))["amount"]) == 1_000_001 - 666_700
    assert (await token.check(lock))["state"] == "LOCK_STATE_COMPLETED"


async def test_what_is_given_up_is_gone_for_good_and_its_tokens_go_back(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """F-44, F-49: before it was heard of, before it was funded, after it was, and too late."""
    unheard = new_operation()
    assert (await token.abandon(unheard)).delivered_lock == ""
    assert await refusal(token.create(spec(INSTANT, (ann, 10**6)), unheard)) == (
        "OPERATION_ABANDONED"
    )
    assert await refusal(token.activate(unheard)) == "OPERATION_ABANDONED"

    lock = await token.create(spec(INSTANT, (ann, 10**6)))
    await token.pay_in(account(lock), 10**6)
    before = await token.balance(token.escrow)
    given_up = await token.abandon(lock.operation)
    assert (given_up.delivered_lock, int(given_up.returned_amount)) == ("", 10**6 - token.fee)
    await token.until_balance(token.escrow, before + 10**6 - token.fee)
    assert await token.balance(account(lock)) == 0
    assert await refusal(token.activate(lock.operation)) == "OPERATION_ABANDONED"
    assert await refused(claim(ann, lock)) == "LOCK_NOT_ACTIVE"
    assert (await token.abandon(lock.operation)).returned_amount == "0"

    # A transfer that was on its way arrives after all: it goes back by itself.
    await token.pay_in(account(lock), 50_000)
    await travel(mesh, timedelta(minutes=2))
    await token.until_balance(account(lock), 0)
    await token.until_balance(token.escrow, before + 10**6 + 50_000 - 2 * token.fee)

    # As does what was sent to the account of an operation that was never heard of.
    early = new_operation()
    await token.pay_in(account_of("lock_deployer", early), 50_000)
    before = await token.balance(token.escrow)
    assert int((await token.abandon(early)).returned_amount) == 50_000 - token.fee
    await token.until_balance(token.escrow, before + 50_000 - token.fee)
    await token.pay_in(account_of("lock_deployer", early), 60_000)
    await travel(mesh, timedelta(minutes=2))
    await token.until_balance(token.escrow, before + 110_000 - 2 * token.fee)

    active = await token.active(spec(INSTANT, (ann, 10**6)))
    assert (await token.abandon(active.operation)).delivered_lock == active.name
    await claim(ann, active)
    await token.check(active)


async def test_repeated_abandonments_return_the_tokens_once(token: Vault, ann: Client) -> None:
    lock = await token.create(spec(INSTANT, (ann, 10**6)))
    await token.pay_in(account(lock), 10**6)
    before = await token.balance(token.escrow)
    answers = await asyncio.gather(*(token.abandon(lock.operation) for _ in range(8)))
    assert sorted(int(a.returned_amount) for a in answers)[-2:] == [0, 10**6 - token.fee]
    await token.until_balance(token.escrow, before + 10**6 - token.fee)
    assert await token.balance(account(lock)) == 0


async def test_activation_and_abandonment_at_once_have_one_winner(
    token: Vault, ann: Client
) -> None:
    for _ in range(4):
        lock = await token.create(spec(INSTANT, (ann, 10**6)))
        await token.pay_in(account(lock), 10**6)
        activated, given_up = await asyncio.gather(
            token.activate(lock.operation), token.abandon(lock.operation), return_exceptions=True
        )
        assert isinstance(given_up, pb.AbandonLockResponse)
        assert bool(given_up.delivered_lock) == isinstance(activated, pb.Lock)
        if given_up.delivered_lock:
            await claim(ann, lock)
            await token.check(lock)
        await token.until_balance(account(lock), 0)


async def test_a_lock_that_is_not_funded_in_time_fails_and_gives_back_what_it_got(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """F-49: nothing waits for ever."""
    lock = await token.create(spec(INSTANT, (ann, 10**6)))
    await token.pay_in(account(lock), 500_000)
    before = await token.balance(token.escrow)
    await travel(mesh, timedelta(days=1, minutes=1))
    await token.until_balance(token.escrow, before + 500_000 - token.fee)
    state = (await token.owner.rest("GET", f"/v1/{lock.name}")).body
    assert state["state"] == "LOCK_STATE_FAILED"
    assert await refusal(token.activate(lock.operation)) == "LOCK_FAILED"
    entry = await acted(mesh, lock, "ActivateLock")
    assert entry["principal"] == token.owner.principal
    assert (await token.abandon(lock.operation)).delivered_lock == ""


async def test_an_account_that_cannot_be_looked_at_does_not_hold_the_others_up(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """F-49: whatever is wrong with its row, and though it is always the first one that is due."""
    broken, sound = [await token.create(spec(INSTANT, (ann, 10**6))) for _ in range(2)]
    change = "UPDATE lock_deployer.locks SET spec = $2 WHERE id = $1 RETURNING id"
    number = broken.name.partition("/")[2]

    async def failed(lock: pb.Lock) -> bool:
        told = (await token.owner.rest("GET", f"/v1/{lock.name}")).body
        return bool(told["state"] == "LOCK_STATE_FAILED")

    async with mesh.superuser() as database:
        kept = await database.fetchval("SELECT spec FROM lock_deployer.locks WHERE id = $1", number)
        await database.execute(change, number, b"no spec")
        await travel(mesh, timedelta(days=1, minutes=1))
        await until(lambda: failed(sound), 15)
        await database.execute(change, number, kept)
    await travel(mesh, timedelta(minutes=2))
    await until(lambda: failed(broken), 15)


async def test_an_operation_makes_one_lock_and_a_payment_pays_for_one_launch(
    token: Vault, ann: Client
) -> None:
    """F-19."""
    operation, payment = new_operation(), f"payments/{uuid4()}"
    wanted = spec(LINEAR, (ann, T))
    first, again = await asyncio.gather(
        token.create(wanted, operation, payment=payment),
        token.create(wanted, operation, payment=payment),
    )
    assert first.name == again.name
    other = spec(LINEAR, (ann, T + 1))
    assert await refusal(token.create(other, operation, payment=payment)) == "OPERATION_REUSED"
    sibling = operation.replace("/lock", "/another")
    assert (await token.create(wanted, sibling, payment=payment)).name != first.name
    assert await refusal(token.create(wanted, payment=payment)) == "PAYMENT_CONSUMED"


async def test_what_cannot_be_locked_is_refused_before_anything_moves(
    token: Vault, ann: Client, ben: Client
) -> None:
    """F-36, F-38: schedules, sums, beneficiaries, times; told as what they are."""
    stepped = {"stepped": {"steps": [{"offset": "60s", "basisPoints": 9_900}]}}
    anonymous = spec(LINEAR, ("2vxsx-fae", T))
    wrong_sum = spec(LINEAR, (ann, T)) | {"totalAmount": str(T + 1)}
    past = spec(LINEAR, (ann, T), startTime="2020-01-01T00:00:00Z")
    for wanted, reason in (
        (spec(stepped, (ann, T)), "SCHEDULE_SUM"),
        (spec(LINEAR, (ann, T), (ann, T)), "DUPLICATE_BENEFICIARY"),
        (spec(LINEAR, (ann, T), (ben, token.fee)), "INVALID_AMOUNT"),
        (anonymous, "INVALID_PRINCIPAL"),
        (wrong_sum, "AMOUNTS_SUM"),
        (past, "START_IN_THE_PAST"),
        (spec(LINEAR), "INVALID_FIELD"),
        (spec({}, (ann, T)), "INVALID_FIELD"),
    ):
        assert await refusal(token.create(wanted)) == reason, wanted
        assert await refusal(validate(token, wanted)) == reason, wanted
    foreign = Vault(
        token.mesh, token.backend, token.owner, f"ledgers/{uuid4()}", token.fee, token.escrow
    )
    assert await refusal(foreign.create(spec(LINEAR, (ann, T)))) == "LEDGER_NOT_FOUND"


async def validate(token: Vault, wanted: dict[str, Any]) -> pb.LockSpec:
    parsed = json_format.ParseDict(wanted, pb.LockSpec())
    request = pb.ValidateLockRequest(spec=parsed, transfer_fee=str(token.fee))
    answer: pb.ValidateLockResponse = await token.backend.call(token.locks.ValidateLock, request)
    return answer.spec


async def test_a_thousand_beneficiaries_fit(token: Vault, ann: Client) -> None:
    many = [principal.of_public_key(n.to_bytes(32, "big")) for n in range(999)]
    wanted = spec(LINEAR, (ann, T), *((who, 20_000) for who in many), revocable=True)
    assert len((await validate(token, wanted)).beneficiaries) == 1_000
    lock = await token.active(wanted)
    told = (await token.owner.rest("GET", f"/v1/{lock.name}")).body
    assert len(told["spec"]["beneficiaries"]) == told["beneficiaryCount"] == 1_000
    made = await claim(ann, lock)
    revoked = await revoke(token.owner, lock)
    whole, year = T + 999 * 20_000, 31_536_000
    started, ended = (
        datetime.fromisoformat(revoked[f"{what}Time"]) for what in ("start", "revoke")
    )
    # What is unlocked stays, each part rounded down by itself.
    micros = (ended - started) // timedelta(microseconds=1)
    kept = [amount * micros // (year * 10**6) for amount in (T, *(20_000 for _ in many))]
    assert int(revoked["returnedAmount"]) == whole - sum(kept)
    assert 0 < int(made["amount"]) <= kept[0]
    found = await token.check(lock)
    assert found["claimedAmount"] == made["amount"]
    left = [b["principal"] for b in found["spec"]["beneficiaries"]]
    assert left == [ann.principal, *many]


async def test_a_lock_that_was_accepted_before_its_start_is_created_after_it(
    token: Vault, ann: Client
) -> None:
    """A launch may wait in a queue; the user is not refused for that."""
    accepted = Timestamp()
    accepted.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    wanted = spec(LINEAR, (ann, T), startTime="2026-01-01T00:00:01Z")
    lock = await token.active(wanted, accept_time=accepted)
    assert lock.start_time.seconds == accepted.seconds + 1


async def test_a_lock_can_be_asked_to_be_refused_in_tests(token: Vault, ann: Client) -> None:
    wanted = spec(LINEAR, (ann, T)) | {"displayName": f"{REFUSED_PREFIX}lock"}
    assert await refusal(token.create(wanted)) == "LOCK_REFUSED"


async def test_a_killed_replica_loses_no_claim(
    mesh: Installation, token: Vault, ann: Client
) -> None:
    """F-42, F-46: what was ordered is paid by another replica, once."""
    part = 100_000
    lock = await token.active(spec(INSTANT, (ann, 40 * part)))
    victim, *_ = await mesh.replicas("lock_deployer")
    claims = [asyncio.ensure_future(claim(ann, lock, part)) for _ in range(40)]
    await asyncio.sleep(0.05)
    kill(victim["pid"])
    answers = await asyncio.gather(*claims, return_exceptions=True)
    await mesh.until_healthy()
    assert [a for a in answers if not isinstance(a, dict)] == []
    state = await token.check(lock)
    assert state["state"] == "LOCK_STATE_COMPLETED"
    assert await token.balance(account(lock)) == 0


async def test_claims_go_on_in_an_emergency_stop(
    mesh: Installation, token: Vault, ann: Client, admin: Client
) -> None:
    """F-41: what is vested is claimed and paid; nothing else changes."""
    lock = await token.active(spec(INSTANT, (ann, 10**6), revocable=True))
    async with emergency_stop(mesh, admin):
        await token.paid(await claim(ann, lock, 500_000))
        assert await refused(revoke(token.owner, lock)) == "EMERGENCY_STOP"
    await claim(ann, lock)
    await token.check(lock)
