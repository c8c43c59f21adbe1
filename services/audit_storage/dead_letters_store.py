"""SQL of dead letters. One function an operation."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.kit.storage import Database, Statement

_COLUMNS: Final = "id, source, event, reason, create_time"
_ADD: Final = f"INSERT INTO dead_letters ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5)"
_GET: Final = f"SELECT {_COLUMNS} FROM dead_letters WHERE id = $1"
_LIST: Final = f"SELECT {_COLUMNS} FROM dead_letters WHERE id > $1 ORDER BY id LIMIT $2"
_REMOVE: Final = "DELETE FROM dead_letters WHERE id = $1"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was refused for good, as its bytes."""

    id: UUID
    source: str
    event: bytes
    reason: str
    create_time: datetime


async def now(database: Database) -> datetime:
    """The database's time."""
    moment: datetime = await database.fetchval("SELECT kit_now()")
    return moment


def added(letter: DeadLetter) -> Statement:
    """Adds a dead letter."""
    row = (letter.id, letter.source, letter.event, letter.reason, letter.create_time)
    return Statement(_ADD, row)


def removed(letter_id: UUID) -> Statement:
    """Takes a dead letter away: it was read after all."""
    return Statement(_REMOVE, (letter_id,))


async def get(database: Database, letter_id: UUID) -> DeadLetter | None:
    """One dead letter."""
    row: Any = await database.fetchrow(_GET, letter_id)
    return DeadLetter(*row) if row else None


async def list_after(database: Database, after: UUID, limit: int) -> list[DeadLetter]:
    """Dead letters, oldest first."""
    return [DeadLetter(*row) for row in await database.fetch(_LIST, after, limit)]
