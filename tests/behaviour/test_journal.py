"""The journal's promises, on a real database, and what the engine makes of them.

The first half is written against the port alone (services/kit/journal/port.py): a second engine
passes it with a bench of its own (tests/support/journals.py). The second half is the engine's.
"""

import asyncio
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from contract.errors import Code, Error, RemoteError
from icto.events.v1 import events_pb2 as events
from services.kit.journal.model import (
    Claim,
    Ended,
    Family,
    PipelineState,
    RetryPolicy,
    Run,
    SkipStep,
    Step,
    StepContext,
    StepRecord,
    StepState,
)
from services.kit.journal.port import Continue, FencedError, Finish, Park, Sleep
from services.kit.storage.database import Connection
from tests.support.installation import until
from tests.support.journals import (
    KNOWN,
    NAME,
    TRACEPARENT,
    Bench,
    Worker,
    definition,
    new_pipeline,
    settle,
)
from tests.support.postgres import JOURNAL, Postgres


@pytest.fixture
async def bench(postgres: Postgres) -> Bench:
    return Bench(await postgres.schema(JOURNAL))


@pytest.fixture
async def ann(bench: Bench) -> AsyncIterator[Worker]:
    async with bench.worker("ann") as worker:
        yield worker


@pytest.fixture
async def ben(bench: Bench) -> AsyncIterator[Worker]:
    async with bench.worker("ben") as worker:
        yield worker


def record(
    name: str = "a", state: StepState = StepState.SUCCEEDED, result: bytes = b"done"
) -> StepRecord:
    now = datetime.now(UTC)
    return StepRecord(name, state, 1, now, now, "ann", result)


def finish(*records: StepRecord, state: PipelineState = PipelineState.SUCCEEDED) -> Finish:
    return Finish(state, settle, {one.name: one for one in records})


async def ids_of(claims: Awaitable[Sequence[Claim]]) -> set[object]:
    return {claim.id for claim in await claims}


# Claims and leases.


async def test_whoever_begins_a_pipeline_has_it(ann: Worker, ben: Worker) -> None:
    claim = await ann.begin(new_pipeline())
    assert not await ben.claim()
    assert not await ann.claim()
    run = await ben.run_of(claim.id)
    assert (run.state, run.leased, run.steps) == (PipelineState.RUNNING, True, {})


async def test_a_pipeline_begins_with_what_is_committed_with_it_or_not_at_all(
    bench: Bench, ann: Worker
) -> None:
    claim, begun = ann.journal.begin(new_pipeline(), "ann")

    async def torn() -> None:
        async with ann.database.transaction() as connection:
            await connection.apply(begun)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await torn()
    await bench.let_leases_end()
    assert not await ann.claim()
    assert not await ann.journal.get([claim.id])


async def test_a_lease_that_ends_is_anybodys_with_all_that_was_recorded(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    first = await ann.begin(new_pipeline())
    await ann.journal.advance(first, [record()], Continue())
    assert not await ben.claim()
    await bench.let_leases_end()
    (second,) = await ben.claim()
    assert second.epoch > first.epoch
    assert (second.id, second.input, second.traceparent) == (first.id, b"input", TRACEPARENT)
    assert second.records["a"].result == b"done"
    assert not await ann.claim()


async def test_what_is_released_is_claimed_at_once(ann: Worker, ben: Worker) -> None:
    claim = await ann.begin(new_pipeline())
    await ann.journal.release([claim])
    assert await ids_of(ben.claim()) == {claim.id}
    # What somebody else has meanwhile cannot be given away.
    await ann.journal.release([claim])
    assert not await ann.claim()


async def test_a_heartbeat_keeps_a_lease_and_tells_of_one_that_is_lost(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    kept, lost = await ann.begin(new_pipeline()), await ann.begin(new_pipeline())
    await bench.let_leases_end()
    assert not (await ann.journal.renew("ann", [kept])).lost
    assert await ids_of(ben.claim()) == {lost.id}
    assert (await ann.journal.renew("ann", [kept, lost])).lost == {lost.id}
    assert not await ben.claim()


async def test_many_workers_never_claim_the_same(bench: Bench, ann: Worker, ben: Worker) -> None:
    begun = [await ann.begin(new_pipeline()) for _ in range(60)]
    await bench.let_leases_end()
    claimed: Counter[object] = Counter()

    async def greedy(worker: Worker) -> None:
        while claims := await worker.claim(7):
            claimed.update(claim.id for claim in claims)

    await asyncio.gather(*(greedy(worker) for worker in (ann, ben) * 3))
    assert claimed == Counter({claim.id: 1 for claim in begun})


async def test_a_worker_is_given_only_what_it_knows(bench: Bench, ann: Worker, ben: Worker) -> None:
    """Two releases run side by side while one replaces the other: the version is stored."""
    old = await ann.begin(new_pipeline(version=1))
    new = await ann.begin(new_pipeline(version=2))
    other = await ann.begin(new_pipeline("other"))
    await bench.let_leases_end()
    assert await ids_of(ann.claim(known=[(NAME, 1)])) == {old.id}
    assert await ids_of(ben.claim(known=[(NAME, 2), ("other", 1)])) == {new.id, other.id}
    found = {run.id: (run.definition, run.version) for run in await ann.journal.get([new.id])}
    assert found == {new.id: (NAME, 2)}


async def test_a_heartbeat_waits_for_nobody_who_writes(ann: Worker, ben: Worker) -> None:
    """So that it neither deadlocks with a batch nor is late for the other leases."""
    claims = [await ann.begin(new_pipeline()) for _ in range(2)]
    async with ben.database.transaction() as connection:
        assert await ben.journal.cancel(connection, claims[0].id)
        async with asyncio.timeout(3):
            assert (await ann.journal.renew("ann", claims)).lost == frozenset()
    assert (await ann.journal.renew("ann", claims)).cancelled == {claims[0].id}


async def test_who_works_keeps_the_lease_without_a_heartbeat(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    claim = await ann.begin(new_pipeline())
    await bench.let_leases_end()
    await ann.journal.advance(claim, [record()], Continue())
    assert not await ben.claim()


# The queue.


async def test_whoever_admits_only_so_many_run_and_who_waits_longest_is_next(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    waiting = await ann.queue(5)
    assert await ann.positions(waiting) == {w: n for n, w in enumerate(waiting, start=1)}
    assert not await ann.claim()
    async with bench.crowded(6):
        admitting = asyncio.gather(*(worker.admit(2) for worker in (ann, ben) * 3))
    admitted = await admitting
    assert sorted(pipeline for some in admitted for pipeline in some) == waiting[:2]
    assert await ann.positions(waiting) == dict(zip(waiting[2:], (1, 2, 3), strict=True))
    run = await ben.run_of(waiting[0])
    assert (run.state, run.leased) == (PipelineState.RUNNING, True)
    owner = ann if any(waiting[0] in some for some in admitted[::2]) else ben
    claim = Claim(waiting[0], NAME, 1, 1, b"input", TRACEPARENT)
    await owner.journal.advance(claim, [record()], finish(record()))
    assert await ben.admit(2) == [waiting[2]]


async def test_no_more_are_admitted_than_there_is_room_for(ann: Worker) -> None:
    waiting = await ann.queue(3)
    assert await ann.admit(10, room=2) == waiting[:2]


async def test_a_version_waits_for_a_worker_that_knows_it_and_the_limit_is_for_all(
    ann: Worker,
) -> None:
    old, new = await ann.enqueue(new_pipeline()), await ann.enqueue(new_pipeline(version=2))
    assert await ann.admit(10, version=1) == [old]
    assert await ann.admit(1, version=2) == []
    assert await ann.admit(2, version=2) == [new]


async def test_what_waits_and_is_cancelled_is_claimed_to_its_end_and_never_admitted(
    ann: Worker, ben: Worker
) -> None:
    """Also by an admission that comes in the same moment."""
    first, second = await ann.enqueue(new_pipeline()), await ann.enqueue(new_pipeline())
    async with ann.database.transaction() as connection:
        assert await ann.journal.cancel(connection, first)
        assert await ben.admit(10) == [second]
    assert await ann.positions([first]) == {}
    (claim,) = await ann.claim()
    assert (claim.id, claim.cancelled) == (first, True)
    await ann.journal.advance(claim, (), finish(state=PipelineState.CANCELLED))
    assert await ben.admit(10) == []
    assert (await ben.run_of(first)).state is PipelineState.CANCELLED


async def test_an_owner_has_a_share_of_the_places_and_the_next_is_whoever_has_begun_least(
    ann: Worker,
) -> None:
    """Places tell the order in which the queue moves, also past those who have their share."""
    many = await ann.queue(5, "many")
    few = await ann.queue(1, "few")
    assert await ann.positions([*many, *few], share=2) == dict(
        zip((many[0], few[0], *many[1:]), range(1, 7), strict=True)
    )
    assert sorted(await ann.admit(3, share=2)) == sorted([*many[:2], *few])
    late = await ann.queue(1, "late")
    assert await ann.positions([*many, *late], share=2) == dict(
        zip((late[0], *many[2:]), range(1, 5), strict=True)
    )
    assert await ann.admit(10, share=2) == late


async def asleep(worker: Worker, *claims: Claim, seconds: float = 0.0) -> None:
    """Pipelines that wait for their next attempt, without their places."""
    for claim in claims:
        await worker.journal.advance(
            claim, [record(state=StepState.RETRYING)], Sleep(seconds, keeps_place=False)
        )


async def test_what_waits_for_its_next_attempt_holds_no_place_and_is_next_when_it_is_due(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    waiting = await ann.queue(4)
    (first,) = await ann.admitted(1)
    await asleep(ann, first, seconds=60)
    assert not await ben.claim()
    (second,) = await ben.admitted(1)
    assert second.id == waiting[1]
    await bench.let_timers_end()
    assert not await ben.claim(), "it is due, and still waits for a place"
    assert await ann.admit(1) == []
    await asleep(ben, second, seconds=60)
    (again,) = await ben.admitted(1)
    assert (again.id, again.idle_claims) == (first.id, 1)
    assert again.epoch > first.epoch
    assert again.records["a"].state is StepState.RETRYING
    assert not await ann.admit(1)


async def test_those_that_wait_for_an_attempt_are_bounded_in_all_and_for_each_owner(
    ann: Worker,
) -> None:
    """While a service is away, the rest queues before it has begun."""
    many = await ann.queue(9, "many")
    await _asleep_as_they_come(ann)
    others = await ann.queue(9)
    await _asleep_as_they_come(ann)
    begun = [run.id for run in await ann.journal.get([*many, *others]) if not _queues(run)]
    assert sorted(begun) == sorted([*many[:2], *others[:4]])
    assert await ann.positions([many[2], others[4]], share=1) == {others[4]: 1, many[2]: 6}


async def _asleep_as_they_come(worker: Worker) -> None:
    """All who are admitted wait for their next attempt, until none is."""
    while admitted := await worker.admitted(3, share=1):
        await asleep(worker, *admitted, seconds=60)


def _queues(run: Run) -> bool:
    return run.state is PipelineState.QUEUED


async def test_a_share_is_for_what_is_due_as_well(ann: Worker) -> None:
    await ann.queue(2, "many")
    await asleep(ann, *await ann.admitted(2))
    assert len(await ann.admit(2, share=1)) == 1
    assert not await ann.admit(2, share=1)


async def test_what_a_person_lets_go_on_takes_a_place_first_and_what_is_cancelled_takes_none(
    ann: Worker, ben: Worker
) -> None:
    parked, waiting, new = await ann.queue(3)
    one, two = await ann.admitted(2)
    await ann.journal.advance(one, (), Park("stuck", keeps_place=False))
    await asleep(ann, two, seconds=60)
    async with ann.database.transaction() as connection:
        assert await ann.journal.unpark(connection, parked)
    assert not await ben.claim()
    assert await ben.admit(1) == [parked]
    async with ann.database.transaction() as connection:
        assert await ann.journal.cancel(connection, waiting)
    assert await ids_of(ben.claim()) == {waiting}
    assert await ben.admit(2) == []
    assert await ben.admit(3) == [new]


# The fence.


async def test_a_late_write_is_refused_and_leaves_nothing(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    """F-1 in general: whoever lost the lease has lost the say, however sure it was."""
    late = await ann.begin(new_pipeline())
    await bench.let_leases_end()
    (good,) = await ben.claim()
    for then in (Continue(), Sleep(0), Park("?"), finish(record())):
        with pytest.raises(FencedError):
            await ann.journal.advance(late, [record(result=b"late")], then)
    run = await ben.run_of(good.id)
    assert (run.state, run.steps) == (PipelineState.RUNNING, {})
    await ben.journal.advance(good, [record(result=b"good")], finish(record()))
    with pytest.raises(FencedError):
        await ann.journal.advance(late, [record(result=b"late")], Continue())
    assert (await ben.run_of(good.id)).steps["a"].result == b"good"
    assert len(await bench.told()) == 1


async def test_a_worker_stopped_past_its_lease_cannot_write_when_it_wakes(
    bench: Bench, ben: Worker
) -> None:
    """A real process under a real SIGSTOP, while another worker goes on with its pipeline."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.worker", bench.dsn,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    begun = (await child.stdout.readline()).decode().strip()
    child.send_signal(signal.SIGSTOP)
    await bench.let_leases_end()
    (claim,) = await ben.claim()
    assert str(claim.id) == begun
    await ben.journal.advance(claim, [record(result=b"ben's")], Continue())
    child.send_signal(signal.SIGCONT)
    child.stdin.write(b"go on\n")
    assert (await child.stdout.readline()).decode().strip() == "refused"
    await child.wait()
    run = await ben.run_of(claim.id)
    assert (run.state, run.steps["a"].result) == (PipelineState.RUNNING, b"ben's")


async def test_writes_at_the_same_time_are_committed_together_and_judged_alone(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    begun = [await ann.begin(new_pipeline()) for _ in range(20)]
    await ann.journal.release(begun[:1])
    (stolen,) = await ben.claim()

    async def broken(_: Connection, __: Sequence[Ended]) -> Sequence[events.Event]:
        raise Error(Code.FAILED_PRECONDITION, "BROKEN", "It cannot be settled.")

    def ending(claim: Claim) -> Finish:
        end = finish(record())
        return end if claim is not begun[1] else Finish(end.state, broken, end.records)

    outcomes = await asyncio.gather(
        *(ann.journal.advance(claim, [record()], ending(claim)) for claim in begun),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], FencedError)
    assert isinstance(outcomes[1], Error)
    assert outcomes[2:] == [False] * 18
    states = {run.id: run.state for run in await ann.journal.get([one.id for one in begun])}
    assert states.pop(stolen.id) is states.pop(begun[1].id) is PipelineState.RUNNING
    assert set(states.values()) == {PipelineState.SUCCEEDED}
    assert len(await bench.told()) == 18


async def test_a_stale_claim_is_refused_beside_a_good_one_of_the_same_worker(
    bench: Bench, ann: Worker
) -> None:
    """A replica claims its own pipeline again, and both of its tasks write in one batch."""
    stale = await ann.begin(new_pipeline())
    await bench.let_leases_end()
    (good,) = await ann.claim()
    outcomes = await asyncio.gather(
        ann.journal.advance(stale, [record("a", result=b"stale")], Continue()),
        ann.journal.advance(good, [record("b", result=b"good")], Continue()),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], FencedError)
    assert outcomes[1] is False
    steps = (await ann.run_of(good.id)).steps
    assert {name: one.result for name, one in steps.items()} == {"b": b"good"}


async def test_what_follows_from_an_end_is_committed_with_it_or_nothing_is(
    bench: Bench, ann: Worker
) -> None:
    claim = await ann.begin(new_pipeline())

    async def torn(connection: Connection, ended: Sequence[Ended]) -> Sequence[events.Event]:
        await settle(connection, ended)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await ann.journal.advance(
            claim, [record()], Finish(PipelineState.SUCCEEDED, torn, {"a": record()})
        )
    run = await ann.run_of(claim.id)
    assert (run.state, run.steps, await bench.told()) == (PipelineState.RUNNING, {}, [])
    await ann.journal.advance(claim, [record()], finish(record()))
    assert [act.new_value for act in await bench.told()] == ["SUCCEEDED"]


# How it goes on.


async def test_a_pipeline_that_ended_is_nobodys(bench: Bench, ann: Worker) -> None:
    claim = await ann.begin(new_pipeline())
    await ann.journal.advance(claim, [record()], finish(record()))
    await bench.let_leases_end()
    assert not await ann.claim()
    run = await ann.run_of(claim.id)
    assert (run.state, run.leased) == (PipelineState.SUCCEEDED, False)
    assert (await ann.journal.renew("ann", [claim])).lost == {claim.id}


async def test_a_timer_outlives_whoever_set_it(bench: Bench, ben: Worker) -> None:
    async with bench.worker("short-lived") as worker:
        claim = await worker.begin(new_pipeline())
        waiting = record(state=StepState.RETRYING)
        await worker.journal.advance(claim, [waiting], Sleep(0.6))
    assert not await ben.claim()

    async def due() -> Sequence[Claim]:
        return await ben.claim()

    (woken,) = await until(due, 3)
    assert woken.id == claim.id
    assert woken.records["a"].state is StepState.RETRYING


async def test_a_cancellation_reaches_the_worker_and_every_later_claim(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    claim = await ann.begin(new_pipeline())
    async with ben.database.transaction() as connection:
        assert await ben.journal.cancel(connection, claim.id)
    assert (await ann.journal.renew("ann", [claim])).cancelled == {claim.id}
    assert await ann.journal.advance(claim, [record()], Continue()), "told with every step"
    assert (await ann.run_of(claim.id)).cancelled
    await bench.let_leases_end()
    (again,) = await ben.claim()
    assert again.cancelled


async def test_only_what_has_not_ended_can_be_cancelled(ann: Worker) -> None:
    ended = await ann.begin(new_pipeline())
    await ann.journal.advance(ended, [record()], finish(record()))
    async with ann.database.transaction() as connection:
        assert not await ann.journal.cancel(connection, ended.id)
        assert not await ann.journal.cancel(connection, uuid4())


async def test_a_cancellation_wakes_what_sleeps_and_what_is_parked(ann: Worker) -> None:
    asleep, parked = await ann.begin(new_pipeline()), await ann.begin(new_pipeline())
    await ann.journal.advance(asleep, [record(state=StepState.RETRYING)], Sleep(3600))
    await ann.journal.advance(parked, [], Park("why"))
    assert not await ann.claim()
    async with ann.database.transaction() as connection:
        for claim in (asleep, parked):
            assert await ann.journal.cancel(connection, claim.id)
    assert await ids_of(ann.claim()) == {asleep.id, parked.id}


async def test_a_parked_pipeline_waits_for_a_person_and_shows(bench: Bench, ann: Worker) -> None:
    first, second = await ann.begin(new_pipeline()), await ann.begin(new_pipeline())
    for claim in (first, second):
        await ann.journal.advance(claim, [record()], Park("a: NO after 3 attempts"))
    await bench.let_leases_end()
    assert not await ann.claim()
    assert await ann.journal.parked_counts() == {NAME: 2}
    shown = await ann.journal.parked(first.id, 10)
    assert [(run.id, run.parked_reason) for run in shown] == [(second.id, "a: NO after 3 attempts")]
    async with ann.database.transaction() as connection:
        assert await ann.journal.unpark(connection, first.id)
        assert not await ann.journal.unpark(connection, first.id)
    (claim,) = await ann.claim()
    assert (claim.id, set(claim.records)) == (first.id, {"a"})
    with pytest.raises(FencedError):
        await ann.journal.advance(first, [], Continue())


async def test_a_failed_pipeline_is_resumed_without_the_steps_to_repeat(ann: Worker) -> None:
    claim = await ann.begin(new_pipeline())
    kept, failed = record("a"), record("b", StepState.FAILED)
    end = finish(kept, failed, state=PipelineState.FAILED)
    await ann.journal.advance(claim, [kept, failed], end)
    async with ann.database.transaction() as connection:
        assert await ann.journal.resume(connection, claim.id, ["b"])
        assert not await ann.journal.resume(connection, claim.id, ["b"])
    (again,) = await ann.claim()
    assert set(again.records) == {"a"}
    await ann.journal.advance(again, [record("b")], finish(kept, record("b")))
    async with ann.database.transaction() as connection:
        assert not await ann.journal.resume(connection, claim.id, ["b"]), "it succeeded"


async def test_claims_without_a_step_are_counted_until_there_is_one(
    bench: Bench, ann: Worker
) -> None:
    claim = await ann.begin(new_pipeline())
    counts = []
    for _ in range(3):
        await bench.let_leases_end()
        (claim,) = await ann.claim()
        counts.append(claim.idle_claims)
    assert counts == [1, 2, 3]
    await ann.journal.advance(claim, [record()], Continue())
    await bench.let_leases_end()
    (claim,) = await ann.claim()
    assert claim.idle_claims == 1


async def test_what_never_was_is_left_out(ann: Worker) -> None:
    claim = await ann.begin(new_pipeline())
    assert [run.id for run in await ann.journal.get([uuid4(), claim.id])] == [claim.id]


# The engine.


def unavailable() -> Error:
    return Error(Code.UNAVAILABLE, "AWAY", "Not now.")


def unknown() -> Error:
    return Error(Code.INTERNAL, "UNCLEAR", "Who knows.")


def refused() -> Error:
    return Error(Code.FAILED_PRECONDITION, "NO", "Never.")


class Script:
    """What steps do, one line an attempt: an error to raise, or a result to return."""

    def __init__(self, **lines: Sequence[bytes | Exception]) -> None:
        self._lines = {name: list(line) for name, line in lines.items()}
        self.contexts: list[tuple[str, StepContext]] = []

    @property
    def course(self) -> list[str]:
        """Names of the steps that ran, in order, each attempt."""
        return [name for name, _ in self.contexts]

    def step(self, name: str, *after: str, **options: object) -> Step:
        async def work(context: StepContext) -> bytes:
            self.contexts.append((name, context))
            line = self._lines.get(name) or [name.encode()]
            said = line.pop(0) if len(line) > 1 else line[0]
            if isinstance(said, Exception):
                raise said
            return said

        quick = RetryPolicy(first=0.01, longest=0.05)
        return Step(name, work, after, **{"retry": quick, **options})  # type: ignore[arg-type]


async def ended(worker: Worker, claim: Claim, seconds: float = 5) -> Run:
    """A pipeline that will not go on by itself."""

    async def found() -> Run | None:
        run = await worker.run_of(claim.id)
        return run if run.state is not PipelineState.RUNNING else None

    run: Run = await until(found, seconds, 0.02)
    return run


async def driven(worker: Worker, *steps: Step, seconds: float = 5) -> Run:
    """A pipeline of these steps, run to its end."""
    async with worker.engine(definition(*steps)) as engine:
        claim = await worker.begin(new_pipeline())
        engine.adopt(claim)
        return await ended(worker, claim, seconds)


def states(run: Run) -> dict[str, str]:
    return {name: one.state.name for name, one in run.steps.items()}


async def test_steps_run_in_order_and_see_what_was_before(bench: Bench, ann: Worker) -> None:
    script = Script()
    run = await driven(ann, script.step("a"), script.step("b", "a"), script.step("c", "b"))
    assert run.state is PipelineState.SUCCEEDED
    assert script.course == ["a", "b", "c"]
    last = script.contexts[-1][1]
    assert (last.result("a"), last.result("b"), last.input) == (b"a", b"b", b"input")
    assert [act.new_value for act in await bench.told()] == ["SUCCEEDED"]
    times = [run.steps[name] for name in "abc"]
    assert all(one.start_time <= one.end_time for one in times)
    assert all(a.end_time <= b.start_time for a, b in pairwise(times))


async def test_steps_that_do_not_wait_for_one_another_run_at_the_same_time(ann: Worker) -> None:
    """F-55: a parallel flag that is stored and unused. Each waits for the other to be at work."""
    both = asyncio.Barrier(2)

    async def meet(_: StepContext) -> bytes:
        await both.wait()
        return b"met"

    script = Script()
    steps = (
        script.step("a"),
        Step("b", meet, after=("a",)),
        Step("c", meet, after=("a",)),
        script.step("d", "b", "c"),
    )
    run = await driven(ann, *steps)
    assert states(run) == dict.fromkeys("abcd", "SUCCEEDED")


@pytest.mark.parametrize("error", [unavailable, unknown, lambda: ValueError("a bug")])
async def test_a_step_whose_outcome_is_unknown_is_tried_under_the_same_id(
    ann: Worker, error: Callable[[], Exception]
) -> None:
    """F-55: the retry policy. F-8: an attempt after a lost answer finds what the first one did."""
    script = Script(a=[error(), error(), b"at last"])
    run = await driven(ann, script.step("a"))
    assert run.steps["a"].result == b"at last"
    assert run.steps["a"].attempts == 3
    assert [context.attempt for _, context in script.contexts] == [1, 2, 3]
    assert len({context.request_id for _, context in script.contexts}) == 1


async def test_a_definite_refusal_ends_the_course_and_what_undoes_it_runs(ann: Worker) -> None:
    script = Script(b=[refused()])
    run = await driven(
        ann,
        script.step("a"),
        script.step("b", "a"),
        script.step("c", "b"),
        script.step("undo", "b", needs=("a",), unless=("b",)),
        script.step("settle", "c", "undo", needs=("a",)),
    )
    assert run.state is PipelineState.FAILED
    assert script.course == ["a", "b", "undo", "settle"]
    assert states(run)["b"] == "FAILED"
    assert states(run)["c"] == "SKIPPED"
    assert (run.steps["b"].error_reason, run.steps["b"].attempts) == ("NO", 1)


async def test_what_undoes_a_step_is_skipped_when_there_is_nothing_to_undo(ann: Worker) -> None:
    for script, expected in (
        (Script(), {"a": "SUCCEEDED", "b": "SUCCEEDED", "undo": "SKIPPED"}),
        (Script(a=[refused()]), {"a": "FAILED", "b": "SKIPPED", "undo": "SKIPPED"}),
        (Script(b=[SkipStep()]), {"a": "SUCCEEDED", "b": "SKIPPED", "undo": "SUCCEEDED"}),
    ):
        undo = script.step("undo", "b", needs=("a",), unless=("b",))
        run = await driven(ann, script.step("a"), script.step("b", "a"), undo)
        assert states(run) == expected


async def test_a_step_that_takes_too_long_is_cut_off_and_tried_again(ann: Worker) -> None:
    """F-55: the time-out of a step."""
    attempts: list[int] = []

    async def slow_at_first(context: StepContext) -> bytes:
        attempts.append(context.attempt)
        if context.attempt == 1:
            await asyncio.sleep(60)
        return b""

    quick = RetryPolicy(first=0.01)
    run = await driven(ann, Step("a", slow_at_first, deadline=0.1, retry=quick))
    assert run.state is PipelineState.SUCCEEDED
    assert attempts == [1, 2]


async def test_a_long_pause_is_left_to_the_durable_timer(bench: Bench, ann: Worker) -> None:
    """Any worker may go on after it; meanwhile nobody holds the pipeline."""
    script = Script(a=[unknown(), b"done"])
    steps = definition(script.step("a", retry=RetryPolicy(first=1.1)))
    async with bench.worker("ben") as ben, ben.engine(steps):
        async with ann.engine(steps) as engine:
            claim = await ann.begin(new_pipeline())
            engine.adopt(claim)

            async def asleep() -> bool:
                run = await ann.run_of(claim.id)
                return bool(run.steps) and not run.leased

            await until(asleep, 2, 0.01)
            assert states(await ann.run_of(claim.id)) == {"a": "RETRYING"}
        run = await ended(ben, claim)
    assert (run.state, run.steps["a"].replica) == (PipelineState.SUCCEEDED, "ben")
    assert run.steps["a"].attempts == 2


async def test_one_that_waits_for_its_next_attempt_lets_others_work(ann: Worker) -> None:
    """Of a family with one place; the one that waits has it again for the attempt."""
    script = Script(a=[unavailable(), b"back"])
    step = script.step("a", retry=RetryPolicy(first=1.1))
    family = Family(NAME, 1, lambda _: definition(step), lambda: 1)
    first, second = await ann.queue(2)
    async with ann.engine(family) as engine:
        engine.admit()

        async def over() -> list[UUID]:
            runs = await ann.journal.get([first, second])
            return [run.id for run in runs if run.state is PipelineState.SUCCEEDED]

        async def all_are_over() -> bool:
            return len(await over()) == 2

        assert await until(over, 5, 0.01) == [second]
        await until(all_are_over, 5)


async def test_an_attempt_that_takes_long_is_followed_by_a_pause_without_a_place(
    ann: Worker,
) -> None:
    """Whatever hangs would hold its place through every quick repeat."""

    async def hanging(context: StepContext) -> bytes:
        if context.pipeline_id == first:
            await asyncio.sleep(60)
        return b""

    first, second = await ann.queue(2)
    quick = Step("a", hanging, deadline=1.2, retry=RetryPolicy(first=0.3, factor=1))
    async with ann.engine(Family(NAME, 1, lambda _: definition(quick), lambda: 1)) as engine:
        engine.admit()

        async def second_is_over() -> bool:
            return (await ann.run_of(second)).state is PipelineState.SUCCEEDED

        await until(second_is_over, 5)
        assert (await ann.run_of(first)).steps["a"].attempts <= 2


async def test_a_step_that_never_becomes_known_parks_its_pipeline(ann: Worker) -> None:
    """Neither success nor failure may be assumed: a person looks, and lets it go on."""
    script = Script(a=[unknown(), b"done"])
    steps = definition(script.step("a", retry=RetryPolicy(first=1.5, attempts=1)))
    async with ann.engine(steps) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)
        run = await ended(ann, claim)
        assert run.state is PipelineState.PARKED
        assert run.parked_reason == "a: UNCLEAR after 1 attempts"
        async with ann.database.transaction() as connection:
            assert await ann.journal.unpark(connection, claim.id)
        run = await ended(ann, claim)
    assert (run.state, run.steps["a"].attempts) == (PipelineState.SUCCEEDED, 2)


async def test_what_is_merely_away_is_waited_for(ann: Worker) -> None:
    script = Script(a=[unavailable(), b"back"])
    step = script.step("a", retry=RetryPolicy(first=1.1, attempts=1))
    run = await driven(ann, step)
    assert (run.state, run.parked_reason) == (PipelineState.SUCCEEDED, "")


async def test_waiting_for_what_is_away_uses_up_no_patience(ann: Worker) -> None:
    """However long something was away, one answer that is no answer does not park."""
    outage = [unavailable() for _ in range(4)]
    script = Script(a=[*outage, Error(Code.ABORTED, "CONFLICT", "Again."), b"done"])
    pauses = RetryPolicy(first=0.2, factor=6, longest=1.2, attempts=2)
    async with ann.engine(definition(script.step("a", retry=pauses))) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)
        run = await ended(ann, claim, 20)
    assert (run.state, run.parked_reason) == (PipelineState.SUCCEEDED, "")
    assert (run.steps["a"].attempts, run.steps["a"].counted) == (6, 1)


async def test_each_try_that_failed_is_logged_once_and_the_service_is_kept(
    ann: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """In the record for who looks, and in the log: a warning once it has been so for a second."""
    away = RemoteError(Code.UNAVAILABLE, "AWAY", "Not here.", service="ledger")
    script = Script(a=[away, away, unavailable(), refused()])
    caplog.set_level(logging.INFO, "services.kit.journal.engine")
    async with ann.engine(
        definition(script.step("a", retry=RetryPolicy(first=0.02, factor=60, longest=1.2)))
    ) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)

        async def waits() -> StepRecord | None:
            record = (await ann.run_of(claim.id)).steps.get("a")
            return record if record is not None and record.attempts == 2 else None

        waiting: StepRecord = await until(waits)
        assert (waiting.state, waiting.error_service) == (StepState.RETRYING, "ledger")
        run = await ended(ann, claim, 20)
    assert run.steps["a"].error_service == ""
    logged = [(r.levelname, r.getMessage()) for r in caplog.records if "step a" in r.getMessage()]
    assert logged == [
        ("INFO", "step a, attempt 1, tried again in 0.0 s: ledger AWAY: Not here."),
        ("WARNING", "step a, attempt 2, tried again in 1.2 s: ledger AWAY: Not here."),
        ("WARNING", "step a, attempt 3, tried again in 1.2 s: here AWAY: Not now."),
        ("INFO", "step a, attempt 4, given up: here NO: Never."),
    ]


async def test_patience_is_fresh_once_a_person_has_looked(ann: Worker) -> None:
    script = Script(a=[unknown(), unknown(), unknown(), b"done"])
    steps = definition(script.step("a", retry=RetryPolicy(first=1.1, longest=1.1, attempts=2)))
    async with ann.engine(steps) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)
        run = await ended(ann, claim, 10)
        assert run.parked_reason == "a: UNCLEAR after 2 attempts"
        async with ann.database.transaction() as connection:
            assert await ann.journal.unpark(connection, claim.id)
        run = await ended(ann, claim, 10)
    assert (run.state, run.steps["a"].attempts) == (PipelineState.SUCCEEDED, 4)


async def test_a_step_that_cleans_up_cannot_be_refused(ann: Worker) -> None:
    """What follows it must be able to rely on it: no money goes back without a tombstone."""
    script = Script(a=[refused()], undo=[refused()])
    never = RetryPolicy(first=1.1, attempts=1)
    run = await driven(
        ann,
        script.step("charge"),
        script.step("a", "charge"),
        script.step("undo", "a", needs=("charge",), unless=("a",), retry=never),
        script.step("settle", "undo", needs=("charge",)),
    )
    assert (run.state, run.parked_reason) == (PipelineState.PARKED, "undo: NO after 1 attempts")
    assert states(run) == {"charge": "SUCCEEDED", "a": "FAILED", "undo": "RETRYING"}
    assert script.course == ["charge", "a", "undo"]


async def test_a_pipeline_that_kills_whoever_works_on_it_is_parked(
    bench: Bench, ann: Worker
) -> None:
    """Poison: it would go round for ever, and take a replica each time."""
    script = Script()
    claim = await ann.begin(new_pipeline())
    for _ in range(10):
        await bench.let_leases_end()
        assert await ann.journal.claim("victim", 1, KNOWN)
    await bench.let_leases_end()
    async with ann.engine(definition(script.step("a"))):
        run = await ended(ann, claim)
    assert run.state is PipelineState.PARKED
    assert "11 times" in run.parked_reason
    assert not script.course


async def test_a_cancelled_pipeline_begins_nothing_more_and_undoes_what_was(ann: Worker) -> None:
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: StepContext) -> bytes:
        at_work.set()
        await go_on.wait()
        return b"a"

    script = Script()
    steps = definition(
        Step("a", slow),
        script.step("b", "a"),
        script.step("undo", "b", needs=("a",), unless=("b",)),
    )
    async with ann.engine(steps) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)
        await at_work.wait()
        async with ann.database.transaction() as connection:
            assert await ann.journal.cancel(connection, claim.id)
        engine.cancel(claim.id)
        go_on.set()
        run = await ended(ann, claim)
    assert run.state is PipelineState.CANCELLED
    assert script.course == ["undo"]


async def test_a_cancellation_elsewhere_is_known_before_the_next_step(
    ann: Worker, ben: Worker
) -> None:
    """Nobody waits for a heartbeat: whoever records a step learns it."""
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: StepContext) -> bytes:
        at_work.set()
        await go_on.wait()
        return b"a"

    script = Script()
    async with ann.engine(definition(Step("a", slow), script.step("b", "a"))) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)
        await at_work.wait()
        async with ben.database.transaction() as connection:
            assert await ben.journal.cancel(connection, claim.id)
        go_on.set()
        run = await ended(ann, claim)
    assert (run.state, script.course) == (PipelineState.CANCELLED, [])


async def test_a_step_left_out_tells_whether_anybody_may_have_begun_it(
    bench: Bench, ann: Worker
) -> None:
    """What nobody began needs no undoing."""
    script = Script()
    steps = definition(script.step("a"), script.step("undo", "a", needs=(), unless=("a",)))
    taken_over = await ann.begin(new_pipeline())
    await bench.let_leases_end()
    (again,) = await ann.claim()
    fresh = await ann.begin(new_pipeline())
    async with ann.engine(steps) as engine:
        for claim in (fresh, again):
            engine.adopt(replace(claim, cancelled=True))
        skipped = [(await ended(ann, claim)).steps["a"] for claim in (fresh, taken_over)]
    assert [(one.state, one.attempts) for one in skipped] == [
        (StepState.SKIPPED, 0),
        (StepState.SKIPPED, 1),
    ]


async def test_a_replica_that_claims_its_own_pipeline_again_goes_on_with_the_newer_claim(
    bench: Bench, ann: Worker
) -> None:
    """The older work is stopped, and its end does not take the newer one's place away."""
    begun: list[int] = []
    stopped: list[int] = []
    go_on = asyncio.Event()

    async def slow(_: StepContext) -> bytes:
        mine = len(begun)
        begun.append(mine)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            stopped.append(mine)
            raise
        return str(mine).encode()

    async with ann.engine(definition(Step("a", slow))) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)

        async def claimed_again() -> bool:
            if len(begun) < 2:
                await bench.let_leases_end()
            return len(begun) >= 2 and stopped == begun[:-1]

        await until(claimed_again, 10)
        assert engine.in_flight == 1
        go_on.set()
        run = await ended(ann, claim)
        await until(lambda: asyncio.sleep(0, engine.in_flight == 0), 3, 0.01)
    assert (run.state, run.steps["a"].result) == (PipelineState.SUCCEEDED, str(begun[-1]).encode())


async def test_a_worker_that_lost_its_lease_stops_and_another_goes_on(
    bench: Bench, ann: Worker, ben: Worker
) -> None:
    """Finished steps are not repeated; the one that was at work is, under the same id."""
    hang = asyncio.Event()
    seen: list[tuple[str, str]] = []

    def steps(worker: Worker) -> Sequence[Step]:
        async def first(context: StepContext) -> bytes:
            seen.append((worker.name, context.request_id))
            return b""

        async def second(context: StepContext) -> bytes:
            seen.append((worker.name, context.request_id))
            if worker is ann:
                await hang.wait()
            return worker.name.encode()

        return Step("first", first), Step("second", second, after=("first",))

    async with ann.engine(definition(*steps(ann))) as engine:
        claim = await ann.begin(new_pipeline())
        engine.adopt(claim)

        async def first_is_recorded() -> bool:
            return bool((await ann.run_of(claim.id)).steps) and len(seen) == 2

        async def taken_over() -> Sequence[Claim]:
            await bench.let_leases_end()  # again: Ann, who is well, may renew hers in between
            return await ben.claim()

        await until(first_is_recorded, 3, 0.01)
        claims = await until(taken_over, 3, 0.01)
        async with ben.engine(definition(*steps(ben))) as other:
            other.adopt(claims[0])
            run = await ended(ben, claim)

            async def stopped() -> bool:
                return engine.in_flight == 0

            await until(stopped, 3)
    assert run.steps["second"].result == b"ben"
    second = f"{claim.id}:second"
    assert seen == [("ann", f"{claim.id}:first"), ("ann", second), ("ben", second)]


async def test_timers_and_orphans_do_not_wait_for_a_worker_to_be_less_busy(
    ann: Worker, ben: Worker
) -> None:
    """What nobody works on is claimed by one that has more than enough of its own."""
    done = asyncio.Event()

    async def work(context: StepContext) -> bytes:
        if context.input == b"own":
            await done.wait()
        return b""

    orphan = await ben.begin(new_pipeline())
    async with ann.engine(definition(Step("a", work)), capacity=1) as engine:
        for _ in range(3):
            engine.adopt(await ann.begin(new_pipeline(content=b"own")))
        await ben.journal.release([orphan])

        async def ended() -> bool:
            return (await ann.run_of(orphan.id)).state is PipelineState.SUCCEEDED

        await until(ended)
        done.set()
