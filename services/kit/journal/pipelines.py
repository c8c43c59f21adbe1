"""The pipelines of one service: its journal, its engine, and what changes, in one part."""

import asyncio
import contextlib
from typing import Final
from uuid import UUID

from contract.errors import Error
from observability.tracing import current_traceparent
from services.kit.journal.engine import Engine
from services.kit.journal.model import Claim, Definition, Family, NewPipeline
from services.kit.journal.postgres import PostgresJournal
from services.kit.kit import Kit
from services.kit.storage.statement import Statement

_COUNT_SECONDS: Final = 2.0


class Pipelines:
    """Begins pipelines and runs them. A service has one, with every definition in it."""

    def __init__(self, kit: Kit, journal: PostgresJournal | None = None) -> None:
        self._worker = kit.settings.instance
        self._parked = kit.telemetry.metrics.pipelines_parked
        self._names: set[str] = set()
        self.journal = journal or PostgresJournal(kit.database, kit.outbox)
        self.engine = Engine(
            self.journal,
            worker=self._worker,
            tracer=kit.telemetry.tracing.tracer,
            faults=kit.faults,
            stopped=lambda: not kit.platform.running,
        )

    def define(self, definition: Definition | Family) -> None:
        """Makes a definition known; to be called before `run`."""
        self.engine.define(definition)
        self._names.add(definition.name)

    def begin(
        self, definition: Definition, pipeline_id: UUID, argument: bytes = b""
    ) -> tuple[Claim, Statement]:
        """What a transaction writes to begin a pipeline, and the claim to adopt after it."""
        new = NewPipeline(
            pipeline_id, definition.name, definition.version, argument, current_traceparent()
        )
        return self.journal.begin(new, self._worker)

    def enqueue(self, family: Family, pipeline_id: UUID, argument: bytes, owner: str) -> Statement:
        """What a transaction writes to have a pipeline wait for its turn; `admit` follows."""
        new = NewPipeline(
            pipeline_id, family.name, family.version, argument, current_traceparent(), owner
        )
        return self.journal.enqueue(new)

    def admit(self) -> None:
        """Lets the queue move, once a transaction that enqueued has committed."""
        self.engine.admit()

    def adopt(self, claim: Claim) -> None:
        """Goes on with a pipeline that was begun here, once its transaction has committed."""
        self.engine.adopt(claim)

    async def run(self) -> None:
        """Works, as long as the replica lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.journal.run())
            tasks.create_task(self.engine.run())
            tasks.create_task(self._keep_counting())

    async def _keep_counting(self) -> None:
        """Shows how many wait for a person: nobody else would know of a parked one."""
        while True:
            with contextlib.suppress(Error):
                counts = await self.journal.parked_counts()
                for name in self._names:
                    self._parked.labels(name).set(counts.get(name, 0))
            await asyncio.sleep(_COUNT_SECONDS)
