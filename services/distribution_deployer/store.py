"""SQL of distributions. One function an operation."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, assert_never
from uuid import UUID

from icto.distribution.v1 import distribution_pb2 as pb
from services.distribution_deployer import domain, messages, spec_rules
from services.distribution_deployer.claim_rules import Allocation, Held
from services.distribution_deployer.domain import (
    Account,
    Category,
    Disbursement,
    Distribution,
    Kind,
    Listed,
    Pool,
    Source,
    Spec,
    State,
    Timing,
    Whitelist,
)
from services.kit.payouts import PaidOut
from services.kit.storage import Connection, Database, Statement
from services.kit.storage.database import refusal
from services.kit.storage.statement import numbers
from services.kit.vesting.vesting_messages import of_datetime

# `now` goes on within a transaction: one that waited for a lock sees when it got it, since what
# others did meanwhile was before that.
_DELIVERED: Final = numbers(domain.DELIVERED)
_CLAIMS: Final = numbers((Kind.VESTED, Kind.EARLY_UNLOCK))
_RETURNS: Final = numbers((Kind.TO_OWNER, Kind.TO_ESCROW))
_COLUMNS: Final = """
    id, operation, owner, ledger, escrow_owner, escrow_subaccount, spec, state, create_time,
    funding_deadline, activate_time, start_time, end_time, claim_deadline, cancel_time, closed,
    checks, kit_clock_now() AS now, ARRAY(SELECT categories.id FROM categories
        WHERE categories.distribution_id = distributions.id AND paused) AS paused
"""
_ADD: Final = f"""
INSERT INTO distributions (id, operation, payment, owner, ledger, escrow_owner, escrow_subaccount,
    spec, fingerprint, public, total, state, create_time, funding_deadline, next_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {State.CREATED:d}, $12, $13,
    $13)
"""
_USE_PAYMENT: Final = """
INSERT INTO distribution_payments (payment, work) VALUES ($1, $2)
ON CONFLICT (payment) DO UPDATE SET work = excluded.work
WHERE kit_require(distribution_payments.work = excluded.work, $3)
"""
_ADD_CATEGORIES: Final = """
INSERT INTO categories (distribution_id, id, amount, seats, list_id, root)
SELECT $1, new.id, amount, seats, new.list_id,
    (SELECT root FROM recipient_lists WHERE recipient_lists.id = new.list_id)
FROM unnest($2::int[], $3::numeric[], $4::int[], $5::uuid[]) AS new (id, amount, seats, list_id)
"""
_ADD_ALLOCATIONS: Final = """
INSERT INTO allocations (distribution_id, principal, category_id, amount)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::numeric[])
ON CONFLICT DO NOTHING
"""
_USE_LISTS: Final = """
UPDATE recipient_lists SET distribution_id = $2
WHERE id = ANY ($1::uuid[]) AND kit_require(distribution_id IS NULL, $3)
"""
_FREE_LISTS: Final = """
UPDATE recipient_lists SET distribution_id = NULL, change_time = kit_now()
WHERE distribution_id = $1
"""
_GET: Final = f"SELECT {_COLUMNS} FROM distributions WHERE id = $1 AND owner <> ''"
_LOCK: Final = f"SELECT {_COLUMNS} FROM distributions WHERE id = $1 FOR UPDATE"
_BY_OPERATION: Final = f"SELECT {_COLUMNS}, fingerprint FROM distributions WHERE operation = $1"
_LOCK_OPERATION: Final = f"{_BY_OPERATION} FOR UPDATE"
_GIVE_UP: Final = f"""
INSERT INTO distributions (id, operation, owner, ledger, escrow_owner, escrow_subaccount, spec,
    fingerprint, public, total, state)
VALUES ($1, $2, '', $3, $4, $5, '', '', false, 0, {State.ABANDONED:d})
ON CONFLICT (operation) DO UPDATE
SET state = CASE WHEN distributions.state IN ({State.CREATED:d}, {State.FAILED:d})
    THEN {State.ABANDONED:d} ELSE distributions.state END
"""
_LOOK: Final = f"""
SELECT kit_now() AS moment, known.* FROM (SELECT) AS always
LEFT JOIN ({_BY_OPERATION}) AS known ON true
"""
_ACTIVATE: Final = f"""
UPDATE distributions SET state = {State.ACTIVE:d}, activate_time = $2, start_time = $3,
    end_time = $4,
    claim_deadline = $5, next_time = $6
WHERE id = $1 AND kit_require(state = {State.CREATED:d}, $7)
"""
# Claims share it; what they must not overlap with has it alone. Held until the transaction ends.
# It is taken in a statement of its own, so that the next one sees what the holder before committed.
_SHARE: Final = "SELECT pg_advisory_xact_lock_shared(hashtextextended($1::uuid::text, 0))"
_EXCLUDE: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))"
_SET: Final = """
UPDATE distributions SET state = $2, activate_time = $3, start_time = $4, end_time = $5,
    claim_deadline = $6, cancel_time = $7, closed = $8, checks = $9, next_time = $10
WHERE id = $1
"""
_PAUSE_CATEGORY: Final = """
UPDATE categories SET paused = $3 WHERE distribution_id = $1 AND id = $2
"""
_LIST_PUBLIC: Final = f"""
SELECT {_COLUMNS} FROM distributions
WHERE public AND state IN ({_DELIVERED}) AND ($1::uuid IS NULL OR id < $1)
  AND ($3::text IS NULL OR ledger = $3)
ORDER BY id DESC LIMIT $2
"""
_LIST_CREATED: Final = f"""
SELECT {_COLUMNS} FROM distributions
WHERE owner = $4 AND ($1::uuid IS NULL OR id < $1) AND ($3::text IS NULL OR ledger = $3)
ORDER BY id DESC LIMIT $2
"""
_RECEIVING: Final = """
    SELECT distribution_id FROM allocations WHERE principal = $4
    UNION SELECT recipient_lists.distribution_id FROM recipients
    JOIN recipient_lists ON recipient_lists.id = recipients.list_id
    WHERE recipients.principal = $4 AND recipient_lists.distribution_id IS NOT NULL
"""
_LIST_RECEIVING: Final = f"""
SELECT {_COLUMNS} FROM distributions
WHERE id IN ({_RECEIVING}) AND state IN ({_DELIVERED}) AND ($1::uuid IS NULL OR id < $1)
  AND ($3::text IS NULL OR ledger = $3)
ORDER BY id DESC LIMIT $2
"""
_ALLOCATIONS: Final = """
SELECT category_id, amount, claimed, closed FROM allocations
WHERE distribution_id = $1 AND principal = $2 ORDER BY category_id
"""
_LOCK_ALLOCATIONS: Final = f"{_ALLOCATIONS} FOR UPDATE"
_LISTED: Final = """
SELECT categories.id AS category_id, recipients.amount FROM categories
JOIN recipients ON recipients.list_id = categories.list_id AND recipients.principal = $2
WHERE categories.distribution_id = $1 ORDER BY categories.id
"""
_ADD_ALLOCATION: Final = """
INSERT INTO allocations (distribution_id, principal, category_id, amount)
VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING true
"""
_TAKE_SEAT: Final = """
UPDATE categories SET registered = registered + 1, reserved = reserved + $3
WHERE distribution_id = $1 AND id = $2 AND registered < seats AND reserved + $3 <= amount
RETURNING true
"""
_ROOT: Final = "SELECT list_id, root FROM categories WHERE distribution_id = $1 AND id = $2"
_RECENT: Final = f"""
SELECT count(*) AS claims,
    extract(epoch FROM min(create_time) + $3::interval - kit_now())::float8 AS wait
FROM (SELECT create_time FROM disbursements
    WHERE distribution_id = $1 AND principal = $2 AND kind IN ({_CLAIMS})
      AND create_time > kit_now() - $3::interval
    ORDER BY create_time DESC LIMIT $4) AS recent
"""
_TAKE: Final = """
UPDATE allocations SET claimed = claimed + taken.amount, closed = closed OR $5
FROM unnest($3::int[], $4::numeric[]) AS taken (category, amount)
WHERE distribution_id = $1 AND principal = $2 AND category_id = taken.category
"""
_DISBURSE: Final = """
INSERT INTO disbursements (id, distribution_id, kind, principal, gross, fee, penalty, category_ids,
    amounts, finishes, create_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($11, kit_now()))
"""
_PAID: Final = """
UPDATE disbursements SET block_index = paid.block_index, fee = paid.fee, pay_time = kit_now()
FROM unnest($1::uuid[], $2::bigint[], $3::numeric[]) AS paid (paid_id, block_index, fee)
WHERE id = paid_id
RETURNING disbursements.*
"""
_RETURN_OPEN: Final = f"""
SELECT EXISTS (SELECT FROM disbursements
WHERE distribution_id = $1 AND kind = {Kind.TO_ESCROW:d} AND block_index IS NULL)
"""
_DUE: Final = """
SELECT id, ledger, state FROM distributions WHERE next_time <= kit_now()
ORDER BY next_time LIMIT $1
"""
_FINISHING: Final = """
SELECT DISTINCT distribution_id FROM disbursements WHERE finishes LIMIT $1
"""
_FORGET_FINISHING: Final = """
UPDATE disbursements SET finishes = false WHERE distribution_id = $1 AND finishes
"""
_LOOK_NOW: Final = "UPDATE distributions SET next_time = kit_now() WHERE id = $1"
_POSTPONE: Final = "UPDATE distributions SET next_time = kit_now() + $2 WHERE id = $1"
_AMOUNTS: Final = """
SELECT DISTINCT category_id, amount FROM allocations
WHERE distribution_id = $1 AND category_id = ANY ($2::int[])
"""
# What is unlocked is the same for all who were allocated the same, so that a million rows are added
# up where they are.
_HELD: Final = """
SELECT category_id,
    coalesce(sum(allocations.amount) FILTER (WHERE closed), 0)::numeric AS closed,
    coalesce(sum(claimed) FILTER (WHERE NOT closed), 0)::numeric AS claimed,
    coalesce(sum(greatest(unlocked - claimed, 0)) FILTER (WHERE NOT closed), 0)::numeric
        AS claimable
FROM allocations LEFT JOIN unnest($2::int[], $3::numeric[], $4::numeric[])
    AS curves (category_id, amount, unlocked) USING (category_id, amount)
WHERE distribution_id = $1 GROUP BY category_id
"""
_CLOSE_DUST: Final = """
WITH entitled AS (
    SELECT principal, sum(greatest(unlocked - claimed, 0)) AS amount
    FROM allocations JOIN unnest($2::int[], $3::numeric[], $4::numeric[])
        AS curves (category_id, amount, unlocked) USING (category_id, amount)
    WHERE distribution_id = $1 AND NOT closed GROUP BY principal
)
UPDATE allocations SET closed = true FROM entitled
WHERE distribution_id = $1 AND allocations.principal = entitled.principal AND NOT closed
    AND entitled.amount BETWEEN 1 AND $5
"""
_SENT: Final = """
SELECT coalesce(sum(gross), 0)::numeric FROM disbursements WHERE distribution_id = $1
"""
_CATEGORY_SUMS: Final = """
SELECT categories.id AS id, categories.amount AS amount, reserved, registered, seats,
    coalesce(sum(claimed), 0)::numeric AS claimed,
    count(*) FILTER (WHERE claimed > 0) AS claimants
FROM categories LEFT JOIN allocations ON allocations.distribution_id = categories.distribution_id
    AND category_id = categories.id
WHERE categories.distribution_id = $1
GROUP BY categories.distribution_id, categories.id ORDER BY categories.id
"""
_SUMS: Final = f"""
SELECT coalesce(sum(gross) FILTER (WHERE kind IN ({_CLAIMS})), 0)::numeric AS claimed,
    coalesce(sum(gross) FILTER (WHERE kind IN ({_CLAIMS}) AND block_index IS NOT NULL), 0)::numeric
        AS paid,
    coalesce(sum(penalty), 0)::numeric AS penalties,
    coalesce(sum(gross) FILTER (WHERE kind IN ({_RETURNS})), 0)::numeric AS returned,
    coalesce(sum(gross), 0)::numeric AS sent,
    count(*) FILTER (WHERE kind IN ({_CLAIMS})) AS claims
FROM disbursements WHERE distribution_id = $1
"""
_GET_CLAIM: Final = f"""
SELECT * FROM disbursements WHERE id = $2 AND distribution_id = $1 AND kind IN ({_CLAIMS})
"""
_LIST_CLAIMS: Final = f"""
SELECT * FROM disbursements
WHERE distribution_id = $1 AND kind IN ({_CLAIMS}) AND ($2::uuid IS NULL OR id < $2)
  AND ($4::text IS NULL OR principal = $4)
ORDER BY id DESC LIMIT $3
"""
_NOW: Final = "SELECT kit_now()"


async def now(database: Database) -> int:
    """The time."""
    return of_datetime(await database.fetchval(_NOW))


def added(new: Distribution, payment: str, fingerprint: bytes) -> tuple[Statement, ...]:
    """Adds a distribution. Its operation must be unknown.

    It raises that the payment paid for another launch.
    """
    spec = new.spec
    row = (
        new.id,
        new.operation,
        payment,
        new.owner,
        new.ledger,
        new.escrow.owner,
        new.escrow.subaccount,
        messages.spec_message(spec_rules.without_names(spec)).SerializeToString(),
        fingerprint,
        spec.public,
        spec.total,
        _moment(new.create_time),
        _moment(new.funding_deadline),
    )
    parts = [
        Statement(_ADD, row),
        _categories_added(new.id, spec.categories),
        _allocations_added(new.id, spec),
    ]
    if payment:
        consumed = refusal(domain.payment_consumed(payment))
        work = domain.work_of(new.operation)
        parts.append(Statement(_USE_PAYMENT, (payment, work, consumed)))
    return tuple(parts)


def _categories_added(distribution_id: UUID, categories: Sequence[Category]) -> Statement:
    kept = [_seats_and_list(category.source) for category in categories]
    return Statement(
        _ADD_CATEGORIES,
        (
            distribution_id,
            [category.id for category in categories],
            [category.amount for category in categories],
            [seats for seats, _ in kept],
            [list_id for _, list_id in kept],
        ),
    )


def _seats_and_list(source: Source) -> tuple[int | None, UUID | None]:
    match source:
        case Whitelist():
            return None, None
        case Listed(list_id):
            return None, list_id
        case Pool(seats=seats):
            return seats, None
        case _:
            assert_never(source)


def _allocations_added(distribution_id: UUID, spec: Spec) -> Statement:
    named = list(spec_rules.named(spec))
    return Statement(
        _ADD_ALLOCATIONS,
        (
            distribution_id,
            [recipient.principal for _, recipient in named],
            [category_id for category_id, _ in named],
            [recipient.amount for _, recipient in named],
        ),
    )


async def use_lists(connection: Connection, distribution_id: UUID, lists: Sequence[UUID]) -> None:
    """Gives lists to a distribution.

    Raises:
        Error: INVALID_ARGUMENT, one of them was used by another distribution, or deleted.
    """
    used = spec_rules.list_unusable("spec.categories", "name a list that another one uses")
    tag = await connection.execute(_USE_LISTS, list(lists), distribution_id, refusal(used))
    if tag != f"UPDATE {len(lists)}":
        raise spec_rules.list_unusable("spec.categories", "name a list that was deleted")


async def of_operation(
    connection: Connection | Database, operation: str
) -> tuple[Distribution, bytes] | None:
    """The distribution of an operation, also a tombstone, and its fingerprint."""
    row = await connection.fetchrow(_BY_OPERATION, operation)
    return (_distribution(row), row["fingerprint"]) if row else None


async def look(database: Database, operation: str) -> tuple[int, tuple[Distribution, bytes] | None]:
    """The time, and the distribution of an operation as `of_operation` tells it."""
    row: Any = await database.fetchrow(_LOOK, operation)
    known = None if row["id"] is None else (_distribution(row), row["fingerprint"])
    return of_datetime(row["moment"]), known


async def lock_operation(connection: Connection, operation: str) -> Distribution | None:
    """The distribution of an operation, also a tombstone, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK_OPERATION, operation)
    return _distribution(row) if row else None


async def give_up(
    connection: Connection, new_id: UUID, operation: str, ledger: str, escrow: Account
) -> None:
    """Gives an operation up for good, whether it was heard of or not, unless it was delivered.

    `ledger` and `escrow` tell of one that nobody heard of where its tokens go back to; "" if nobody
    can know.
    """
    await connection.execute(_GIVE_UP, new_id, operation, ledger, escrow.owner, escrow.subaccount)


async def free_lists(connection: Connection, distribution_id: UUID) -> None:
    """Lets another distribution use the lists of one that never was."""
    await connection.execute(_FREE_LISTS, distribution_id)


async def get(connection: Connection | Database, distribution_id: UUID) -> Distribution | None:
    """One distribution."""
    row = await connection.fetchrow(_GET, distribution_id)
    return _distribution(row) if row else None


async def share(connection: Connection, distribution_id: UUID) -> Distribution | None:
    """One distribution, whose state nobody changes until the transaction ends; others may share."""
    await connection.execute(_SHARE, distribution_id)
    return await get(connection, distribution_id)


async def lock(connection: Connection, distribution_id: UUID) -> Distribution | None:
    """One distribution, also a tombstone, that nobody else touches until the transaction ends."""
    await connection.execute(_EXCLUDE, distribution_id)
    row = await connection.fetchrow(_LOCK, distribution_id)
    return _distribution(row) if row else None


async def put(connection: Connection, changed: Distribution) -> None:
    """Writes what changed of a distribution that is locked, and when to look at it again."""
    timing = changed.timing
    await connection.execute(
        _SET,
        changed.id,
        int(changed.state),
        _moment(changed.activate_time),
        _moment(timing.start if timing else None),
        _moment(timing.end if timing else None),
        _moment(timing.claim_deadline if timing else None),
        _moment(changed.cancel_time),
        changed.closed,
        changed.checks,
        _moment(domain.next_time(changed)),
    )


def activated(active: Distribution, timing: Timing) -> Statement:
    """Opens a distribution. It raises that it has changed, unless it is reserved and no more."""
    times = (active.activate_time, timing.start, timing.end, timing.claim_deadline)
    moments = map(_moment, (*times, domain.next_time(active)))
    return Statement(_ACTIVATE, (active.id, *moments, refusal(domain.changed())))


async def pause_category(
    connection: Connection, distribution_id: UUID, category_id: int, *, paused: bool
) -> None:
    """Pauses or resumes a category of a distribution that is locked."""
    await connection.execute(_PAUSE_CATEGORY, distribution_id, category_id, paused)


async def list_public(
    database: Database, before: UUID | None, limit: int, ledger: str | None
) -> list[Distribution]:
    """Public distributions that were activated, newest first."""
    return _distributions(await database.fetch(_LIST_PUBLIC, before, limit, ledger))


async def list_created(
    database: Database, before: UUID | None, limit: int, ledger: str | None, owner: str
) -> list[Distribution]:
    """Distributions of one owner, newest first."""
    return _distributions(await database.fetch(_LIST_CREATED, before, limit, ledger, owner))


async def list_receiving(
    database: Database, before: UUID | None, limit: int, ledger: str | None, principal: str
) -> list[Distribution]:
    """Distributions that allocate something to somebody, newest first."""
    return _distributions(await database.fetch(_LIST_RECEIVING, before, limit, ledger, principal))


async def allocations(
    connection: Connection | Database, distribution_id: UUID, principal: str
) -> list[Allocation]:
    """What is somebody's in a distribution, by category."""
    rows = await connection.fetch(_ALLOCATIONS, distribution_id, principal)
    return [Allocation(*row) for row in rows]


async def lock_allocations(
    connection: Connection, distribution_id: UUID, principal: str
) -> list[Allocation]:
    """The same, locked until the transaction ends."""
    rows = await connection.fetch(_LOCK_ALLOCATIONS, distribution_id, principal)
    return [Allocation(*row) for row in rows]


async def listed(database: Database, distribution_id: UUID, principal: str) -> list[Allocation]:
    """What the lists of a distribution give somebody, by category, claimed or not."""
    rows = await database.fetch(_LISTED, distribution_id, principal)
    return [Allocation(row["category_id"], row["amount"]) for row in rows]


async def add_allocation(
    connection: Connection, distribution_id: UUID, principal: str, new: Allocation
) -> bool:
    """Adds an allocation; False when there is one already, which stays as it is (F-40)."""
    added = await connection.fetchval(
        _ADD_ALLOCATION, distribution_id, principal, new.category_id, new.amount
    )
    return bool(added)


async def take_seat(
    connection: Connection, distribution_id: UUID, category_id: int, amount: int
) -> bool:
    """Reserves a share of a pool; False when there is none left."""
    taken = await connection.fetchval(_TAKE_SEAT, distribution_id, category_id, amount)
    return bool(taken)


async def root(
    connection: Connection, distribution_id: UUID, category_id: int
) -> tuple[UUID, bytes] | None:
    """The list of a category and its root; None when it has none."""
    row = await connection.fetchrow(_ROOT, distribution_id, category_id)
    return (row["list_id"], row["root"]) if row and row["list_id"] else None


async def recent_claims(
    connection: Connection | Database,
    distribution_id: UUID,
    principal: str,
    rate: domain.ClaimRate,
) -> tuple[int, float]:
    """Claims of somebody within the window, and seconds until the oldest of them leaves it."""
    window = timedelta(microseconds=rate.window)
    row: Any = await connection.fetchrow(_RECENT, distribution_id, principal, window, rate.claims)
    return row["claims"], row["wait"] or 0.0


def taken(claim: Disbursement, *, close: bool = False) -> Statement:
    """Takes the parts of a claim from its participant's allocations."""
    parts = claim.parts
    return Statement(
        _TAKE,
        (claim.distribution_id, claim.principal, list(parts), list(parts.values()), close),
    )


def disbursed(one: Disbursement) -> Statement:
    """Records something that leaves a distribution."""
    parts = one.parts
    return Statement(
        _DISBURSE,
        (
            one.id,
            one.distribution_id,
            int(one.kind),
            one.principal,
            one.gross,
            one.fee,
            one.penalty,
            list(parts),
            list(parts.values()),
            one.finishes,
            _moment(one.create_time),
        ),
    )


async def paid(connection: Connection, payouts: Sequence[PaidOut]) -> list[Disbursement]:
    """Records blocks of payouts, and the fees that were taken."""
    rows = await connection.fetch(
        _PAID,
        [one.id for one in payouts],
        [one.block_index for one in payouts],
        [one.fee for one in payouts],
    )
    return [_disbursement(row) for row in rows]


async def return_is_open(connection: Connection, distribution_id: UUID) -> bool:
    """Whether something is on its way back to the escrow."""
    return bool(await connection.fetchval(_RETURN_OPEN, distribution_id))


async def due(database: Database, limit: int) -> list[tuple[UUID, str, State]]:
    """Distributions for which the time has come, with their ledgers and states."""
    rows = await database.fetch(_DUE, limit)
    return [(row["id"], row["ledger"], State(row["state"])) for row in rows]


async def finishing(database: Database, limit: int) -> list[UUID]:
    """Distributions of which some participant got everything since somebody looked."""
    return [row["distribution_id"] for row in await database.fetch(_FINISHING, limit)]


async def forget_finishing(connection: Connection, distribution_id: UUID) -> None:
    """Somebody looks at whether a distribution is finished."""
    await connection.execute(_FORGET_FINISHING, distribution_id)


async def look_now(connection: Connection, distribution_id: UUID) -> None:
    """Has a distribution looked at."""
    await connection.execute(_LOOK_NOW, distribution_id)


async def postpone(database: Database, distribution_id: UUID, span: int) -> None:
    """Looks at a distribution later."""
    await database.execute(_POSTPONE, distribution_id, timedelta(microseconds=span))


async def amounts(
    connection: Connection, distribution_id: UUID, category_ids: Sequence[int]
) -> list[tuple[int, int]]:
    """The different amounts that whitelists allocate, with their categories."""
    rows = await connection.fetch(_AMOUNTS, distribution_id, category_ids)
    return [(row["category_id"], row["amount"]) for row in rows]


async def held(
    connection: Connection, distribution_id: UUID, unlocked: Mapping[tuple[int, int], int]
) -> dict[int, Held]:
    """The allocations of each category, added up.

    `unlocked` says what is unlocked of an amount of a category.
    """
    rows = await connection.fetch(_HELD, distribution_id, *_curves(unlocked))
    return {
        row["category_id"]: Held(row["closed"], row["claimed"], row["claimable"]) for row in rows
    }


def dust_closed(
    distribution_id: UUID, unlocked: Mapping[tuple[int, int], int], fee: int
) -> Statement:
    """Closes what somebody may claim of all categories together, if it is no more than the fee.

    `unlocked` says what is unlocked of an amount of a category.
    """
    return Statement(_CLOSE_DUST, (distribution_id, *_curves(unlocked), fee))


def _curves(unlocked: Mapping[tuple[int, int], int]) -> tuple[list[int], list[int], list[int]]:
    """Categories, amounts, and what is unlocked of them, as columns."""
    return (
        [category_id for category_id, _ in unlocked],
        [amount for _, amount in unlocked],
        list(unlocked.values()),
    )


async def sent(connection: Connection, distribution_id: UUID) -> int:
    """What left a distribution or is leaving it."""
    value: int = await connection.fetchval(_SENT, distribution_id)
    return value


async def category_sums(connection: Connection | Database, distribution_id: UUID) -> list[Any]:
    """What the categories allocate and what of it was claimed, by id."""
    return await connection.fetch(_CATEGORY_SUMS, distribution_id)


async def sums(database: Database, distribution_id: UUID) -> Any:
    """What left a distribution, by why."""
    return await database.fetchrow(_SUMS, distribution_id)


async def get_claim(
    database: Database, distribution_id: UUID, claim_id: UUID
) -> Disbursement | None:
    """One claim."""
    row = await database.fetchrow(_GET_CLAIM, distribution_id, claim_id)
    return _disbursement(row) if row else None


async def list_claims(
    database: Database,
    distribution_id: UUID,
    before: UUID | None,
    limit: int,
    principal: str | None,
) -> list[Disbursement]:
    """Claims of a distribution, newest first: all, or those of one participant."""
    rows = await database.fetch(_LIST_CLAIMS, distribution_id, before, limit, principal)
    return [_disbursement(row) for row in rows]


@lru_cache(maxsize=1024)
def _spec(stored: bytes) -> Spec:
    """A spec as it was stored. Claims of one distribution come in crowds, so it is kept."""
    return messages.parse_spec(pb.DistributionSpec.FromString(stored), stored=True)


_NOTHING: Final = Spec("", domain.Campaign.AIRDROP, 0, ())


def _distributions(rows: Iterable[Any]) -> list[Distribution]:
    return [_distribution(row) for row in rows]


def _distribution(row: Any) -> Distribution:
    start = _micros(row["start_time"])
    timing = None
    if start is not None:
        timing = Timing(start, _micros(row["end_time"]), _micros(row["claim_deadline"]))
    return Distribution(
        id=row["id"],
        operation=row["operation"],
        owner=row["owner"],
        ledger=row["ledger"],
        escrow=Account(row["escrow_owner"], row["escrow_subaccount"]),
        spec=_spec(row["spec"]) if row["spec"] else _NOTHING,
        state=State(row["state"]),
        now=of_datetime(row["now"]),
        create_time=of_datetime(row["create_time"]),
        funding_deadline=of_datetime(row["funding_deadline"]),
        timing=timing,
        activate_time=_micros(row["activate_time"]),
        cancel_time=_micros(row["cancel_time"]),
        paused=frozenset(row["paused"]),
        checks=row["checks"],
        closed=row["closed"],
    )


def _disbursement(row: Any) -> Disbursement:
    return Disbursement(
        id=row["id"],
        distribution_id=row["distribution_id"],
        kind=Kind(row["kind"]),
        principal=row["principal"],
        gross=row["gross"],
        fee=row["fee"],
        penalty=row["penalty"],
        parts=dict(zip(row["category_ids"], row["amounts"], strict=True)),
        create_time=of_datetime(row["create_time"]),
        block_index=row["block_index"],
        pay_time=_micros(row["pay_time"]),
    )


def _micros(time: datetime | None) -> int | None:
    return None if time is None else of_datetime(time)


def _moment(micros: int | None) -> datetime | None:
    if micros is None:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
