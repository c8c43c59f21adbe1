"""Posts transfers: the batch of one ledger in one transaction, each with its answer and event."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2 as pb
from services.kit import idempotency, not_found
from services.kit.database import Connection, Database
from services.kit.errors import Error
from services.kit.idempotency import Key, Replayed
from services.kit.outbox import Outbox
from services.ledger import domain, store
from services.ledger.domain import Book, Transfer
from services.ledger.messages import ledger_name


@dataclass(frozen=True, slots=True)
class Posting:
    """One transfer to post, with what its record and its event need."""

    transfer: Transfer
    key: Key
    act: events.Act
    traceparent: str


Outcome = pb.TransferResponse | Exception


class Poster:
    """Commits batches of postings."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def commit(self, ledger_id: UUID, batch: Sequence[Posting]) -> Sequence[Outcome]:
        """Applies a batch in order; an outcome for each posting. Refused ones leave nothing."""
        async with self._database.transaction() as connection:
            locked = await store.lock_ledger(connection, ledger_id)
            if locked is None:
                return [not_found("ledger", ledger_name(ledger_id))] * len(batch)
            fresh = await idempotency.claim_many(connection, list({p.key for p in batch}))
            repeats = [p for p in batch if p.key not in fresh]
            outcomes: dict[int, Outcome] = {
                id(p): await _replay(connection, p.key) for p in repeats
            }
            stored, now = locked
            work = _first_of_each_key([p for p in batch if p.key in fresh])
            book, before = await self._book(connection, stored.ledger, work, now)
            for posting in work:
                outcomes[id(posting)] = _apply(book, posting.transfer)
            await self._write(connection, book, before, work, outcomes)
        self._outbox.hint()
        return [_outcome(posting, batch, outcomes) for posting in batch]

    async def _book(
        self, connection: Connection, ledger: domain.Ledger, work: Sequence[Posting], now: int
    ) -> tuple[Book, dict[bytes, int]]:
        transfers = [posting.transfer for posting in work]
        keys = [key for key in (t.duplicate_key for t in transfers) if key]
        balances = await store.load_balances(
            connection, ledger.id, domain.touched(ledger, transfers)
        )
        duplicates = await store.load_duplicates(connection, ledger.id, keys)
        return Book(ledger, balances, duplicates, now), duplicates

    async def _write(
        self,
        connection: Connection,
        book: Book,
        before: dict[bytes, int],
        work: Sequence[Posting],
        outcomes: dict[int, Outcome],
    ) -> None:
        await store.write_book(connection, book, before)
        done: list[tuple[Key, bytes]] = []
        told: list[events.Event] = []
        refused: list[Key] = []
        for posting in work:
            outcome = outcomes[id(posting)]
            if isinstance(outcome, Exception):
                refused.append(posting.key)
            else:
                done.append((posting.key, outcome.SerializeToString()))
                told.append(_event(book, posting, outcome))
        await idempotency.keep(connection, done)
        await idempotency.release(connection, refused)
        await self._outbox.add(connection, told)


def _first_of_each_key(postings: Sequence[Posting]) -> list[Posting]:
    """Repeats within one batch get the outcome of the first."""
    seen: dict[Key, Posting] = {}
    for posting in postings:
        seen.setdefault(posting.key, posting)
    return list(seen.values())


def _outcome(posting: Posting, batch: Sequence[Posting], outcomes: dict[int, Outcome]) -> Outcome:
    own = outcomes.get(id(posting))
    if own is not None:
        return own
    first = next(other for other in batch if other.key == posting.key)
    return outcomes[id(first)]


async def _replay(connection: Connection, key: Key) -> Outcome:
    try:
        return Replayed(await idempotency.find_answer(connection, key))
    except Error as error:
        return error


def _apply(book: Book, transfer: Transfer) -> Outcome:
    try:
        return pb.TransferResponse(block_index=book.apply(transfer).index)
    except Error as error:
        return error


def _event(book: Book, posting: Posting, outcome: pb.TransferResponse) -> events.Event:
    name = ledger_name(book.ledger.id)
    posting.act.details["block_index"] = str(outcome.block_index)
    posting.act.details["amount"] = str(posting.transfer.amount)
    return events.Event(
        subject=name, partition_key=name, act=posting.act, traceparent=posting.traceparent
    )
