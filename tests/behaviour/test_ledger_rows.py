"""What the tables of the ledger keep, whoever posts and in whatever company: on a real database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from contract import ids
from contract.environment import Environment
from contract.errors import Error
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2 as pb
from schema_setup import migrations
from services.kit.storage.group_commit import GroupCommit
from services.kit.storage.idempotency import Key, Replayed
from services.kit.storage.statement import Statement
from services.ledger import domain, store
from services.ledger.domain import Account, Approval, Block, Ledger, Operation, Request, Transfer
from services.ledger.posting import Outcome, Poster, Posting, Response
from tests.support.postgres import Postgres, Replica, Schema

HELD, FEE = 1_000_000, 10
ROUNDS = 60
ANN, BEN, MINTER = Account("ann"), Account("ben"), Account("minter")
_WAITING: Final = """
SELECT EXISTS (SELECT FROM pg_stat_activity
    WHERE application_name = $1 AND wait_event_type = 'Lock')
"""
FAR = 253_402_300_799 * 1_000_000_000
"""The end of the year 9999, nanoseconds: more than the database has room for."""


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    return await postgres.schema("services.ledger")


@pytest.fixture
async def replica(schema: Schema) -> AsyncIterator[Replica]:
    async with schema.replica() as made:
        yield made


async def created(replica: Replica) -> UUID:
    """A ledger on which Ann and Ben hold something, and nobody mints."""
    fresh = Ledger(ids.new_id("x"), "Test", "TST", 8, FEE, "controller")
    book = domain.new_ledger(fresh, {ANN: HELD, BEN: HELD}, await store.now(replica.database))
    await replica.database.apply(store.inserted_ledger(book.ledger), *store.written_book(book))
    return fresh.id


def posting(request: Request, request_id: str) -> Posting:
    key = Key(request.source.owner, "method", request_id, b"body")
    response = pb.ApproveResponse if isinstance(request, Approval) else pb.TransferResponse
    return Posting(request, response, key, events.Act(), "")


async def blocks_of(replica: Replica, ledger_id: UUID) -> list[Block]:
    return await store.list_blocks(replica.database, ledger_id, 0, 1000)


async def assert_sound(replica: Replica, ledger_id: UUID) -> None:
    """The chain verifies, ends at the head, and balances add up to the supply."""
    found = await store.get_ledger(replica.database, ledger_id)
    blocks = await blocks_of(replica, ledger_id)
    assert found is not None
    assert domain.verify_chain(blocks, [block.hash for block in blocks]) is None
    assert (len(blocks), blocks[-1].hash) == (found.ledger.block_count, found.ledger.tip_hash)
    accounts = {a for block in blocks for a in (block.source, block.target) if a}
    held = [await store.balance(replica.database, ledger_id, account) for account in accounts]
    assert sum(amount for amount in held if amount) == found.ledger.total_supply


async def test_a_posting_that_the_database_does_not_take_spoils_nobody(replica: Replica) -> None:
    """Whatever it is about it: the others of its batch are applied, in their order."""
    ledger_id = await created(replica)
    poster = Poster(replica.database, replica.outbox)
    batch: Sequence[Posting] = [
        posting(Transfer(ANN, BEN, 1), "first"),
        posting(Approval(ANN, BEN, 5, expires=FAR), "poison"),
        posting(Transfer(BEN, ANN, 2), "second"),
    ]
    first, poison, second = await poster.commit(ledger_id, batch)
    assert isinstance(poison, asyncpg.DataError)
    told = [outcome.block_index for outcome in (first, second) if isinstance(outcome, Response)]
    assert told == [2, 3]
    assert [block.amount for block in await blocks_of(replica, ledger_id)] == [HELD, HELD, 1, 2]
    await assert_sound(replica, ledger_id)


async def test_each_of_a_spoiled_batch_is_told_its_own(replica: Replica) -> None:
    ledger_id = await created(replica)
    poster = Poster(replica.database, replica.outbox)
    commits: GroupCommit[UUID, Posting, Response] = GroupCommit(
        poster.commit, batch=256, parallel=1
    )
    running = asyncio.create_task(commits.run())
    try:
        await asyncio.sleep(0)
        outcomes = await asyncio.gather(
            *(
                commits.submit(ledger_id, posting(Transfer(ANN, BEN, 1), f"{number}"))
                if number % 3
                else commits.submit(
                    ledger_id, posting(Approval(ANN, BEN, 1, expires=FAR), f"{number}")
                )
                for number in range(30)
            ),
            return_exceptions=True,
        )
    finally:
        running.cancel()
    assert all(isinstance(o, Exception) for o in outcomes[::3])
    good = [o.block_index for n, o in enumerate(outcomes) if n % 3 and isinstance(o, Response)]
    assert good == list(range(2, 22))
    await assert_sound(replica, ledger_id)


async def both(
    schema: Schema, ledger_id: UUID, request_id: Callable[[str, int], str]
) -> list[Outcome]:
    """What comes of as many transfers in either of two replicas, both at work at one time."""

    async def post(replica: Replica) -> list[Outcome]:
        poster, outcomes = Poster(replica.database, replica.outbox), list[Outcome]()
        for number in range(ROUNDS):
            one = posting(Transfer(ANN, BEN, 1), request_id(replica.name, number))
            outcomes += await poster.commit(ledger_id, [one])
        return outcomes

    async with schema.replica("ledger-1") as one, schema.replica("ledger-2") as two:
        first, second = await asyncio.gather(post(one), post(two))
    return first + second


async def test_two_replicas_post_on_one_ledger_and_neither_is_told_of_the_other(
    schema: Schema, replica: Replica
) -> None:
    ledger_id = await created(replica)
    outcomes = await both(schema, ledger_id, lambda name, number: f"{name}-{number}")
    told = [outcome.block_index for outcome in outcomes if isinstance(outcome, Response)]
    assert sorted(told) == list(range(2, 2 + 2 * ROUNDS))
    await assert_sound(replica, ledger_id)


async def test_one_call_at_two_replicas_is_one_block(schema: Schema, replica: Replica) -> None:
    ledger_id = await created(replica)
    outcomes = await both(schema, ledger_id, lambda _, number: f"{number}")
    answers = [o.answer for o in outcomes if isinstance(o, Replayed)]
    answers += [o.SerializeToString() for o in outcomes if isinstance(o, Response)]
    assert len(answers) == 2 * ROUNDS
    assert len(set(answers)) == len(await blocks_of(replica, ledger_id)) - 2 == ROUNDS
    await assert_sound(replica, ledger_id)


async def read(replica: Replica, ledger_id: UUID) -> Sequence[Statement]:
    """What a transfer is to write, as a replica knows that freezes before it writes."""
    transfer = Transfer(ANN, BEN, 1)
    found = await store.read_book(replica.database, ledger_id, [transfer])
    assert found is not None
    seen, book = found
    book.apply(transfer)
    return (*store.written_book(book), store.written_head(book, seen.version))


async def test_a_book_of_before_somebody_else_posted_is_not_written(replica: Replica) -> None:
    ledger_id = await created(replica)
    stale = await read(replica, ledger_id)
    other = posting(Transfer(ANN, BEN, 1), "other")
    await Poster(replica.database, replica.outbox).commit(ledger_id, [other])
    with pytest.raises(Error, match="has changed meanwhile"):
        await replica.database.apply(*stale)
    await assert_sound(replica, ledger_id)


async def test_a_handover_that_burned_nothing_is_a_change_too(replica: Replica) -> None:
    """What was a transfer when the ledger was read is a burn when its receiver mints."""
    ledger_id = await created(replica)
    stale = await read(replica, ledger_id)
    async with replica.database.transaction() as connection:
        await store.set_controller(connection, ledger_id, "ben", MINTER)
    with pytest.raises(Error, match="has changed meanwhile"):
        await replica.database.apply(*stale)


async def test_nothing_is_written_on_a_ledger_that_was_closed_meanwhile(replica: Replica) -> None:
    ledger_id = await created(replica)
    stale = await read(replica, ledger_id)
    await replica.database.apply(store.closed_ledger(ledger_id))
    with pytest.raises(Error, match="has changed meanwhile"):
        await replica.database.apply(*stale)
    late = posting(Transfer(ANN, BEN, 1), "late")
    (outcome,) = await Poster(replica.database, replica.outbox).commit(ledger_id, [late])
    assert isinstance(outcome, Error)
    assert outcome.reason == "LEDGER_CLOSED"


async def test_a_call_that_is_given_up_while_it_is_posted_moves_nothing(replica: Replica) -> None:
    """Giving up changes no head, so that the key itself must refuse."""
    ledger_id = await created(replica)
    now = await store.now(replica.database)
    transfer = Transfer(ANN, BEN, 1, created_at=now)
    key = transfer.duplicate_key
    assert key is not None
    poster = Poster(replica.database, replica.outbox)
    async with replica.database.transaction() as connection:
        await store.lock_ledger(connection, ledger_id)
        posted = asyncio.create_task(poster.commit(ledger_id, [posting(transfer, "late")]))
        await waits_for_a_lock(replica)
        await connection.apply(store.voided(ledger_id, key, now))
    (outcome,) = await posted
    assert isinstance(outcome, Error)
    assert outcome.reason == "TRANSFER_VOIDED"
    assert len(await blocks_of(replica, ledger_id)) == 2
    await assert_sound(replica, ledger_id)


async def waits_for_a_lock(replica: Replica) -> None:
    """Until a statement of the replica waits for another transaction."""
    async with asyncio.timeout(5):
        while not await replica.database.fetchval(_WAITING, replica.name):
            await asyncio.sleep(0.01)


async def collected(replica: Replica) -> UUID:
    """A ledger whose fees Ann collects, with blocks of each kind."""
    fresh = Ledger(ids.new_id("x"), "Test", "TST", 8, FEE, "controller", MINTER, ANN)
    now = await store.now(replica.database)
    book = domain.new_ledger(fresh, {ANN: HELD, BEN: HELD}, now)
    await replica.database.apply(store.inserted_ledger(book.ledger), *store.written_book(book))
    sub = Account("ben", b"\1" * 32)
    requests: Sequence[Request] = (
        Transfer(ANN, BEN, 5), Transfer(BEN, ANN, 7), Transfer(ANN, ANN, 3),
        Transfer(BEN, sub, 100), Approval(BEN, ANN, 50), Transfer(BEN, sub, 9, spender=ANN),
        Transfer(MINTER, BEN, 4), Transfer(sub, MINTER, 20), Transfer(sub, BEN, 1),
    )  # fmt: skip
    poster = Poster(replica.database, replica.outbox)
    for number, request in enumerate(requests):
        (outcome,) = await poster.commit(fresh.id, [posting(request, str(number))])
        assert not isinstance(outcome, Exception), outcome
    return fresh.id


def added_up(blocks: Sequence[Block], account: Account, index: int) -> int:
    """What an account holds after a block, from all blocks up to it."""
    held = 0
    for block in blocks[: index + 1]:
        moved = 0 if block.operation is Operation.APPROVE else block.amount
        held -= (moved + block.fee) * (block.source == account)
        held += moved * (block.target == account) + block.fee * (account == ANN)
    return held


async def past(replica: Replica, ledger_id: UUID) -> list[tuple[int | None, int]]:
    """Each account after each block: what the ledger says, and what the blocks add up to."""
    blocks = await blocks_of(replica, ledger_id)
    accounts = {a for block in blocks for a in (block.source, block.target) if a}
    return [
        (
            await store.balance_after(replica.database, ledger_id, account, index),
            added_up(blocks, account, index),
        )
        for account in sorted(accounts, key=repr)
        for index in range(len(blocks))
    ]


async def test_balances_of_the_past_are_what_the_blocks_add_up_to(replica: Replica) -> None:
    ledger_id = await collected(replica)
    told = await past(replica, ledger_id)
    assert len(told) > 20
    assert all(said == added for said, added in told), told
    nobody = Account("nobody")
    assert await store.balance_after(replica.database, ledger_id, nobody, 3) == 0
    assert await store.balance_after(replica.database, ledger_id, ANN, len(told)) is None


_AS_IT_WAS: Final = """
ALTER TABLE blocks DROP from_balance, DROP to_balance, DROP fee_balance;
DROP INDEX blocks_from, blocks_to;
CREATE INDEX blocks_from ON blocks (ledger_id, from_owner, index) WHERE from_owner IS NOT NULL;
CREATE INDEX blocks_to ON blocks (ledger_id, to_owner, index) WHERE to_owner IS NOT NULL;
DELETE FROM kit_migrations WHERE module = 'services.ledger' AND number > 1;
"""


async def test_chains_from_before_know_their_past_as_well(replica: Replica, schema: Schema) -> None:
    ledger_id = await collected(replica)
    async with schema.connection() as connection:
        await connection.execute(_AS_IT_WAS)
        await migrations.migrate(connection, "services.ledger", Environment.TEST)
    poster = Poster(replica.database, replica.outbox)
    await poster.commit(ledger_id, [posting(Transfer(BEN, ANN, 1), "after")])
    told = await past(replica, ledger_id)
    assert all(said == added for said, added in told), told
    await assert_sound(replica, ledger_id)


async def test_a_balance_of_the_past_is_found_without_the_blocks_since(replica: Replica) -> None:
    """Whoever asks for block 0 of a long chain costs what one does who asks for its newest."""
    ledger_id = await created(replica)
    poster = Poster(replica.database, replica.outbox)
    for round_number in range(5):
        batch = [
            posting(Transfer(ANN, BEN, 1), f"{round_number} {number}") for number in range(100)
        ]
        await poster.commit(ledger_id, batch)
    async with replica.database.transaction() as connection:
        before = await connection.fetchval(_READ_BLOCKS)
        assert await store.balance_after(connection, ledger_id, ANN, 1) == HELD
        assert await store.balance_after(connection, ledger_id, BEN, 2) == HELD + 1
        read = await connection.fetchval(_READ_BLOCKS) - before
    assert read < 20


_READ_BLOCKS: Final = """
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
WHERE relname = 'blocks' AND schemaname = current_schema()
"""
