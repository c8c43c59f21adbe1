"""SQL of recipient lists and of their Merkle trees. One function an operation."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from services.distribution_deployer.domain import ListState, Recipient
from services.distribution_deployer.merkle_rules import CHUNK_HASHES, HASH_BYTES, Chunk
from services.distribution_deployer.spec_rules import SealedList
from services.kit.storage import Connection, Database

_PAGES_AT_ONCE: Final = 16
_COLUMNS: Final = """
    id, owner, category_id, state, page_count, recipient_count, total, smallest, root,
    distribution_id, create_time, seal_time
"""
_ADD: Final = f"""
INSERT INTO recipient_lists (id, owner, category_id) VALUES ($1, $2, $3) RETURNING {_COLUMNS}
"""
# One call at a time counts what an owner has and adds to it.
_LOCK_OWNER: Final = "SELECT pg_advisory_xact_lock(hashtext('lists of ' || $1))"
_COUNT_UNUSED: Final = """
SELECT count(*) AS lists, coalesce(sum(recipient_count), 0)::bigint AS recipients
FROM recipient_lists WHERE owner = $1 AND distribution_id IS NULL
"""
_GET: Final = f"SELECT {_COLUMNS} FROM recipient_lists WHERE id = $1"
_LOCK: Final = f"{_GET} FOR UPDATE"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM recipient_lists
WHERE owner = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""
_USABLE: Final = f"""
SELECT id, category_id, total, recipient_count, smallest FROM recipient_lists
WHERE id = ANY ($1::uuid[]) AND owner = $2 AND state = {ListState.SEALED:d}
    AND distribution_id IS NULL
"""
_PAGE: Final = "SELECT leaves FROM recipient_pages WHERE list_id = $1 AND page = $2"
_ADD_PAGE: Final = "INSERT INTO recipient_pages (list_id, page, leaves) VALUES ($1, $2, $3)"
_ADD_RECIPIENTS: Final = """
INSERT INTO recipients (list_id, principal, amount, position)
SELECT $1, principal, amount, $2 + place - 1
FROM unnest($3::text[], $4::numeric[]) WITH ORDINALITY AS new (principal, amount, place)
ON CONFLICT DO NOTHING RETURNING principal
"""
_GROW: Final = f"""
UPDATE recipient_lists SET change_time = kit_now(), page_count = page_count + 1,
    recipient_count = recipient_count + $2,
    total = total + $3, smallest = CASE WHEN page_count = 0 THEN $4 ELSE least(smallest, $4) END
WHERE id = $1 RETURNING {_COLUMNS}
"""
_NEXT_PAGES: Final = """
SELECT leaves FROM recipient_pages WHERE list_id = $1 AND page >= $2 ORDER BY page LIMIT $3
"""
_ADD_CHUNKS: Final = """
INSERT INTO recipient_trees (list_id, level, chunk, hashes)
SELECT $1, * FROM unnest($2::int[], $3::int[], $4::bytea[])
"""
_DROP_PAGES: Final = "DELETE FROM recipient_pages WHERE list_id = $1"
_SEAL: Final = f"""
UPDATE recipient_lists SET state = {ListState.SEALED:d}, root = $2, seal_time = kit_now(),
    change_time = kit_now()
WHERE id = $1
RETURNING {_COLUMNS}
"""
_DELETE: Final = (
    "DELETE FROM recipients WHERE list_id = ANY ($1::uuid[])",
    "DELETE FROM recipient_trees WHERE list_id = ANY ($1::uuid[])",
    "DELETE FROM recipient_pages WHERE list_id = ANY ($1::uuid[])",
    "DELETE FROM recipient_lists WHERE id = ANY ($1::uuid[])",
)
# So many a transaction: each is a million recipients at most.
_LOCK_OVER: Final = """
SELECT id FROM recipient_lists
WHERE distribution_id IS NULL AND change_time < kit_now() - $1::interval
ORDER BY change_time LIMIT 10 FOR UPDATE SKIP LOCKED
"""
_RECIPIENT: Final = """
SELECT position, amount FROM recipients WHERE principal = $2 AND list_id = $1
"""
_HASHES: Final = """
SELECT substring(hashes FROM place FOR 32) AS hash
FROM unnest($2::int[], $3::int[], $4::int[]) WITH ORDINALITY AS wanted (level, chunk, place, step)
JOIN recipient_trees USING (level, chunk)
WHERE list_id = $1 ORDER BY step
"""


@dataclass(frozen=True, slots=True)
class RecipientList:
    """A recipient list, without its recipients."""

    id: UUID
    owner: str
    category_id: int
    state: ListState
    page_count: int
    recipient_count: int
    total: int
    smallest: int
    root: bytes | None
    distribution_id: UUID | None
    create_time: datetime
    seal_time: datetime | None


async def add(connection: Connection, list_id: UUID, owner: str, category_id: int) -> RecipientList:
    """Adds an empty list."""
    return _list(await connection.fetchrow(_ADD, list_id, owner, category_id))


async def count_unused(connection: Connection, owner: str) -> tuple[int, int]:
    """Lists of somebody that no distribution uses, and the recipients on them.

    Nobody else counts or adds to them until the transaction ends.
    """
    await connection.execute(_LOCK_OWNER, owner)
    row: Any = await connection.fetchrow(_COUNT_UNUSED, owner)
    return row["lists"], row["recipients"]


async def get(connection: Connection | Database, list_id: UUID) -> RecipientList | None:
    """One list."""
    row = await connection.fetchrow(_GET, list_id)
    return _list(row) if row else None


async def lock(connection: Connection, list_id: UUID) -> RecipientList | None:
    """One list, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK, list_id)
    return _list(row) if row else None


async def list_owned(
    database: Database, owner: str, before: UUID | None, limit: int
) -> list[RecipientList]:
    """Lists of somebody, newest first."""
    return [_list(row) for row in await database.fetch(_LIST, owner, before, limit)]


async def usable(
    database: Database, list_ids: Sequence[UUID], owner: str
) -> dict[UUID, SealedList]:
    """Those of the lists that somebody may use for a distribution."""
    if not list_ids:
        return {}
    rows = await database.fetch(_USABLE, list_ids, owner)
    return {
        row["id"]: SealedList(
            row["category_id"], row["total"], row["recipient_count"], row["smallest"]
        )
        for row in rows
    }


async def page(connection: Connection, list_id: UUID, number: int) -> bytes | None:
    """Leaves of a page of an open list."""
    value: bytes | None = await connection.fetchval(_PAGE, list_id, number)
    return value


async def add_page(
    connection: Connection, to: RecipientList, recipients: Sequence[Recipient], leaves: bytes
) -> tuple[RecipientList, list[str]]:
    """Adds the next page; also returns those of it that are in the list already."""
    added = await connection.fetch(
        _ADD_RECIPIENTS,
        to.id,
        to.recipient_count,
        [recipient.principal for recipient in recipients],
        [recipient.amount for recipient in recipients],
    )
    new = {row["principal"] for row in added}
    await connection.execute(_ADD_PAGE, to.id, to.page_count, leaves)
    amounts = [recipient.amount for recipient in recipients]
    row = await connection.fetchrow(_GROW, to.id, len(amounts), sum(amounts), min(amounts))
    grown = _list(row)
    return grown, [one.principal for one in recipients if one.principal not in new]


async def leaves(connection: Connection, list_id: UUID) -> AsyncIterator[bytes]:
    """All leaves of an open list in order, some pages at a time."""
    start = 0
    while True:
        rows = await connection.fetch(_NEXT_PAGES, list_id, start, _PAGES_AT_ONCE)
        if not rows:
            return
        yield b"".join(row["leaves"] for row in rows)
        start += len(rows)


async def add_chunks(connection: Connection, list_id: UUID, chunks: Iterable[Chunk]) -> None:
    """Keeps parts of a tree."""
    kept = list(chunks)
    if kept:
        await connection.execute(
            _ADD_CHUNKS,
            list_id,
            [chunk.level for chunk in kept],
            [chunk.index for chunk in kept],
            [chunk.hashes for chunk in kept],
        )


async def seal(connection: Connection, list_id: UUID, root: bytes) -> RecipientList:
    """Seals a list whose tree is kept; its pages are not needed any more."""
    await connection.execute(_DROP_PAGES, list_id)
    return _list(await connection.fetchrow(_SEAL, list_id, root))


async def delete(connection: Connection, list_id: UUID) -> None:
    """Deletes a list that is locked, with all that belongs to it."""
    await _delete(connection, [list_id])


async def forget_unused(connection: Connection, period: timedelta) -> int:
    """Deletes some lists that no distribution has used for so long; returns how many."""
    over = [row["id"] for row in await connection.fetch(_LOCK_OVER, period)]
    if over:
        await _delete(connection, over)
    return len(over)


async def _delete(connection: Connection, list_ids: Sequence[UUID]) -> None:
    for statement in _DELETE:
        await connection.execute(statement, list_ids)


async def recipient(database: Database, list_id: UUID, principal: str) -> tuple[int, int] | None:
    """Position and amount of a recipient of a list."""
    row = await database.fetchrow(_RECIPIENT, list_id, principal)
    return (row["position"], row["amount"]) if row else None


async def hashes(
    database: Database, list_id: UUID, places: Iterable[tuple[int, int]]
) -> list[bytes]:
    """Hashes of a tree at places: level and index."""
    wanted = list(places)
    rows = await database.fetch(
        _HASHES,
        list_id,
        [level for level, _ in wanted],
        [index // CHUNK_HASHES for _, index in wanted],
        [index % CHUNK_HASHES * HASH_BYTES + 1 for _, index in wanted],
    )
    return [row["hash"] for row in rows]


def _list(row: Any) -> RecipientList:
    values: dict[str, Any] = dict(row)
    return RecipientList(**values | {"state": ListState(values["state"])})
