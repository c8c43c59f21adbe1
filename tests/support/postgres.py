"""A real Postgres without a mesh: one server for all tests, a fresh schema for each."""

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from opentelemetry import trace

from contract.environment import Environment
from mesh.postgres import EmbeddedPostgres
from mesh.rundir import RunDirectory
from observability.metrics import Metrics
from schema_setup import migrations
from services.kit.audit.outbox import Outbox
from services.kit.storage.database import Database

MAX_CONNECTIONS: Final = 60
LAB: Final = "services.lab"
"""A package whose schema has the kit's tables and one small one of its own."""
JOURNAL: Final = "services.kit.journal"


class Postgres:
    """A running server."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def connection(self, dsn: str = "") -> AsyncIterator["asyncpg.Connection[Any]"]:
        """A connection of its superuser."""
        connection = await asyncpg.connect(dsn or self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def schema(self, package: str = LAB) -> "Schema":
        """A fresh schema with the tables of a package."""
        schema = await self.empty_schema()
        async with schema.connection() as connection:
            await migrations.migrate(connection, package, Environment.TEST)
        return schema

    async def empty_schema(self) -> "Schema":
        """A fresh schema without tables."""
        name = f"test_{next(self._numbers)}"
        async with self.connection() as connection:
            await connection.execute(f"CREATE SCHEMA {name}")
        return Schema(self, name, f"{self.dsn}&search_path={name}")


class Schema:
    """One schema, and replicas that work in it."""

    def __init__(self, postgres: Postgres, name: str, dsn: str) -> None:
        self.name = name
        self.dsn = dsn
        self._postgres = postgres

    def connection(self) -> contextlib.AbstractAsyncContextManager["asyncpg.Connection[Any]"]:
        """A connection that works in the schema, with a superuser's rights."""
        return self._postgres.connection(self.dsn)

    @contextlib.asynccontextmanager
    async def replica(self, name: str = "lab-1", size: int = 8) -> AsyncIterator["Replica"]:
        """What a replica has of the kit."""
        metrics, tracer = Metrics(), trace.get_tracer("test")
        database = await Database.open(
            self.dsn, instance=name, size=size, tracer=tracer, metrics=metrics
        )
        try:
            outbox = Outbox(database, "lab", name, tracer, metrics)
            yield Replica(name, database, outbox, metrics)
        finally:
            await database.close()

    async def shift_clock(self, shift: timedelta) -> None:
        """Moves the schema's time."""
        async with self.connection() as connection:
            await connection.execute("UPDATE kit_clock SET shift = $1", shift)


class Replica:
    """The database side of one replica."""

    def __init__(self, name: str, database: Database, outbox: Outbox, metrics: Metrics) -> None:
        self.name = name
        self.database = database
        self.outbox = outbox
        self.metrics = metrics


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Postgres]:
    """The embedded server in a run directory of its own, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        run = RunDirectory(Path(base) / "run")
        try:
            async with served(run) as server:
                yield Postgres(server.server.dsn)
        finally:
            run.remove()


@contextlib.asynccontextmanager
async def served(run: RunDirectory) -> AsyncIterator[EmbeddedPostgres]:
    """The server of a run directory, kept running as the supervisor does; its data stays."""
    run.create()
    server = EmbeddedPostgres(run, MAX_CONNECTIONS, lambda _, __: None)
    async with server.running():
        yield server
