"""What the tables of the ledger keep, whoever posts and in whatever company: on a real database."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import asyncpg
import pytest

from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2 as pb
from services.kit import ids
from services.kit.group_commit import GroupCommit
from services.kit.idempotency import Key
from services.ledger import domain, store
from services.ledger.domain import Account, Approval, Block, Ledger, Request, Transfer
from services.ledger.posting import Poster, Posting, Response
from tests.support.postgres import Postgres, Replica, Schema

HELD, FEE = 1_000_000, 10
ANN, BEN, MINTER = Account("ann"), Account("ben"), Account("minter")
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
    held = await store.load_balances(replica.database, ledger_id, accounts)
    assert sum(held.values()) == found.ledger.total_supply


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
