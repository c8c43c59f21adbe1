"""SQL of the platform's configuration. One function an operation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from icto.config.v1 import config_pb2 as pb
from services.kit.storage import Connection, Database, Statement

_COLUMNS: Final = "revision, config, changed_by, justification, change_time"
_NEWEST: Final = f"SELECT {_COLUMNS} FROM config_revisions ORDER BY revision DESC LIMIT 1"
_LOCK: Final = "LOCK TABLE config_revisions IN SHARE ROW EXCLUSIVE MODE"
_ADD: Final = """
INSERT INTO config_revisions (revision, config, changed_by, justification)
VALUES ($1, $2, $3, $4)
"""
_LIST: Final = f"""
SELECT {_COLUMNS} FROM config_revisions
WHERE $1::bigint IS NULL OR revision < $1 ORDER BY revision DESC LIMIT $2
"""
_ASK_RELEASE: Final = """
INSERT INTO release_requests (principal) VALUES ($1)
ON CONFLICT (principal) DO UPDATE SET request_time = kit_now()
"""
_WISHES: Final = """
SELECT principal, request_time FROM release_requests
WHERE request_time > kit_now() - $1::interval ORDER BY request_time, principal LIMIT 100
"""
_NOW: Final = "SELECT kit_now()"
_PAGE: Final = 100
_FORGET_RELEASE: Final = "DELETE FROM release_requests"


@dataclass(frozen=True, slots=True)
class Revision:
    """One configuration, who set it and why."""

    config: pb.SystemConfig
    changed_by: str
    justification: str

    @property
    def time(self) -> datetime:
        """Since when it is in force."""
        return self.config.update_time.ToDatetime(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody's wish to end an emergency stop, and until when it counts."""

    principal: str
    expire_time: datetime


async def newest(connection: Database | Connection) -> Revision | None:
    """The configuration in force."""
    row = await connection.fetchrow(_NEWEST)
    return _revision(row) if row else None


async def lock(connection: Connection) -> None:
    """Lets one change at a time through."""
    await connection.execute(_LOCK)


def added(revision: Revision) -> Statement:
    """Puts a configuration in force; its revision must be new."""
    return Statement(
        _ADD,
        (
            revision.config.revision,
            revision.config.SerializeToString(),
            revision.changed_by,
            revision.justification,
        ),
    )


async def add_first(database: Database, revision: Revision) -> None:
    """Puts the first configuration in force, unless there is one."""
    statement = added(revision)
    await database.execute(f"{statement.sql} ON CONFLICT DO NOTHING", *statement.args)


async def history(database: Database, before: int | None, limit: int) -> Sequence[Revision]:
    """Configurations, newest first."""
    return [_revision(row) for row in await database.fetch(_LIST, before, limit)]


async def beginning(
    connection: Database | Connection, holds: Callable[[pb.SystemConfig], bool]
) -> Revision | None:
    """The revision since which something holds without a break; None when it does not hold now."""
    began: Revision | None = None
    before: int | None = None
    while rows := await connection.fetch(_LIST, before, _PAGE):
        for revision in map(_revision, rows):
            if not holds(revision.config):
                return began
            began, before = revision, revision.config.revision
    return began


async def ask_release(connection: Connection, principal: str) -> None:
    """Records who wants the stop to end."""
    await connection.execute(_ASK_RELEASE, principal)


async def release_wishes(
    connection: Database | Connection, window: timedelta
) -> tuple[datetime, Sequence[Wish]]:
    """The time, and who wants the stop to end and asked within the window."""
    rows = await connection.fetch(_WISHES, window)
    wishes = [Wish(row["principal"], row["request_time"] + window) for row in rows]
    return await connection.fetchval(_NOW), wishes


async def forget_release(connection: Connection) -> None:
    """Forgets who asked: for a new stop, or after its end."""
    await connection.execute(_FORGET_RELEASE)


def _revision(row: Any) -> Revision:
    stored = pb.SystemConfig.FromString(row["config"])
    stored.update_time.FromDatetime(row["change_time"])
    return Revision(stored, row["changed_by"], row["justification"])
