"""Work that one replica at a time does: a lease in the database.

A lease only spreads work; it proves nothing. A holder that was frozen may wake up and act once
more, so whatever it does must be harmless twice.
"""

import time
from typing import Final

from services.kit.storage.database import Database

_HOLD: Final = """
INSERT INTO kit_leases (name, holder, expire_time)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expire_time = excluded.expire_time
WHERE kit_leases.holder = excluded.holder OR kit_leases.expire_time < clock_timestamp()
RETURNING true
"""
_RELEASE: Final = "DELETE FROM kit_leases WHERE name = $1 AND holder = $2"


class Lease:
    """One piece of work, by name."""

    def __init__(self, database: Database, name: str, holder: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._good_until = 0.0

    async def hold(self) -> bool:
        """Takes or renews the lease, when half of it is over. False: another replica has it."""
        now = time.monotonic()
        if now < self._good_until:
            return True
        held = await self._database.fetchval(_HOLD, self._name, self._holder, self._seconds)
        self._good_until = now + self._seconds / 2 if held else 0.0
        return bool(held)

    async def release(self) -> None:
        """Lets another replica take over at once."""
        self._good_until = 0.0
        await self._database.execute(_RELEASE, self._name, self._holder)
