"""The outbox: events committed with the act they tell of, then handed to the audit.

One replica of a service relays at a time, in the order of the outbox, so that events of one
partition key arrive in order. Delivery is at least once; the audit is idempotent by id. When the
audit is away, acts go on and the outbox waits. An event that the audit refuses for good moves to
the dead letters, so that it does not hold up the rest.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, use_span

from contract import ids
from contract.errors import Code, Error, RemoteError
from icto.events.v1 import events_pb2 as events
from observability import names
from observability.metrics import Metrics
from observability.tracing import current_traceparent, is_sampled, parent_context
from services.kit.storage.database import Database
from services.kit.storage.lease import Lease
from services.kit.storage.statement import Statement

log = logging.getLogger(__name__)

ENVELOPE_VERSION: Final = 1
ACT_TYPE: Final = "icto.act.v1"
_BATCH: Final = 200
# What comes within this time of one another is handed on together: a batch costs little more than
# one event does.
_ROUND_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 1.0
_LEASE_SECONDS: Final = 3.0
_REFUSED: Final = frozenset({Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS, Code.OUT_OF_RANGE})

_ADD: Final = "INSERT INTO kit_outbox (event) SELECT * FROM unnest($1::bytea[])"
_NEXT: Final = """
SELECT position, event, create_time FROM kit_outbox ORDER BY position LIMIT $1
"""
_DONE: Final = "DELETE FROM kit_outbox WHERE position = ANY ($1::bigint[])"
_STATE: Final = """
SELECT count(*) AS pending, coalesce(extract(epoch FROM kit_now() - min(create_time)), 0)::float8
    AS oldest FROM (SELECT create_time FROM kit_outbox ORDER BY position LIMIT 10000) AS queue
"""
_SENDING: Final = {
    names.MESSAGING_SYSTEM: "icto_outbox",
    names.MESSAGING_OPERATION_NAME: "publish",
    names.MESSAGING_OPERATION_TYPE: "send",
    names.MESSAGING_DESTINATION: "audit",
}


class Reader(Protocol):
    """Who is told of events."""

    async def append(self, batch: Sequence[events.Event]) -> None:
        """Takes a batch in, or raises an Error."""

    async def bury(self, raw: bytes, reason: str) -> None:
        """Keeps an event that `append` refuses, as its bytes, or raises an Error."""


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    event: events.Event
    raw: bytes


class Outbox:
    """The outbox of one service, as one replica sees it."""

    def __init__(
        self,
        database: Database,
        mesh_name: str,
        instance: str,
        tracer: trace.Tracer,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._source = f"/icto/{mesh_name}"
        self._instance = instance
        self._tracer = tracer
        self._metrics = metrics
        self._lease = Lease(database, "outbox", instance, _LEASE_SECONDS)

    def added(self, new: Sequence[events.Event]) -> Statement:
        """Writes events, with what the envelope needs filled in; the trace is the current one."""
        traceparent = current_traceparent()
        for event in new:
            self._fill(event, traceparent)
        return Statement(_ADD, ([event.SerializeToString() for event in new],))

    def _fill(self, event: events.Event, traceparent: str) -> None:
        event.id = str(ids.new_id(event.partition_key))
        event.source = self._source
        event.version = ENVELOPE_VERSION
        event.type = event.data.type_url.rpartition("/")[2] or ACT_TYPE
        event.traceparent = event.traceparent or traceparent
        if event.HasField("act"):
            event.act.instance = self._instance

    async def relay(self, reader: Reader) -> None:
        """Hands events on, for ever."""
        try:
            while True:
                await asyncio.sleep(await self._round(reader))
        finally:
            with contextlib.suppress(Error):
                await self._lease.release()

    async def _round(self, reader: Reader) -> float:
        """Hands on what is there; returns how long to wait for more."""
        try:
            while await self._lease.hold():
                batch = await self._next()
                if batch:
                    await self._publish(batch, reader)
                    self._metrics.outbox_published.inc(len(batch))
                if len(batch) < _BATCH:
                    return _ROUND_SECONDS
        except Error as error:
            log.info("outbox waits: %s", error)
        return _RETRY_SECONDS

    async def _next(self) -> Sequence[_Row]:
        rows = await self._database.fetch(_NEXT, _BATCH)
        return [_row(row["position"], row["event"], row["create_time"]) for row in rows]

    async def _publish(self, batch: Sequence[_Row], reader: Reader) -> None:
        try:
            with self._spans([row.event for row in batch]):
                await reader.append([row.event for row in batch])
                await self._database.execute(_DONE, [row.position for row in batch])
        except RemoteError as error:
            if error.code not in _REFUSED:
                raise
            await self._refused(batch, reader, error)

    async def _refused(self, batch: Sequence[_Row], reader: Reader, error: RemoteError) -> None:
        if len(batch) > 1:
            for row in batch:
                await self._publish([row], reader)
            return
        log.error("event %s is a dead letter: %s", batch[0].event.id, error)
        await reader.bury(batch[0].raw, str(error))
        await self._database.execute(_DONE, [batch[0].position])

    @contextlib.contextmanager
    def _spans(self, batch: Sequence[events.Event]) -> Iterator[None]:
        """A span in each event's own trace, and the call in the trace it belongs to.

        A batch of one trace continues that trace. A mixed batch gets a trace of its own, which
        links to the others.
        """
        traced = [event for event in batch if is_sampled(event.traceparent)]
        if not traced:
            yield
            return
        spans = [self._span(event) for event in traced]
        traces = {span.get_span_context().trace_id for span in spans}
        current = spans[0]
        if len(traces) > 1 or len(traced) < len(batch):
            links = [Link(span.get_span_context()) for span in spans]
            current = self._tracer.start_span(
                names.OUTBOX_PUBLISH,
                links=links,
                kind=SpanKind.PRODUCER,
                attributes=_SENDING | {names.MESSAGING_BATCH_COUNT: len(batch)},
            )
            spans.append(current)
        try:
            with use_span(current):
                yield
        finally:
            for span in spans:
                span.end()

    def _span(self, event: events.Event) -> trace.Span:
        return self._tracer.start_span(
            names.OUTBOX_PUBLISH,
            context=parent_context(event.traceparent),
            kind=SpanKind.PRODUCER,
            attributes=_SENDING | {names.MESSAGING_MESSAGE_ID: event.id},
        )

    async def measure(self) -> None:
        """Updates the metrics of the queue."""
        row = await self._database.fetchrow(_STATE)
        if row is not None:
            self._metrics.outbox_pending.set(row["pending"])
            self._metrics.outbox_oldest.set(row["oldest"])


def _row(position: int, written: bytes, committed: datetime) -> _Row:
    """One row. What nobody can read is told as an empty event, which is refused."""
    event = events.Event()
    try:
        event.MergeFromString(written)
    except DecodeError:
        event = events.Event()
        event.time.FromDatetime(committed)
        return _Row(position, event, written)
    event.time.FromDatetime(committed)
    return _Row(position, event, event.SerializeToString())
