"""SQL of payments. One function an operation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from contract.errors import Code, Error
from services.invoice_storage.domain import (
    CHARGED,
    Payment,
    PaymentState,
    Quote,
    Refund,
    RefundReason,
    RefundState,
    Settlement,
)
from services.invoice_storage.messages import decode_lines, encode_lines
from services.kit.storage import Connection, Database, Statement
from services.kit.storage.database import requirement
from services.kit.storage.statement import numbers

_CHARGED: Final = numbers(CHARGED)
_REFUSED: Final = numbers((RefundState.REJECTED, RefundState.CANCELLED))
_QUOTE_COLUMNS: Final = """
    id, owner, lines, total, discount_basis_points, ledger, ledger_fee, price_revision, expire_time,
    used_by
"""
_ADD_QUOTE: Final = """
INSERT INTO quotes (id, owner, lines, total, discount_basis_points, ledger, ledger_fee,
    price_revision, expire_time)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
WHERE kit_require((
    SELECT count(*) FROM quotes WHERE owner = $2 AND used_by IS NULL AND expire_time > kit_now()
    ) < $10, $11)
"""
# Never one that a payment followed, whatever came of that.
_FORGET_QUOTES: Final = """
DELETE FROM quotes WHERE id = ANY (ARRAY(
    SELECT id FROM quotes
    WHERE used_by IS NULL AND expire_time < kit_now() - $1::interval
      AND NOT EXISTS (SELECT FROM payments WHERE quote_id = quotes.id)
    LIMIT 1000 FOR UPDATE SKIP LOCKED))
"""
_GET_QUOTE: Final = f"SELECT {_QUOTE_COLUMNS} FROM quotes WHERE id = $1"
_NOW: Final = "SELECT kit_now()"
_VOLUME: Final = """
SELECT count(*) FROM payments WHERE owner = $1 AND delivered_amount > 0
"""
# A quote is used by one operation, that of its owner, if it was good when that was accepted.
_USE_QUOTE: Final = """
UPDATE quotes SET used_by = $2
WHERE id = $1
  AND kit_require(owner = $3, $5)
  AND kit_require(used_by IS NULL OR used_by = $2, $6)
  AND kit_require(expire_time > $4, $7)
"""
_QUOTE_USED: Final = "The quote pays for another order already."
_ADD_PAYMENT: Final = """
INSERT INTO payments (id, owner, operation, quote_id, ledger, amount, lines, state, created_at_ns)
SELECT $1, owner, $2, id, ledger, total, lines, $4,
    (extract(epoch FROM kit_now()) * 1000000)::bigint * 1000
FROM quotes WHERE id = $3
ON CONFLICT (operation) DO NOTHING
"""
_PAYMENT_COLUMNS: Final = """
    id, owner, operation, quote_id, ledger, amount, lines, state, created_at_ns, block_index,
    delivered_amount, refunded_amount, failure, create_time, charge_time
"""
_GET_PAYMENT: Final = f"SELECT {_PAYMENT_COLUMNS} FROM payments WHERE id = $1"
_LOCK_PAYMENT: Final = f"{_GET_PAYMENT} FOR UPDATE"
_PAYMENT_OF: Final = f"SELECT {_PAYMENT_COLUMNS} FROM payments WHERE operation = $1"
_LIST_PAYMENTS: Final = f"""
SELECT {_PAYMENT_COLUMNS} FROM payments
WHERE ($1::text IS NULL OR owner = $1) AND ($2::uuid IS NULL OR id < $2)
    AND state = ANY ($4::smallint[])
ORDER BY id DESC LIMIT $3
"""
_COMPLETE: Final = f"""
UPDATE payments SET state = {PaymentState.COMPLETED:d}, block_index = $2, charge_time = kit_now()
WHERE id = $1 AND kit_require(state = {PaymentState.IN_FLIGHT:d}, $3)
"""
# What the ledger was told to give up is the attempt of this time.
_FAIL: Final = f"""
UPDATE payments SET state = {PaymentState.FAILED:d}, failure = $2
WHERE id = $1 AND kit_require(state = {PaymentState.IN_FLIGHT:d} AND created_at_ns = $3, $4)
"""
_GIVE_QUOTE_BACK: Final = "UPDATE quotes SET used_by = NULL WHERE id = $1 AND used_by = $2"
# Compare and set: of two attempts that found one time too old, the second gets the first one's.
_RENEWED: Final = """CASE WHEN created_at_ns = $2
    THEN (extract(epoch FROM kit_now()) * 1000000)::bigint * 1000 ELSE created_at_ns END"""
_OVERTAKEN: Final = "Another attempt was faster; look again."
_PAYMENT_CHANGED: Final = requirement(Code.ABORTED, "PAYMENT_CHANGED", _OVERTAKEN)
_RENEW_CHARGE: Final = f"""
UPDATE payments SET created_at_ns = {_RENEWED} WHERE id = $1 AND state = {PaymentState.IN_FLIGHT:d}
RETURNING created_at_ns
"""
_SETTLE: Final = f"""
UPDATE payments SET state = {PaymentState.SETTLED:d}, delivered_amount = $2, refunded_amount = $3
WHERE id = $1 AND kit_require(state = {PaymentState.COMPLETED:d}, $4)
"""
_REFUND_COLUMNS: Final = """
    id, payment_id, owner, ledger, amount, reason, description, state, created_at_ns, problem,
    decided_by, block_index, create_time, update_time
"""
_ADD_REFUND: Final = """
INSERT INTO refunds (id, payment_id, owner, ledger, amount, reason, description, state, decided_by,
    created_at_ns)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
    (extract(epoch FROM kit_now()) * 1000000)::bigint * 1000)
"""
_GET_REFUND: Final = f"SELECT {_REFUND_COLUMNS} FROM refunds WHERE id = $1"
_LOCK_REFUND: Final = f"{_GET_REFUND} FOR UPDATE"
_REFUND_OF: Final = f"""
SELECT {_REFUND_COLUMNS} FROM refunds WHERE payment_id = $1 AND state NOT IN ({_REFUSED})
"""
_LIST_REFUNDS: Final = f"""
SELECT {_REFUND_COLUMNS} FROM refunds
WHERE ($1::text IS NULL OR owner = $1) AND ($2::uuid IS NULL OR id < $2)
  AND ($4::smallint IS NULL OR state = $4)
ORDER BY id DESC LIMIT $3
"""
# The state must still be what the caller saw: compare and set (F-1).
_MOVE_REFUND: Final = """
UPDATE refunds SET state = $3, decided_by = coalesce($4, decided_by), problem = $5,
    update_time = kit_now()
WHERE id = $1 AND state = $2
"""
_CHANGE_REQUEST: Final = f"""
UPDATE refunds SET amount = $2, reason = $3, description = $4, state = $5, decided_by = $6,
    update_time = kit_now()
WHERE id = $1 AND kit_require(state = {RefundState.PENDING:d}, $7)
"""
_RENEW_REFUND: Final = f"""
UPDATE refunds SET created_at_ns = {_RENEWED} WHERE id = $1 AND state = {RefundState.PROCESSING:d}
RETURNING created_at_ns
"""
_SET_PROBLEM: Final = """
UPDATE refunds SET problem = $2, update_time = kit_now() WHERE id = $1 AND problem <> $2
"""
_FINISH_REFUNDS: Final = f"""
UPDATE refunds SET state = ended.state, block_index = ended.block_index, problem = ended.problem,
    update_time = kit_now()
FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::text[])
    AS ended (ended_id, state, block_index, problem)
WHERE id = ended_id AND refunds.state = {RefundState.PROCESSING:d}
RETURNING refunds.*
"""
_MARK_REFUNDED: Final = f"""
UPDATE payments SET state = {PaymentState.REFUNDED:d}
WHERE id = ANY ($1::uuid[]) AND state = {PaymentState.SETTLED:d}
"""
_TOTALS: Final = f"""
SELECT coalesce(sum(amount) FILTER (WHERE state IN ({_CHARGED})), 0)::numeric AS charged,
    coalesce(sum(delivered_amount), 0)::numeric AS delivered,
    coalesce(sum(amount) FILTER (WHERE state = {PaymentState.COMPLETED:d}), 0)::numeric AS held,
    coalesce(sum(refunded_amount), 0)::numeric AS owed_back
FROM payments
"""
_REFUND_TOTALS: Final = f"""
SELECT coalesce(sum(amount) FILTER (WHERE state = {RefundState.COMPLETED:d}), 0)::numeric
        AS refunded,
    count(*) FILTER (
        WHERE problem = 'TREASURY_SHORT' AND state = {RefundState.PROCESSING:d}) AS short
FROM refunds
"""


async def now(database: Database) -> datetime:
    """The time."""
    value: datetime = await database.fetchval(_NOW)
    return value


async def volume(database: Database, owner: str) -> int:
    """How many operations of a user were paid for and delivered."""
    count: int = await database.fetchval(_VOLUME, owner)
    return count


def added_quote(quote: Quote, most: int) -> Statement:
    """Adds a quote, unless its owner has so many that are open."""
    too_many = requirement(
        Code.RESOURCE_EXHAUSTED,
        "TOO_MANY_QUOTES",
        f"You have {most} quotes that are open; use one, or wait until they expire.",
    )
    return Statement(
        _ADD_QUOTE,
        (
            quote.id,
            quote.owner,
            encode_lines(quote.lines),
            quote.total,
            quote.discount_basis_points,
            quote.ledger,
            quote.ledger_fee,
            quote.price_revision,
            quote.expire_time,
            most,
            too_many,
        ),
    )


async def forget_quotes(connection: Connection, period: timedelta) -> int:
    """Drops some quotes that expired so long ago and that no payment followed; how many."""
    tag = await connection.execute(_FORGET_QUOTES, period)
    return int(tag.rpartition(" ")[2])


async def get_quote(database: Database, quote_id: UUID) -> Quote | None:
    """One quote."""
    row = await database.fetchrow(_GET_QUOTE, quote_id)
    return _quote(row) if row else None


async def begin_payment(
    database: Database,
    payment_id: UUID,
    operation: str,
    quote_id: UUID,
    owner: str,
    accepted: datetime,
) -> None:
    """Uses a quote for an operation, unless the operation has its payment already.

    Raises:
        Error: the quote is foreign, used by another operation, or had expired.
    """
    missing = requirement(
        Code.NOT_FOUND, "QUOTE_NOT_FOUND", "There is no such quote that you may use."
    )
    used = requirement(Code.FAILED_PRECONDITION, "QUOTE_USED", _QUOTE_USED)
    expired = requirement(
        Code.FAILED_PRECONDITION, "QUOTE_EXPIRED", "The quote had expired; ask for a new one."
    )
    try:
        await database.apply(
            Statement(_ADD_PAYMENT, (payment_id, operation, quote_id, int(PaymentState.IN_FLIGHT))),
            Statement(_USE_QUOTE, (quote_id, operation, owner, accepted, missing, used, expired)),
        )
    except asyncpg.UniqueViolationError:
        # Postgres may check the index before it looks at the quote.
        raise Error(Code.FAILED_PRECONDITION, "QUOTE_USED", _QUOTE_USED) from None


async def payment_of(database: Database, operation: str) -> Payment | None:
    """The payment of an operation."""
    row = await database.fetchrow(_PAYMENT_OF, operation)
    return _payment(row) if row else None


async def get_payment(database: Database, payment_id: UUID) -> Payment | None:
    """One payment."""
    row = await database.fetchrow(_GET_PAYMENT, payment_id)
    return _payment(row) if row else None


async def lock_payment(connection: Connection, payment_id: UUID) -> Payment | None:
    """One payment, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK_PAYMENT, payment_id)
    return _payment(row) if row else None


async def list_payments(
    database: Database,
    owner: str | None,
    before: UUID | None,
    limit: int,
    states: Iterable[PaymentState] = PaymentState,
) -> Sequence[Payment]:
    """Payments of an owner, or of everybody, newest first; those in some states, if it matters."""
    rows = await database.fetch(_LIST_PAYMENTS, owner, before, limit, list(map(int, states)))
    return [_payment(row) for row in rows]


def completed(payment: Payment, block_index: int) -> Statement:
    """Records that a payment was charged, in which block; refuses when it ended meanwhile."""
    return Statement(_COMPLETE, (payment.id, block_index, _PAYMENT_CHANGED))


def failed(payment: Payment, failure: str) -> tuple[Statement, ...]:
    """Records that a payment was refused for good, and gives its quote back.

    Refuses when it ended meanwhile, or is tried under another time than was given up.
    """
    values = (payment.id, failure, payment.created_at, _PAYMENT_CHANGED)
    return (
        Statement(_FAIL, values),
        Statement(_GIVE_QUOTE_BACK, (payment.quote_id, payment.operation)),
    )


async def renew_charge(database: Database, payment: Payment) -> int:
    """A fresh deduplication time for a charge that surely was not made under the one it has.

    Raises:
        Error: ABORTED, it ended meanwhile.
    """
    value: int | None = await database.fetchval(_RENEW_CHARGE, payment.id, payment.created_at)
    if value is None:
        raise Error(Code.ABORTED, "PAYMENT_CHANGED", _OVERTAKEN)
    return value


def settled(payment: Payment, settlement: Settlement) -> Statement:
    """Records what was delivered; refuses when it was settled before."""
    twice = requirement(
        Code.FAILED_PRECONDITION, "PAYMENT_SETTLED", "The payment was settled before."
    )
    return Statement(_SETTLE, (payment.id, settlement.delivered, settlement.refunded, twice))


def added_refund(refund: Refund) -> Statement:
    """Adds a refund. A payment that has one violates `refunds_payment`."""
    return Statement(
        _ADD_REFUND,
        (
            refund.id,
            refund.payment_id,
            refund.owner,
            refund.ledger,
            refund.amount,
            int(refund.reason),
            refund.description,
            int(refund.state),
            refund.decided_by,
        ),
    )


def changed_request(refund: Refund) -> Statement:
    """Turns a user's pending request into the refund that the settlement found.

    Refuses when it is pending no more: the settlement must look again, or nothing would go back.
    """
    overtaken = requirement(
        Code.ABORTED, "REFUND_CHANGED", "The request was decided on meanwhile; settle again."
    )
    return Statement(
        _CHANGE_REQUEST,
        (
            refund.id,
            refund.amount,
            int(refund.reason),
            refund.description,
            int(refund.state),
            refund.decided_by,
            overtaken,
        ),
    )


async def get_refund(database: Database, refund_id: UUID) -> Refund | None:
    """One refund."""
    row = await database.fetchrow(_GET_REFUND, refund_id)
    return _refund(row) if row else None


async def lock_refund(connection: Connection, refund_id: UUID) -> Refund | None:
    """One refund, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK_REFUND, refund_id)
    return _refund(row) if row else None


async def refund_of(connection: Database | Connection, payment_id: UUID) -> Refund | None:
    """The refund of a payment that was neither rejected nor taken back."""
    row = await connection.fetchrow(_REFUND_OF, payment_id)
    return _refund(row) if row else None


async def list_refunds(
    database: Database,
    owner: str | None,
    before: UUID | None,
    limit: int,
    state: RefundState | None,
) -> Sequence[Refund]:
    """Refunds of an owner, or of everybody, newest first."""
    wanted = None if state is None else int(state)
    rows = await database.fetch(_LIST_REFUNDS, owner, before, limit, wanted)
    return [_refund(row) for row in rows]


async def move_refund(
    connection: Connection,
    refund: Refund,
    target: RefundState,
    *,
    decided_by: str | None = None,
    problem: str = "",
) -> bool:
    """Takes a refund to another state. False when it is no longer in the one that was seen."""
    tag = await connection.execute(
        _MOVE_REFUND, refund.id, int(refund.state), int(target), decided_by, problem
    )
    return tag == "UPDATE 1"


async def renew_refund(database: Database, refund: Refund) -> int:
    """A fresh deduplication time for a transfer back that surely was not made under its own.

    Raises:
        Error: ABORTED, it ended meanwhile.
    """
    value: int | None = await database.fetchval(_RENEW_REFUND, refund.id, refund.created_at)
    if value is None:
        raise Error(Code.ABORTED, "REFUND_CHANGED", _OVERTAKEN)
    return value


async def set_problem(database: Database, refund_id: UUID, problem: str) -> None:
    """Says why a refund is held up; "" when it no longer is."""
    await database.execute(_SET_PROBLEM, refund_id, problem)


@dataclass(frozen=True, slots=True)
class RefundEnd:
    """How the transfer of a refund ended."""

    refund_id: UUID
    state: RefundState
    block_index: int | None
    problem: str


async def finish_refunds(connection: Connection, ends: Sequence[RefundEnd]) -> list[Refund]:
    """Records how transfers ended; payments whose refund was paid become refunded (F-4)."""
    rows = await connection.fetch(
        _FINISH_REFUNDS,
        [end.refund_id for end in ends],
        [int(end.state) for end in ends],
        [end.block_index for end in ends],
        [end.problem for end in ends],
    )
    refunds = [_refund(row) for row in rows]
    paid = [refund.payment_id for refund in refunds if refund.state is RefundState.COMPLETED]
    await connection.execute(_MARK_REFUNDED, paid)
    return refunds


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all payments and refunds, base units."""

    charged: int
    delivered: int
    held: int
    owed_back: int
    refunded: int
    short: int


async def totals(database: Database) -> Totals:
    """Adds everything up, from one snapshot (F-7)."""
    async with database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        paid: Any = await connection.fetchrow(_TOTALS)
        back: Any = await connection.fetchrow(_REFUND_TOTALS)
    return Totals(
        paid["charged"],
        paid["delivered"],
        paid["held"],
        paid["owed_back"],
        back["refunded"],
        back["short"],
    )


def _quote(row: Any) -> Quote:
    return Quote(**{**row, "lines": decode_lines(row["lines"])})


def _payment(row: Any) -> Payment:
    values = dict(row)
    values["created_at"] = values.pop("created_at_ns")
    values["state"] = PaymentState(values["state"])
    values["lines"] = decode_lines(values["lines"])
    return Payment(**values)


def _refund(row: Any) -> Refund:
    values = dict(row)
    values["created_at"] = values.pop("created_at_ns")
    values["state"] = RefundState(values["state"])
    values["reason"] = RefundReason(values["reason"])
    return Refund(**values)
