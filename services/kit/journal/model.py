"""What a pipeline is: steps with an order, and the record of how they went. Pure values.

A definition is written in one place and read top to bottom:

    DEPLOY = Definition("deploy_token", version=1, steps=(
        Step("charge", charge),
        Step("create_token", create_token, after=("charge",)),
        Step("refund", refund, after=("create_token",), when=When.FAILED),
    ))
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from icto.events.v1 import events_pb2 as events
    from services.kit.database import Connection


class PipelineState(IntEnum):
    """State of a pipeline. All but RUNNING and PARKED are final."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4
    PARKED = 5

    @property
    def final(self) -> bool:
        """Whether nothing will happen any more."""
        return self not in (PipelineState.RUNNING, PipelineState.PARKED)


class StepState(IntEnum):
    """State of a step that was recorded."""

    RETRYING = 3
    SUCCEEDED = 4
    FAILED = 5
    SKIPPED = 6

    @property
    def finished(self) -> bool:
        """Whether the step will not run again."""
        return self is not StepState.RETRYING


class When(Enum):
    """What the steps before must have come to, for a step to run; otherwise it is skipped."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a step is tried again. Seconds.

    A step whose outcome is unknown is tried until it answers; after `attempts` tries the pipeline
    is parked for a person to look at, since neither success nor failure may be assumed.
    """

    first: float = 0.05
    factor: float = 2.0
    longest: float = 10.0
    attempts: int = 100

    def delay(self, attempt: int) -> float:
        """Pause after an attempt, counted from 1."""
        return min(self.longest, self.first * self.factor ** min(attempt - 1, 30))


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step knows when it runs.

    Attributes:
        pipeline_id: id of the pipeline.
        request_id: the same for every attempt of the step, for calls to other services.
        input: what the pipeline was begun with.
        records: the finished steps by name, with their results.
        attempt: counted from 1.
        cancelled: the pipeline was asked to stop.
    """

    pipeline_id: UUID
    request_id: str
    input: bytes
    records: Mapping[str, "StepRecord"]
    attempt: int
    cancelled: bool

    def result(self, step: str) -> bytes:
        """Result of a step that succeeded before; b"" when it did not."""
        record = self.records.get(step)
        return record.result if record else b""


class SkipStep(Exception):  # noqa: N818  # not an error: there is nothing to do
    """Raised by a step that finds nothing to do."""


Work = Callable[[StepContext], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. It must be harmless to run twice: a crash before its record repeats it."""

    name: str
    work: Work
    after: tuple[str, ...] = ()
    when: When = When.SUCCEEDED
    deadline: float = 15.0
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How a step went."""

    name: str
    state: StepState
    attempts: int
    start_time: datetime
    end_time: datetime
    replica: str
    result: bytes = b""
    error_reason: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A pipeline as the journal has it."""

    id: UUID
    definition: str
    version: int
    state: PipelineState
    steps: Mapping[str, StepRecord]
    leased: bool
    cancelled: bool
    parked_reason: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class NewPipeline:
    """A pipeline to begin."""

    id: UUID
    definition: str
    version: int
    input: bytes
    traceparent: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a pipeline: good until the lease ends or a later epoch begins."""

    id: UUID
    definition: str
    version: int
    epoch: int
    input: bytes
    traceparent: str
    cancelled: bool = False
    idle_claims: int = 0
    records: Mapping[str, StepRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """A pipeline that ends now."""

    claim: Claim
    state: PipelineState
    records: Mapping[str, StepRecord]


Settle = Callable[["Connection", Sequence[Ended]], Awaitable[Sequence["events.Event"]]]


class DefinitionError(Exception):
    """A definition that cannot run: an unknown or circular dependency, or a name used twice."""


@dataclass(frozen=True)
class Definition:
    """A pipeline's steps. `settle` runs in the transaction that ends pipelines, for all of them."""

    name: str
    version: int
    steps: tuple[Step, ...]
    settle: Settle

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for step in self.steps:
            unknown = set(step.after) - seen
            if unknown or step.name in seen:
                raise DefinitionError(f"{self.name}.{step.name}: {unknown or 'named twice'}")
            seen.add(step.name)

    def ready(self, records: Mapping[str, StepRecord], running: set[str]) -> Iterator[Step]:
        """Steps that may be looked at now: everything before them is finished."""
        for step in self.steps:
            known = records.get(step.name)
            if step.name in running or (known and known.state.finished):
                continue
            if all((r := records.get(name)) and r.state.finished for name in step.after):
                yield step

    def finished(self, records: Mapping[str, StepRecord]) -> bool:
        """Whether every step has ended."""
        return all((r := records.get(s.name)) and r.state.finished for s in self.steps)


def applies(step: Step, records: Mapping[str, StepRecord]) -> bool:
    """Whether a ready step runs, or is skipped because of how the steps before it went."""
    before = [records[name].state for name in step.after]
    match step.when:
        case When.SUCCEEDED:
            return all(state is StepState.SUCCEEDED for state in before)
        case When.FAILED:
            return any(state is StepState.FAILED for state in before)
        case When.FINISHED:
            return True


def outcome(records: Mapping[str, StepRecord], *, cancelled: bool) -> PipelineState:
    """How a pipeline ended: failed if a step did, cancelled if it was asked to and did nothing."""
    states = {record.state for record in records.values()}
    if cancelled and StepState.SUCCEEDED not in states:
        return PipelineState.CANCELLED
    return PipelineState.FAILED if StepState.FAILED in states else PipelineState.SUCCEEDED
