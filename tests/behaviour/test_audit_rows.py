"""The audit as its database and its file keep it: signing, verification, appends in one batch."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contract import ids
from contract.errors import Code, Error
from icto.audit.v1 import audit_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.audit_storage import store
from services.audit_storage.checkpoints import Signer
from services.audit_storage.domain import Checkpoint, Head
from services.audit_storage.service import AuditService, _Batch
from services.kit.audit.outbox import ENVELOPE_VERSION
from services.kit.storage.database import Database
from services.kit.storage.idempotency import Key, Replayed
from tests.support.postgres import Postgres

MakeService = Callable[[], AuditService]


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    schema = await postgres.schema("services.audit_storage")
    async with schema.replica() as replica:
        yield replica.database


@pytest.fixture
def replica(database: Database, tmp_path: Path) -> MakeService:
    """Makes replicas of one installation."""
    settings = SimpleNamespace(state_directory=tmp_path, instance="audit_storage-1")
    kit: Any = SimpleNamespace(database=database, settings=settings)
    return lambda: AuditService(kit)


def event() -> events.Event:
    made = events.Event(id=str(ids.new_id("x")), version=ENVELOPE_VERSION, source="/icto/lab")
    made.time.GetCurrentTime()
    return made


def batch(*told: events.Event) -> _Batch:
    request = pb.AppendEventsRequest(request_id=told[0].id, events=told)
    key = Key("lab", "AppendEvents", str(ids.new_id("y")), request.SerializeToString())
    return _Batch(key, request)


async def append(service: AuditService, count: int = 1) -> None:
    for result in await service._commit("", [batch(event()) for _ in range(count)]):
        assert not isinstance(result, Exception)


async def verify(service: AuditService, **more: Any) -> pb.VerifyChainResponse:
    nobody: Any = None
    return await service.VerifyChain(pb.VerifyChainRequest(**more), nobody)


async def sign(service: AuditService) -> None:
    """One turn of whoever just took the work over."""
    await service._sign(await service._newest_signed())


class _KilledError(Exception):
    pass


async def test_a_signer_that_is_killed_between_its_writes_raises_no_alarm(
    replica: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in ("services.audit_storage.store.add_checkpoint",
                   "services.audit_storage.checkpoints.CheckpointFile.add"):  # fmt: skip

        async def killed(*_: Any) -> None:
            raise _KilledError

        await append(replica(), 2)
        with monkeypatch.context() as patched:
            patched.setattr(target, killed)
            with pytest.raises(_KilledError):
                await sign(replica())
        assert (await verify(replica())).intact
    successor = replica()
    await sign(successor)
    answer = await verify(successor)
    assert answer.intact
    newest = await successor._file.newest(successor._signer.verifies)
    assert newest is not None
    assert newest.head == await store.head(successor._database), "the next one goes on"


async def test_a_checkpoint_that_is_signed_while_the_chain_is_verified_raises_no_alarm(
    replica: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor, signer = replica(), replica()
    await append(signer, 2)
    await sign(signer)
    await append(signer, 2)
    reads: list[str] = []

    def then_sign(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        async def reading(*args: Any) -> Any:
            found = await read(*args)
            reads.append(name)
            await append(signer)
            await sign(signer)
            return found

        return reading

    monkeypatch.setattr(auditor._file, "stretch", then_sign("file", auditor._file.stretch))
    monkeypatch.setattr(store, "checkpoints_of", then_sign("database", store.checkpoints_of))
    answer = await verify(auditor)
    assert reads == ["file", "database"]
    assert (answer.intact, answer.verified_count) == (True, 6)


async def test_what_the_database_alone_has_must_be_signed_by_us(
    replica: MakeService, database: Database
) -> None:
    """That the file lacks it is no fault, so the signature must tell."""
    service = replica()
    await append(service, 2)
    stranger = Signer.from_file(service._file._path.with_name("another.key"))
    await store.add_checkpoint(
        database, stranger.sign(await store.head(database), datetime.now(UTC))
    )
    answer = await verify(service)
    assert (answer.fault.sequence, answer.fault.kind) == (2, pb.CHAIN_FAULT_KIND_BAD_CHECKPOINT)


async def test_of_many_checkpoints_only_those_of_the_stretch_and_the_newest_are_verified(
    replica: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = replica()
    await append(service, 40)
    for entry in await store.stretch(database, 1, 40):
        mark = service._signer.sign(Head(entry.sequence, entry.entry_hash), datetime.now(UTC))
        await store.add_checkpoint(database, mark)
        await service._file.add(mark)
    asked: list[int] = []

    def verifies(checkpoint: Checkpoint) -> bool:
        asked.append(checkpoint.head.sequence)
        return service._signer._verify(checkpoint)

    monkeypatch.setattr(service._signer, "verifies", verifies)
    answer = await verify(service, from_sequence=11, max_entries=3)
    assert (answer.intact, answer.checkpoint_count, answer.next_sequence) == (True, 3, 14)
    assert sorted(set(asked)) == [11, 12, 13, 40]
    asked.clear()
    assert (await service._newest_signed()).sequence == 40
    assert asked == [40]


async def test_a_checkpoint_that_the_database_lost_shows_in_its_stretch_and_at_the_end(
    replica: MakeService, database: Database
) -> None:
    service = replica()
    for _ in range(3):
        await append(service, 2)
        await sign(service)

    async def lose(sequence: int) -> None:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute("DELETE FROM checkpoints WHERE sequence = $1", sequence)

    await lose(4)
    assert (await verify(service, from_sequence=1, max_entries=3)).intact
    found = (await verify(service, from_sequence=3, max_entries=2)).fault
    assert (found.sequence, found.kind) == (4, pb.CHAIN_FAULT_KIND_BAD_CHECKPOINT)
    await lose(6)
    found = (await verify(service, from_sequence=1, max_entries=3)).fault
    assert (found.sequence, found.kind) == (6, pb.CHAIN_FAULT_KIND_BAD_CHECKPOINT)


async def test_a_tail_that_no_checkpoint_covers_is_missed_where_the_head_tells_of_it(
    replica: MakeService, database: Database
) -> None:
    service = replica()
    await append(service, 3)
    await sign(service)
    await append(service, 3)
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM entries WHERE sequence > 4")
    answer = await verify(service)
    assert (answer.fault.sequence, answer.fault.kind) == (5, pb.CHAIN_FAULT_KIND_TRUNCATED)
    assert answer.next_sequence == 0


async def test_a_chain_is_verified_page_by_page_and_no_further_than_it_goes(
    replica: MakeService,
) -> None:
    service = replica()
    await append(service, 5)
    pages, start = list[tuple[int, int]](), 1
    while start:
        answer = await verify(service, from_sequence=start, max_entries=2)
        assert answer.intact
        pages.append((start, answer.verified_count))
        start = answer.next_sequence
    assert pages == [(1, 2), (3, 2), (5, 1)]
    assert (await verify(service, from_sequence=6)).intact, "what comes next may be awaited"
    for beyond in (7, 2**63 - 1):
        with pytest.raises(Error, match="from_sequence must be 6 at most") as refused:
            await verify(service, from_sequence=beyond)
        assert refused.value.code is Code.INVALID_ARGUMENT


async def test_an_event_that_two_calls_of_one_batch_bring_is_kept_once(
    replica: MakeService, database: Database
) -> None:
    """The lease of a relay moved, and both replicas hand on the same events."""
    service, shared, own = replica(), event(), event()
    results = await service._commit("", [batch(shared), batch(shared, own)])
    assert [getattr(result, "appended_count", result) for result in results] == [1, 1]
    chain = await store.stretch(database, 1, 10)
    assert [str(entry.id) for entry in chain] == [shared.id, own.id]
    assert (await verify(service)).intact


async def test_what_one_batch_brings_again_does_not_hold_up_what_another_one_brings(
    replica: MakeService, database: Database
) -> None:
    """A relay that was cut off before it knew hands on the same call, or its events in another."""
    service, first = replica(), event()
    again, overlapping, fresh = batch(first), batch(first, event()), batch(event())
    await service._commit("", [again])
    results = await service._commit("", [again, overlapping, fresh])
    assert isinstance(results[0], Replayed)
    assert [getattr(result, "appended_count", result) for result in results[1:]] == [1, 1]
    assert len(await store.stretch(database, 1, 10)) == 3
    assert (await verify(service)).intact


async def test_one_id_for_two_bodies_of_one_batch_keeps_the_first(
    replica: MakeService, database: Database
) -> None:
    service, one, other = replica(), batch(event()), batch(event())
    other = replace(other, key=replace(one.key, body_hash=b"other"))
    kept, refused = await service._commit("", [one, other])
    assert getattr(kept, "appended_count", kept) == 1
    assert isinstance(refused, Error)
    again, reused = await service._commit("", [one, other])
    assert isinstance(again, Replayed)
    assert isinstance(reused, Error)
    assert (refused.reason, reused.reason) == ("REQUEST_IN_PROGRESS", "REQUEST_ID_REUSED")
    assert len(await store.stretch(database, 1, 10)) == 1


@pytest.mark.parametrize("year", [1, 1969, 1970, 2000])
async def test_a_list_from_long_ago_on_has_everything(
    replica: MakeService, database: Database, year: int
) -> None:
    await append(replica(), 2)
    since = store.Filter(start_time=datetime(year, 1, 1, tzinfo=UTC))
    assert len(await store.list_entries(database, since, 10)) == 2
    until = store.Filter(end_time=datetime(year, 1, 1, tzinfo=UTC))
    assert await store.list_entries(database, until, 10) == []
    later = store.Filter(end_time=datetime(9999, 12, 31, tzinfo=UTC))
    assert len(await store.list_entries(database, later, 10)) == 2
