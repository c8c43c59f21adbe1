"""What the tables of distributions refuse, and whom they keep apart. On a database alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import ids
from contract.errors import Error
from services.distribution_deployer import (
    claim_rules,
    domain,
    lists_store,
    merkle_rules,
    money,
    spec_rules,
    store,
)
from services.distribution_deployer.claim_rules import Allocation, Held
from services.distribution_deployer.domain import (
    Account,
    Campaign,
    Category,
    ClaimRate,
    Disbursement,
    Distribution,
    Kind,
    Listed,
    Pool,
    Recipient,
    Spec,
    State,
    Timing,
    Whitelist,
)
from services.distribution_deployer.merkle_rules import Builder, Tree
from services.kit.storage.database import Database
from services.kit.vesting import vesting_rules
from services.kit.vesting.vesting_rules import DAY, SECOND, Cliff, Instant, Linear, Schedule
from tests.support.postgres import Postgres, Schema
from tests.support.tokens import somebody

OWNER = somebody()
HOLDER = somebody()
RATE = ClaimRate(2, 3600 * SECOND)
_CROWD = """
INSERT INTO allocations (distribution_id, principal, category_id, amount, claimed)
SELECT $1, 'p' || claimed, 1, $2, claimed FROM unnest($3::numeric[]) AS claimed
"""


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    return await postgres.schema("services.distribution_deployer")


@pytest.fixture
async def database(schema: Schema) -> AsyncIterator[Database]:
    async with schema.replica() as replica:
        yield replica.database


def category(source: Whitelist | Listed | Pool, **more: Any) -> Category:
    made = Category(1, "A category", Schedule(Instant()), source, amount=1_000, count=1)
    return replace(made, **more)


HELD = category(Whitelist((Recipient(HOLDER, 1_000),)))


def wanted(operation: str, *categories: Category) -> Distribution:
    total = sum(one.amount for one in categories)
    return Distribution(
        id=ids.new_id(operation),
        operation=operation,
        owner=OWNER,
        ledger="ledgers/icp",
        escrow=Account(OWNER),
        spec=Spec("A distribution", Campaign.AIRDROP, total, categories),
        state=State.CREATED,
        now=0,
        create_time=0,
        funding_deadline=0,
    )


async def added(
    database: Database, operation: str, *categories: Category, payment: str = ""
) -> Distribution:
    now, _ = await store.look(database, operation)
    new = wanted(operation, *(categories or (HELD,)))
    deadline = now + new.spec.funding_period
    new = replace(new, now=now, create_time=now, funding_deadline=deadline)
    async with database.transaction() as connection:
        if lists := spec_rules.lists_of(new.spec):
            await store.use_lists(connection, new.id, lists)
        await connection.apply(*store.added(new, payment, b"print"))
    made = await store.get(database, new.id)
    assert made is not None
    return made


async def opened(database: Database, *categories: Category) -> Distribution:
    made = await added(database, f"launches/1/steps/{ids.new_id(OWNER)}", *categories)
    timing = Timing(made.now)
    active = domain.activated(made, timing)
    await database.apply(store.activated(active, timing))
    return active


async def refusal(work: Awaitable[Any]) -> str:
    with pytest.raises(Error) as caught:
        await work
    return caught.value.reason


def claim(of: Distribution, amount: int, **more: Any) -> Disbursement:
    made = Disbursement(
        id=ids.new_id(of.operation),
        distribution_id=of.id,
        kind=Kind.VESTED,
        principal=HOLDER,
        gross=amount,
        fee=1,
        parts={1: amount},
    )
    return replace(made, **more)


async def take(database: Database, one: Disbursement, *, close: bool = False) -> None:
    await database.apply(store.taken(one, close=close), store.disbursed(one))


async def sealed(database: Database, leaves: int = 1) -> UUID:
    """A sealed list of so many; the tree is built in pages that fit no chunk."""
    list_id = ids.new_id(OWNER)
    async with database.transaction() as connection:
        await lists_store.add(connection, list_id, OWNER, 1)
        for start in range(0, leaves, 700):
            found = await lists_store.lock(connection, list_id)
            assert found is not None
            page = [Recipient(f"r{n}", n + 1) for n in range(start, min(leaves, start + 700))]
            packed = b"".join(leaf(list_id, one) for one in page)
            _, twice = await lists_store.add_page(connection, found, page, packed)
            assert not twice
        builder = Builder()
        async for packed in lists_store.leaves(connection, list_id):
            await lists_store.add_chunks(connection, list_id, builder.add(packed))
        root, rest = builder.finish()
        await lists_store.add_chunks(connection, list_id, rest)
        await lists_store.seal(connection, list_id, root)
    return list_id


def leaf(list_id: UUID, one: Recipient) -> bytes:
    return merkle_rules.leaf(list_id, 1, one.principal, one.amount)


async def test_a_spec_comes_back_as_it_was_without_its_names(database: Database) -> None:
    made = await added(database, "launches/1/steps/a", HELD)
    bare = replace(HELD, source=Whitelist())
    assert made.spec == replace(wanted("", HELD).spec, categories=(bare,))
    again = await store.get(database, made.id)
    assert again is not None
    assert replace(again, now=made.now) == made
    assert await store.allocations(database, made.id, HOLDER) == [Allocation(1, 1_000)]


async def test_a_payment_pays_the_steps_of_one_launch(database: Database) -> None:
    """F-19."""
    await added(database, "launches/1/steps/a", payment="payments/1")
    await added(database, "launches/1/steps/b", payment="payments/1")
    other = added(database, "launches/2/steps/a", payment="payments/1")
    assert await refusal(other) == "PAYMENT_CONSUMED"
    assert await store.of_operation(database, "launches/2/steps/a") is None


async def test_one_distribution_uses_a_list(database: Database) -> None:
    """F-43: also when two try at once; the other one leaves nothing."""
    list_id = await sealed(database)
    listed = category(Listed(list_id))
    assert list_id in await lists_store.usable(database, [list_id], OWNER)
    attempts = [added(database, f"launches/{n}/steps/a", listed) for n in range(4)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, Error)]
    assert [one.reason for one in refused] == ["RECIPIENT_LIST_UNUSABLE"] * 3
    assert await lists_store.usable(database, [list_id], OWNER) == {}


async def test_a_list_that_is_deleted_meanwhile_is_used_by_nobody(database: Database) -> None:
    list_id = await sealed(database)
    async with database.transaction() as deleting:
        assert await lists_store.lock(deleting, list_id) is not None
        adding = asyncio.create_task(
            added(database, "launches/1/steps/a", category(Listed(list_id)))
        )
        await asyncio.sleep(0.1)
        assert not adding.done()
        await lists_store.delete(deleting, list_id)
    assert await refusal(adding) == "RECIPIENT_LIST_UNUSABLE"
    assert await store.of_operation(database, "launches/1/steps/a") is None


async def test_lists_are_forgotten_when_no_distribution_used_them_for_long(
    database: Database, schema: Schema
) -> None:
    """Counted anew from their last change; what a distribution uses stays with all that it has."""
    period = timedelta(days=30)
    used, unused = await sealed(database), await sealed(database)
    made = await added(database, "launches/1/steps/a", category(Listed(used)))

    async def forgotten() -> int:
        async with database.transaction() as connection:
            return await lists_store.forget_unused(connection, period)

    await schema.shift_clock(period - timedelta(seconds=1))
    assert await forgotten() == 0
    await schema.shift_clock(period + timedelta(seconds=60))
    late = await sealed(database)
    assert await forgotten() == 1
    assert await lists_store.get(database, unused) is None
    assert await lists_store.get(database, late) is not None
    for table in ("recipients", "recipient_trees"):
        lists = await database.fetch(f"SELECT DISTINCT list_id FROM {table}")
        assert {row["list_id"] for row in lists} == {used, late}
    async with database.transaction() as connection:
        await store.free_lists(connection, made.id)
    assert await forgotten() == 0
    await schema.shift_clock(2 * period + timedelta(seconds=120))
    assert await forgotten() == 2


async def test_an_owner_who_is_counted_is_not_counted_again_meanwhile(database: Database) -> None:
    """So that no two calls at one time fill what is left."""
    async with database.transaction() as first:
        assert await lists_store.count_unused(first, OWNER) == (0, 0)

        async def second() -> tuple[int, int]:
            async with database.transaction() as connection:
                return await lists_store.count_unused(connection, OWNER)

        counting = asyncio.create_task(second())
        await asyncio.sleep(0.1)
        assert not counting.done()
        await lists_store.add(first, ids.new_id(OWNER), OWNER, 1)
    assert await counting == (1, 0)


async def test_what_is_told_of_a_distribution_is_what_is_kept_of_it(database: Database) -> None:
    """Its answer is made before it is written."""
    active = await opened(database)
    found = await store.get(database, active.id)
    assert found is not None
    assert replace(found, now=active.now) == active


async def test_a_distribution_is_opened_once(database: Database) -> None:
    made = await added(database, "launches/1/steps/a")
    timing = Timing(made.now)
    opening = store.activated(domain.activated(made, timing), timing)
    await database.apply(opening)
    assert await refusal(database.apply(opening)) == "DISTRIBUTION_CHANGED"


async def test_a_distribution_that_is_given_up_meanwhile_is_not_opened(database: Database) -> None:
    """F-25: not when both are under way at one time, either."""
    made = await added(database, "launches/1/steps/a")
    timing = Timing(made.now)
    async with database.transaction() as giving_up:
        await store.give_up(giving_up, made.id, made.operation, "", Account("", b""))
        opening = asyncio.create_task(
            database.apply(store.activated(domain.activated(made, timing), timing))
        )
        await asyncio.sleep(0.1)
        assert not opening.done()
    assert await refusal(opening) == "DISTRIBUTION_CHANGED"
    known = await store.of_operation(database, made.operation)
    assert known is not None
    assert known[0].state is State.ABANDONED


async def test_what_was_delivered_is_not_given_up_and_what_was_not_is(database: Database) -> None:
    """F-25: exactly one of them, also for an operation that nobody heard of."""
    active = await opened(database)
    await added(database, "launches/1/steps/b")
    operations = (active.operation, "launches/1/steps/b", "launches/1/steps/c")
    async with database.transaction() as connection:
        for operation in operations:
            new_id = ids.new_id(operation)
            await store.give_up(connection, new_id, operation, "", Account("", b""))
    states = []
    for operation in operations:
        known = await store.of_operation(database, operation)
        assert known is not None
        states.append(known[0].state)
    assert states == [State.ACTIVE, State.ABANDONED, State.ABANDONED]
    assert (await store.get(database, active.id)) is not None


async def test_a_pool_gives_its_shares_away_once(database: Database) -> None:
    """F-40: the counter decides, whoever comes at once."""
    pool = category(Pool(1_000, 333, 3), count=3)
    active = await opened(database, pool)

    async def seat() -> bool:
        async with database.transaction() as connection:
            return await store.take_seat(connection, active.id, 1, 333)

    outcomes = await asyncio.gather(*(seat() for _ in range(7)))
    assert sum(outcomes) == 3
    async with database.connection() as connection:
        assert await money.unowed_at_end(connection, active) == 1_000
        for number in range(3):
            await store.add_allocation(connection, active.id, f"p{number}", Allocation(1, 333))
        assert await money.unowed_at_end(connection, active) == 1


async def test_an_allocation_is_never_reset(database: Database) -> None:
    """F-40: adding it again keeps what was claimed."""
    active = await opened(database)
    await take(database, claim(active, 400))
    async with database.connection() as connection:
        again = await store.add_allocation(connection, active.id, HOLDER, Allocation(1, 1_000))
    assert not again
    assert await store.allocations(database, active.id, HOLDER) == [Allocation(1, 1_000, 400)]


async def test_more_than_the_allocation_cannot_even_be_written(database: Database) -> None:
    active = await opened(database)
    await take(database, claim(active, 995))
    with pytest.raises(asyncpg.CheckViolationError):
        await take(database, claim(active, 6))
    await take(database, claim(active, 5), close=True)
    assert await store.allocations(database, active.id, HOLDER) == [
        Allocation(1, 1_000, 1_000, closed=True)
    ]


async def test_a_cancellation_waits_for_claims_in_flight_and_sees_them(
    database: Database,
) -> None:
    """F-42, F-44: what a claim takes is not given back as well."""
    active = await opened(database, replace(HELD, schedule=Schedule(Linear(DAY))))

    async def cancelled() -> int:
        async with database.transaction() as connection:
            locked = await store.lock(connection, active.id)
            assert locked is not None
            return await money.unowed(connection, locked, active.now)

    async with database.transaction() as connection:
        await store.share(connection, active.id)
        cancelling = asyncio.create_task(cancelled())
        await asyncio.sleep(0.1)
        assert not cancelling.done()
        taken = claim(active, 300)
        await connection.apply(store.taken(taken), store.disbursed(taken))
    assert await cancelling == 700


async def test_a_cancellation_is_not_before_a_claim_that_it_waited_for(database: Database) -> None:
    """F-44: else a list would keep less for its recipients than one of them has claimed."""
    whole = 10**30
    yearly = Schedule(Linear(365 * DAY))
    listed = category(Listed(await sealed(database)), schedule=yearly, amount=whole)
    active = await opened(database, listed)
    async with database.transaction() as cancelling:
        async with database.transaction() as claiming_too:
            shared = await store.share(claiming_too, active.id)
            assert shared is not None
            await store.add_allocation(claiming_too, active.id, HOLDER, Allocation(1, whole))
            unlocked = vesting_rules.curve(yearly, whole, active.now).unlocked(shared.now)
            taken = claim(active, unlocked)
            await claiming_too.apply(store.taken(taken), store.disbursed(taken))
        locked = await store.lock(cancelling, active.id)
        assert locked is not None
        assert locked.now > shared.now
        assert 0 < await money.unowed(cancelling, locked, locked.now) < whole - unlocked


async def test_what_nobody_is_owed_is_exact_over_all_kinds_of_rows(database: Database) -> None:
    """F-36, F-44: each allocation's unlocked part is rounded down by itself."""
    daily = Schedule(Cliff(DAY, 333, 100 * DAY), 77)
    amounts = [1 + 7919 * n for n in range(200)]
    named = Whitelist(tuple(Recipient(f"p{n}", amount) for n, amount in enumerate(amounts)))
    pool = Pool(10_000, 33, 300)
    active = await opened(
        database,
        category(named, schedule=daily, amount=sum(amounts), count=len(amounts)),
        category(pool, id=2, schedule=daily, amount=10_000, count=300),
    )
    moment, rows = active.now + 50 * DAY, [(1, f"p{n}", a) for n, a in enumerate(amounts)]
    rows += [(2, f"p{n}", 33) for n in range(250)]
    owed = 0
    async with database.transaction() as connection:
        for number, (one, who, amount) in enumerate(rows):
            unlocked = vesting_rules.curve(daily, amount, active.now).unlocked(moment)
            # Some claimed nothing, some a part, some all, some more than a clock behind allows.
            claimed, closed = min(amount, number % 4 * unlocked // 2), number % 7 == 0
            owed += 0 if closed else max(0, unlocked - claimed)
            if one == 2:
                await store.add_allocation(connection, active.id, who, Allocation(2, amount))
            parts = {one: claimed}
            taken = claim(active, max(claimed, 2), principal=who, parts=parts)
            await connection.apply(store.taken(taken, close=closed), store.disbursed(taken))
        sent = await store.sent(connection, active.id)
        unowed = await money.unowed(connection, active, moment)
    assert unowed == active.spec.total - sent - owed


async def test_what_no_claim_could_take_from_a_cancelled_distribution_is_owed_to_nobody(
    database: Database,
) -> None:
    """Half is unlocked and the fee is 10: 9 is nobody's, and 6 of each of two categories is."""
    half = Schedule(Linear(100 * DAY))
    both, less, more, took = (somebody() for _ in range(4))
    first = Whitelist(
        (Recipient(both, 12), Recipient(less, 18), Recipient(more, 22), Recipient(took, 30))
    )
    second = Whitelist((Recipient(both, 12),))
    active = await opened(
        database,
        category(first, schedule=half, amount=82, count=4),
        category(second, id=2, schedule=half, amount=12),
    )
    async with database.transaction() as connection:
        part = claim(active, 9, principal=took)
        await connection.apply(store.taken(part), store.disbursed(part))
        moment = active.now + 50 * DAY
        cancelled = replace(active, state=State.CANCELLED, cancel_time=moment, now=moment)
        await money.close_dust(connection, cancelled, fee=10)
        unowed = await money.unowed(connection, cancelled, moment)
    assert unowed == 94 - 9 - (6 + 6 + 11)
    assert [one.closed for one in await store.allocations(database, active.id, less)] == [True]
    for who in (both, more):
        assert not any(one.closed for one in await store.allocations(database, active.id, who))


async def test_a_crowd_that_claimed_differently_is_added_up_where_it_is(
    database: Database,
) -> None:
    """A cancellation reads some numbers, not the rows of a hundred thousand people."""
    crowd, share = 100_000, 10**12
    linear = Schedule(Linear(100 * DAY))
    pool = category(
        Pool(crowd * share, share, crowd), schedule=linear, amount=crowd * share, count=crowd
    )
    active = await opened(database, pool)
    claims, half = [10**7 * n for n in range(crowd)], share // 2
    async with database.transaction() as connection:
        await connection.execute(_CROWD, active.id, share, claims)
        held = await store.held(connection, active.id, {(1, share): half})
        assert held == {1: Held(0, sum(claims), sum(max(0, half - claimed) for claimed in claims))}
        unowed = await money.unowed(connection, active, active.now + 50 * DAY)
    assert unowed == crowd * share - held[1].claimable


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
    half = category(
        Whitelist((Recipient(HOLDER, 2_000),)), schedule=Schedule(Linear(DAY), 5_000), amount=2_000
    )
    active = await opened(database, half)

    async def claimed(asked: int | None) -> int:
        async with database.transaction() as connection:
            shared = await store.share(connection, active.id)
            assert shared is not None
            mine = await store.lock_allocations(connection, active.id, HOLDER)
            holdings = claim_rules.chosen(shared, mine, None)
            parts = claim_rules.plan_claim(holdings, asked, claim_rules.left(shared, mine), 10)
            taken = claim(shared, sum(parts.values()), parts=parts)
            await connection.apply(store.taken(taken), store.disbursed(taken))
            return taken.gross

    outcomes = await asyncio.gather(*map(claimed, wanted), return_exceptions=True)
    taken = sum(one for one in outcomes if isinstance(one, int))
    refused = [one for one in outcomes if not isinstance(one, int)]
    assert all(isinstance(one, Error) and one.reason != "CONFLICT" for one in refused)
    found = await store.get(database, active.id)
    (mine,) = await store.allocations(database, active.id, HOLDER)
    assert found is not None
    assert mine.claimed == taken <= claim_rules.holding(found, mine).unlocked


async def test_claims_share_a_distribution(database: Database) -> None:
    active = await opened(database)
    async with database.transaction() as one, database.transaction() as other:
        assert await store.share(one, active.id) is not None
        async with asyncio.timeout(2):
            assert await store.share(other, active.id) is not None


async def test_claims_count_within_their_window_alone(schema: Schema, database: Database) -> None:
    """F-41."""
    active = await opened(database)
    for _ in range(2):
        await take(database, claim(active, 10))
    await take(database, claim(active, 10, kind=Kind.TO_OWNER, parts={}))
    await take(database, claim(active, 10, principal=OWNER, parts={}))
    claims, wait = await store.recent_claims(database, active.id, HOLDER, RATE)
    assert claims == 2
    assert 3_500 < wait <= 3_600
    await schema.shift_clock(timedelta(hours=2))
    assert await store.recent_claims(database, active.id, HOLDER, RATE) == (0, 0.0)


async def test_one_return_to_the_escrow_is_on_its_way_at_a_time(database: Database) -> None:
    """Else the balance would be counted twice."""
    made = await added(database, "launches/1/steps/a")
    back = claim(made, 500, kind=Kind.TO_ESCROW, parts={})
    async with database.connection() as connection:
        await connection.apply(store.disbursed(back))
        assert await store.return_is_open(connection, made.id)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.apply(store.disbursed(replace(back, id=ids.new_id("x"))))


async def test_time_comes_for_those_that_must_not_wait(schema: Schema, database: Database) -> None:
    """F-46, F-49."""
    made = await added(database, "launches/1/steps/a")
    assert await store.due(database, 10) == []
    await schema.shift_clock(timedelta(hours=25))
    assert await store.due(database, 10) == [(made.id, made.ledger, State.CREATED)]


async def test_a_list_knows_its_smallest_amount(database: Database) -> None:
    """F-47: whatever page it is on."""
    list_id = ids.new_id(OWNER)
    async with database.transaction() as connection:
        await lists_store.add(connection, list_id, OWNER, 1)
        for amounts, smallest in (([9, 7], 7), ([8], 7), ([20, 3, 5], 3)):
            found = await lists_store.lock(connection, list_id)
            assert found is not None
            page = [Recipient(somebody(), amount) for amount in amounts]
            grown, _ = await lists_store.add_page(connection, found, page, b"")
            assert grown.smallest == smallest
        await lists_store.seal(connection, list_id, b"root")
    assert (await lists_store.usable(database, [list_id], OWNER))[list_id].smallest == 3


@pytest.mark.parametrize("count", [1, 2, 701, 1_024, 2_500])
async def test_a_proof_is_read_from_the_rows_of_its_tree(database: Database, count: int) -> None:
    list_id = await sealed(database, count)
    everybody = [Recipient(f"r{n}", n + 1) for n in range(count)]
    tree = Tree(leaf(list_id, one) for one in everybody)
    found = await lists_store.get(database, list_id)
    assert found is not None
    assert (found.root, found.recipient_count) == (tree.root, count)
    for position in {0, count // 2, count - 1, min(count - 1, 1_024)}:
        known = await lists_store.recipient(database, list_id, f"r{position}")
        assert known == (position, position + 1)
        places = merkle_rules.siblings(count, position)
        proof = await lists_store.hashes(database, list_id, places)
        assert tuple(proof) == tree.proof(position)
        assert merkle_rules.verify(tree.root, leaf(list_id, everybody[position]), proof)
