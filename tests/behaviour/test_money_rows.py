"""What the tables of money refuse, whoever asks and however often: on a real database, alone.

Each guard here is one that `make mutants` takes away to see that these tests notice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from contract import ids
from contract.errors import Error
from services.invoice_storage import store
from services.invoice_storage.domain import (
    Line,
    PaidService,
    Payment,
    PaymentState,
    Quote,
    Refund,
    RefundReason,
    RefundState,
    Settlement,
)
from services.invoice_storage.store import RefundEnd
from services.kit.storage.database import Database
from tests.support.postgres import Postgres, Schema

ANN, BEN = "ann", "ben"
LEDGER = "ledgers/icp"
TOKEN, LOCK = Line("token", PaidService.TOKEN, 70, 70), Line("lock", PaidService.LOCK, 30, 30)


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    return await postgres.schema("services.invoice_storage")


@pytest.fixture
async def database(schema: Schema) -> AsyncIterator[Database]:
    async with schema.replica() as replica:
        yield replica.database


async def quoted(database: Database, owner: str = ANN, seconds: float = 60) -> Quote:
    now = await store.now(database)
    expires = now + timedelta(seconds=seconds)
    quote = Quote(ids.new_id(owner), owner, (TOKEN, LOCK), 100, 0, LEDGER, 10, 1, expires)
    await database.apply(store.added_quote(quote, 100))
    return quote


async def begun(
    database: Database, quote: Quote, operation: str = "deployments/1", owner: str = ANN
) -> Payment:
    accepted = await store.now(database)
    await store.begin_payment(database, ids.new_id(owner), operation, quote.id, owner, accepted)
    payment = await store.payment_of(database, operation)
    assert payment is not None
    return payment


async def charged(database: Database, operation: str = "deployments/1") -> Payment:
    payment = await begun(database, await quoted(database), operation)
    await database.apply(store.completed(payment, 7))
    return await read(database, payment)


async def owed(database: Database, state: RefundState = RefundState.PENDING) -> Refund:
    """A refund of all that was paid, as the settlement leaves it."""
    payment = await charged(database)
    refund = refund_of(payment, state)
    await database.apply(
        store.settled(payment, Settlement(0, payment.amount)), store.added_refund(refund)
    )
    found = await store.get_refund(database, refund.id)
    assert found is not None
    return found


def refund_of(payment: Payment, state: RefundState = RefundState.PENDING) -> Refund:
    return Refund(
        ids.new_id(payment.owner), payment.id, payment.owner, payment.ledger, payment.amount,
        RefundReason.SERVICE_FAILURE, "", state, 0,
    )  # fmt: skip


async def read(database: Database, payment: Payment) -> Payment:
    found = await store.get_payment(database, payment.id)
    assert found is not None
    return found


async def refusal(work: Awaitable[Any]) -> str:
    with pytest.raises(Error) as caught:
        await work
    return caught.value.reason


async def rows(schema: Schema, query: str) -> list[Any]:
    async with schema.connection() as connection:
        return list(await connection.fetch(query))


# Quotes and charges.


async def test_a_quote_pays_for_one_operation(database: Database) -> None:
    """F-12, F-27: what was quoted is what is charged, once; a repeat finds its own payment."""
    quote = await quoted(database)
    first = await begun(database, quote)
    assert await begun(database, quote) == first
    assert (first.amount, first.lines, first.ledger) == (quote.total, quote.lines, quote.ledger)
    assert await refusal(begun(database, quote, "deployments/2")) == "QUOTE_USED"
    assert await store.payment_of(database, "deployments/2") is None


async def test_a_quote_that_many_want_at_once_pays_for_one(schema: Schema) -> None:
    async with schema.replica(size=4) as one, schema.replica("lab-2", 4) as two:
        quote = await quoted(one.database)
        outcomes = await asyncio.gather(
            *(
                begun(replica.database, quote, f"deployments/{n}")
                for n, replica in enumerate((one, two) * 10)
            ),
            return_exceptions=True,
        )
    won = [outcome for outcome in outcomes if isinstance(outcome, Payment)]
    lost = {outcome.reason for outcome in outcomes if isinstance(outcome, Error)}
    assert (len(won), lost) == (1, {"QUOTE_USED"})
    assert len(await rows(schema, "SELECT FROM payments")) == 1


async def test_a_foreign_quote_pays_for_nothing(database: Database) -> None:
    quote = await quoted(database)
    assert await refusal(begun(database, quote, owner=BEN)) == "QUOTE_NOT_FOUND"
    assert await store.payment_of(database, "deployments/1") is None
    assert (await begun(database, quote)).owner == ANN


async def test_a_quote_counts_as_of_when_the_order_was_accepted(
    database: Database, schema: Schema
) -> None:
    late, quote = await quoted(database), await quoted(database)
    accepted = await store.now(database)
    await schema.shift_clock(timedelta(seconds=61))
    assert await refusal(begun(database, late)) == "QUOTE_EXPIRED"
    await store.begin_payment(database, ids.new_id(ANN), "d/2", quote.id, ANN, accepted)
    assert await store.payment_of(database, "d/2") is not None


async def test_two_payments_on_one_quote_cannot_even_be_written(
    database: Database, schema: Schema
) -> None:
    quote = await quoted(database)
    await begun(database, quote)
    async with schema.connection() as connection:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(
                "INSERT INTO payments SELECT gen_random_uuid(), owner, 'other', quote_id, ledger,"
                " amount, lines, state, created_at_ns FROM payments"
            )


async def test_a_quote_knows_what_it_pays_for_without_the_index(
    database: Database, schema: Schema
) -> None:
    """Two guards stand for one promise; here each stands alone."""
    async with schema.connection() as connection:
        await connection.execute("DROP INDEX payments_quote")
    quote = await quoted(database)
    await begun(database, quote)
    assert await refusal(begun(database, quote, "deployments/2")) == "QUOTE_USED"


async def test_only_quotes_that_expired_long_ago_and_that_no_payment_followed_are_forgotten(
    database: Database, schema: Schema
) -> None:
    """Nothing that has to do with money is, however its payment ended."""
    period = timedelta(days=30)
    unused = await quoted(database)
    paid = await begun(database, await quoted(database))
    failed = await begun(database, await quoted(database), "deployments/2")
    await database.apply(*store.failed(failed, "INSUFFICIENT_ALLOWANCE"))

    async def forgotten() -> int:
        async with database.transaction() as connection:
            return await store.forget_quotes(connection, period)

    await schema.shift_clock(period)
    assert await forgotten() == 0
    await schema.shift_clock(period + timedelta(seconds=61))
    fresh = await quoted(database)
    assert await forgotten() == 1
    assert await store.get_quote(database, unused.id) is None
    for kept in (paid.quote_id, failed.quote_id, fresh.id):
        assert await store.get_quote(database, kept) is not None


async def test_open_quotes_are_counted_and_those_used_or_expired_are_not(
    database: Database, schema: Schema
) -> None:
    await begun(database, await quoted(database))
    for _ in range(2):
        await quoted(database)
    now = await store.now(database)
    more = Quote(ids.new_id(ANN), ANN, (TOKEN,), 100, 0, LEDGER, 10, 1, now + timedelta(seconds=60))
    assert await refusal(database.apply(store.added_quote(more, 2))) == "TOO_MANY_QUOTES"
    await database.apply(store.added_quote(replace(more, id=ids.new_id(BEN), owner=BEN), 2))
    await schema.shift_clock(timedelta(seconds=61))
    await database.apply(store.added_quote(more, 2))


async def test_a_payment_that_was_refused_gives_its_quote_back(database: Database) -> None:
    payment = await begun(database, await quoted(database))
    await database.apply(*store.failed(payment, "INSUFFICIENT_ALLOWANCE"))
    failed = await read(database, payment)
    assert (failed.state, failed.failure) == (PaymentState.FAILED, "INSUFFICIENT_ALLOWANCE")
    quote = await store.get_quote(database, payment.quote_id)
    assert quote is not None
    assert quote.used_by is None
    again = await begun(database, quote, "deployments/2")
    assert again.state is PaymentState.IN_FLIGHT


async def test_the_time_that_a_charge_is_deduplicated_by_stays(
    database: Database, schema: Schema
) -> None:
    """F-8: it is kept before the ledger is asked, and is the same however late the next attempt."""
    payment = await begun(database, await quoted(database))
    await schema.shift_clock(timedelta(hours=1))
    assert (await read(database, payment)).created_at == payment.created_at
    assert (await read(database, payment)).memo == payment.memo
    renewed = await store.renew_charge(database, payment)
    assert renewed - payment.created_at >= 3600 * 1_000_000_000
    assert (await read(database, payment)).created_at == renewed


async def test_two_renewals_of_one_time_are_one(database: Database, schema: Schema) -> None:
    """Two attempts that found the same time too old would each transfer under its own."""
    payment = await begun(database, await quoted(database), "deployments/2")
    refund = await owed(database, RefundState.PROCESSING)
    for minutes in (0, 1):
        await schema.shift_clock(timedelta(hours=1, minutes=minutes))
        charge = await store.renew_charge(database, payment)
        back = await store.renew_refund(database, refund)
        if minutes == 0:
            first = charge, back
    assert (charge, back) == first
    assert charge > payment.created_at
    assert back > refund.created_at


async def test_what_has_ended_is_not_renewed(database: Database) -> None:
    payment = await charged(database, "deployments/2")
    refund = await owed(database, RefundState.FAILED)
    assert await refusal(store.renew_charge(database, payment)) == "PAYMENT_CHANGED"
    assert await refusal(store.renew_refund(database, refund)) == "REFUND_CHANGED"


async def test_a_charge_ends_once(database: Database) -> None:
    """Two attempts at work at once: the second one learns that it must look again."""
    taken = await charged(database)
    for ending in ((store.completed(taken, 8),), store.failed(taken, "NO")):
        assert await refusal(database.apply(*ending)) == "PAYMENT_CHANGED"
    assert await read(database, taken) == taken
    refused = await begun(database, await quoted(database), "deployments/2")
    await database.apply(*store.failed(refused, "NO"))
    assert await refusal(database.apply(store.completed(refused, 8))) == "PAYMENT_CHANGED"
    assert (await read(database, refused)).state is PaymentState.FAILED


async def test_a_charge_that_is_tried_under_another_time_has_not_failed(
    database: Database, schema: Schema
) -> None:
    """The ledger gave up the attempt of the old time, not that of the new one."""
    payment = await begun(database, await quoted(database))
    await schema.shift_clock(timedelta(hours=25))
    await store.renew_charge(database, payment)
    assert await refusal(database.apply(*store.failed(payment, "NO"))) == "PAYMENT_CHANGED"
    assert (await read(database, payment)).state is PaymentState.IN_FLIGHT


async def test_a_payment_is_settled_once(database: Database) -> None:
    payment = await charged(database)
    settlement = Settlement(70, 30)
    outcomes = await asyncio.gather(
        *(database.apply(store.settled(payment, settlement)) for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert {o.reason for o in outcomes if isinstance(o, Error)} == {"PAYMENT_SETTLED"}


async def test_what_was_not_charged_cannot_be_settled(database: Database) -> None:
    payment = await begun(database, await quoted(database))
    settled = database.apply(store.settled(payment, Settlement(100, 0)))
    assert await refusal(settled) == "PAYMENT_SETTLED"


# Refunds.


async def test_a_refund_that_two_people_process_at_once_is_processed_once(schema: Schema) -> None:
    """F-1: the status was kept across the transfer, so that two calls both paid."""
    async with schema.replica(size=4) as one, schema.replica("lab-2", 4) as two:
        refund = await owed(one.database, RefundState.FAILED)

        async def process(database: Database) -> bool:
            async with database.transaction() as connection:
                return await store.move_refund(connection, refund, RefundState.PROCESSING)

        moved = await asyncio.gather(*(process(r.database) for r in (one, two) * 4))
    assert sorted(moved) == [False] * 7 + [True]


async def test_a_payment_has_one_refund_that_was_not_turned_down(database: Database) -> None:
    """F-2: two requests passed the check before either was written."""
    payment = await charged(database)
    outcomes = await asyncio.gather(
        *(database.apply(store.added_refund(refund_of(payment))) for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert all(isinstance(o, str | asyncpg.UniqueViolationError) for o in outcomes)


@pytest.mark.parametrize("state", [RefundState.REJECTED, RefundState.CANCELLED])
async def test_a_refund_that_was_turned_down_makes_room_for_another(
    database: Database, state: RefundState
) -> None:
    refund = await owed(database)
    async with database.transaction() as connection:
        assert await store.move_refund(connection, refund, state)
    assert await store.refund_of(database, refund.payment_id) is None
    payment = await store.get_payment(database, refund.payment_id)
    assert payment is not None
    await database.apply(store.added_refund(refund_of(payment)))


async def test_a_payment_becomes_refunded_with_its_refund(database: Database) -> None:
    """F-4, F-5: in one transaction, and the refund is of the token that was paid."""
    refund = await owed(database, RefundState.PROCESSING)
    assert refund.ledger == LEDGER
    async with database.transaction() as connection:
        end = RefundEnd(refund.id, RefundState.COMPLETED, 8, "")
        (done,) = await store.finish_refunds(connection, [end])
    assert (done.state, done.block_index) == (RefundState.COMPLETED, 8)
    payment = await store.get_payment(database, refund.payment_id)
    assert payment is not None
    assert payment.state is PaymentState.REFUNDED
    async with database.transaction() as connection:
        assert not await store.finish_refunds(connection, [replace_end(end)])


def replace_end(end: RefundEnd) -> RefundEnd:
    """The same refund, ending otherwise."""
    return replace(end, state=RefundState.FAILED, block_index=None)


async def test_a_failed_transfer_leaves_the_payment_to_be_refunded(database: Database) -> None:
    refund = await owed(database, RefundState.PROCESSING)
    async with database.transaction() as connection:
        end = RefundEnd(refund.id, RefundState.FAILED, None, "LEDGER_CLOSED")
        (failed,) = await store.finish_refunds(connection, [end])
    assert failed.problem == "LEDGER_CLOSED"
    payment = await store.get_payment(database, refund.payment_id)
    assert payment is not None
    assert payment.state is PaymentState.SETTLED


@pytest.mark.parametrize("reason", list(RefundReason))
@pytest.mark.parametrize("state", list(RefundState))
async def test_a_refund_is_read_as_it_was_written(
    database: Database, reason: RefundReason, state: RefundState
) -> None:
    """F-6: one writer and one schema; nothing is mapped to something alike."""
    written = replace(refund_of(await charged(database), state), reason=reason, description="why")
    await database.apply(store.added_refund(written))
    found = await store.get_refund(database, written.id)
    assert found is not None
    unset = {"created_at": 0, "create_time": None, "update_time": None}
    assert replace(found, **unset) == written  # type: ignore[arg-type]


async def test_a_request_that_was_taken_back_meanwhile_holds_its_settlement_up(
    database: Database,
) -> None:
    """Or the payment would be settled, and nothing would go back."""
    payment = await charged(database)
    request = replace(refund_of(payment), reason=RefundReason.USER_REQUEST)
    await database.apply(store.added_refund(request))
    async with database.transaction() as connection:
        assert await store.move_refund(connection, request, RefundState.CANCELLED)
    changed = store.changed_request(replace(request, state=RefundState.PROCESSING))
    settling = database.apply(store.settled(payment, Settlement(0, 100)), changed)
    assert await refusal(settling) == "REFUND_CHANGED"
    assert (await read(database, payment)).state is PaymentState.COMPLETED


async def test_totals_are_what_happened(database: Database) -> None:
    """F-7: totals were counters, and were counted twice."""
    for number, (delivered, state) in enumerate(
        [(100, None), (70, RefundState.COMPLETED), (0, RefundState.PENDING)]
    ):
        payment = await charged(database, f"deployments/{number}")
        back = 100 - delivered
        parts = [store.settled(payment, Settlement(delivered, back))]
        if state is not None:
            parts.append(store.added_refund(replace(refund_of(payment, state), amount=back)))
        await database.apply(*parts)
    await charged(database, "deployments/held")
    await database.apply(*store.failed(await begun(database, await quoted(database), "x"), "NO"))
    found = await store.totals(database)
    assert (found.charged, found.delivered, found.held) == (400, 170, 100)
    assert (found.owed_back, found.refunded, found.short) == (130, 30, 0)
    assert found.charged == found.delivered + found.held + found.owed_back


async def test_volume_counts_what_was_delivered(database: Database) -> None:
    """F-27: a discount is earned with deliveries, not with orders."""
    kept, gone = await charged(database, "d/1"), await charged(database, "d/2")
    assert await store.volume(database, ANN) == 0
    await database.apply(store.settled(kept, Settlement(100, 0)))
    await database.apply(store.settled(gone, Settlement(0, 100)))
    assert await store.volume(database, ANN) == 1
    assert await store.volume(database, BEN) == 0
