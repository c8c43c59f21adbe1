"""What a pipeline is: steps with an order, and the record of how they went. Pure values.

A definition is written in one place and read top to bottom:

    DEPLOY = Definition("deploy_token", version=1, settle=settle, steps=(
        Step("charge", charge),
        Step("create", create, after=("charge",)),
        Step("abandon", abandon, after=("create",), needs=("charge",), unless=("create",)),
    ))
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar, assert_never
from uuid import UUID

if TYPE_CHECKING:
    from icto.events.v1 import events_pb2 as events
    from services.kit.storage.database import Connection

T = TypeVar("T")


class PipelineState(IntEnum):
    """State of a pipeline. All but RUNNING, PARKED and QUEUED are final."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4
    PARKED = 5
    QUEUED = 6

    @property
    def final(self) -> bool:
        """Whether nothing will happen any more."""
        match self:
            case PipelineState.RUNNING | PipelineState.PARKED | PipelineState.QUEUED:
                return False
            case PipelineState.SUCCEEDED | PipelineState.FAILED | PipelineState.CANCELLED:
                return True
            case _:
                assert_never(self)


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a step is tried again. Seconds.

    A step whose outcome is unknown is tried until it answers; after `attempts` tries the pipeline
    is parked for a person to look at, since neither success nor failure may be assumed. What is
    merely unavailable is waited for, however long that takes, and such tries do not count.
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
        known: what `once` has read for the steps of this pipeline.
    """

    pipeline_id: UUID
    request_id: str
    input: bytes
    records: Mapping[str, "StepRecord"]
    attempt: int
    cancelled: bool
    known: dict[object, Any] = field(default_factory=dict)

    async def once(self, read: Callable[[UUID], Awaitable[T]]) -> T:
        """What `read` tells of the pipeline, read once in this replica for all of its steps.

        For what does not change while the pipeline runs.
        """
        if read not in self.known:
            self.known[read] = await read(self.pipeline_id)
        found: T = self.known[read]
        return found

    def result(self, step: str) -> bytes:
        """Result of a step that succeeded before; b"" when it did not."""
        record = self.records.get(step)
        return record.result if record else b""


class SkipStep(Exception):  # noqa: N818  # not an error: there is nothing to do
    """Raised by a step that finds nothing to do."""


Work = Callable[[StepContext], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Step:
    """One step. It must be harmless to run twice: a crash before its record repeats it.

    Attributes:
        name: unique in its definition.
        work: what it does.
        after: it is looked at once these have ended, however they did.
        needs: it runs only if these succeeded; what it comes after, unless said otherwise. A step
            that names them cleans up, and cannot be refused: what others did must not be left
            undone, and what follows must not rely on it. A refusal is tried again, then a person
            looks.
        unless: it is skipped if all of these succeeded: it undoes what they would have done.
        deadline: seconds for one attempt.
        retry: what happens while it is not known how an attempt went.
    """

    name: str
    work: Work
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] | None = None
    unless: tuple[str, ...] = ()
    deadline: float = 15.0
    retry: RetryPolicy = RetryPolicy()

    @property
    def cleans_up(self) -> bool:
        """Whether it also runs when other steps failed, or the pipeline was cancelled."""
        return self.needs is not None

    def applies(self, records: "Mapping[str, StepRecord]") -> bool:
        """Whether it runs, now that all before it have ended."""
        needed = self.after if self.needs is None else self.needs
        if not all(_succeeded(records, name) for name in needed):
            return False
        return not self.unless or not all(_succeeded(records, name) for name in self.unless)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How a step went.

    Attributes:
        attempts: tries so far; of a skipped step, 0 says that nobody can have begun it.
        counted: tries that count against its RetryPolicy, since a person last looked.
        error_service: mesh service that the error is of; empty: the one that runs the step.
    """

    name: str
    state: StepState
    attempts: int
    start_time: datetime
    end_time: datetime
    replica: str
    result: bytes = b""
    error_reason: str = ""
    error_message: str = ""
    counted: int = 0
    error_service: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A pipeline as the journal has it; `worker` is the replica at work on it, if any."""

    id: UUID
    definition: str
    version: int
    state: PipelineState
    steps: Mapping[str, StepRecord]
    leased: bool
    worker: str
    cancelled: bool
    parked_reason: str
    create_time: datetime
    update_time: datetime

    @property
    def standing(self) -> str:
        """How it stands, in a few words for the audit."""
        asked = "asked to stop" if self.cancelled and not self.state.final else ""
        return ", ".join(filter(None, (self.state.name, self.parked_reason, asked)))


@dataclass(frozen=True, slots=True)
class NewPipeline:
    """A pipeline to begin; `owner` is whose share of a family's places it takes, if anybody's."""

    id: UUID
    definition: str
    version: int
    input: bytes
    traceparent: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """How many pipelines of a family may be at work at one time: in all, and of one owner."""

    limit: int
    share: int


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
    """A pipeline's steps. `settle` runs in the transaction that ends pipelines, for all of them.

    One that is `stoppable` begins no step during an emergency stop.
    """

    name: str
    version: int
    steps: tuple[Step, ...]
    settle: Settle
    stoppable: bool = True

    def shaped(self, argument: bytes) -> "Definition":
        """Itself: its steps are the same for every pipeline."""
        del argument
        return self

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for step in self.steps:
            unknown = {*step.after, *(step.needs or ()), *step.unless} - seen
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

    def drops(self, step: Step, *, begun: bool) -> bool:
        """Whether a cancelled pipeline leaves a step out.

        A step that may have begun is run to a known end first, unless a later one undoes whatever
        it may have done.
        """
        if step.cleans_up:
            return False
        return not begun or any(step.name in other.unless for other in self.steps)

    def at_work(self, run: Run) -> frozenset[str]:
        """Steps that its worker runs for the first time now: they have no record yet."""
        if not run.leased or run.state is not PipelineState.RUNNING:
            return frozenset()
        return frozenset(
            step.name
            for step in self.ready(run.steps, set(run.steps))
            if step.applies(run.steps) and not (run.cancelled and self.drops(step, begun=False))
        )

    def finished(self, records: Mapping[str, StepRecord]) -> bool:
        """Whether every step has ended."""
        return all((r := records.get(s.name)) and r.state.finished for s in self.steps)

    def outcome(self, records: Mapping[str, StepRecord], *, cancelled: bool) -> PipelineState:
        """How a pipeline ended: by the steps of its ordinary course."""
        course = [step.name for step in self.steps if not step.cleans_up]
        if all(_succeeded(records, name) or _skipped(records, name) for name in course):
            everything = not cancelled or all(_succeeded(records, name) for name in course)
            return PipelineState.SUCCEEDED if everything else PipelineState.CANCELLED
        return PipelineState.FAILED


def _succeeded(records: Mapping[str, StepRecord], name: str) -> bool:
    record = records.get(name)
    return record is not None and record.state is StepState.SUCCEEDED


def _skipped(records: Mapping[str, StepRecord], name: str) -> bool:
    record = records.get(name)
    return record is not None and record.state is StepState.SKIPPED


@dataclass(frozen=True)
class Family:
    """Pipelines whose steps depend on what they were begun with.

    Attributes:
        name: name of each definition that it makes.
        version: version of each.
        shape: the definition for what a pipeline was begun with; the same each time.
        limit: how many may be at work at one time; more wait in a queue.
        share: how many of them may be of one owner. Absent: all.
    """

    name: str
    version: int
    shape: Callable[[bytes], Definition]
    limit: Callable[[], int]
    share: Callable[[], int] | None = None

    @property
    def places(self) -> Places:
        """What may be at work now."""
        limit = self.limit()
        return Places(limit, self.share() if self.share else limit)

    def shaped(self, argument: bytes) -> Definition:
        """The definition for what a pipeline was begun with."""
        return self.shape(argument)
