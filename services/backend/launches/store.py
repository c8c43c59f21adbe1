"""SQL of launches. One function an operation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from services.backend.launches.domain import Launch, Shape
from services.kit.payouts import PaidOut
from services.kit.storage import Connection, Database, Statement

_COLUMNS: Final = """
    launches.id, owner, project_id, spec, shape, trace_id, quote, cost, payment, token, earlier,
    drawn_by, withdrawal, withdrawn, ended, create_time
"""
_ADD: Final = """
INSERT INTO launches (id, owner, project_id, spec, shape, trace_id, quote, cost, token, earlier)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_GET: Final = f"SELECT {_COLUMNS} FROM launches WHERE id = $1"
_LOCK: Final = f"{_GET} FOR UPDATE"
_GET_ALL: Final = f"SELECT {_COLUMNS} FROM launches WHERE id = ANY ($1::uuid[])"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM launches
WHERE owner = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""
_SETTLE: Final = """
UPDATE launches SET ended = true, payment = settled.payment,
    token = CASE WHEN settled.token = '' THEN launches.token ELSE settled.token END
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS settled (settled_id, token, payment)
WHERE launches.id = settled_id
RETURNING launches.id, owner, project_id, spec, shape, trace_id, quote, cost, launches.payment,
    launches.token, earlier, drawn_by, withdrawal, withdrawn, ended, create_time
"""
_DRAW: Final = "UPDATE launches SET drawn_by = $2 WHERE id = $1"
_LET_GO: Final = "UPDATE launches SET drawn_by = NULL WHERE drawn_by = ANY ($1::uuid[])"
_WITHDRAW: Final = "UPDATE launches SET withdrawal = $2 WHERE id = $1"
_WITHDRAWN: Final = """
UPDATE launches SET withdrawal = NULL, withdrawn = withdrawn + amount
FROM kit_payouts WHERE kit_payouts.id = withdrawal AND kit_payouts.id = ANY ($1::uuid[])
RETURNING launches.id, owner, amount, withdrawal, kit_payouts.id AS payout
"""
# Kept until it is out of its own window: the ledger deduplicates within 24 hours and some minutes.
_RENEW: Final = """
INSERT INTO launch_transfers (launch_id, step, created_at_ns)
VALUES ($1, $2, (extract(epoch FROM kit_now()) * 1000000)::bigint * 1000)
ON CONFLICT (launch_id, step) DO UPDATE SET created_at_ns = CASE
    WHEN launch_transfers.created_at_ns < excluded.created_at_ns - 86400 * 1000000000::bigint
    THEN excluded.created_at_ns ELSE launch_transfers.created_at_ns END
RETURNING created_at_ns
"""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What an owner has received out of escrow."""

    launch_id: UUID
    owner: str
    amount: int
    payout: UUID


def added(launch: Launch) -> Statement:
    """Adds a launch."""
    return Statement(
        _ADD,
        (
            launch.id,
            launch.owner,
            launch.project_id,
            launch.spec,
            launch.shape.encode(),
            launch.trace_id,
            launch.quote,
            launch.cost,
            launch.token,
            launch.earlier,
        ),
    )


async def get(database: Database | Connection, launch_id: UUID) -> Launch | None:
    """One launch."""
    row = await database.fetchrow(_GET, launch_id)
    return _launch(row) if row else None


async def lock(connection: Connection, launch_id: UUID) -> Launch | None:
    """One launch, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK, launch_id)
    return _launch(row) if row else None


async def get_all(database: Database, launch_ids: Sequence[UUID]) -> dict[UUID, Launch]:
    """Launches by id."""
    rows = await database.fetch(_GET_ALL, list(launch_ids))
    return {row["id"]: _launch(row) for row in rows}


async def list_owned(
    database: Database, owner: str, before: UUID | None, limit: int
) -> list[Launch]:
    """Launches of an owner, newest first."""
    return [_launch(row) for row in await database.fetch(_LIST, owner, before, limit)]


async def settle(
    connection: Connection, outcomes: dict[UUID, tuple[str, str]]
) -> dict[UUID, Launch]:
    """Records what came of launches: token and payment of each. Escrows they drew on are free."""
    await connection.execute(_LET_GO, list(outcomes))
    rows = await connection.fetch(
        _SETTLE,
        list(outcomes),
        [token for token, _ in outcomes.values()],
        [payment for _, payment in outcomes.values()],
    )
    return {row["id"]: _launch(row) for row in rows}


async def draw(connection: Connection, earlier: UUID, launch_id: UUID) -> None:
    """Reserves the escrow of an earlier launch for another."""
    await connection.execute(_DRAW, earlier, launch_id)


async def withdraw(connection: Connection, launch_id: UUID, payout: UUID) -> None:
    """Records that a payout to the owner is under way."""
    await connection.execute(_WITHDRAW, launch_id, payout)


async def withdrawn(connection: Connection, paid: Sequence[PaidOut]) -> list[Withdrawn]:
    """Records payouts to owners as made."""
    rows = await connection.fetch(_WITHDRAWN, [one.id for one in paid])
    return [Withdrawn(r["id"], r["owner"], int(r["amount"]), r["payout"]) for r in rows]


async def renew_transfer(database: Database, launch_id: UUID, step: str) -> int:
    """A fresh deduplication time for a transfer, kept."""
    return int(await database.fetchval(_RENEW, launch_id, step))


def _launch(row: Any) -> Launch:
    values = dict(row)
    values["shape"] = Shape.decode(values["shape"])
    values["withdrawn"] = int(values["withdrawn"])
    return Launch(**values)
