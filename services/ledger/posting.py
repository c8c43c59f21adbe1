"""Posts operations: the batch of one ledger in one transaction, each with its answer and event."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2 as pb
from services.kit import idempotency, not_found
from services.kit.database import Connection, Database
from services.kit.errors import Error
from services.kit.idempotency import Key
from services.kit.outbox import Outbox
from services.kit.statement import Statement
from services.ledger import domain, store
from services.ledger.domain import Book, Request
from services.ledger.messages import ledger_name

Response = pb.TransferResponse | pb.TransferFromResponse | pb.ApproveResponse | pb.PayOutResponse


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
        """Applies a batch in one transaction.

        Repeats are rare, so a batch is written as if it had none; when one shows, what the repeats
        are told is looked up and the others are written again.
        """
        fresh, outcomes = _first_of_each_scope(batch), dict[Key, Outcome]()
        try:
            await self._post(ledger_id, fresh, outcomes)
        except asyncpg.UniqueViolationError:
            async with self._database.connection() as connection:
                outcomes = dict(await idempotency.find_answers(connection, [p.key for p in fresh]))
            rest = [posting for posting in fresh if posting.key not in outcomes]
            await self._post(ledger_id, rest, outcomes)
        self._outbox.hint()
        return [outcomes.get(p.key) or idempotency.still_at_work() for p in batch]

    async def _post(
        self, ledger_id: UUID, batch: Sequence[Posting], outcomes: dict[Key, Outcome]
    ) -> None:
        """Applies postings and writes what they changed; adds an outcome for each."""
        if not batch:
            return
        async with self._database.transaction() as connection:
            try:
                book = await self._book(connection, ledger_id, [p.request for p in batch])
            except Error as error:
                outcomes |= {posting.key: error for posting in batch}
                return
            known = frozenset(book.duplicates)
            outcomes |= {posting.key: _apply(book, posting) for posting in batch}
            refused = [p.key for p in batch if isinstance(outcomes[p.key], Exception)]
            if refused:
                # A repeat may be refused because of what the first one did: its answer counts.
                outcomes |= await idempotency.find_answers(connection, refused)
            if book.blocks:
                await connection.apply(*self._written(book, known, batch, outcomes))

    async def _book(
        self, connection: Connection, ledger_id: UUID, requests: Sequence[Request]
    ) -> Book:
        """The ledger, locked, with the balances and allowances that the requests touch.

        Raises:
            Error: NOT_FOUND; FAILED_PRECONDITION, it is closed.
        """
        locked = await store.lock_ledger(connection, ledger_id)
        if locked is None:
            raise not_found("ledger", ledger_name(ledger_id))
        if locked.closed:
            raise domain.closed(ledger_name(ledger_id))
        accounts = domain.touched(locked.ledger, requests)
        balances = await store.load_balances(connection, ledger_id, accounts)
        pairs = domain.spenders(requests)
        allowances = await store.load_allowances(connection, ledger_id, pairs)
        keys = [key for key in (r.duplicate_key for r in requests) if key]
        duplicates = await store.load_duplicates(connection, ledger_id, keys)
        return Book(locked.ledger, balances, duplicates, locked.now, allowances)

    def _written(
        self,
        book: Book,
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
        yield store.written_head(book)
        yield from store.written_book(book, known)
        yield idempotency.recorded(answers)
        yield self._outbox.added(told)


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
    name = ledger_name(book.ledger.id)
    posting.act.details["block_index"] = str(outcome.block_index)
    posting.act.details["amount"] = str(posting.request.amount)
    return events.Event(
        subject=name, partition_key=name, act=posting.act, traceparent=posting.traceparent
    )
