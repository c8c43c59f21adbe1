"""What the tables of locks refuse, and whom they keep apart. On a database alone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import ids, principal
from contract.errors import Error
from services.kit.storage.database import Database
from services.kit.vesting.vesting_messages import of_datetime
from services.kit.vesting.vesting_rules import YEAR, Instant, Linear, Schedule
from services.lock_deployer import domain, store
from services.lock_deployer.domain import Beneficiary, Claim, Lock, LockSpec, State
from tests.support.postgres import Postgres, Schema
from tests.support.tokens import somebody

OWNER, HOLDER = somebody(), somebody()
WHOLE = 10**30
FEE = 10


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    return await postgres.schema("services.lock_deployer")


@pytest.fixture
async def database(schema: Schema) -> AsyncIterator[Database]:
    async with schema.replica() as replica:
        yield replica.database


async def funded(database: Database, schedule: Schedule, amount: int = WHOLE) -> Lock:
    everybody = (Beneficiary(HOLDER, amount), Beneficiary(OWNER, amount))
    spec = LockSpec("Team", 2 * amount, schedule, everybody, revocable=True)
    operation = f"launches/{ids.new_id(OWNER)}/steps/lock"
    escrow = (OWNER, principal.DEFAULT_SUBACCOUNT)
    new = Lock(ids.new_id(operation), operation, OWNER, "ledgers/icp", escrow, spec)
    now, _ = await store.look(database, operation)
    await database.apply(*store.added(domain.created(new, now), "", b"print"))
    found = await store.fund(database, new.id)
    assert found is not None
    return found


async def active(database: Database, schedule: Schedule, amount: int = WHOLE) -> Lock:
    made = domain.activated(await funded(database, schedule, amount))
    await database.apply(store.activated(made))
    return made


async def claimed(database: Database, lock_id: Lock, asked: int | None) -> int:
    """A claim as the service makes it: what it took."""
    async with database.transaction() as connection:
        lock = await store.lock(connection, lock_id.id)
        share = await store.share(connection, lock_id.id, HOLDER)
        assert lock is not None
        assert share is not None
        amount = domain.amount_to_claim(asked, lock, share, FEE)
        await connection.apply(
            *store.claimed(claim(lock, amount), domain.after_claim(lock, amount))
        )
        return amount


def claim(lock: Lock, amount: int) -> Claim:
    return Claim(ids.new_id(lock.operation), lock.id, HOLDER, amount, FEE, None, lock.times.seen)


async def test_a_revocation_is_not_before_a_claim_that_it_waited_for(database: Database) -> None:
    """F-44: what was unlocked for the claim was unlocked before the end of it."""
    made = await active(database, Schedule(Linear(YEAR)))
    async with database.transaction() as revoking:
        await claimed(database, made, None)
        lock = await store.lock(revoking, made.id)
        share = await store.share(revoking, made.id, HOLDER)
        assert lock is not None
        assert share is not None
        assert share.claimed < domain.unlocked(lock, share, lock.times.seen)
        revoked = await store.revoke(revoking, lock, 1)
        assert revoked.times.revoke == lock.times.seen


async def test_who_waits_for_a_lock_looks_at_it_when_they_have_it(database: Database) -> None:
    made = await active(database, Schedule(Linear(YEAR)))

    async def looked() -> Lock | None:
        async with database.transaction() as connection:
            return await store.lock(connection, made.id)

    async with database.transaction() as holding:
        assert await store.lock(holding, made.id) is not None
        looking = asyncio.create_task(looked())
        await asyncio.sleep(0.1)
        assert not looking.done()
        before = await holding.fetchval("SELECT kit_clock_now()")
    seen = await looking
    assert seen is not None
    assert seen.times.seen > of_datetime(before)


async def test_what_is_told_of_a_lock_is_what_is_kept_of_it(database: Database) -> None:
    """Its answer is made before it is written."""
    made = await active(database, Schedule(Linear(YEAR)))
    found = await store.get(database, made.id)
    assert found is not None
    seen = replace(found.times, seen=made.times.seen)
    assert replace(found, times=seen) == made


async def test_a_lock_is_activated_once(database: Database) -> None:
    made = domain.activated(await funded(database, Schedule(Linear(YEAR))))
    await database.apply(store.activated(made))
    with pytest.raises(Error, match="has changed meanwhile"):
        await database.apply(store.activated(made))


async def test_a_lock_that_is_given_up_meanwhile_is_not_activated(database: Database) -> None:
    """F-25: not when both are under way at one time, either."""
    made = domain.activated(await funded(database, Schedule(Linear(YEAR))))
    async with database.transaction() as giving_up:
        await store.give_up(giving_up, made.operation, "", ("", b""))
        activating = asyncio.create_task(database.apply(store.activated(made)))
        await asyncio.sleep(0.1)
        assert not activating.done()
    with pytest.raises(Error, match="has changed meanwhile"):
        await activating
    found = await store.of_operation(database, made.operation)
    assert found is not None
    assert found.state is State.ABANDONED


async def test_more_than_a_share_cannot_even_be_written(database: Database) -> None:
    """What is the others' on the lock's account is not taken either."""
    made = await active(database, Schedule(Instant()), 1_000)
    await database.apply(*store.claimed(claim(made, 900), State.PARTIALLY_CLAIMED))
    with pytest.raises(asyncpg.CheckViolationError):
        await database.apply(*store.claimed(claim(made, 101), State.PARTIALLY_CLAIMED))


@given(st.lists(st.one_of(st.none(), st.integers(1, 2_000)), min_size=2, max_size=6))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_claims_at_once_take_what_there_is_and_no_more(
    database: Database, wanted: list[int | None]
) -> None:
    """F-41, F-42: whoever comes first; nobody is refused for a conflict."""
    made = await active(database, Schedule(Linear(YEAR), 5_000), 2_000)
    outcomes = await asyncio.gather(
        *(claimed(database, made, asked) for asked in wanted), return_exceptions=True
    )
    taken = sum(one for one in outcomes if isinstance(one, int))
    refused = [one for one in outcomes if not isinstance(one, int)]
    assert all(isinstance(one, Error) and one.reason != "CONFLICT" for one in refused)
    share = await store.share(database, made.id, HOLDER)
    lock = await store.get(database, made.id)
    assert share is not None
    assert lock is not None
    assert lock.claimed == share.claimed == taken <= domain.unlocked(lock, share, lock.times.seen)
