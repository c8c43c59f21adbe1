"""SQL of the audit. One function an operation."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.audit_storage.domain import Checkpoint, Entry, Facts, Head
from services.kit.storage import Connection, Database, Statement

_ENTRY_COLUMNS: Final = """
    id, sequence, event, record_time, previous_hash, entry_hash, event_time, source, subject,
    principal, action, operation, status, severity, trace_id
"""
_LOCK_HEAD: Final = """
SELECT sequence, entry_hash, date_trunc('microseconds', kit_now()) AS now FROM head FOR UPDATE
"""
_KNOWN: Final = "SELECT id FROM entries WHERE id = ANY ($1::uuid[])"
_SET_HEAD: Final = "UPDATE head SET sequence = $1, entry_hash = $2"
_INSERT: Final = f"""
INSERT INTO entries ({_ENTRY_COLUMNS})
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::timestamptz[], $5::bytea[],
    $6::bytea[], $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
    $13::smallint[], $14::smallint[], $15::text[])
"""
_GET: Final = f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE id = $1"
_STRETCH: Final = f"""
SELECT {_ENTRY_COLUMNS} FROM entries WHERE sequence >= $1 ORDER BY sequence LIMIT $2
"""
_AT: Final = "SELECT sequence, entry_hash FROM entries WHERE sequence = $1"
_LAST: Final = "SELECT sequence, entry_hash FROM entries ORDER BY sequence DESC LIMIT 1"
_HEAD: Final = "SELECT sequence, entry_hash FROM head"
_CHECKPOINT_COLUMNS: Final = "sequence, entry_hash, sign_time, signature, public_key"
_ADD_CHECKPOINT: Final = f"""
INSERT INTO checkpoints ({_CHECKPOINT_COLUMNS}) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
"""
_CHECKPOINTS: Final = f"""
SELECT {_CHECKPOINT_COLUMNS} FROM checkpoints
WHERE ($1::bigint IS NULL OR sequence < $1) ORDER BY sequence DESC LIMIT $2
"""
_CHECKPOINTS_OF: Final = f"""
SELECT {_CHECKPOINT_COLUMNS} FROM checkpoints
WHERE sequence BETWEEN $1 AND $2 OR sequence = $3
    OR sequence = (SELECT max(sequence) FROM checkpoints)
ORDER BY sequence
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list of entries is narrowed by. None and 0 stand for anything."""

    principal: str | None = None
    action: str | None = None
    subject: str | None = None
    operation: str | None = None
    source: str | None = None
    status: int | None = None
    minimum_severity: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    trace_id: str | None = None
    before: int | None = None


# Each condition stands alone, so that the planner sees only those that are asked for.
_CONDITIONS: Final = {
    "principal": "principal = {}",
    "action": "action = {}",
    "subject": "subject = {}",
    "operation": "operation = {} AND operation <> ''",
    "source": "source = {}",
    "status": "status = {}",
    "minimum_severity": "severity >= {}",
    "start_time": "event_time >= {0} AND id >= first_id(greatest('epoch', {0} - interval '1 day'))",
    "end_time": "event_time < {0} AND id < first_id(greatest('epoch', {0} + interval '1 day'))",
    "trace_id": "trace_id = {} AND trace_id <> ''",
    "before": "sequence < {}",
}


async def lock_head(connection: Connection) -> tuple[Head, datetime]:
    """The chain's head, locked until the transaction ends, and the time."""
    row: Any = await connection.fetchrow(_LOCK_HEAD)
    return Head(row["sequence"], row["entry_hash"]), row["now"]


async def known(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Which of the events are kept already."""
    return {row["id"] for row in await connection.fetch(_KNOWN, ids)}


async def append(
    connection: Connection, head: Head, entries: Sequence[Entry], answers: Statement
) -> None:
    """Adds entries, moves the head, and keeps the answers of the calls that brought them."""
    columns = zip(*(_row(entry) for entry in entries), strict=True)
    parts = [answers]
    if entries:
        parts.append(Statement(_INSERT, tuple(list(column) for column in columns)))
        parts.append(Statement(_SET_HEAD, (head.sequence, head.entry_hash)))
    await connection.apply(*parts)


async def get(database: Database, entry_id: UUID) -> Entry | None:
    """One entry."""
    row = await database.fetchrow(_GET, entry_id)
    return _entry(row) if row else None


async def list_entries(database: Database, wanted: Filter, limit: int) -> list[Entry]:
    """Entries, newest first."""
    clauses, args = [], []
    for field, condition in _CONDITIONS.items():
        value = getattr(wanted, field)
        if value is not None:
            args.append(value)
            clauses.append(condition.format(f"${len(args)}"))
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    query = (
        f"SELECT {_ENTRY_COLUMNS} FROM entries {where}"  # constants only
        f" ORDER BY sequence DESC LIMIT ${len(args) + 1}"
    )
    return [_entry(row) for row in await database.fetch(query, *args, limit)]


async def stretch(database: Database, start: int, limit: int) -> list[Entry]:
    """Entries from a sequence number on, oldest first."""
    return [_entry(row) for row in await database.fetch(_STRETCH, start, limit)]


async def head_at(database: Database, sequence: int) -> Head | None:
    """The chain's head as it was after the entry with this number. None when that is missing."""
    if sequence == 0:
        return Head()
    row = await database.fetchrow(_AT, sequence)
    return Head(row["sequence"], row["entry_hash"]) if row else None


async def last(database: Database) -> Head:
    """The newest entry that is really there."""
    row = await database.fetchrow(_LAST)
    return Head(row["sequence"], row["entry_hash"]) if row else Head()


async def head(database: Database) -> Head:
    """Where the chain says that it goes on."""
    row: Any = await database.fetchrow(_HEAD)
    return Head(row["sequence"], row["entry_hash"])


async def ensure_partitions(database: Database) -> None:
    """Makes the partitions of the coming months."""
    await database.execute("SELECT ensure_partitions()")


async def add_checkpoint(database: Database, checkpoint: Checkpoint) -> None:
    """Keeps a checkpoint."""
    await database.execute(
        _ADD_CHECKPOINT,
        checkpoint.head.sequence,
        checkpoint.head.entry_hash,
        checkpoint.sign_time,
        checkpoint.signature,
        checkpoint.public_key,
    )


async def list_checkpoints(database: Database, before: int | None, limit: int) -> list[Checkpoint]:
    """Checkpoints, newest first."""
    return [_checkpoint(row) for row in await database.fetch(_CHECKPOINTS, before, limit)]


async def checkpoints_of(database: Database, first: int, last: int, other: int) -> list[Checkpoint]:
    """The checkpoints of these entries, of one other, and the newest of all; oldest first."""
    rows = await database.fetch(_CHECKPOINTS_OF, first, last, other)
    return [_checkpoint(row) for row in rows]


def _row(entry: Entry) -> tuple[Any, ...]:
    facts = entry.facts
    return (
        entry.id, entry.sequence, entry.event, entry.record_time, entry.previous_hash,
        entry.entry_hash, facts.event_time, facts.source, facts.subject, facts.principal,
        facts.action, facts.operation, facts.status, facts.severity, facts.trace_id,
    )  # fmt: skip


def _entry(row: Any) -> Entry:
    return Entry(
        id=row["id"],
        sequence=row["sequence"],
        event=row["event"],
        record_time=row["record_time"],
        previous_hash=row["previous_hash"],
        entry_hash=row["entry_hash"],
        facts=Facts(
            event_time=row["event_time"],
            source=row["source"],
            subject=row["subject"],
            principal=row["principal"],
            action=row["action"],
            operation=row["operation"],
            status=row["status"],
            severity=row["severity"],
            trace_id=row["trace_id"],
        ),
    )


def _checkpoint(row: Any) -> Checkpoint:
    return Checkpoint(
        Head(row["sequence"], row["entry_hash"]),
        row["sign_time"],
        row["signature"],
        row["public_key"],
    )
