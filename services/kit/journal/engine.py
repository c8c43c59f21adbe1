"""Runs pipelines: claims them, runs the steps that are ready, and records how each went.

Steps that do not wait for one another run at the same time. A step that fails for good is recorded
as failed, and the steps that ask for a failure follow. A step whose outcome is unknown is tried
again, in place for a short while and by a durable timer after that, until it is known.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import SpanKind, use_span

from contract.errors import MAX_MESSAGE, Code, Error, RemoteError
from observability import names
from observability.tracing import note_failure, parent_context
from services.kit.calling import deadline
from services.kit.journal.model import (
    Claim,
    Definition,
    Family,
    SkipStep,
    Step,
    StepContext,
    StepRecord,
    StepState,
)
from services.kit.journal.port import Continue, FencedError, Finish, Journal, Next, Park, Sleep
from services.kit.testing.faults import Faults

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5
_HEARTBEAT_SECONDS: Final = 1.0
# So long a step is tried in place, pauses and all; after that it goes to the durable timer.
_PATIENCE_SECONDS: Final = 1.0
_MAX_IDLE_CLAIMS: Final = 10
# Durable timers and what a dead replica left behind never wait for our own orders to end.
_LEAST_FOUND: Final = 8
# Pipelines wait for others more than they work: one replica alone has room for as many as may run.
CAPACITY: Final = 1000
_STOPPED_SECONDS: Final = 1.0


@dataclass
class _Work:
    """One claimed pipeline at work in this replica."""

    claim: Claim
    definition: Definition
    records: dict[str, StepRecord]
    cancelled: bool
    changed: list[StepRecord] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)
    """Steps that may have begun, here or in a replica that had the pipeline before."""
    known: dict[object, Any] = field(default_factory=dict)
    """What its steps read once."""
    found: bool = False
    """Whether it was due and nobody's, not begun or admitted here."""
    queued: bool = False
    """Whether it is of a family: it gives its place back while it waits."""


class Engine:
    """The worker of one replica."""

    def __init__(
        self,
        journal: Journal,
        *,
        worker: str,
        tracer: trace.Tracer,
        faults: Faults,
        stopped: Callable[[], bool] = lambda: False,
        capacity: int = CAPACITY,
    ) -> None:
        self._journal = journal
        self._definitions: dict[tuple[str, int], Definition | Family] = {}
        self._admitting = asyncio.Event()
        self._worker = worker
        self._tracer = tracer
        self._faults = faults
        self._stopped = stopped
        self._capacity = capacity
        self._working: dict[UUID, tuple[_Work, asyncio.Task[None]]] = {}
        self._leaving: list[Claim] = []
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def in_flight(self) -> int:
        """Pipelines at work in this replica."""
        return len(self._working)

    @property
    def _room_for_found(self) -> int:
        """How many more may be claimed that are due: some always, however busy we are with ours."""
        found = sum(work.found for work, _ in self._working.values())
        return max(self._capacity - len(self._working), _LEAST_FOUND - found)

    def define(self, definition: Definition | Family) -> None:
        """Makes a definition known. Pipelines of others are left to whoever knows them."""
        self._definitions[definition.name, definition.version] = definition

    async def run(self) -> None:
        """Claims and works, as long as the replica lives; then lets go of what is not finished."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._keep_claiming())
                tasks.create_task(self._keep_admitting())
                tasks.create_task(self._keep_leases())
        finally:
            with contextlib.suppress(Error):
                await self._journal.release(self._leaving)

    def adopt(self, claim: Claim) -> None:
        """Goes on with a pipeline that was begun here, once its transaction has committed."""
        self._adopt(claim, found=False)

    def _adopt(self, claim: Claim, *, found: bool) -> None:
        definition = self._definitions.get((claim.definition, claim.version))
        if definition is None or self._tasks is None:
            log.error("no definition of %s version %d", claim.definition, claim.version)
            return
        if not self._supersedes(claim):
            return
        queued = isinstance(definition, Family)
        shaped = definition.shaped(claim.input)
        work = _Work(
            claim, shaped, dict(claim.records), claim.cancelled, found=found, queued=queued
        )
        if claim.epoch > 1:
            work.begun.update(step.name for step in shaped.ready(work.records, set()))
        task = self._tasks.create_task(self._drive(work))
        self._working[claim.id] = (work, task)
        task.add_done_callback(lambda _: self._left(work))

    def _supersedes(self, claim: Claim) -> bool:
        """Whether this is the newest claim here; the work under an older one is stopped.

        A replica claims its own pipeline again when its lease ran out while steps were under way.
        """
        if claim.id not in self._working:
            return True
        older, task = self._working[claim.id]
        if older.claim.epoch >= claim.epoch:
            return False
        task.cancel()
        return True

    def admit(self) -> None:
        """Says that a pipeline was enqueued."""
        self._admitting.set()

    def _left(self, work: _Work) -> None:
        now = self._working.get(work.claim.id)
        if now is not None and now[0] is work:
            del self._working[work.claim.id]
        self._admitting.set()

    def cancel(self, pipeline_id: UUID) -> None:
        """Tells a pipeline at once that it was asked to stop, if it is at work here."""
        if pipeline_id in self._working:
            self._working[pipeline_id][0].cancelled = True

    async def _keep_claiming(self) -> None:
        while True:
            try:
                claims = await self._claims(self._room_for_found)
            except Error as error:
                log.info("claiming waits: %s", error)
                claims = ()
            for claim in claims:
                self._adopt(claim, found=True)
            if not claims:
                await asyncio.sleep(_POLL_SECONDS)

    async def _keep_admitting(self) -> None:
        """Lets those that wait in a queue begin, as others end."""
        families = [d for d in self._definitions.values() if isinstance(d, Family)]
        while families:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._admitting.wait()
            self._admitting.clear()
            for family in families:
                await self._admit(family)

    async def _admit(self, family: Family) -> None:
        room = self._capacity - len(self._working)
        if room <= 0 or self._stopped():
            return
        try:
            claims = await self._journal.admit(
                self._worker, family.name, family.version, family.places, room
            )
        except Error as error:
            log.info("admitting waits: %s", error)
            return
        for claim in claims:
            self.adopt(claim)

    async def _claims(self, room: int) -> Sequence[Claim]:
        if room <= 0:
            return ()
        return await self._journal.claim(self._worker, room, self._definitions)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            working = list(self._working.values())
            if not working:
                continue
            try:
                renewal = await self._journal.renew(
                    self._worker, [work.claim for work, _ in working]
                )
            except Error as error:
                log.warning("heartbeat failed: %s", error)
                continue
            for work, task in working:
                if work.claim.id in renewal.lost:
                    task.cancel()
                work.cancelled = work.cancelled or work.claim.id in renewal.cancelled

    async def _drive(self, work: _Work) -> None:
        """Works on a pipeline until it ends, sleeps, or is somebody else's."""
        try:
            if work.claim.idle_claims > _MAX_IDLE_CLAIMS:
                reason = f"claimed {work.claim.idle_claims} times without finishing a step"
                await self._journal.advance(work.claim, (), self._park(work, reason))
                return
            await self._advance(work, await self._run_steps(work))
        except FencedError:
            log.warning("pipeline %s is somebody else's now", work.claim.id)
        except asyncio.CancelledError:
            self._leaving.append(work.claim)
            raise
        except Error as error:
            # The lease runs out and whoever is alive goes on.
            log.warning("pipeline %s waits for its lease: %s", work.claim.id, error)
        except Exception:
            log.exception("pipeline %s cannot go on here", work.claim.id)

    async def _run_steps(self, work: _Work) -> Next:
        """Runs what is ready until nothing is left or a step must sleep."""
        running: dict[asyncio.Task[StepRecord], str] = {}
        pause: float | None = None
        try:
            while True:
                if pause is None and work.definition.stoppable and self._stopped():
                    pause = _STOPPED_SECONDS
                if pause is None:
                    self._start_ready(work, running)
                if not running:
                    break
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del running[task]
                    record = task.result()
                    work.changed.append(record)
                    work.records[record.name] = record
                    if not record.state.finished:
                        pause = self._pause(work, record, pause)
                if running or (pause is None and not work.definition.finished(work.records)):
                    await self._advance(work, Continue())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return self._conclude(work, pause)

    async def _advance(self, work: _Work, then: Next) -> None:
        records, work.changed = work.changed, []
        cancelled = await self._journal.advance(work.claim, records, then)
        work.cancelled = work.cancelled or cancelled
        for record in records:
            self._point(work, record.name, "committed")

    def _point(self, work: _Work, step: str, moment: str) -> None:
        """Where a test may have this process die."""
        self._faults.point(f"{work.definition.name}.{step}.{moment}")

    def _start_ready(self, work: _Work, running: dict[asyncio.Task[StepRecord], str]) -> None:
        """Starts every step that can run now; skips those whose condition does not hold."""
        progress = True
        while progress:
            progress = False
            for step in list(work.definition.ready(work.records, set(running.values()))):
                if step.applies(work.records) and not self._dropped(work, step):
                    work.begun.add(step.name)
                    task = asyncio.ensure_future(self._run_step(work, step))
                    running[task] = step.name
                else:
                    record = self._skipped(work, step)
                    work.records[step.name] = record
                    work.changed.append(record)
                    progress = True

    def _skipped(self, work: _Work, step: Step) -> StepRecord:
        """A step that is left out: whether somebody may have begun it is told by its attempts."""
        known = work.records.get(step.name)
        attempts = known.attempts if known else int(step.name in work.begun)
        return self._record(step, StepState.SKIPPED, _Try(attempts, 0, datetime.now(UTC)))

    def _dropped(self, work: _Work, step: Step) -> bool:
        """A cancelled pipeline begins no step of its ordinary course."""
        return work.cancelled and work.definition.drops(step, begun=step.name in work.begun)

    def _pause(self, work: _Work, record: StepRecord, before: float | None) -> float:
        step = next(s for s in work.definition.steps if s.name == record.name)
        return max(before or 0.0, step.retry.delay(record.attempts))

    def _conclude(self, work: _Work, pause: float | None) -> Next:
        if pause is None:
            state = work.definition.outcome(work.records, cancelled=work.cancelled)
            return Finish(state, work.definition.settle, dict(work.records))
        for step in work.definition.steps:
            record = work.records.get(step.name)
            if record is None or record.state.finished:
                continue
            if record.counted >= step.retry.attempts:
                tried = f"{step.name}: {record.error_reason} after {record.attempts} attempts"
                return self._park(work, tried)
        return Sleep(pause, keeps_place=not work.queued)

    def _park(self, work: _Work, reason: str) -> Park:
        return Park(reason, keeps_place=not work.queued)

    async def _run_step(self, work: _Work, step: Step) -> StepRecord:
        """Tries a step until it is known how it went, or that takes long."""
        record = work.records.get(step.name)
        began = time.monotonic()
        while True:
            record = await self._attempt(work, step, _Try.after(record))
            delay = step.retry.delay(record.attempts)
            late = time.monotonic() - began + delay > _PATIENCE_SECONDS
            if record.state.finished or late:
                return record
            await asyncio.sleep(delay)

    async def _attempt(self, work: _Work, step: Step, attempt: "_Try") -> StepRecord:
        context = StepContext(
            pipeline_id=work.claim.id,
            request_id=f"{work.claim.id}:{step.name}",
            input=work.claim.input,
            records=work.records,
            attempt=attempt.number,
            cancelled=work.cancelled,
            known=work.known,
        )
        span = self._span(work.claim, step, attempt.number)
        try:
            with use_span(span, record_exception=False), deadline.detached(step.deadline):
                async with asyncio.timeout(step.deadline):
                    self._point(work, step.name, "before")
                    result = await step.work(context)
                    self._point(work, step.name, "after")
            return self._record(step, StepState.SUCCEEDED, attempt, result)
        except SkipStep:
            return self._record(step, StepState.SKIPPED, attempt)
        except TimeoutError:
            late = Error(Code.DEADLINE_EXCEEDED, "STEP_DEADLINE", "The step took too long.")
            return self._failed(span, step, attempt, late)
        except Error as error:
            return self._failed(span, step, attempt, error)
        except Exception as error:
            log.exception("step %s of %s is broken", step.name, work.claim.id)
            span.record_exception(error)
            broken = Error(Code.INTERNAL, "STEP_BROKEN", f"{type(error).__name__}: {error}")
            return self._failed(span, step, attempt, broken)
        finally:
            span.end()

    def _span(self, claim: Claim, step: Step, attempt: int) -> trace.Span:
        return self._tracer.start_span(
            f"{claim.definition} {step.name}",
            context=parent_context(claim.traceparent),
            kind=SpanKind.INTERNAL,
            attributes={names.PIPELINE_ID: str(claim.id), names.STEP_ATTEMPT: attempt},
        )

    def _failed(self, span: trace.Span, step: Step, attempt: "_Try", error: Error) -> StepRecord:
        ends = error.definite and not step.cleans_up
        state = StepState.FAILED if ends else StepState.RETRYING
        note_failure(span, error.code.name, error.reason, error.message, ours=True)
        record = self._record(step, state, attempt, error=error)
        if record.error_service:
            span.set_attribute(names.ERROR_SERVICE, record.error_service)
        with use_span(span):
            _log_failure(step, record)
        return record

    def _record(
        self,
        step: Step,
        state: StepState,
        attempt: "_Try",
        result: bytes = b"",
        error: Error | None = None,
    ) -> StepRecord:
        return StepRecord(
            name=step.name,
            state=state,
            attempts=attempt.number,
            start_time=attempt.started,
            end_time=datetime.now(UTC),
            replica=self._worker,
            result=result,
            error_reason=error.reason if error else "",
            error_message=error.message[:MAX_MESSAGE] if error else "",
            error_service=error.service if isinstance(error, RemoteError) else "",
            counted=attempt.counted + int(error is not None and error.code is not Code.UNAVAILABLE),
        )


def _log_failure(step: Step, record: StepRecord) -> None:
    """One line for each attempt that failed; a warning once that has been so for a while."""
    delay = step.retry.delay(record.attempts)
    again = "given up" if record.state.finished else f"tried again in {delay:.1f} s"
    log.log(
        logging.INFO if record.state.finished or delay <= _PATIENCE_SECONDS else logging.WARNING,
        "step %s, attempt %d, %s: %s %s: %s",
        record.name,
        record.attempts,
        again,
        record.error_service or "here",
        record.error_reason,
        record.error_message,
    )


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt at a step: its number, how many before it count, and when the first began."""

    number: int
    counted: int
    started: datetime

    @classmethod
    def after(cls, record: StepRecord | None) -> "_Try":
        """The attempt that follows those of a record."""
        if record is None:
            return cls(1, 0, datetime.now(UTC))
        return cls(record.attempts + 1, record.counted, record.start_time)
