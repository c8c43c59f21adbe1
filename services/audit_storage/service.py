"""Handlers of the audit: translate, call, answer."""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, invalid
from icto.audit.v1 import audit_pb2 as pb
from icto.audit.v1.audit_handlers import AuditServiceHandlers, audit_service
from icto.audit.v1.dead_letters_handlers import dead_letter_service
from services.audit_storage import domain, store
from services.audit_storage.checkpoints import CheckpointFile, Signer, reconcile
from services.audit_storage.dead_letters import DeadLetterService
from services.audit_storage.domain import Checkpoint, Entry, Fault, Verifier
from services.audit_storage.messages import (
    check_versions,
    checkpoint_message,
    entry_message,
    fault_message,
    parse_event,
    parse_filter,
    restoration_message,
    true_facts,
)
from services.audit_storage.restore_note import RestoreNote
from services.kit import settings
from services.kit.answering import paging
from services.kit.serving import Call, Kit, Serving
from services.kit.storage import idempotency
from services.kit.storage.group_commit import GroupCommit
from services.kit.storage.idempotency import Key
from services.kit.storage.lease import Lease

__all__ = ["AuditService", "DeadLetterService"]

log = logging.getLogger(__name__)

_CHAIN: Final = "chain"
_MAX_EVENTS: Final = 8  # calls a batch; each brings up to 500 events
_VERIFY_DEFAULT: Final = 10_000
_VERIFY_LIMIT: Final = 50_000
_VERIFY_STEP: Final = 1_000
_LEASE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class AuditSettings:
    """How often the chain's head is signed."""

    audit_checkpoint_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _Batch:
    key: Key
    request: pb.AppendEventsRequest


def compose(kit: Kit) -> Serving:
    """The service of its parts."""
    audit = AuditService(kit)
    dead_letters = dead_letter_service(DeadLetterService(kit))
    return Serving({**audit_service(audit), **dead_letters}, [audit.run])


class AuditService(AuditServiceHandlers[Call]):
    """icto.audit.v1.AuditService."""

    def __init__(self, kit: Kit) -> None:
        chosen = settings.load(AuditSettings, os.environ)
        self._database = kit.database
        state = kit.settings.state_directory
        self._signer = Signer.from_file(state / "checkpoint.key")
        self._file = CheckpointFile(state / "checkpoints.jsonl", self._signer)
        self._restored = RestoreNote(state)
        self._checkpoint_seconds = chosen.audit_checkpoint_seconds
        self._lease = Lease(kit.database, "checkpoints", kit.settings.instance, _LEASE_SECONDS)
        self._appends: GroupCommit[str, _Batch, pb.AppendEventsResponse] = GroupCommit(
            self._commit, batch=_MAX_EVENTS, parallel=1
        )

    async def run(self) -> None:
        """Owns the batches and signs checkpoints, as long as the replica lives."""
        await self._restored.mark(self._file, self._signer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._appends.run())
            tasks.create_task(self._keep_signing())

    @override
    async def AppendEvents(
        self, request: pb.AppendEventsRequest, call: Call
    ) -> pb.AppendEventsResponse:
        """Appends events; those of several calls are committed together."""
        check_versions(request.events)
        return await self._appends.submit(_CHAIN, _Batch(call.idempotency_key, request))

    async def _commit(
        self, _: str, batches: Sequence[_Batch]
    ) -> Sequence[pb.AppendEventsResponse | Exception]:
        """Appends what is new of the batches; a result for each.

        As a rule all of it is, so that it is written as if it were. When the database knows better,
        what is known is looked up and the rest is written again.
        """
        try:
            return await self._append(batches, known=False)
        except asyncpg.UniqueViolationError:
            return await self._append(batches, known=True)

    async def _append(
        self, batches: Sequence[_Batch], *, known: bool
    ) -> Sequence[pb.AppendEventsResponse | Exception]:
        """Continues the chain. `known` looks first for what is there already."""
        told: dict[Key, pb.AppendEventsResponse | Exception] = {}
        kept: set[UUID] = set()
        async with self._database.transaction() as connection:
            head, now = await store.lock_head(connection)
            if known:
                keys = [batch.key for batch in batches]
                told |= await idempotency.find_answers(connection, keys)
                kept |= await store.known(connection, _event_ids(batches))
            answers: list[tuple[Key, bytes]] = []
            entries: list[Entry] = []
            for batch in batches:
                if batch.key in told:
                    continue
                if any(batch.key.scope == key.scope for key, _ in answers):
                    told[batch.key] = idempotency.still_at_work()
                    continue
                head, added = _chained(head, batch.request, kept, now)
                entries += added
                kept.update(entry.id for entry in added)
                response = pb.AppendEventsResponse(appended_count=len(added))
                answers.append((batch.key, response.SerializeToString()))
                told[batch.key] = response
            if answers:
                await store.append(connection, head, entries, idempotency.recorded(answers))
        return [told[batch.key] for batch in batches]

    @override
    async def ListEntries(
        self, request: pb.ListEntriesRequest, call: Call
    ) -> pb.ListEntriesResponse:
        """Entries, newest first: the caller's own, or all for those who may view them."""
        principal = request.principal or None
        if not call.holds("VIEW_AUDIT_LOGS"):
            if principal not in (None, call.principal):
                raise Error(
                    Code.PERMISSION_DENIED, "ACCESS_DENIED", "You may list your own entries only."
                )
            principal = call.principal
        asked = paging.by_number(request)
        wanted = parse_filter(request, principal, asked.after)
        rows = await store.list_entries(self._database, wanted, asked.limit)
        page, token = asked.page(rows, map(entry_message, rows), lambda entry: entry.sequence)
        return pb.ListEntriesResponse(entries=page, next_page_token=token)

    @override
    async def GetEntry(self, request: pb.GetEntryRequest, call: Call) -> pb.Entry:
        """One entry."""
        entry_id = ids.parse_name("auditEntries", request.name)
        entry = await store.get(self._database, entry_id)
        return entry_message(call.owned(entry, "entry", request.name))

    @override
    async def VerifyChain(
        self, request: pb.VerifyChainRequest, call: Call
    ) -> pb.VerifyChainResponse:
        """Recomputes a stretch of the chain and compares it with the checkpoints."""
        del call
        start = request.from_sequence or 1
        wanted = min(request.max_entries or _VERIFY_DEFAULT, _VERIFY_LIMIT)
        end = await store.head(self._database)  # what comes after this is no part of the walk
        trusted, fault = await self._checkpoints(start, wanted)
        newest = trusted[max(trusted)] if trusted else None
        _check_start(start, end, newest)
        before = await store.head_at(self._database, start - 1)
        verifier = Verifier(before or domain.Head(start - 1), trusted)
        if before is None:
            fault = fault or Fault(
                start - 1, domain.FaultKind.GAP, f"Entry {start - 1} is missing."
            )
        fault = await self._walk(verifier, wanted) or fault
        fault = fault or domain.truncation(await store.last(self._database), newest)
        fault = fault or domain.missing_tail(verifier, wanted, end)
        more = fault is None and verifier.head.sequence < end.sequence
        gaps = domain.crossed(await self._file.restorations(), start, verifier.head.sequence)
        return pb.VerifyChainResponse(
            intact=fault is None,
            fault=fault_message(fault) if fault else None,
            verified_count=verifier.verified,
            checkpoint_count=verifier.compared,
            next_sequence=verifier.head.sequence + 1 if more else 0,
            restorations=map(restoration_message, gaps),
        )

    async def _checkpoints(
        self, start: int, count: int
    ) -> tuple[Mapping[int, Checkpoint], Fault | None]:
        """The checkpoints of a stretch to trust, the newest among them, and what is wrong."""
        last = min(start + count - 1, paging.MAX_POSITION)
        outside = await self._file.stretch(start, last)
        newest = outside[-1].head.sequence if outside else 0
        inside = await store.checkpoints_of(self._database, start, last, newest)
        return await asyncio.to_thread(reconcile, self._signer, inside, outside)

    async def _walk(self, verifier: Verifier, wanted: int) -> Fault | None:
        """Verifies up to `wanted` entries, a thousand at a time."""
        while verifier.verified < wanted:
            step = min(_VERIFY_STEP, wanted - verifier.verified)
            entries = await store.stretch(self._database, verifier.head.sequence + 1, step)
            pairs = ((entry, true_facts(entry)) for entry in entries)
            fault = await asyncio.to_thread(verifier.walk, pairs)
            if fault is not None or len(entries) < step:
                return fault
        return None

    @override
    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, call: Call
    ) -> pb.ListCheckpointsResponse:
        """Checkpoints, newest first."""
        del call
        asked = paging.by_number(request)
        rows = await store.list_checkpoints(self._database, asked.after, asked.limit)
        page, token = asked.page(rows, map(checkpoint_message, rows), lambda row: row.head.sequence)
        return pb.ListCheckpointsResponse(checkpoints=page, next_page_token=token)

    async def _keep_signing(self) -> None:
        """Signs the head when it moved; one replica at a time."""
        signed: domain.Head | None = None
        while True:
            try:
                await store.ensure_partitions(self._database)
                if await self._lease.hold():
                    signed = await self._sign(signed or await self._newest_signed())
                else:
                    signed = None
            except (Error, OSError) as error:
                log.warning("checkpoint waits: %s", error)
            await asyncio.sleep(self._checkpoint_seconds)

    async def _newest_signed(self) -> domain.Head:
        """The head of the newest checkpoint that the database's owner cannot have written."""
        newest = await self._file.newest(self._signer.verifies)
        return newest.head if newest else domain.Head()

    async def _sign(self, signed: domain.Head) -> domain.Head:
        """Signs the head if the chain went on from what was signed: never a rewritten one."""
        head = await store.last(self._database)
        if head.sequence <= signed.sequence:
            return signed
        if await store.head_at(self._database, signed.sequence) != signed:
            log.error("not signed: entry %s is not the one that was signed", signed.sequence)
            return signed
        checkpoint = self._signer.sign(head, datetime.now(UTC))
        # The file comes last: what is there, the database had. A signer that ends in between goes
        # on from the file's newest one, and what the database alone has is signed again.
        await store.add_checkpoint(self._database, checkpoint)
        await self._file.add(checkpoint)
        return head


def _event_ids(batches: Sequence[_Batch]) -> list[UUID]:
    return [UUID(event.id) for batch in batches for event in batch.request.events]


def _chained(
    head: domain.Head, request: pb.AppendEventsRequest, kept: Collection[UUID], now: datetime
) -> tuple[domain.Head, list[Entry]]:
    """The chain with the events that are not kept yet."""
    events = {parsed[0]: parsed for parsed in map(parse_event, request.events)}
    new = [event for event in events.values() if event[0] not in kept]
    return domain.chain(head, new, now)


def _check_start(start: int, end: domain.Head, newest: Checkpoint | None) -> None:
    """Passes when there are entries to start from, or should be.

    Raises:
        Error: INVALID_ARGUMENT, no chain ever reached so far.
    """
    known = max(end.sequence, newest.head.sequence if newest else 0)
    if start > known + 1:
        raise invalid("from_sequence", f"must be {known + 1} at most: the chain ends before that")
