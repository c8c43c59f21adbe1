"""The chain of the audit: how entries are hashed, and what verification looks for."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final
from uuid import UUID

_HASH_DOMAIN: Final = b"icto-audit-entry-v1"
_CHECKPOINT_DOMAIN: Final = b"icto-audit-checkpoint-v1"
_RESTORATION_DOMAIN: Final = b"icto-audit-restoration-v1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an entry is searched by; copied from its event."""

    event_time: datetime
    source: str
    subject: str
    principal: str
    action: str
    operation: str
    status: int
    severity: int
    trace_id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as the audit keeps it."""

    id: UUID
    sequence: int
    event: bytes
    record_time: datetime
    previous_hash: bytes
    entry_hash: bytes
    facts: Facts

    @property
    def owner(self) -> str:
        """Principal of the user who acted."""
        return self.facts.principal

    @property
    def expected_hash(self) -> bytes:
        """The hash that follows from the content."""
        return entry_hash(self.sequence, self.previous_hash, self.record_time, self.event)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of the chain; sequence 0 and no hash for an empty one."""

    sequence: int = 0
    entry_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed head."""

    head: Head
    sign_time: datetime
    signature: bytes
    public_key: bytes

    @property
    def message(self) -> bytes:
        """What is signed."""
        return checkpoint_message(self.head, self.sign_time)


@dataclass(frozen=True, slots=True)
class Known:
    """The newest checkpoint that was known outside of the database before it was restored."""

    sequence: int
    sign_time: datetime


@dataclass(frozen=True, slots=True)
class Restoration:
    """A restore of the database from a backup: entries after the backup's head were lost.

    Attributes:
        head: the newest entry of the backup; the chain goes on after it.
        backup_time: when the backup was taken.
        restore_time: when it was restored.
        known: what is known of the lost entries; None when nothing is.
    """

    head: Head
    backup_time: datetime
    restore_time: datetime
    known: Known | None

    @property
    def message(self) -> bytes:
        """What is signed."""
        known = self.known or Known(0, _EPOCH)
        numbers = (
            self.head.sequence,
            _micros(self.backup_time),
            _micros(self.restore_time),
            known.sequence,
            _micros(known.sign_time),
        )
        return _digest((_RESTORATION_DOMAIN, self.head.entry_hash, *map(_number, numbers)))

    @property
    def description(self) -> str:
        """What was lost, in words."""
        last = self.head.sequence
        restored = (
            f"The database was restored at {_utc(self.restore_time)} from a backup of"
            f" {_utc(self.backup_time)}, which ends with entry {last}."
        )
        if self.known is None or self.known.sequence <= last:
            return f"{restored} Whether there were later entries is not known."
        return (
            f"{restored} Entries {last + 1} to {self.known.sequence}, signed at"
            f" {_utc(self.known.sign_time)}, were lost, and any after them."
        )


def crossed(restorations: Iterable[Restoration], first: int, last: int) -> list[Restoration]:
    """Those that lie within or right beside the entries `first` to `last`, oldest first."""
    return [found for found in restorations if first - 1 <= found.head.sequence <= last]


class FaultKind(IntEnum):
    """What can be wrong, numbered as icto.audit.v1.ChainFaultKind."""

    ALTERED = 1
    BROKEN_LINK = 2
    GAP = 3
    TRUNCATED = 4
    REWRITTEN = 5
    BAD_CHECKPOINT = 6


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong, and where."""

    sequence: int
    kind: FaultKind
    description: str


def entry_hash(sequence: int, previous_hash: bytes, record_time: datetime, event: bytes) -> bytes:
    """SHA-256 over the length-prefixed parts."""
    return _digest(
        (_HASH_DOMAIN, _number(sequence), previous_hash, _number(_micros(record_time)), event)
    )


def checkpoint_message(head: Head, sign_time: datetime) -> bytes:
    """What a checkpoint's signature covers."""
    return _digest(
        (_CHECKPOINT_DOMAIN, _number(head.sequence), head.entry_hash, _number(_micros(sign_time)))
    )


def chain(
    head: Head, events: Sequence[tuple[UUID, bytes, Facts]], record_time: datetime
) -> tuple[Head, list[Entry]]:
    """Continues the chain with events, in order; returns the new head and the entries."""
    entries: list[Entry] = []
    for identifier, event, facts in events:
        sequence = head.sequence + 1
        digest = entry_hash(sequence, head.entry_hash, record_time, event)
        entries.append(
            Entry(identifier, sequence, event, record_time, head.entry_hash, digest, facts)
        )
        head = Head(sequence, digest)
    return head, entries


class Verifier:
    """Walks a stretch of the chain and stops at the first fault."""

    def __init__(self, before: Head, checkpoints: Mapping[int, Checkpoint]) -> None:
        self.head = before
        self.verified = 0
        self.compared = 0
        self._checkpoints = checkpoints

    def walk(self, entries: Iterable[tuple[Entry, Facts]]) -> Fault | None:
        """Verifies entries in order. Each comes with the facts that its event really holds."""
        for entry, facts in entries:
            fault = next(self._faults(entry, facts), None)
            if fault is not None:
                return fault
            self.head = Head(entry.sequence, entry.entry_hash)
            self.verified += 1
        return None

    def _faults(self, entry: Entry, facts: Facts) -> Iterator[Fault]:
        expected = self.head.sequence + 1
        if entry.sequence != expected:
            yield Fault(expected, FaultKind.GAP, f"Entry {expected} is missing.")
        if entry.entry_hash != entry.expected_hash:
            yield Fault(
                entry.sequence, FaultKind.ALTERED, "The content does not have the hash it had."
            )
        if entry.facts != facts:
            yield Fault(
                entry.sequence, FaultKind.ALTERED, "The searchable copy differs from the event."
            )
        if entry.previous_hash != self.head.entry_hash:
            yield Fault(
                entry.sequence,
                FaultKind.BROKEN_LINK,
                f"It does not continue entry {self.head.sequence}.",
            )
        yield from self._compare(entry)

    def _compare(self, entry: Entry) -> Iterator[Fault]:
        checkpoint = self._checkpoints.get(entry.sequence)
        if checkpoint is None:
            return
        self.compared += 1
        if checkpoint.head.entry_hash != entry.entry_hash:
            yield Fault(
                entry.sequence,
                FaultKind.REWRITTEN,
                f"The checkpoint signed at {checkpoint.sign_time:%Y-%m-%d %H:%M:%S} UTC has another"
                " hash: entries up to here were rewritten.",
            )


def truncation(last: Head, newest: Checkpoint | None) -> Fault | None:
    """A fault if the chain ends before its newest checkpoint."""
    if newest is None or newest.head.sequence <= last.sequence:
        return None
    return Fault(
        last.sequence + 1,
        FaultKind.TRUNCATED,
        f"The chain ends at {last.sequence}, but a checkpoint covers it up to"
        f" {newest.head.sequence}.",
    )


def missing_tail(verifier: Verifier, wanted: int, head: Head) -> Fault | None:
    """A fault if a walk of so many entries ended before the head that the chain had before it."""
    last = verifier.head.sequence
    if verifier.verified >= wanted or last >= head.sequence:
        return None
    return Fault(
        last + 1,
        FaultKind.TRUNCATED,
        f"The chain ends at {last}, but was continued up to {head.sequence}.",
    )


def trace_id_of(traceparent: str) -> str:
    """The trace id in a W3C traceparent, or ""."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 else ""  # noqa: PLR2004  # version, trace, span, flags


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _micros(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _digest(parts: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()
