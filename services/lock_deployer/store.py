"""SQL of locks. One function an operation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from contract import ids
from icto.lock.v1 import lock_pb2 as pb
from icto.vesting.v1 import vesting_pb2
from services.kit.payouts import PaidOut
from services.kit.storage import Connection, Database, Statement
from services.kit.storage.database import refusal
from services.kit.vesting import vesting_messages, vesting_rules
from services.kit.vesting.vesting_messages import of_datetime
from services.lock_deployer import domain, messages
from services.lock_deployer.domain import (
    DELIVERED,
    WAITING,
    Attestation,
    Claim,
    Lock,
    LockSpec,
    Share,
    State,
    Times,
)

_TOMBSTONE: Final = LockSpec("", 0, vesting_rules.Schedule(vesting_rules.Instant()))
_COLUMNS: Final = """
    id, operation, owner, ledger, escrow_owner, escrow_subaccount, spec, state, start_time, claimed,
    returned, checks, beneficiary_count, attestors, failure, create_time, fund_time, activate_time,
    revoke_time, unlock_time, kit_clock_now() AS seen_time
"""
_NOW: Final = "SELECT kit_now()"
_ADD: Final = f"""
INSERT INTO locks (id, operation, payment, owner, ledger, escrow_owner, escrow_subaccount, spec,
    fingerprint, beneficiary_count, attestors, total, state, create_time, check_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, {State.CREATED:d}, $13, $14)
"""
_USE_PAYMENT: Final = """
INSERT INTO lock_payments (payment, work) VALUES ($1, $2)
ON CONFLICT (payment) DO UPDATE SET work = excluded.work
WHERE kit_require(lock_payments.work = excluded.work, $3)
"""
_ADD_SHARES: Final = """
INSERT INTO lock_shares (lock_id, beneficiary, position, amount, schedule)
SELECT $1, beneficiary, position, amount, schedule
FROM unnest($2::text[], $3::int[], $4::numeric[], $5::bytea[])
    AS new (beneficiary, position, amount, schedule)
"""
_GET_ANY: Final = f"SELECT {_COLUMNS} FROM locks WHERE id = $1"
_GET: Final = f"{_GET_ANY} AND owner <> ''"
# The row is locked before the moment is read, so that whoever waited does not look from the past.
_LOCK_ANY: Final = f"""
WITH locked AS MATERIALIZED (SELECT * FROM locks WHERE id = $1 FOR UPDATE)
SELECT {_COLUMNS} FROM locked
"""
_LOCK: Final = f"{_LOCK_ANY} WHERE owner <> ''"
_FINGERPRINT: Final = "SELECT fingerprint FROM locks WHERE id = $1"
_BY_OPERATION: Final = f"SELECT {_COLUMNS} FROM locks WHERE operation = $1"
_LOOK: Final = f"""
SELECT kit_now() AS now, known.* FROM (SELECT) AS always
LEFT JOIN (SELECT {_COLUMNS} FROM locks WHERE operation = $1) AS known ON true
"""
_LIST: Final = f"""
SELECT {_COLUMNS} FROM locks
WHERE owner <> '' AND ($1::uuid IS NULL OR id < $1)
  AND ($3::text IS NULL OR owner = $3)
  AND ($4::text IS NULL OR EXISTS (
    SELECT FROM lock_shares WHERE lock_id = locks.id AND beneficiary = $4))
ORDER BY id DESC LIMIT $2
"""
_FUND: Final = f"""
UPDATE locks SET state = {State.FUNDED:d}, fund_time = kit_now()
WHERE id = $1 AND state = {State.CREATED:d} RETURNING {_COLUMNS}
"""
_ACTIVATE: Final = f"""
UPDATE locks SET state = {State.LOCKED:d}, start_time = $2, activate_time = $3, check_time = NULL
WHERE id = $1 AND kit_require(state = {State.FUNDED:d}, $4)
"""
# One statement, so that a late call of the operation either finds the tombstone or is found by it.
_GIVE_UP: Final = f"""
INSERT INTO locks (id, operation, owner, ledger, escrow_owner, escrow_subaccount, spec, fingerprint,
    beneficiary_count, attestors, total, state, check_time)
VALUES ($1, $2, '', $6, $7, $8, '', '', 0, '{{}}', 0, {State.ABANDONED:d},
    CASE WHEN $6 <> '' THEN kit_now() + $5 END)
ON CONFLICT (operation) DO UPDATE SET
    state = CASE WHEN locks.state = ANY ($3) THEN locks.state ELSE {State.ABANDONED:d} END,
    checks = CASE WHEN locks.state = ANY ($4) THEN 0 ELSE locks.checks END,
    check_time = CASE WHEN locks.state = ANY ($4) THEN kit_now() + $5 ELSE locks.check_time END
"""
_SHARES: Final = """
SELECT beneficiary, amount, claimed, schedule, returned FROM lock_shares
WHERE lock_id = $1 ORDER BY position
"""
_SHARE: Final = """
SELECT beneficiary, amount, claimed, schedule, returned FROM lock_shares
WHERE lock_id = $1 AND beneficiary = $2
"""
_ATTESTATIONS: Final = """
SELECT attestor, milestone, attest_time FROM lock_attestations WHERE lock_id = $1
ORDER BY attest_time, milestone
"""
_ATTEST: Final = """
INSERT INTO lock_attestations (lock_id, attestor, milestone) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
"""
_CLAIM_COLUMNS: Final = "id, lock_id, beneficiary, amount, fee, block_index, create_time, pay_time"
_ADD_CLAIM: Final = """
INSERT INTO lock_claims (id, lock_id, beneficiary, amount, fee, create_time)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_TAKE_SHARE: Final = """
UPDATE lock_shares SET claimed = claimed + $3 WHERE lock_id = $1 AND beneficiary = $2
"""
_TAKE: Final = "UPDATE locks SET claimed = claimed + $2, state = $3 WHERE id = $1"
_GET_CLAIM: Final = f"SELECT {_CLAIM_COLUMNS} FROM lock_claims WHERE id = $1 AND lock_id = $2"
_LIST_CLAIMS: Final = f"""
SELECT {_CLAIM_COLUMNS} FROM lock_claims
WHERE lock_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($4::text IS NULL OR beneficiary = $4)
ORDER BY id DESC LIMIT $3
"""
_PAID_CLAIMS: Final = f"""
UPDATE lock_claims SET block_index = paid_block, fee = paid_fee, pay_time = kit_now()
FROM unnest($1::uuid[], $2::bigint[], $3::numeric[]) AS paid (paid_id, paid_block, paid_fee)
WHERE id = paid_id
RETURNING {_CLAIM_COLUMNS}
"""
_PAID_RETURNS: Final = """
UPDATE lock_returns SET block_index = paid_block, fee = paid_fee
FROM unnest($1::uuid[], $2::bigint[], $3::numeric[]) AS paid (paid_id, paid_block, paid_fee)
WHERE id = paid_id
RETURNING id, lock_id, amount, revoked, block_index
"""
_REVOKE: Final = f"""
UPDATE locks SET state = {State.REVOKED:d}, revoke_time = $3, returned = $2
WHERE id = $1 RETURNING {_COLUMNS}
"""
_UNLOCK: Final = f"""
UPDATE locks SET state = {State.EMERGENCY_UNLOCKED:d}, unlock_time = $2
WHERE id = $1 RETURNING {_COLUMNS}
"""
_RETURN_DUST: Final = """
UPDATE lock_shares SET returned = dust.amount
FROM unnest($2::text[], $3::numeric[]) AS dust (beneficiary, amount)
WHERE lock_id = $1 AND lock_shares.beneficiary = dust.beneficiary
"""
_ADD_RETURN: Final = """
INSERT INTO lock_returns (id, lock_id, amount, fee, revoked) VALUES ($1, $2, $3, $4, $5)
"""
_RETURN_OPEN: Final = """
SELECT EXISTS (SELECT FROM lock_returns WHERE lock_id = $1 AND block_index IS NULL)
"""
_DUE: Final = """
SELECT id FROM locks WHERE check_time <= kit_now() ORDER BY check_time LIMIT $1
"""
_FAIL: Final = f"UPDATE locks SET state = {State.FAILED:d}, failure = $2, checks = 0 WHERE id = $1"
_CHECK_LATER: Final = """
UPDATE locks SET check_time = kit_now() + $2, checks = checks + 1 WHERE id = $1
"""
_POSTPONE: Final = "UPDATE locks SET check_time = kit_now() + $2 WHERE id = $1"


async def now(database: Database) -> int:
    """The time."""
    return of_datetime(await database.fetchval(_NOW))


def added(new: Lock, payment: str, fingerprint: bytes) -> tuple[Statement, ...]:
    """Adds a lock with its beneficiaries. Its operation must be unknown.

    It raises that another launch consumed the payment.
    """
    spec, created = new.spec, new.times.create
    row = (
        new.id,
        new.operation,
        payment,
        new.owner,
        new.ledger,
        *new.escrow,
        messages.spec_message(replace(spec, beneficiaries=())).SerializeToString(),
        fingerprint,
        new.beneficiary_count,
        new.attestors,
        spec.total,
        vesting_messages.to_datetime(created),
        vesting_messages.to_datetime(created + domain.FUNDING_DEADLINE),
    )
    parts = [Statement(_ADD, row), _shares_added(new)]
    if payment:
        used = refusal(domain.payment_consumed(payment))
        work = domain.work_of(new.operation)
        parts.append(Statement(_USE_PAYMENT, (payment, work, used)))
    return tuple(parts)


def _shares_added(lock: Lock) -> Statement:
    everybody = lock.spec.beneficiaries
    return Statement(
        _ADD_SHARES,
        (
            lock.id,
            [one.principal for one in everybody],
            list(range(len(everybody))),
            [one.amount for one in everybody],
            [
                vesting_messages.schedule_message(one.schedule).SerializeToString()
                if one.schedule
                else None
                for one in everybody
            ],
        ),
    )


async def fingerprint_of(database: Database, lock: Lock) -> bytes:
    """Hash of all that made a lock."""
    value: bytes = await database.fetchval(_FINGERPRINT, lock.id)
    return value


async def get(connection: Connection | Database, lock_id: UUID) -> Lock | None:
    """One lock, without its beneficiaries."""
    return await _complete(connection, await connection.fetchrow(_GET, lock_id))


async def lock(connection: Connection, lock_id: UUID) -> Lock | None:
    """One lock, locked until the transaction ends."""
    return await _complete(connection, await connection.fetchrow(_LOCK, lock_id))


async def lock_any(connection: Connection, lock_id: UUID) -> Lock | None:
    """One lock or tombstone, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK_ANY, lock_id)
    return _lock(row) if row else None


async def of_operation(connection: Connection | Database, operation: str) -> Lock | None:
    """The lock of an operation, or its tombstone."""
    return await _complete(connection, await connection.fetchrow(_BY_OPERATION, operation))


async def look(database: Database, operation: str) -> tuple[int, Lock | None]:
    """The time, and the lock of an operation, or its tombstone."""
    row: Any = await database.fetchrow(_LOOK, operation)
    known = row if row["id"] is not None else None
    return of_datetime(row["now"]), await _complete(database, known)


async def lock_operation(connection: Connection, operation: str) -> Lock | None:
    """The lock of an operation or its tombstone, locked until the transaction ends."""
    row = await connection.fetchrow(f"{_BY_OPERATION} FOR UPDATE", operation)
    return await _complete(connection, row)


async def list_locks(
    database: Database,
    owner: str | None,
    beneficiary: str | None,
    before: UUID | None,
    limit: int,
) -> Sequence[Lock]:
    """Locks of an owner or for a beneficiary, newest first."""
    rows = await database.fetch(_LIST, before, limit, owner, beneficiary)
    return [_lock(row) for row in rows]


async def shares(connection: Connection | Database, lock_id: UUID) -> Sequence[Share]:
    """All beneficiaries of a lock."""
    return [_share(row) for row in await connection.fetch(_SHARES, lock_id)]


async def share(connection: Connection | Database, lock_id: UUID, beneficiary: str) -> Share | None:
    """What a lock holds for somebody."""
    row = await connection.fetchrow(_SHARE, lock_id, beneficiary)
    return _share(row) if row else None


async def fund(database: Database, lock_id: UUID) -> Lock | None:
    """Records that the whole amount was seen on the account; None when that was known."""
    row = await database.fetchrow(_FUND, lock_id)
    return _lock(row) if row else None


def activated(active: Lock) -> Statement:
    """Starts vesting. It raises that the lock has changed, unless it is funded and no more."""
    start, moment = (
        None if time is None else vesting_messages.to_datetime(time)
        for time in (active.start, active.times.activate)
    )
    return Statement(_ACTIVATE, (active.id, start, moment, refusal(domain.changed())))


async def give_up(
    source: Connection | Database, operation: str, ledger: str, escrow: tuple[str, bytes]
) -> None:
    """Gives an operation up for good, whether it was heard of or not, unless it is delivered.

    What was never heard of gets a tombstone with this ledger and escrow.
    """
    await source.execute(
        _GIVE_UP,
        ids.new_id(operation),
        operation,
        [int(state) for state in DELIVERED],
        [int(state) for state in WAITING],
        timedelta(microseconds=domain.CHECKS[0]),
        ledger,
        *escrow,
    )


def claimed(claim: Claim, state: State) -> tuple[Statement, ...]:
    """Takes a claim out of what is held, and remembers it."""
    return (
        Statement(_TAKE_SHARE, (claim.lock_id, claim.owner, claim.amount)),
        Statement(_TAKE, (claim.lock_id, claim.amount, int(state))),
        Statement(
            _ADD_CLAIM,
            (
                claim.id,
                claim.lock_id,
                claim.owner,
                claim.amount,
                claim.fee,
                vesting_messages.to_datetime(claim.create_time),
            ),
        ),
    )


async def get_claim(database: Database, claim_id: UUID, lock_id: UUID) -> Claim | None:
    """One claim."""
    row = await database.fetchrow(_GET_CLAIM, claim_id, lock_id)
    return _claim(row) if row else None


async def list_claims(
    database: Database, lock_id: UUID, beneficiary: str | None, before: UUID | None, limit: int
) -> Sequence[Claim]:
    """Claims of a lock, by one beneficiary or by all, newest first."""
    rows = await database.fetch(_LIST_CLAIMS, lock_id, before, limit, beneficiary)
    return [_claim(row) for row in rows]


async def paid_claims(connection: Connection, paid: Sequence[PaidOut]) -> Sequence[Claim]:
    """Records which claims were paid in which blocks; returns those that these are."""
    return [_claim(row) for row in await connection.fetch(_PAID_CLAIMS, *_paid(paid))]


async def paid_returns(connection: Connection, paid: Sequence[PaidOut]) -> Sequence[Any]:
    """Records which returns were paid in which blocks; returns those that these are."""
    return await connection.fetch(_PAID_RETURNS, *_paid(paid))


def _paid(paid: Sequence[PaidOut]) -> tuple[list[UUID], list[int], list[int]]:
    """Ids, blocks and fees."""
    return (
        [one.id for one in paid],
        [one.block_index for one in paid],
        [one.fee for one in paid],
    )


async def revoke(connection: Connection, locked: Lock, returned: int) -> Lock:
    """Ends vesting at the moment at which the lock was locked."""
    moment = vesting_messages.to_datetime(locked.times.seen)
    row = await connection.fetchrow(_REVOKE, locked.id, returned, moment)
    return await _with_attestations(connection, _lock(row))


def dust_returned(lock_id: UUID, dust: Mapping[str, int]) -> Statement:
    """Takes from beneficiaries what a revocation gives back of their shares."""
    return Statement(_RETURN_DUST, (lock_id, list(dust), list(dust.values())))


async def unlock(connection: Connection, locked: Lock) -> Lock:
    """Unlocks everything at the moment at which the lock was locked."""
    moment = vesting_messages.to_datetime(locked.times.seen)
    row = await connection.fetchrow(_UNLOCK, locked.id, moment)
    return await _with_attestations(connection, _lock(row))


async def attest(connection: Connection, lock_id: UUID, attestor: str, milestone: str) -> None:
    """Records that a milestone was reached. The first word counts."""
    await connection.execute(_ATTEST, lock_id, attestor, milestone)


def added_return(
    return_id: UUID, lock_id: UUID, amount: int, fee: int, *, revoked: bool
) -> Statement:
    """Adds what goes back, fee included."""
    return Statement(_ADD_RETURN, (return_id, lock_id, amount, fee, revoked))


async def return_is_open(connection: Connection, lock_id: UUID) -> bool:
    """Whether something is on its way back already."""
    return bool(await connection.fetchval(_RETURN_OPEN, lock_id))


async def due(database: Database, limit: int) -> Sequence[UUID]:
    """Locks whose accounts are to be looked at."""
    return [row["id"] for row in await database.fetch(_DUE, limit)]


async def fail(connection: Connection, lock_id: UUID, failure: str) -> None:
    """Ends a lock that was not active in time."""
    await connection.execute(_FAIL, lock_id, failure)


async def check_later(connection: Connection, lock_id: UUID, after: int | None) -> None:
    """Sets when the account is looked at again; never, for None."""
    pause = None if after is None else timedelta(microseconds=after)
    await connection.execute(_CHECK_LATER, lock_id, pause)


async def postpone(database: Database, lock_id: UUID, pause: int) -> None:
    """Sets when the account is looked at again, without counting this time."""
    await database.execute(_POSTPONE, lock_id, timedelta(microseconds=pause))


async def _complete(connection: Connection | Database, row: Any) -> Lock | None:
    return await _with_attestations(connection, _lock(row)) if row else None


async def _with_attestations(connection: Connection | Database, found: Lock) -> Lock:
    """The lock with its attestations, where there can be any."""
    if not found.attestors:
        return found
    rows = await connection.fetch(_ATTESTATIONS, found.id)
    return replace(
        found,
        attestations=tuple(
            Attestation(row["attestor"], row["milestone"], of_datetime(row["attest_time"]))
            for row in rows
        ),
    )


def _lock(row: Any) -> Lock:
    stored = row["spec"]
    spec = messages.parse_spec(pb.LockSpec.FromString(stored)) if stored else _TOMBSTONE
    return Lock(
        id=row["id"],
        operation=row["operation"],
        owner=row["owner"],
        ledger=row["ledger"],
        escrow=(row["escrow_owner"], row["escrow_subaccount"]),
        spec=spec,
        state=State(row["state"]),
        start=_moment(row["start_time"]),
        claimed=row["claimed"],
        returned=row["returned"],
        checks=row["checks"],
        beneficiary_count=row["beneficiary_count"],
        attestors=tuple(row["attestors"]),
        failure=row["failure"],
        times=Times(
            seen=of_datetime(row["seen_time"]),
            create=of_datetime(row["create_time"]),
            fund=_moment(row["fund_time"]),
            activate=_moment(row["activate_time"]),
            revoke=_moment(row["revoke_time"]),
            unlock=_moment(row["unlock_time"]),
        ),
    )


def _share(row: Any) -> Share:
    stored = row["schedule"]
    schedule = vesting_pb2.Schedule.FromString(stored) if stored is not None else None
    return Share(
        owner=row["beneficiary"],
        amount=row["amount"],
        claimed=row["claimed"],
        returned=row["returned"],
        schedule=None if schedule is None else vesting_messages.parse(schedule, "schedule"),
    )


def _claim(row: Any) -> Claim:
    return Claim(
        id=row["id"],
        lock_id=row["lock_id"],
        owner=row["beneficiary"],
        amount=row["amount"],
        fee=row["fee"],
        block_index=row["block_index"],
        create_time=of_datetime(row["create_time"]),
        pay_time=_moment(row["pay_time"]),
    )


def _moment(value: datetime | None) -> int | None:
    return None if value is None else of_datetime(value)
