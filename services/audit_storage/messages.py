"""Between the audit's values and its messages."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from contract import ids
from contract.errors import invalid
from icto.audit.v1 import audit_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.audit_storage.domain import (
    Checkpoint,
    Entry,
    Facts,
    Fault,
    Restoration,
    trace_id_of,
)
from services.audit_storage.store import Filter
from services.kit.audit.outbox import ENVELOPE_VERSION


def check_versions(told: Iterable[events.Event]) -> None:
    """Passes when this reader knows the envelope of every event.

    Raises:
        Error: INVALID_ARGUMENT, one is of a later release.
    """
    for event in told:
        if event.version != ENVELOPE_VERSION:
            raise invalid(
                "events.version",
                f"is {event.version}; this reader knows {ENVELOPE_VERSION}",
                "UNKNOWN_ENVELOPE_VERSION",
            )


def parse_event(event: events.Event) -> tuple[UUID, bytes, Facts]:
    """An event as the chain takes it: id, bytes, facts."""
    return UUID(event.id), event.SerializeToString(deterministic=True), facts_of(event)


def facts_of(event: events.Event) -> Facts:
    """What an event is searched by."""
    return Facts(
        event_time=_moment(event.time),
        source=event.source,
        subject=event.subject,
        principal=event.act.principal,
        action=event.act.action,
        operation=event.act.operation,
        status=event.act.status,
        severity=event.act.severity,
        trace_id=trace_id_of(event.traceparent),
    )


def true_facts(entry: Entry) -> Facts:
    """What the event of an entry really says."""
    return facts_of(events.Event.FromString(entry.event))


def parse_filter(
    request: pb.ListEntriesRequest, principal: str | None, before: int | None
) -> Filter:
    """The filter of a list, already narrowed to what the caller may see."""
    return Filter(
        principal=principal,
        action=request.action or None,
        subject=request.subject or None,
        operation=request.operation or None,
        source=f"/icto/{request.service}" if request.service else None,
        status=request.status or None,
        minimum_severity=request.minimum_severity or None,
        start_time=_moment(request.start_time) if request.HasField("start_time") else None,
        end_time=_moment(request.end_time) if request.HasField("end_time") else None,
        trace_id=request.trace_id or None,
        before=before,
    )


def entry_message(entry: Entry) -> pb.Entry:
    """An entry as its message."""
    message = pb.Entry(
        name=ids.resource_name("auditEntries", entry.id),
        sequence=entry.sequence,
        event=events.Event.FromString(entry.event),
        previous_hash=entry.previous_hash,
        entry_hash=entry.entry_hash,
    )
    message.record_time.FromDatetime(entry.record_time)
    return message


def checkpoint_message(checkpoint: Checkpoint) -> pb.Checkpoint:
    """A checkpoint as its message."""
    message = pb.Checkpoint(
        sequence=checkpoint.head.sequence,
        entry_hash=checkpoint.head.entry_hash,
        signature=checkpoint.signature,
        public_key=checkpoint.public_key,
    )
    message.sign_time.FromDatetime(checkpoint.sign_time)
    return message


def fault_message(fault: Fault) -> pb.ChainFault:
    """A fault as its message."""
    return pb.ChainFault(
        sequence=fault.sequence,
        kind=int(fault.kind),  # type: ignore[arg-type]  # the same numbers
        description=fault.description,
    )


def restoration_message(restoration: Restoration) -> pb.Restoration:
    """A restoration as its message."""
    message = pb.Restoration(
        sequence=restoration.head.sequence, description=restoration.description
    )
    message.backup_time.FromDatetime(restoration.backup_time)
    message.restore_time.FromDatetime(restoration.restore_time)
    if restoration.known is not None:
        message.known_sequence = restoration.known.sequence
        message.known_time.FromDatetime(restoration.known.sign_time)
    return message


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
