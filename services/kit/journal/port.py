"""The port of the journal: what an engine needs of a place that remembers pipelines.

The first half of `tests/behaviour/test_journal.py` is written against this port alone, so that a
second implementation can be held to the same promises:

* A pipeline that was begun is claimed, again and again, until it is finished or parked.
* At most one claim of a pipeline is good at a time. A claim that is no longer good can write
  nothing.
* What `advance` recorded is there for every later claim.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from services.kit.journal.model import (
    Claim,
    NewPipeline,
    PipelineState,
    Places,
    Run,
    Settle,
    StepRecord,
)
from services.kit.storage.database import Connection
from services.kit.storage.statement import Statement


class FencedError(Exception):
    """The claim is no longer good: another worker has the pipeline."""


@dataclass(frozen=True, slots=True)
class Continue:
    """The worker goes on with the pipeline."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """The pipeline may be claimed again after some seconds: a durable timer.

    One that gives its place back is admitted again instead, before any that is new.
    """

    seconds: float
    keeps_place: bool = True


@dataclass(frozen=True, slots=True)
class Finish:
    """The pipeline has ended. `settle` writes what follows from it, in the same transaction."""

    state: PipelineState
    settle: Settle
    records: Mapping[str, StepRecord]


@dataclass(frozen=True, slots=True)
class Park:
    """The pipeline waits for a person. Once it may go on, its place is as after `Sleep`."""

    reason: str
    keeps_place: bool = True


Next = Continue | Sleep | Finish | Park


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of leases."""

    lost: frozenset[UUID]
    cancelled: frozenset[UUID]


class Journal(Protocol):
    """Remembers pipelines."""

    def begin(self, new: NewPipeline, worker: str) -> tuple[Claim, Statement]:
        """Begins a pipeline, claimed by `worker`, with whatever else is committed with it."""

    async def claim(
        self, worker: str, limit: int, known: Collection[tuple[str, int]]
    ) -> Sequence[Claim]:
        """Claims pipelines that are due and that nobody works on.

        Only those of definitions and versions that the worker knows: while replicas of two releases
        run side by side, a newer one's pipelines are left to it.
        """

    def enqueue(self, new: NewPipeline) -> Statement:
        """Begins a pipeline that waits until it is admitted."""

    async def admit(
        self, worker: str, name: str, version: int, places: Places, room: int
    ) -> Sequence[Claim]:
        """Claims pipelines of a name that wait for a place, as long as there are any.

        First those that were begun and gave their place back, then new ones in the order of their
        `positions`. With all that were begun and wait, no more than twice the places are taken, in
        all and by one owner. Only those of one version, which the worker knows; the places are for
        all versions.
        """

    async def positions(
        self, name: str, places: Places, pipeline_ids: Sequence[UUID]
    ) -> Mapping[UUID, int]:
        """Places in the queue, from 1, of those that wait in it: the order in which it moves."""

    async def renew(self, worker: str, claims: Sequence[Claim]) -> Renewal:
        """Prolongs the leases of claims that are still good."""

    async def release(self, claims: Sequence[Claim]) -> None:
        """Lets others claim at once what this worker leaves unfinished."""

    async def advance(self, claim: Claim, records: Sequence[StepRecord], then: Next) -> bool:
        """Writes step records and says how it goes on, in one transaction.

        Returns whether the pipeline was asked to stop by then.

        Raises:
            FencedError: the claim is no longer good; nothing was written.
        """

    async def cancel(self, connection: Connection, pipeline_id: UUID) -> bool:
        """Asks a pipeline to stop, also a parked one. False when it has ended or never was."""

    async def resume(self, connection: Connection, pipeline_id: UUID, reset: Sequence[str]) -> bool:
        """Lets a failed pipeline run again, forgetting the records of `reset` steps."""

    async def get(
        self, pipeline_ids: Sequence[UUID], connection: Connection | None = None
    ) -> Sequence[Run]:
        """Pipelines by id, in any order; those that never were are left out.

        With a connection, as its transaction sees them.
        """

    async def unpark(self, connection: Connection, pipeline_id: UUID) -> bool:
        """Lets a parked pipeline go on where it stopped. False when it is not parked."""

    async def parked_counts(self) -> Mapping[str, int]:
        """How many pipelines of each definition wait for a person."""

    async def parked(self, after: UUID, limit: int) -> Sequence[Run]:
        """Pipelines after this id that wait for a person, oldest first."""
