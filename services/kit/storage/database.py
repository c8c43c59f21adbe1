"""Postgres for one replica: a pool, transactions, and a span for each statement.

Every failure of the database itself leaves here as an `Error`: UNAVAILABLE when it cannot be
reached or cannot work, ABORTED when two transactions got in each other's way. So does what the
driver says when a server dies in the middle of an answer. Constraint violations pass through, since
only a store knows what they mean.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from contract.errors import Code, Error
from observability import names
from observability.metrics import Metrics
from services.kit.storage.statement import Statement, compose

log = logging.getLogger(__name__)
T = TypeVar("T")

# A lock is held for milliseconds; whoever waits this long waits for a frozen replica, whose
# transaction the server ends a little sooner.
_SERVER_SETTINGS: Final = {
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "3s",
    "statement_timeout": "30s",
    "jit": "off",
}
REQUIREMENT: Final = "KT001"
"""SQLSTATE of a condition of `kit_require` that did not hold."""

_ACQUIRE_SECONDS: Final = 3.0
# A connection costs Postgres about 2 MB; what a burst opened goes soon after it.
_IDLE_SECONDS: Final = 20.0
_COMMAND_SECONDS: Final = 30.0
_COMMIT_SECONDS: Final = 5.0
# Longer than any statement waits for a lock: whoever is silent for so long is not just busy.
_SILENCE_SECONDS: Final = 5.0

_NAMESPACE: Final = "SELECT concat_ws('|', current_database(), current_schema())"

_UNREACHABLE: Final = (
    OSError,
    EOFError,
    asyncpg.InterfaceError,
    # The driver lost the thread of what the server says: it was killed in the middle of a message.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)
# No room on the disk, no memory, no connection left, a standby that only reads, broken files, a
# role or database that somebody changes just now.
_UNABLE: Final = (
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalServerError,
    asyncpg.ConfigFileError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_CONTENTION: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCachedStatementError,  # the schema changed since it was prepared
)


class Connection:
    """SQL on one connection, usually inside a transaction."""

    def __init__(self, raw: Any, tracer: trace.Tracer, place: Mapping[str, str]) -> None:
        self.raw = raw
        self.tracer = tracer
        self.place = place

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows."""
        return await self._run(query, self.raw.fetch(query, *args))

    async def fetchrow(self, query: str, *args: Any) -> Any | None:
        """The first row, or None."""
        return await self._run(query, self.raw.fetchrow(query, *args))

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._run(query, self.raw.fetchval(query, *args))

    async def execute(self, query: str, *args: Any) -> str:
        """Runs a statement and returns its command tag, for instance "UPDATE 1"."""
        return await self._run(query, self.raw.execute(query, *args))

    async def apply(self, *parts: Statement) -> str:
        """Runs statements together, in one round trip; returns the last one's command tag."""
        whole = compose(parts)
        return await self.execute(whole.sql, *whole.args)

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        """Loads many rows at once."""
        copying = self.raw.copy_records_to_table(table, records=rows, columns=columns)
        return await self._run(f"COPY {table}", copying)

    async def _run(self, query: str, running: Awaitable[T]) -> T:
        if not trace.get_current_span().is_recording():
            return await translated(running)
        summary = summarize(query)
        span = self.tracer.start_span(
            summary,
            kind=SpanKind.CLIENT,
            attributes={
                **self.place,
                names.DB_QUERY_SUMMARY: summary,
                names.DB_QUERY_TEXT: query,
            },
        )
        try:
            return await translated(running)
        except BaseException as error:
            _mark(span, error)
            raise
        finally:
            span.end()


class Database:
    """The pool of one replica."""

    def __init__(
        self,
        pool: "asyncpg.Pool[Any]",
        tracer: trace.Tracer,
        metrics: Metrics,
        place: Mapping[str, str],
    ) -> None:
        self._pool = pool
        self._tracer = tracer
        self._metrics = metrics
        self._place = place
        self._answered = time.monotonic()
        metrics.pool_connections.labels("idle").set_function(pool.get_idle_size)
        metrics.pool_connections.labels("open").set_function(pool.get_size)

    @classmethod
    async def open(
        cls, dsn: str, *, instance: str, size: int, tracer: trace.Tracer, metrics: Metrics
    ) -> "Database":
        """Connects.

        Raises:
            Error: UNAVAILABLE, the database cannot be reached.
        """
        pool = await translated(
            asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                max_inactive_connection_lifetime=_IDLE_SECONDS,
                command_timeout=_COMMAND_SECONDS,
                server_settings={"application_name": instance, **_SERVER_SETTINGS},
                init=_prepare,
                connection_class=_PlainConnection,
            )
        )
        namespace = await translated(pool.fetchval(_NAMESPACE))
        return cls(pool, tracer, metrics, _place(dsn, namespace))

    async def close(self) -> None:
        """Closes every connection, without waiting for queries."""
        self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection without a transaction: each statement commits by itself."""
        started = time.monotonic()
        raw = await translated(self._acquire())
        self._metrics.pool_wait.observe(time.monotonic() - started)
        try:
            yield Connection(raw, self._tracer, self._place)
            self._answered = time.monotonic()
        finally:
            await translated(self._pool.release(raw, timeout=_ACQUIRE_SECONDS))

    async def _acquire(self) -> Any:
        try:
            # Not by the pool's own timeout, which takes a task for each connection.
            async with asyncio.timeout(_ACQUIRE_SECONDS):
                return await self._pool.acquire()
        except TimeoutError:
            if self._pool.get_size() < self._pool.get_max_size():
                raise  # it waited for a new connection, not for its turn
            raise Error(
                Code.UNAVAILABLE,
                "OVERLOADED",
                "All database connections are busy; try again.",
                retriable=True,
            ) from None

    async def answers(self, seconds: float) -> bool:
        """Whether the database does its work; waits so many seconds for a sign of it.

        A pool that is full is load, and load has its own way of being told. But then the database
        has answered somebody a short while ago.
        """
        try:
            async with asyncio.timeout(seconds):
                return bool(await self.fetchval("SELECT true"))
        except TimeoutError:
            pass
        except Error as error:
            if error.reason == "DATABASE_UNAVAILABLE":
                return False
        return time.monotonic() - self._answered < _SILENCE_SECONDS

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        async with self.connection() as connection:
            await connection.execute("BEGIN")
            try:
                yield connection
            except BaseException:
                await _finish(connection, "ROLLBACK")
                raise
            await _finish(connection, "COMMIT")

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of one statement by itself."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any | None:
        """The first row of one statement by itself, or None."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first value of one statement by itself, or None."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """One statement by itself."""
        async with self.connection() as connection:
            return await connection.execute(query, *args)

    async def apply(self, *parts: Statement) -> str:
        """Statements together, as one transaction."""
        async with self.connection() as connection:
            return await connection.apply(*parts)


class _PlainConnection(asyncpg.Connection):
    """A connection that goes back to the pool as it is.

    asyncpg would send four statements to reset what we never set: session state, cursors,
    listeners. An open transaction it still rolls back.
    """

    __slots__ = ()

    def get_reset_query(self) -> str:
        """Nothing to reset."""
        return ""


async def _prepare(connection: "asyncpg.Connection[Any]") -> None:
    """Amounts are integers: numeric(39,0) travels as int, not Decimal."""
    await connection.set_type_codec(
        "numeric", schema="pg_catalog", encoder=str, decoder=int, format="text"
    )


async def _finish(connection: Connection, command: str) -> None:
    """Ends a transaction, even when the caller is cancelled meanwhile."""
    ending = asyncio.ensure_future(connection.execute(command))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait([ending], timeout=_COMMIT_SECONDS)
        raise
    except (Error, asyncpg.PostgresError):
        if command != "ROLLBACK":
            raise
        log.debug("rollback on a lost connection")


async def translated(running: Awaitable[T]) -> T:
    """What the driver returns, with its failures as the one error type.

    Raises:
        Error: the database failed.
        asyncpg.PostgresError: a constraint was violated, or the statement is wrong.
    """
    try:
        return await running
    except _CONTENTION as error:
        raise Error(
            Code.ABORTED, "CONFLICT", "Another change got in the way; try again."
        ) from error
    except asyncpg.QueryCanceledError as error:
        raise Error(
            Code.DEADLINE_EXCEEDED, "DATABASE_TIMEOUT", "The database took too long."
        ) from error
    except _UNREACHABLE as error:
        raise Error(
            Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", "The database cannot be reached; try again."
        ) from error
    except _UNABLE as error:
        raise Error(
            Code.UNAVAILABLE, "DATABASE_UNABLE", "The database cannot work just now; try again."
        ) from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == REQUIREMENT:
            raise _requirement(str(error)) from error
        raise


def _place(dsn: str, namespace: str) -> Mapping[str, str]:
    """What the spans of all statements say of where they run."""
    parts = urlsplit(dsn)
    address = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return {
        names.DB_SYSTEM: names.POSTGRESQL,
        names.DB_NAMESPACE: namespace,
        names.SERVER_ADDRESS: address,
    }


def _mark(span: trace.Span, error: BaseException) -> None:
    """Says on a span how its statement failed, by SQLSTATE where the database told one."""
    cause = error.__cause__ if isinstance(error, Error) else error
    kind = type(cause or error).__name__
    if isinstance(cause, asyncpg.PostgresError):
        kind = str(cause.sqlstate)
        span.set_attribute(names.DB_RESPONSE_STATUS, kind)
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR)


def requirement(code: Code, reason: str, message: str) -> str:
    """What `kit_require` is given, for a condition whose failure is this error."""
    return f"{code.name} {reason} {message}"


def refusal(error: Error) -> str:
    """What `kit_require` is given, for a condition whose failure is an error without metadata."""
    return requirement(error.code, error.reason, error.message)


def _requirement(text: str) -> Error:
    code, reason, message = text.split(" ", 2)
    return Error(Code[code], reason, message)


# `extract(epoch FROM …)` names no table.
_TARGET: Final = re.compile(
    r"(?<!epoch )\b(?:FROM|INTO|UPDATE|JOIN|COPY)\s+(?:ONLY\s+)?([a-z_][a-z0-9_.]*)"
)
_INNERMOST: Final = re.compile(r"\([^()]*\)")


@lru_cache(maxsize=512)
def summarize(query: str) -> str:
    """Low-cardinality summary of a statement: its verb and the first table, `SELECT tokens`.

    What is read beside it, in parentheses, counts only where there is nothing else.
    """
    verb = query.split(None, 1)[0].upper()
    target = (verb == "SELECT" and _TARGET.search(_outermost(query))) or _TARGET.search(query)
    return f"{verb} {target.group(1)}" if target else verb


def _outermost(query: str) -> str:
    """A statement without what stands in parentheses."""
    shorter = _INNERMOST.sub("", query)
    return query if shorter == query else _outermost(shorter)
