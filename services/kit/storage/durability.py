"""What a replica asks of its database before it takes a single call.

An acknowledged change must survive a crash, so Postgres must write before it answers; and there
must be room for the connections of every replica, not only of this one.
"""

from typing import Final

from contract.errors import Code, Error
from schema_setup.connections import CONNECTIONS
from services.kit.settings import Settings
from services.kit.storage.database import Database

_MUST_BE_ON: Final = ("fsync", "full_page_writes", "synchronous_commit")
_UNLOGGED: Final = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = current_schema() AND relpersistence = 'u' ORDER BY relname
"""


async def check(database: Database, settings: Settings) -> None:
    """Passes, or says what to change.

    Raises:
        Error: FAILED_PRECONDITION, the database may lose what it acknowledged, or has too few
            connections.
    """
    for name, value in (await report(database)).items():
        if value == "off":
            raise _refused(f"Postgres runs with {name} off and may lose acknowledged changes.")
    unlogged = [row["relname"] for row in await database.fetch(_UNLOGGED)]
    if unlogged:
        raise _refused(f"Unlogged tables lose their rows in a crash: {', '.join(unlogged)}.")
    wanted = max(settings.database_connections, settings.database_pool)
    available = await database.fetchval(CONNECTIONS)
    if wanted > available:
        raise _refused(
            f"All replicas together may open {wanted} connections, but Postgres allows"
            f" {available}. Raise max_connections, or lower replicas or the pool size."
        )


async def report(database: Database) -> dict[str, str]:
    """The durability settings as they are."""
    return {
        name: await database.fetchval("SELECT current_setting($1)", name) for name in _MUST_BE_ON
    }


def _refused(message: str) -> Error:
    return Error(Code.FAILED_PRECONDITION, "DATABASE_UNSAFE", message)
