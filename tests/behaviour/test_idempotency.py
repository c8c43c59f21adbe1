"""One effect for each request id, on a real database: whatever is repeated, and whenever."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace

from contract import loader
from contract.environment import Environment
from contract.errors import Code, Error
from icto.backend.v1 import projects_pb2 as pb
from icto.events.v1 import events_pb2 as events
from services.kit.serving.call import Call
from services.kit.serving.identity import Identity
from services.kit.storage import idempotency
from services.kit.storage.idempotency import Replayed
from services.kit.storage.statement import Statement
from tests.support.postgres import Replica, Schema

METHOD = loader.load(Environment.TEST).method("/icto.backend.v1.ProjectService/CreateProject")
COUNT = (
    "INSERT INTO attempts VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET count = attempts.count + 1"
)

Work = Callable[[Call], Awaitable[pb.Project]]


def request(request_id: str, name: str = "A project") -> pb.CreateProjectRequest:
    return pb.CreateProjectRequest(request_id=request_id, project=pb.Project(display_name=name))


def call_of(replica: Replica, asked: pb.CreateProjectRequest, user: str = "ann") -> Call:
    call = Call(
        METHOD,
        Identity("edge", user, frozenset()),
        trace.INVALID_SPAN,
        replica.database,
        replica.outbox,
        time.monotonic() + 30,
    )
    call.accept(asked, asked.request_id)
    return call


async def in_transaction(call: Call) -> pb.Project:
    """A mutation that reads before it writes."""
    async with call.transaction() as tx:
        await tx.execute(COUNT, "effects")
        return tx.answer(pb.Project(name=f"projects/{uuid4()}"), subject="projects/x")


async def in_one_statement(call: Call) -> pb.Project:
    """A mutation that only writes."""
    answer = pb.Project(name=f"projects/{uuid4()}")
    return await call.commit(answer, Statement(COUNT, ("effects",)), subject="projects/x")


BOTH = pytest.mark.parametrize("work", [in_transaction, in_one_statement])


async def answered(work: Work, call: Call) -> pb.Project:
    """What the caller is told, as the handler does it."""
    try:
        return await work(call)
    except Replayed as replayed:
        return pb.Project.FromString(replayed.answer)


async def rows(schema: Schema, query: str) -> list[Any]:
    async with schema.connection() as connection:
        return list(await connection.fetch(query))


async def effects(schema: Schema) -> int:
    found = await rows(schema, "SELECT count FROM attempts WHERE key = 'effects'")
    return found[0]["count"] if found else 0


async def told(schema: Schema) -> list[events.Act]:
    found = await rows(schema, "SELECT event FROM kit_outbox ORDER BY position")
    return [events.Event.FromString(row["event"]).act for row in found]


@BOTH
async def test_a_repeat_gets_the_answer_of_the_first(
    work: Work, schema: Schema, replica: Replica
) -> None:
    first = await answered(work, call_of(replica, request("one")))
    again = await answered(work, call_of(replica, request("one")))
    assert again == first
    assert await effects(schema) == 1
    (act,) = await told(schema)
    assert (act.action, act.principal, act.request_id) == ("CreateProject", "ann", "one")


@BOTH
async def test_another_body_under_the_same_id_is_refused(
    work: Work, schema: Schema, replica: Replica
) -> None:
    await answered(work, call_of(replica, request("one")))
    with pytest.raises(Error) as caught:
        await answered(work, call_of(replica, request("one", "Another")))
    error = caught.value
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.metadata == {"request_id": "one"}
    assert await effects(schema) == 1


@BOTH
async def test_an_id_belongs_to_one_user_and_one_method(
    work: Work, schema: Schema, replica: Replica
) -> None:
    first = await answered(work, call_of(replica, request("one"), "ann"))
    other = await answered(work, call_of(replica, request("one"), "ben"))
    assert other != first
    assert await effects(schema) == 2


@BOTH
async def test_repeats_at_the_same_time_wait_and_get_one_answer(work: Work, schema: Schema) -> None:
    """On two replicas at once, more repeats than there are connections."""
    async with schema.replica("lab-1", 4) as one, schema.replica("lab-2", 4) as two:
        calls = [call_of(replica, request("one")) for replica in (one, two) * 15]
        answers = await asyncio.gather(*(answered(work, call) for call in calls))
    assert len({answer.name for answer in answers}) == 1
    assert await effects(schema) == 1
    assert len(await told(schema)) == 1


async def test_a_repeat_waits_for_the_first_to_end(schema: Schema, replica: Replica) -> None:
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def slow(call: Call) -> pb.Project:
        async with call.transaction() as tx:
            at_work.set()
            await go_on.wait()
            return tx.answer(pb.Project(name="projects/slow"), subject="projects/slow")

    first = asyncio.create_task(answered(slow, call_of(replica, request("one"))))
    await at_work.wait()
    repeat = asyncio.create_task(answered(in_one_statement, call_of(replica, request("one"))))
    done, _ = await asyncio.wait([repeat], timeout=0.3)
    assert not done
    go_on.set()
    assert await first == await repeat == pb.Project(name="projects/slow")
    assert await effects(schema) == 0


async def test_a_repeat_that_waits_too_long_is_told_to_come_again(
    schema: Schema, replica: Replica
) -> None:
    """The first one's replica hangs in the middle of its transaction, and goes on hanging."""
    asked = call_of(replica, request("one"))
    async with schema.connection() as connection:
        # Its own limits would end a replica's transaction; this one has none.
        transaction = connection.transaction()
        await transaction.start()
        key = asked.idempotency_key
        await connection.execute(
            "INSERT INTO kit_answers (principal, method, request_id, body_hash)"
            " VALUES ($1, $2, $3, $4)",
            key.principal, key.method, key.request_id, key.body_hash,
        )  # fmt: skip
        with pytest.raises(Error) as caught:
            await answered(in_transaction, asked)
        await transaction.rollback()
    assert (caught.value.code, caught.value.reason) == (Code.ABORTED, "REQUEST_IN_PROGRESS")
    assert caught.value.retry_after
    assert (await answered(in_transaction, call_of(replica, request("one")))).name
    assert await effects(schema) == 1


async def test_when_the_first_fails_a_repeat_does_the_work(
    schema: Schema, replica: Replica
) -> None:
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def failing(call: Call) -> pb.Project:
        async with call.transaction() as tx:
            await tx.execute(COUNT, "effects")
            at_work.set()
            await go_on.wait()
            raise Error(Code.FAILED_PRECONDITION, "NOT_YET", "Not yet.")

    first = asyncio.create_task(answered(failing, call_of(replica, request("one"))))
    await at_work.wait()
    repeat = asyncio.create_task(answered(in_transaction, call_of(replica, request("one"))))
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(Error, match="NOT_YET"):
        await first
    assert (await repeat).name
    assert await effects(schema) == 1


async def test_a_refusal_leaves_nothing_and_is_not_kept(schema: Schema, replica: Replica) -> None:
    """An answer that left nothing changed, because a precondition failed, is not stored."""

    async def refused(call: Call) -> pb.Project:
        async with call.transaction() as tx:
            await tx.execute(COUNT, "effects")
            raise Error(Code.FAILED_PRECONDITION, "NOT_YET", "Not yet.")

    for _ in range(2):
        with pytest.raises(Error, match="NOT_YET"):
            await answered(refused, call_of(replica, request("one")))
    assert await effects(schema) == 0
    assert await told(schema) == []
    assert await rows(schema, "SELECT FROM kit_answers") == []
    await answered(in_transaction, call_of(replica, request("one")))
    assert await effects(schema) == 1


async def test_an_effect_without_an_answer_is_a_bug_and_leaves_nothing(
    schema: Schema, replica: Replica
) -> None:
    call = call_of(replica, request("one"))
    with pytest.raises(RuntimeError, match="without an answer"):
        async with call.transaction() as tx:
            await tx.execute(COUNT, "effects")
    assert await effects(schema) == 0


async def test_a_check_that_a_repeat_fails_because_of_the_first_is_answered_as_the_first(
    replica: Replica,
) -> None:
    first = await answered(in_one_statement, call_of(replica, request("one")))
    with pytest.raises(Replayed) as caught:
        await call_of(replica, request("one")).replay()
    assert pb.Project.FromString(caught.value.answer) == first
    await call_of(replica, request("two")).replay()


async def test_answers_are_kept_for_a_day(schema: Schema, replica: Replica) -> None:
    first = await answered(in_transaction, call_of(replica, request("one")))
    await schema.shift_clock(timedelta(hours=23, minutes=59))
    async with replica.database.connection() as connection:
        assert await idempotency.forget_old(connection) == 0
    assert await answered(in_transaction, call_of(replica, request("one"))) == first
    await schema.shift_clock(timedelta(hours=24, minutes=1))
    async with replica.database.connection() as connection:
        assert await idempotency.forget_old(connection) == 1
    assert await answered(in_transaction, call_of(replica, request("one"))) != first
    assert await effects(schema) == 2


async def test_many_old_answers_are_dropped_in_bounded_steps(
    schema: Schema, replica: Replica
) -> None:
    async with schema.connection() as connection:
        await connection.execute(
            "INSERT INTO kit_answers (principal, method, request_id, body_hash, create_time)"
            " SELECT 'p', 'm', n::text, '', kit_now() - interval '2 days'"
            " FROM generate_series(1, 1500) AS n"
        )
    async with replica.database.connection() as connection:
        dropped = [await idempotency.forget_old(connection) for _ in range(3)]
    assert dropped == [1000, 500, 0]
