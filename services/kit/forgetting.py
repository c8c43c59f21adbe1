"""What nobody uses is forgotten once its period is over, as the contract says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from contract.errors import Error
from services.kit.kit import Kit
from services.kit.storage.database import Connection

log = logging.getLogger(__name__)

_SECONDS: Final = 60.0

Forget = Callable[[Connection, timedelta], Awaitable[int]]
"""Forgets some of what was left alone for longer than this; returns how much that was."""


async def keep_forgetting(kit: Kit, what: str, forget: Forget) -> None:
    """Forgets what is over, a few rows a transaction, as long as the replica lives.

    Not during an emergency stop, in which nothing changes.

    Replicas may do so at the same time: `forget` leaves alone what another is at.
    """
    period = kit.service.retention[what].period
    while True:
        try:
            forgotten = int(kit.platform.running)
            while forgotten:
                async with kit.database.transaction() as connection:
                    forgotten = await forget(connection, period)
                if forgotten:
                    log.info("forgot %d %s", forgotten, what.replace("_", " "))
        except Error as error:
            log.info("forgetting %s waits: %s", what, error)
        await asyncio.sleep(_SECONDS)
