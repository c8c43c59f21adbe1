"""Simulated time: the clocks of all services together, so that they agree with one another."""

from datetime import timedelta
from typing import Final

from tests.support.installation import Installation

_CLOCKS: Final = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'kit_clock'"
# Tokens of users are checked by Envoy, whose clock nobody moves.
_REAL: Final = "gateway"


async def travel(mesh: Installation, distance: timedelta) -> None:
    """Moves the clocks on. Never back: a ledger's time only grows."""
    async with mesh.superuser() as database:
        rows = await database.fetch(_CLOCKS)
        async with database.transaction():
            for schema in (row["table_schema"] for row in rows):
                if schema != _REAL:
                    await database.execute(
                        f"UPDATE {schema}.kit_clock SET shift = shift + $1", distance
                    )
