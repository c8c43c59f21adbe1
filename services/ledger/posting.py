"""Posts operations: the batch of one ledger as one change, each with its answer and event."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from contract.errors import Error, not_found
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2 as pb
from services.kit.audit.audit_events import event
from services.kit.audit.outbox import Outbox
from services.kit.storage import Connection, Database, Statement, idempotency
from services.kit.storage.idempotency import Key
from services.ledger import domain, store
from services.ledger.domain import Book, Request
from services.ledger.messages import ledger_name
from services.ledger.store import SeenLedger

Response = pb.TransferResponse | pb.TransferFromResponse | pb.ApproveResponse | pb.PayOutResponse

# What is read without a lock where others post, too, is mostly read in vain.
_SHARED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Posting:
    """One operation to post, with what its record and its event need."""

    request: Request
    response: type[Response]
    key: Key
    act: events.Act
    traceparent: str


Outcome = Response | Exception


class Poster:
    """Commits batches of postings."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._shared: dict[UUID, float] = {}

    async def commit(self, ledger_id: UUID, batch: Sequence[Posting]) -> Sequence[Outcome]:
        """Applies a batch in order; an outcome for each posting. Refused ones leave nothing.

        One that the database does not take fails alone: the others are applied one by one.
        """
        try:
            return await self._commit(ledger_id, batch)
        except Error:
            # The database is away or busy, for whoever asks: that is not one posting's doing.
            raise
        except Exception as error:  # noqa: BLE001  # told to whoever waits
            if len(batch) == 1:
                return [error]
            return [(await self.commit(ledger_id, [one]))[0] for one in batch]

    async def _commit(self, ledger_id: UUID, batch: Sequence[Posting]) -> Sequence[Outcome]:
        """Applies a batch as one change of the ledger.

        As a rule nobody else posts at the same moment and nothing is a repeat. So what is read
        without a lock is written if the ledger is still as it was read, and the database refuses
        answers that are known. Else it is done over with the ledger locked, repeats first.
        """
        fresh = _first_of_each_scope(batch)
        outcomes = await self._posted_without_lock(ledger_id, fresh)
        if outcomes is None:
            outcomes = await self._posted_with_lock(ledger_id, fresh)
        return [outcomes.get(p.key) or idempotency.still_at_work() for p in batch]

    async def _posted_without_lock(
        self, ledger_id: UUID, batch: Sequence[Posting]
    ) -> dict[Key, Outcome] | None:
        """Outcomes; None when nothing was written, and it must be done with the lock."""
        if self._shared.get(ledger_id, 0.0) > time.monotonic():
            return None
        try:
            return await self._posted(self._database, ledger_id, batch)
        except asyncpg.UniqueViolationError:
            return None
        except Error as error:
            if error.reason != domain.moved().reason:
                raise
            self._share(ledger_id)
            return None

    def _share(self, ledger_id: UUID) -> None:
        """Has a ledger locked at once for a while, since others post on it, too."""
        now = time.monotonic()
        self._shared = {key: until for key, until in self._shared.items() if until > now}
        self._shared[ledger_id] = now + _SHARED_SECONDS

    async def _posted_with_lock(
        self, ledger_id: UUID, batch: Sequence[Posting]
    ) -> dict[Key, Outcome]:
        """Outcomes, those of repeats among them."""
        async with self._database.transaction() as connection:
            await store.lock_ledger(connection, ledger_id)
            told = dict[Key, Outcome](
                await idempotency.find_answers(connection, [p.key for p in batch])
            )
            rest = [posting for posting in batch if posting.key not in told]
            return told | (await self._posted(connection, ledger_id, rest) if rest else {})

    async def _posted(
        self, source: Connection | Database, ledger_id: UUID, batch: Sequence[Posting]
    ) -> dict[Key, Outcome]:
        """Applies postings and writes what they changed; an outcome for each.

        Raises:
            Error: LEDGER_MOVED, somebody else changed the ledger meanwhile.
            UniqueViolationError: one of them was answered before.
        """
        try:
            seen, book = await self._book(source, ledger_id, [p.request for p in batch])
        except Error as error:
            return {posting.key: error for posting in batch}
        known = frozenset(book.duplicates)
        outcomes = {posting.key: _apply(book, posting) for posting in batch}
        refused = [p.key for p in batch if isinstance(outcomes[p.key], Exception)]
        if refused:
            # A repeat may be refused because of what the first one did: its answer counts.
            outcomes |= await idempotency.find_answers(source, refused)
        if book.blocks:
            await source.apply(*self._written(book, seen.version, known, batch, outcomes))
        return outcomes

    async def _book(
        self, source: Connection | Database, ledger_id: UUID, requests: Sequence[Request]
    ) -> tuple[SeenLedger, Book]:
        """The ledger, and the book that the requests are applied to.

        Raises:
            Error: NOT_FOUND; FAILED_PRECONDITION, it is closed.
        """
        found = await store.read_book(source, ledger_id, requests)
        if found is None:
            raise not_found("ledger", ledger_name(ledger_id))
        if found[0].closed:
            raise domain.closed(ledger_name(ledger_id))
        return found

    def _written(
        self,
        book: Book,
        version: int,
        known: Collection[bytes],
        batch: Sequence[Posting],
        outcomes: Mapping[Key, Outcome],
    ) -> Iterator[Statement]:
        """What a batch changed: balances and blocks, an answer and an event for each posting."""
        answers: list[tuple[Key, bytes]] = []
        told: list[events.Event] = []
        for posting in batch:
            outcome = outcomes[posting.key]
            if not isinstance(outcome, Exception):
                answers.append((posting.key, outcome.SerializeToString()))
                told.append(_event(book, posting, outcome))
        yield from store.written_book(book, known)
        yield idempotency.recorded(answers)
        yield self._outbox.added(told)
        # The last part runs first: whoever comes second waits here, before it has written anything.
        yield store.written_head(book, version)


def _first_of_each_scope(postings: Sequence[Posting]) -> list[Posting]:
    """Repeats within one batch share the outcome of the first, or are told to come again."""
    seen: dict[tuple[str, str, str], Posting] = {}
    for posting in postings:
        seen.setdefault(posting.key.scope, posting)
    return list(seen.values())


def _apply(book: Book, posting: Posting) -> Outcome:
    try:
        return posting.response(block_index=book.apply(posting.request).index)
    except Error as error:
        return error


def _event(book: Book, posting: Posting, outcome: Response) -> events.Event:
    posting.act.details["block_index"] = str(outcome.block_index)
    posting.act.details["amount"] = str(posting.request.amount)
    return event(ledger_name(book.ledger.id), posting.act, traceparent=posting.traceparent)
