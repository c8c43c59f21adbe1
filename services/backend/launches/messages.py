"""Between the values of launches and their messages."""

from collections.abc import Mapping
from datetime import UTC

from contract import ids
from icto.backend.v1 import deployments_pb2
from icto.backend.v1 import launches_pb2 as pb
from icto.ledger.v1 import ledger_pb2
from services.backend.launches import domain
from services.backend.launches.domain import Launch
from services.backend.messages import step_error
from services.kit.journal.change_log import Change
from services.kit.journal.model import Definition, PipelineState, Run, Step, StepRecord

_NONE: Mapping[str, StepRecord] = {}


def launch_message(
    launch: Launch,
    definition: Definition,
    run: Run | None,
    *,
    escrow: ledger_pb2.Account,
    position: int = 0,
) -> pb.Launch:
    """A launch with the state and steps of its pipeline; `run` is None when it just began."""
    records = run.steps if run else _NONE
    at_work = definition.at_work(run) if run else frozenset()
    worker = run.worker if run else ""
    shape = launch.shape
    message = pb.Launch(
        name=launch.name,
        owner=launch.owner,
        project=ids.resource_name("projects", launch.project_id) if launch.project_id else "",
        spec=pb.LaunchSpec.FromString(launch.spec),
        state=state_of(run.state if run else PipelineState.QUEUED, records, launch),
        queue_position=position,
        steps=[
            step_message(step, records.get(step.name), worker if step.name in at_work else "")
            for step in definition.steps
        ],
        token=launch.token or domain.delivered(records, shape.origin),
        locks=_delivered(records, shape.lock_steps),
        distributions=_delivered(records, shape.distribution_steps),
        escrow=escrow,
        withdrawn_amount=str(launch.withdrawn),
        quote=launch.quote,
        payment=launch.payment or _result(records, "charge"),
        cost=launch.cost,
        error=_error(records),
        parked_reason=run.parked_reason if run else "",
        trace_id=launch.trace_id,
    )
    message.create_time.FromDatetime(launch.accept_time)
    message.update_time.FromDatetime(run.update_time if run else launch.accept_time)
    return message


def state_of(
    state: PipelineState, records: Mapping[str, StepRecord], launch: Launch
) -> "pb.LaunchState.ValueType":
    """How far a launch is."""
    anything = any(domain.delivered_steps(records, launch.shape))
    outcome = domain.outcome(state, anything=anything)
    return outcome.value  # type: ignore[return-value]  # the same numbers


def step_message(step: Step, record: StepRecord | None, worker: str = "") -> pb.LaunchStep:
    """A step as its message; `worker` is the replica that runs it for the first time now."""
    if record is None:
        state = deployments_pb2.STEP_STATE_RUNNING if worker else deployments_pb2.STEP_STATE_PENDING
        return pb.LaunchStep(name=step.name, state=state, after=step.after, replica=worker)
    message = recorded_step(record)
    message.after.extend(step.after)
    return message


def recorded_step(record: StepRecord) -> pb.LaunchStep:
    """A step that was recorded."""
    message = pb.LaunchStep(
        name=record.name,
        state=int(record.state),  # type: ignore[arg-type]  # the same numbers
        attempts=record.attempts,
        replica=record.replica,
        error=step_error(record),
    )
    message.start_time.FromDatetime(record.start_time)
    if record.state.finished:
        message.end_time.FromDatetime(record.end_time)
    return message


def change_message(change: Change, state: "pb.LaunchState.ValueType") -> pb.LaunchChange:
    """A change as its message; `state` is the launch's, where it is the launch that changed."""
    message = pb.LaunchChange(sequence=change.sequence, parked_reason=change.reason)
    message.time.FromDatetime(change.time.astimezone(UTC))
    if change.record is not None:
        message.step.CopyFrom(recorded_step(change.record))
    else:
        message.state = state
    return message


def _delivered(records: Mapping[str, StepRecord], steps: tuple[str, ...]) -> list[str]:
    return [name for step in steps if (name := domain.delivered(records, step))]


def _result(records: Mapping[str, StepRecord], step: str) -> str:
    record = records.get(step)
    return record.result.decode() if record else ""


def _error(records: Mapping[str, StepRecord]) -> deployments_pb2.DeploymentError | None:
    """The error of the first step that failed for good."""
    failed = sorted((r for r in records.values() if r.error_reason), key=lambda r: r.end_time)
    return next((step_error(record) for record in failed if record.state.finished), None)
