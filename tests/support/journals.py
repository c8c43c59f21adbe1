"""A place to try a journal in: workers on one store, and time that passes when a test says so.

Only this file knows which engine it is. A second one needs a bench of its own to be held to the
promises in tests/behaviour/test_journal.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from uuid import UUID

from opentelemetry import trace

from contract import ids
from contract.environment import Environment
from icto.events.v1 import events_pb2 as events
from services.kit.journal.engine import CAPACITY, Engine
from services.kit.journal.model import (
    Claim,
    Definition,
    Ended,
    Family,
    NewPipeline,
    Places,
    Run,
    Step,
)
from services.kit.journal.port import Journal
from services.kit.journal.postgres import PostgresJournal
from services.kit.storage.database import Connection, Database
from services.kit.testing.faults import Faults
from tests.support.installation import until
from tests.support.postgres import Replica, Schema

NAME = "sample"
KNOWN: Collection[tuple[str, int]] = ((NAME, 1),)
TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class Worker:
    """One worker: a journal of its own on the common store."""

    def __init__(self, replica: Replica, journal: Journal) -> None:
        self.name = replica.name
        self.journal = journal
        self.database: Database = replica.database

    async def begin(self, new: NewPipeline) -> Claim:
        """Begins a pipeline."""
        claim, begun = self.journal.begin(new, self.name)
        await self.database.apply(begun)
        return claim

    async def claim(
        self, limit: int = 100, known: Collection[tuple[str, int]] = KNOWN
    ) -> Sequence[Claim]:
        """Claims what is due."""
        return await self.journal.claim(self.name, limit, known)

    async def enqueue(self, new: NewPipeline) -> UUID:
        """Begins a pipeline that waits."""
        await self.database.apply(self.journal.enqueue(new))
        return new.id

    async def queue(self, count: int, owner: str = "") -> list[UUID]:
        """Begins pipelines that wait, in the order of their turns: that of their ids, of which some
        may be of the same millisecond.
        """
        return sorted([await self.enqueue(new_pipeline(owner=owner)) for _ in range(count)])

    async def admit(
        self, limit: int, version: int = 1, room: int = 100, share: int = 0
    ) -> list[UUID]:
        """Claims what waits longest, as far as the limit allows; `share` 0 is all of it."""
        return [claim.id for claim in await self.admitted(limit, version, room, share)]

    async def admitted(
        self, limit: int, version: int = 1, room: int = 100, share: int = 0, name: str = NAME
    ) -> Sequence[Claim]:
        """The same as claims."""
        places = Places(limit, share or limit)
        return await self.journal.admit(self.name, name, version, places, room)

    async def positions(self, pipeline_ids: Sequence[UUID], share: int = 100) -> dict[UUID, int]:
        """Places in the queue."""
        return dict(await self.journal.positions(NAME, Places(100, share), pipeline_ids))

    async def run_of(self, pipeline_id: UUID) -> Run:
        """A pipeline as the journal has it."""
        (run,) = await self.journal.get([pipeline_id])
        return run

    @contextlib.asynccontextmanager
    async def engine(
        self, *definitions: Definition | Family, capacity: int = CAPACITY
    ) -> AsyncIterator[Engine]:
        """An engine at work."""
        engine = Engine(
            self.journal,
            worker=self.name,
            tracer=trace.get_tracer("test"),
            faults=Faults(Environment.TEST),
            capacity=capacity,
        )
        for definition in definitions:
            engine.define(definition)
        running = asyncio.create_task(engine.run())
        await asyncio.sleep(0)
        try:
            yield engine
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Bench:
    """A store, its workers, and its time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    @property
    def dsn(self) -> str:
        """Where the store is."""
        return self._schema.dsn

    @contextlib.asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[Worker]:
        """A worker."""
        async with self._schema.replica(name, 4) as replica:
            journal = PostgresJournal(replica.database, replica.outbox)
            running = asyncio.create_task(journal.run())
            await asyncio.sleep(0)
            try:
                yield Worker(replica, journal)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def let_leases_end(self) -> None:
        """Every lease is over, as if its worker had been frozen for long."""
        async with self._schema.connection() as connection:
            await connection.execute(
                "UPDATE kit_pipelines SET lease_time = clock_timestamp() - interval '1 second'"
                " WHERE lease_time IS NOT NULL"
            )

    async def let_timers_end(self) -> None:
        """Whatever sleeps is due now."""
        async with self._schema.connection() as connection:
            await connection.execute("UPDATE kit_pipelines SET wake_time = clock_timestamp()")

    @contextlib.asynccontextmanager
    async def crowded(self, count: int) -> AsyncIterator[None]:
        """Nobody writes until so many who are asked in this block wait for it: they go together."""
        async with self._schema.connection() as connection, connection.transaction():
            await connection.execute("LOCK TABLE kit_pipelines IN EXCLUSIVE MODE")
            yield

            async def all_wait() -> bool:
                waiting: int = await connection.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted"
                )
                return waiting >= count

            await until(all_wait)

    async def told(self) -> list[events.Act]:
        """What the audit will be told, in order."""
        async with self._schema.connection() as connection:
            rows = await connection.fetch("SELECT event FROM kit_outbox ORDER BY position")
        return [events.Event.FromString(row["event"]).act for row in rows]


def new_pipeline(
    name: str = NAME, version: int = 1, content: bytes = b"input", owner: str = ""
) -> NewPipeline:
    """A pipeline that nobody has begun."""
    return NewPipeline(ids.new_id("test"), name, version, content, TRACEPARENT, owner)


async def settle(connection: Connection, ended: Sequence[Ended]) -> Sequence[events.Event]:
    """Tells how each ended, and shows that it is within the transaction."""
    await connection.execute("SELECT 1")
    return [
        events.Event(
            subject=str(one.claim.id),
            partition_key=str(one.claim.id),
            act=events.Act(action="Ended", new_value=one.state.name),
        )
        for one in ended
    ]


def definition(*steps: Step, version: int = 1) -> Definition:
    """A definition of the sample pipeline."""
    return Definition(NAME, version, steps, settle)
