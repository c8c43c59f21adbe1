"""SQL of the lab."""

from typing import Final

from services.kit.storage import Database

_COUNT: Final = """
INSERT INTO attempts (key, count) VALUES ($1, 1)
ON CONFLICT (key) DO UPDATE SET count = attempts.count + 1 RETURNING count
"""


async def count_attempt(database: Database, key: str) -> int:
    """Counts one more attempt with a key."""
    count: int = await database.fetchval(_COUNT, key)
    return count
