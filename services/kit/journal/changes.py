"""Tells watchers that a pipeline changed, in this replica and in the others.

A hint, not the truth: whoever is woken reads the journal, and reads it now and then without being
woken.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from contract.errors import Error
from services.kit.storage.database import Database, translated

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_PAYLOAD_IDS: Final = 150  # NOTIFY carries at most 8,000 bytes


class ChangeFeed:
    """Hints about pipelines of one service."""

    def __init__(self, database: Database, dsn: str, service: str) -> None:
        self._database = database
        self._dsn = dsn
        self._channel = f"{service}_pipelines"
        # Ends what is told: whoever told it has woken its own watchers already. An id like the
        # others, so that a replica of another version takes it for a pipeline nobody watches.
        self._own = uuid4()
        self._events: dict[UUID, set[asyncio.Event]] = {}
        self._untold: set[UUID] = set()
        self._something = asyncio.Event()

    async def run(self) -> None:
        """Tells the other replicas and listens to them, as long as this one lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_telling())
            tasks.create_task(self._keep_listening())

    def tell(self, pipelines: Iterable[UUID]) -> None:
        """Says that pipelines changed."""
        for pipeline_id in pipelines:
            self._wake(pipeline_id)
            self._untold.add(pipeline_id)
            self._something.set()

    def _wake(self, pipeline_id: UUID) -> None:
        for event in self._events.get(pipeline_id, ()):
            event.set()

    async def watch(self, pipeline_id: UUID, seconds: float) -> AsyncIterator[None]:
        """Yields at once, then at every change, and after `seconds` without one."""
        event = asyncio.Event()
        self._events.setdefault(pipeline_id, set()).add(event)
        try:
            while True:
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await event.wait()
                event.clear()
        finally:
            watchers = self._events[pipeline_id]
            watchers.discard(event)
            if not watchers:
                del self._events[pipeline_id]

    async def _keep_telling(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            told = list(self._untold)[:_PAYLOAD_IDS]
            self._untold.difference_update(told)
            payload = " ".join(map(str, (*told, self._own)))
            with contextlib.suppress(Error):
                await self._database.execute("SELECT pg_notify($1, $2)", self._channel, payload)
            if self._untold:
                self._something.set()

    async def _keep_listening(self) -> None:
        """Listens on a connection of its own; a lost one is replaced."""
        while True:
            try:
                connection = await translated(asyncpg.connect(self._dsn))
                try:
                    await translated(connection.add_listener(self._channel, self._heard))
                    while not connection.is_closed():
                        await asyncio.sleep(_RETRY_SECONDS)
                finally:
                    connection.terminate()
            except Error as error:
                log.debug("not listening: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)

    def _heard(self, *arguments: Any) -> None:
        payload: str = arguments[3]
        heard = [UUID(text) for text in payload.split()]
        if heard[-1] != self._own:
            for pipeline_id in heard:
                self._wake(pipeline_id)
