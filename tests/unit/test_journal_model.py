"""What a pipeline is: which steps are ready, which are skipped, and how it ends."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto.backend.v1 import deployments_pb2
from services.kit.journal.model import (
    Definition,
    DefinitionError,
    Ended,
    Family,
    PipelineState,
    Places,
    RetryPolicy,
    Run,
    Step,
    StepContext,
    StepRecord,
    StepState,
)

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


async def work(context: StepContext) -> bytes:
    return context.input


async def settle(_: object, ended: Sequence[Ended]) -> Sequence[object]:
    return list(ended)


def definition(*steps: Step) -> Definition:
    return Definition("test", 1, steps, settle)  # type: ignore[arg-type]


def record(name: str, state: StepState, result: bytes = b"") -> StepRecord:
    return StepRecord(name, state, 1, MOMENT, MOMENT, "replica", result)


def records(**states: StepState) -> dict[str, StepRecord]:
    return {name: record(name, state) for name, state in states.items()}


LAUNCH = definition(
    Step("charge", work),
    Step("token", work, after=("charge",)),
    Step("lock", work, after=("token",)),
    Step("distribution", work, after=("token",)),
    Step("abandon", work, after=("token", "lock"), needs=("charge",), unless=("token", "lock")),
    Step("settle", work, after=("lock", "distribution", "abandon"), needs=("charge",)),
)
DONE, FAILED, SKIPPED, RETRYING = (
    StepState.SUCCEEDED,
    StepState.FAILED,
    StepState.SKIPPED,
    StepState.RETRYING,
)


def ready(known: dict[str, StepRecord], running: set[str] | None = None) -> list[str]:
    return [step.name for step in LAUNCH.ready(known, running or set())]


def test_steps_are_ready_when_all_before_them_are_finished() -> None:
    assert ready({}) == ["charge"]
    assert ready(records(charge=DONE)) == ["token"]
    assert ready(records(charge=DONE, token=DONE)) == ["lock", "distribution"]
    assert ready(records(charge=DONE, token=DONE, lock=FAILED)) == ["distribution", "abandon"]
    assert ready(records(charge=FAILED, token=SKIPPED, lock=SKIPPED)) == [
        "distribution",
        "abandon",
    ]


def test_a_step_at_work_is_not_begun_twice() -> None:
    assert ready({}, {"charge"}) == []
    assert ready(records(charge=DONE, token=DONE), {"lock"}) == ["distribution"]


def test_a_step_that_waits_for_its_next_try_is_ready_and_holds_up_the_others() -> None:
    assert ready(records(charge=RETRYING)) == ["charge"]


FIRST, SECOND = Step("a", work), Step("b", work)


def third(**conditions: tuple[str, ...]) -> Step:
    return Step("c", work, after=("a", "b"), **conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "a", "b", "runs"),
    [
        (third(), DONE, DONE, True),
        (third(), DONE, FAILED, False),
        (third(), DONE, SKIPPED, False),
        (third(needs=()), FAILED, SKIPPED, True),
        (third(needs=("a",)), DONE, FAILED, True),
        (third(needs=("a",)), FAILED, DONE, False),
        (third(needs=("a",)), SKIPPED, DONE, False),
        (third(needs=("a",), unless=("b",)), DONE, FAILED, True),
        (third(needs=("a",), unless=("b",)), DONE, SKIPPED, True),
        (third(needs=("a",), unless=("b",)), DONE, DONE, False),
        (third(needs=(), unless=("a", "b")), DONE, FAILED, True),
        (third(needs=(), unless=("a", "b")), DONE, DONE, False),
    ],
)
def test_a_step_runs_when_those_before_it_went_as_it_asks(
    step: Step, a: StepState, b: StepState, *, runs: bool
) -> None:
    assert step.applies(records(a=a, b=b)) is runs


def test_a_first_step_always_runs() -> None:
    assert FIRST.applies({})
    assert not FIRST.cleans_up
    assert third(needs=()).cleans_up


@pytest.mark.parametrize(
    ("a", "b", "c", "cancelled", "ends"),
    [
        (DONE, DONE, SKIPPED, False, PipelineState.SUCCEEDED),
        (DONE, SKIPPED, SKIPPED, False, PipelineState.SUCCEEDED),
        (DONE, FAILED, DONE, False, PipelineState.FAILED),
        (DONE, DONE, FAILED, False, PipelineState.SUCCEEDED),
        (SKIPPED, SKIPPED, DONE, True, PipelineState.CANCELLED),
        (DONE, SKIPPED, DONE, True, PipelineState.CANCELLED),
        (DONE, FAILED, DONE, True, PipelineState.FAILED),
        (DONE, DONE, SKIPPED, True, PipelineState.SUCCEEDED),
    ],
)
def test_a_pipeline_ends_as_its_ordinary_course_does(
    a: StepState, b: StepState, c: StepState, ends: PipelineState, *, cancelled: bool
) -> None:
    """What cleans up afterwards decides nothing; a stop that came too late changes nothing."""
    pipeline = definition(FIRST, SECOND, third(needs=("a",), unless=("b",)))
    assert pipeline.outcome(records(a=a, b=b, c=c), cancelled=cancelled) is ends


def test_a_step_without_a_record_was_not_done() -> None:
    assert definition(FIRST).outcome({}, cancelled=False) is PipelineState.FAILED


def test_a_pipeline_has_ended_when_every_step_has() -> None:
    everything = {step.name: DONE for step in LAUNCH.steps}
    assert LAUNCH.finished(records(**everything))
    assert not LAUNCH.finished(records(**everything | {"settle": RETRYING}))
    assert not LAUNCH.finished({})


@given(st.data())
def test_every_course_comes_to_an_end(data: st.DataObject) -> None:
    """Whatever the steps do, a pipeline neither stalls nor begins a step too soon."""
    known: dict[str, StepRecord] = {}
    for _ in LAUNCH.steps:
        step = data.draw(st.sampled_from(list(LAUNCH.ready(known, set()))))
        assert all(known[name].state.finished for name in step.after)
        choices = [DONE, FAILED, SKIPPED] if step.applies(known) else [SKIPPED]
        known[step.name] = record(step.name, data.draw(st.sampled_from(choices)))
    assert LAUNCH.finished(known)
    assert not list(LAUNCH.ready(known, set()))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([Step("a", work, after=("b",)), Step("b", work)], r"test\.a: .*b"),
        ([Step("a", work, after=("a",))], r"test\.a: .*a"),
        ([Step("a", work, needs=("b",))], r"test\.a: .*b"),
        ([Step("a", work, unless=("b",))], r"test\.a: .*b"),
        ([Step("a", work), Step("a", work)], r"test\.a: named twice"),
    ],
)
def test_a_definition_that_cannot_run_is_refused(steps: list[Step], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):
        definition(*steps)


def test_pauses_grow_up_to_the_longest() -> None:
    policy = RetryPolicy(first=0.1, factor=2, longest=1)
    assert [policy.delay(n) for n in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.8, 1]
    assert policy.delay(10_000) == 1


def test_a_step_sees_the_results_of_those_before_it() -> None:
    known = {"charge": record("charge", DONE, b"paid")}
    context = StepContext(UUID(int=1), "id", b"", known, 1, cancelled=False)
    assert context.result("charge") == b"paid"
    assert context.result("token") == b""


def test_only_running_parked_and_queued_pipelines_may_go_on() -> None:
    assert {state for state in PipelineState if not state.final} == {
        PipelineState.RUNNING,
        PipelineState.PARKED,
        PipelineState.QUEUED,
    }


def test_step_states_have_the_numbers_of_the_proto() -> None:
    proto = deployments_pb2.StepState
    assert all(proto.Name(int(state)) == f"STEP_STATE_{state.name}" for state in StepState)  # type: ignore[arg-type]


def run(steps: dict[str, StepRecord], **more: Any) -> Run:
    """A pipeline that a replica has."""
    standard: dict[str, Any] = {"state": PipelineState.RUNNING, "leased": True, "cancelled": False}
    told = standard | more
    return Run(
        id=UUID(int=1),
        definition="test",
        version=1,
        steps=steps,
        worker="replica",
        parked_reason="",
        create_time=MOMENT,
        update_time=MOMENT,
        **told,
    )


@pytest.mark.parametrize(
    ("state", "reason", "cancelled", "told"),
    [
        (PipelineState.RUNNING, "", False, "RUNNING"),
        (PipelineState.RUNNING, "", True, "RUNNING, asked to stop"),
        (PipelineState.PARKED, "a person", False, "PARKED, a person"),
        (PipelineState.CANCELLED, "", True, "CANCELLED"),
    ],
)
def test_the_audit_is_told_how_a_pipeline_stands(
    state: PipelineState, reason: str, told: str, *, cancelled: bool
) -> None:
    stands = replace(run({}, state=state, cancelled=cancelled), parked_reason=reason)
    assert stands.standing == told


def test_what_runs_now_is_what_is_ready_at_a_replica_that_has_the_pipeline() -> None:
    steps = records(charge=DONE, token=DONE)
    assert LAUNCH.at_work(run(steps)) == {"lock", "distribution"}
    assert LAUNCH.at_work(run(steps, leased=False)) == frozenset()
    assert LAUNCH.at_work(run(steps, state=PipelineState.PARKED)) == frozenset()
    assert LAUNCH.at_work(run(steps, cancelled=True)) == frozenset()
    # What has a record is told by that.
    assert LAUNCH.at_work(run(steps | records(lock=RETRYING))) == {"distribution"}


def test_a_family_makes_the_definition_of_what_a_pipeline_began_with() -> None:
    made = {b"launch": LAUNCH}
    assert Family("test", 1, made.__getitem__, lambda: 1).shaped(b"launch") is LAUNCH


async def test_what_does_not_change_is_read_once_for_all_steps_of_a_pipeline() -> None:
    asked: list[UUID] = []

    async def read(pipeline_id: UUID) -> str:
        asked.append(pipeline_id)
        return "what it read"

    context = StepContext(UUID(int=1), "id", b"", {}, 1, cancelled=False)
    assert [await context.once(read), await context.once(read)] == ["what it read"] * 2
    assert asked == [UUID(int=1)]


def test_a_cancelled_pipeline_leaves_out_what_did_not_begin_and_never_what_cleans_up() -> None:
    charge, create = Step("charge", work), Step("create", work, after=("charge",))
    undo = Step("undo", work, after=("create",), needs=("charge",), unless=("create",))
    made = definition(charge, create, undo)
    assert made.drops(charge, begun=False)
    assert not made.drops(charge, begun=True)
    assert made.drops(create, begun=True), "the step after it undoes whatever it did"
    assert not made.drops(undo, begun=False)
    assert made.shaped(b"whatever it was begun with") is made


def test_an_owner_has_all_places_of_a_family_unless_it_says_how_many() -> None:
    alone = Family("test", 1, lambda _: definition(Step("a", work)), lambda: 7)
    assert alone.places == Places(7, 7)
    assert replace(alone, share=lambda: 2).places == Places(7, 2)
