"""What a pipeline is: which steps are ready, which are skipped, and how it ends."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto.backend.v1 import deployments_pb2
from services.kit.journal import (
    Definition,
    Ended,
    PipelineState,
    RetryPolicy,
    Step,
    StepContext,
    StepRecord,
    StepState,
    When,
)
from services.kit.journal.model import DefinitionError, applies, outcome

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
    Step("refund", work, after=("token", "lock"), when=When.FAILED),
    Step("tell", work, after=("refund",), when=When.FINISHED),
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
    assert ready(records(charge=DONE, token=DONE, lock=FAILED)) == ["distribution", "refund"]
    assert ready(records(charge=SKIPPED, token=SKIPPED, lock=SKIPPED, distribution=SKIPPED)) == [
        "refund"
    ]


def test_a_step_at_work_is_not_begun_twice() -> None:
    assert ready({}, {"charge"}) == []
    assert ready(records(charge=DONE, token=DONE), {"lock"}) == ["distribution"]


def test_a_step_that_waits_for_its_next_try_is_ready_and_holds_up_the_others() -> None:
    assert ready(records(charge=RETRYING)) == ["charge"]


@pytest.mark.parametrize(
    ("when", "before", "runs"),
    [
        (When.SUCCEEDED, [], True),
        (When.SUCCEEDED, [DONE, DONE], True),
        (When.SUCCEEDED, [DONE, FAILED], False),
        (When.SUCCEEDED, [SKIPPED], False),
        (When.FAILED, [], False),
        (When.FAILED, [DONE, DONE], False),
        (When.FAILED, [DONE, FAILED], True),
        (When.FAILED, [SKIPPED], False),
        (When.FINISHED, [DONE, FAILED, SKIPPED], True),
    ],
)
def test_a_step_runs_when_those_before_it_went_as_it_asks(
    when: When, before: list[StepState], *, runs: bool
) -> None:
    known = {f"s{n}": record(f"s{n}", state) for n, state in enumerate(before)}
    assert applies(Step("x", work, after=tuple(known), when=when), known) is runs


@pytest.mark.parametrize(
    ("states", "cancelled", "ends"),
    [
        ([DONE, DONE], False, PipelineState.SUCCEEDED),
        ([DONE, SKIPPED], False, PipelineState.SUCCEEDED),
        ([DONE, FAILED, DONE], False, PipelineState.FAILED),
        ([], True, PipelineState.CANCELLED),
        ([SKIPPED, SKIPPED], True, PipelineState.CANCELLED),
        ([FAILED], True, PipelineState.CANCELLED),
        ([DONE, FAILED], True, PipelineState.FAILED),
        ([DONE, DONE], True, PipelineState.SUCCEEDED),
    ],
)
def test_how_a_pipeline_ends(
    states: list[StepState], ends: PipelineState, *, cancelled: bool
) -> None:
    known = {str(n): record(str(n), state) for n, state in enumerate(states)}
    assert outcome(known, cancelled=cancelled) is ends


def test_a_pipeline_has_ended_when_every_step_has() -> None:
    everything = {step.name: DONE for step in LAUNCH.steps}
    assert LAUNCH.finished(records(**everything))
    assert not LAUNCH.finished(records(**everything | {"tell": RETRYING}))
    assert not LAUNCH.finished({})


@given(st.data())
def test_every_course_comes_to_an_end(data: st.DataObject) -> None:
    """Whatever the steps do, a pipeline neither stalls nor begins a step too soon."""
    known: dict[str, StepRecord] = {}
    for _ in LAUNCH.steps:
        step = data.draw(st.sampled_from(list(LAUNCH.ready(known, set()))))
        assert all(known[name].state.finished for name in step.after)
        choices = [DONE, FAILED, SKIPPED] if applies(step, known) else [SKIPPED]
        known[step.name] = record(step.name, data.draw(st.sampled_from(choices)))
    assert LAUNCH.finished(known)
    assert not list(LAUNCH.ready(known, set()))


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([Step("a", work, after=("b",)), Step("b", work)], r"test\.a: .*b"),
        ([Step("a", work, after=("a",))], r"test\.a: .*a"),
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


def test_only_running_and_parked_pipelines_may_go_on() -> None:
    assert {state for state in PipelineState if not state.final} == {
        PipelineState.RUNNING,
        PipelineState.PARKED,
    }


def test_step_states_have_the_numbers_of_the_proto() -> None:
    proto = deployments_pb2.StepState
    assert all(proto.Value(f"STEP_STATE_{state.name}") == state for state in StepState)
