"""What is told of a database that is busy, hangs, or cannot work; and what its spans say."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from contract.errors import Code, Error
from observability import names
from observability.metrics import Metrics
from services.kit.storage import database as kit
from services.kit.storage.database import Database
from tests.support import semconv
from tests.support.postgres import Schema


@pytest.fixture
async def narrow(schema: Schema) -> AsyncIterator[Database]:
    """A pool of one connection."""
    async with schema.replica(size=1) as replica:
        yield replica.database


async def failure(database: Database, query: str = "SELECT 1") -> Error:
    with pytest.raises(Error) as caught:
        await database.execute(query)
    return caught.value


async def test_a_full_pool_is_told_as_load_that_another_replica_may_take(
    narrow: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "_ACQUIRE_SECONDS", 0.1)
    async with narrow.connection():
        error = await failure(narrow)
    assert (error.code, error.reason, error.retriable) == (Code.UNAVAILABLE, "OVERLOADED", True)
    assert await narrow.fetchval("SELECT 1") == 1


async def test_a_full_pool_is_ready_as_long_as_the_database_answers_somebody(
    narrow: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await narrow.answers(1)
    async with narrow.connection():
        assert await narrow.answers(0.1)
        monkeypatch.setattr(kit, "_SILENCE_SECONDS", 0.0)
        assert not await narrow.answers(0.1)
    assert await narrow.answers(1)


@pytest.mark.parametrize(
    ("sqlstate", "code", "reason"),
    [
        ("53100", Code.UNAVAILABLE, "DATABASE_UNABLE"),  # disk full
        ("53200", Code.UNAVAILABLE, "DATABASE_UNABLE"),  # out of memory
        ("53300", Code.UNAVAILABLE, "DATABASE_UNABLE"),  # too many connections
        ("25006", Code.UNAVAILABLE, "DATABASE_UNABLE"),  # read-only
        ("58030", Code.UNAVAILABLE, "DATABASE_UNABLE"),  # I/O error
        ("57P01", Code.UNAVAILABLE, "DATABASE_UNAVAILABLE"),  # shut down
        ("57P04", Code.UNAVAILABLE, "DATABASE_UNAVAILABLE"),  # dropped
        ("08006", Code.UNAVAILABLE, "DATABASE_UNAVAILABLE"),  # connection failure
        ("57014", Code.DEADLINE_EXCEEDED, "DATABASE_TIMEOUT"),
        ("40001", Code.ABORTED, "CONFLICT"),
    ],
)
async def test_whatever_ails_the_database_is_an_error_that_work_survives(
    narrow: Database, sqlstate: str, code: Code, reason: str
) -> None:
    """Loops of a replica wait for an Error to pass; anything else would end them."""
    fail = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$"
    error = await failure(narrow, fail)
    assert (error.code, error.reason) == (code, reason)


async def test_a_database_that_only_reads_is_told_as_one_that_cannot_work(narrow: Database) -> None:
    async with narrow.transaction() as connection:
        await connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(Error, match="DATABASE_UNABLE"):
            await connection.execute("DELETE FROM kit_outbox")


def spans_of(exporter: InMemorySpanExporter) -> list[tuple[ReadableSpan, dict[str, Any]]]:
    return [
        (span, dict(span.attributes or {}))
        for span in exporter.get_finished_spans()
        if span.kind is SpanKind.CLIENT
    ]


async def test_a_statement_s_span_says_where_it_ran_and_how_it_failed(schema: Schema) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    database = await Database.open(
        schema.dsn, instance="lab-1", size=1, tracer=tracer, metrics=Metrics()
    )
    try:
        with tracer.start_as_current_span("work"):
            await database.execute("SELECT 1")
            await failure(database, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$")
    finally:
        await database.close()
    (_, done), (_, failed) = spans_of(exporter)
    assert done.keys() >= semconv.STATEMENT
    assert done[names.DB_NAMESPACE] == f"icto|{schema.name}"
    assert names.ERROR_TYPE not in done
    assert failed.keys() >= semconv.STATEMENT | semconv.STATEMENT_FAILED
    assert (failed[names.DB_RESPONSE_STATUS], failed[names.ERROR_TYPE]) == ("53100", "53100")
