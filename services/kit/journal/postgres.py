"""The journal in Postgres: rows, leases and an epoch that fences every write."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from icto.events.v1 import events_pb2 as events
from services.kit.audit.outbox import Outbox
from services.kit.journal import change_log
from services.kit.journal.changes import ChangeFeed
from services.kit.journal.model import (
    Claim,
    Ended,
    NewPipeline,
    PipelineState,
    Places,
    Run,
    Settle,
    StepRecord,
    StepState,
)
from services.kit.journal.port import (
    Continue,
    FencedError,
    Finish,
    Next,
    Park,
    Renewal,
    Sleep,
)
from services.kit.storage.database import Connection, Database
from services.kit.storage.group_commit import GroupCommit
from services.kit.storage.statement import Column, Statement, arrays_of, numbers, rows_of

LEASE_SECONDS: Final = 5.0
WAITING: Final = 2
"""As many times the limit of a family may be begun, with those that wait for their next attempt."""
_BATCH: Final = 128
_ALL: Final = "journal"

_RUNNING: Final = f"{PipelineState.RUNNING:d}"
_PARKED: Final = f"{PipelineState.PARKED:d}"
_QUEUED: Final = f"{PipelineState.QUEUED:d}"
_OPEN: Final = numbers(state for state in PipelineState if not state.final)
_UNPLACED: Final = f"state = {_QUEUED} OR state = {_RUNNING} AND NOT holds_place"

_BEGIN: Final = f"""
INSERT INTO kit_pipelines
    (id, definition, version, input, traceparent, state, epoch, worker, lease_time)
VALUES ($1, $2, $3, $4, $5, {_RUNNING}, 1, $6, clock_timestamp() + make_interval(secs => $7))
"""
_CLAIM: Final = f"""
UPDATE kit_pipelines SET epoch = epoch + 1, worker = $1, idle_claims = idle_claims + 1,
    lease_time = clock_timestamp() + make_interval(secs => $3)
WHERE id = ANY (ARRAY(
    SELECT id FROM kit_pipelines
    WHERE state = {_RUNNING} AND holds_place AND wake_time <= clock_timestamp()
      AND (lease_time IS NULL OR lease_time < clock_timestamp())
      AND (definition, version) IN (SELECT * FROM unnest($4::text[], $5::int[]))
    ORDER BY wake_time LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id, definition, version, epoch, input, traceparent, cancelled, idle_claims
"""
_ENQUEUE: Final = f"""
INSERT INTO kit_pipelines (id, definition, version, input, traceparent, owner, state, holds_place)
VALUES ($1, $2, $3, $4, $5, $6, {_QUEUED}, false)
"""
# One replica at a time admits, so that the limit holds.
_ADMITTING: Final = "SELECT pg_advisory_xact_lock(hashtext(current_schema() || $1))"
# The order in which a queue moves, which is also what places are told from. $1: name, $2: share.
# An owner's next comes after those of whoever has begun less. One whose owner has their share is
# left standing: at work, or twice that with what waits for its next attempt.
_IN_ORDER: Final = f"""
begun AS (
    SELECT owner, count(*) AS begun,
        count(*) FILTER (WHERE holds_place OR wake_time <= clock_timestamp()) AS busy
    FROM kit_pipelines WHERE state = {_RUNNING} AND definition = $1 GROUP BY owner),
turns AS (
    SELECT id, version, owner, row_number() OVER (
        PARTITION BY owner, CASE WHEN owner = '' THEN id END ORDER BY id) AS turn
    FROM kit_pipelines WHERE state = {_QUEUED} AND definition = $1),
counted AS (
    SELECT turns.id, version, coalesce(begun, 0) + turn AS layer,
        coalesce(busy, 0) + turn <= $2
            AND coalesce(begun, 0) + turn <= {WAITING} * $2 AS fits
    FROM turns LEFT JOIN begun ON begun.owner = turns.owner AND turns.owner <> ''),
in_order AS (
    SELECT id, version, fits, row_number() OVER (ORDER BY fits DESC, layer, id) AS place
    FROM counted)
"""
# First those that were begun and whose next attempt is due, then new ones: so many that, with all
# that wait for an attempt, no more than twice the limit are begun.
_ADMIT: Final = f"""
WITH {_IN_ORDER},
held AS (
    SELECT owner, count(*) AS held FROM kit_pipelines
    WHERE state = {_RUNNING} AND holds_place AND definition = $1 GROUP BY owner),
total AS (
    SELECT least($4, $3 - coalesce((SELECT sum(held) FROM held), 0)::bigint) AS room,
        {WAITING} * $3 - coalesce((SELECT sum(begun) FROM begun), 0)::bigint AS startable),
due AS (
    SELECT id, wake_time, version, coalesce(held, 0) + row_number() OVER (
        PARTITION BY waiting.owner, CASE WHEN waiting.owner = '' THEN id END ORDER BY wake_time, id
        ) <= $2 AS fits
    FROM kit_pipelines AS waiting
    LEFT JOIN held ON held.owner = waiting.owner AND waiting.owner <> ''
    WHERE state = {_RUNNING} AND NOT holds_place AND wake_time <= clock_timestamp()
      AND definition = $1),
resumed AS (
    SELECT id FROM due WHERE fits AND version = $5 ORDER BY wake_time, id
    LIMIT (SELECT greatest(0, room) FROM total)),
started AS (
    SELECT id FROM in_order WHERE fits AND version = $5 ORDER BY place
    LIMIT (SELECT greatest(0, least(room - (SELECT count(*) FROM resumed), startable)) FROM total))
UPDATE kit_pipelines SET state = {_RUNNING}, holds_place = true, epoch = epoch + 1, worker = $6,
    lease_time = clock_timestamp() + make_interval(secs => $7),
    idle_claims = idle_claims + CASE WHEN state = {_QUEUED} THEN 0 ELSE 1 END,
    sequence = sequence + CASE WHEN state = {_QUEUED} THEN $8 ELSE 0 END,
    update_time = CASE WHEN state = {_QUEUED} THEN kit_now() ELSE update_time END
WHERE ({_UNPLACED}) AND id = ANY (ARRAY(
    SELECT id FROM kit_pipelines WHERE ({_UNPLACED})
      AND id IN (SELECT id FROM resumed UNION ALL SELECT id FROM started)
    FOR UPDATE SKIP LOCKED))
RETURNING id, definition, version, epoch, input, traceparent, cancelled, idle_claims, sequence
"""
_POSITIONS: Final = f"""
WITH {_IN_ORDER} SELECT id, place FROM in_order WHERE id = ANY ($3::uuid[])
"""
_WAITING: Final = f"""
SELECT EXISTS (SELECT FROM kit_pipelines WHERE state = {_QUEUED} AND definition = $1)
    OR EXISTS (SELECT FROM kit_pipelines WHERE state = {_RUNNING} AND NOT holds_place
        AND definition = $1 AND wake_time <= clock_timestamp())
"""
_RECORD: Final = {
    "name": "text",
    "state": "smallint",
    "attempts": "int",
    "result": "bytea",
    "error_reason": "text",
    "error_message": "text",
    "start_time": "timestamptz",
    "end_time": "timestamptz",
    "replica": "text",
    "counted": "int",
    "error_service": "text",
}
"""What is kept of a step: columns of kit_steps with their types, named as in `StepRecord`."""
_STEP_COLUMNS: Final = ", ".join(("pipeline_id", *_RECORD))
_RECORDED_AGAIN: Final = ", ".join(
    f"{name} = excluded.{name}" for name in _RECORD if name not in ("name", "start_time")
)
_STEPS: Final = f"SELECT {_STEP_COLUMNS} FROM kit_steps WHERE pipeline_id = ANY ($1::uuid[])"
# One that is being written is left out: a heartbeat never waits for a batch, or deadlocks with it.
_RENEW: Final = f"""
WITH good AS (
    SELECT p.id, p.cancelled FROM kit_pipelines AS p
    JOIN unnest($1::uuid[], $2::bigint[]) AS mine (id, epoch)
        ON p.id = mine.id AND p.epoch = mine.epoch
    WHERE p.state = {_RUNNING}),
renewed AS (
    UPDATE kit_pipelines SET lease_time = clock_timestamp() + make_interval(secs => $3)
    WHERE id IN (
        SELECT p.id FROM kit_pipelines AS p
        JOIN unnest($1::uuid[], $2::bigint[]) AS mine (id, epoch)
            ON p.id = mine.id AND p.epoch = mine.epoch
        WHERE p.state = {_RUNNING} FOR UPDATE OF p SKIP LOCKED))
SELECT id, cancelled FROM good
"""
_RELEASE: Final = f"""
UPDATE kit_pipelines SET lease_time = NULL, worker = NULL
FROM unnest($1::uuid[], $2::bigint[]) AS mine (id, epoch)
WHERE kit_pipelines.id = mine.id AND kit_pipelines.epoch = mine.epoch AND state = {_RUNNING}
"""
# What is left of it is done at once, without waiting for a place.
_CANCEL: Final = f"""
UPDATE kit_pipelines SET cancelled = true, state = {_RUNNING}, holds_place = true,
    parked_reason = '', idle_claims = 0,
    wake_time = least(wake_time, clock_timestamp()), update_time = kit_now(),
    sequence = sequence + $2
WHERE id = $1 AND state IN ({_OPEN})
RETURNING sequence
"""
_RESUME: Final = f"""
UPDATE kit_pipelines SET state = {_RUNNING}, idle_claims = 0, parked_reason = '', worker = NULL,
    lease_time = NULL, epoch = epoch + 1, wake_time = clock_timestamp(), update_time = kit_now(),
    sequence = sequence + $3
WHERE id = $1 AND state = $2
RETURNING sequence
"""
_COUNT_ANEW: Final = "UPDATE kit_steps SET counted = 0 WHERE pipeline_id = $1 AND counted > 0"
_FORGET_STEPS: Final = "DELETE FROM kit_steps WHERE pipeline_id = $1 AND name = ANY ($2::text[])"
_RUN_COLUMNS: Final = """
    id, definition, version, state AS run_state, cancelled, parked_reason, create_time,
    update_time, coalesce(lease_time > clock_timestamp(), false) AS leased,
    coalesce(worker, '') AS worker
"""
# A row for each step, or one where there is none yet.
_RUNS: Final = f"""
SELECT run.*, {_STEP_COLUMNS} FROM (SELECT {_RUN_COLUMNS} FROM kit_pipelines %s) AS run
LEFT JOIN kit_steps ON pipeline_id = run.id ORDER BY run.id
"""
_GET: Final = _RUNS % "WHERE id = ANY ($1::uuid[])"
_LIST_PARKED: Final = _RUNS % f"WHERE state = {_PARKED} AND id > $1 ORDER BY id LIMIT $2"
_PARKED_COUNTS: Final = f"""
SELECT definition, count(*) AS parked FROM kit_pipelines WHERE state = {_PARKED} GROUP BY definition
"""


_Key = tuple[UUID, int]
# Tuples: a union would be made anew for each row.
_ENDS_TURN: Final = (Finish, Park)
_RESTS: Final = (Sleep, Park)


@dataclass(frozen=True, slots=True)
class _Advance:
    """How a pipeline goes on, and what its steps came to."""

    claim: Claim
    records: Sequence[StepRecord]
    then: Next

    @property
    def key(self) -> _Key:
        """The claim: a stale one of the same pipeline may come at the same time."""
        return self.claim.id, self.claim.epoch

    @property
    def turns(self) -> bool:
        """Whether the pipeline itself changes its state."""
        return isinstance(self.then, _ENDS_TURN)

    @property
    def changes(self) -> int:
        """How many changes a watcher is told of."""
        return len(self.records) + self.turns

    @property
    def state(self) -> PipelineState:
        """The state that the pipeline comes into."""
        if isinstance(self.then, Finish):
            return self.then.state
        return PipelineState.PARKED if isinstance(self.then, Park) else PipelineState.RUNNING

    @property
    def parked_reason(self) -> str:
        """Why it is parked, if it is."""
        return self.then.reason if isinstance(self.then, Park) else ""

    @property
    def releases(self) -> bool:
        """Whether the worker gives it back."""
        return not isinstance(self.then, Continue)

    @property
    def pause(self) -> float:
        """Seconds until it may be claimed."""
        return self.then.seconds if isinstance(self.then, Sleep) else 0.0

    @property
    def keeps_place(self) -> bool:
        """Whether it holds its place among those at work."""
        return not isinstance(self.then, _RESTS) or self.then.keeps_place

    def steps(self) -> Iterator["_Recorded"]:
        """Its steps, as they are written."""
        for number, record in enumerate(self.records, start=1):
            yield _Recorded(self.claim, self.changes - number, record)


class _Recorded(NamedTuple):
    """What a step came to: under which claim, and how many changes of its batch follow."""

    claim: Claim
    behind: int
    record: StepRecord


_ADVANCES: Final = (
    Column("id", "uuid", "claim.id"),
    Column("epoch", "bigint", "claim.epoch"),
    Column("state", "smallint", "state"),
    Column("reason", "text", "parked_reason"),
    Column("release", "boolean", "releases"),
    Column("sleep", "float8", "pause"),
    Column("changes", "int", "changes"),
    Column("turns", "boolean", "turns"),
    Column("holds_place", "boolean", "keeps_place"),
)
_RECORDS: Final = (
    Column("pipeline_id", "uuid", "claim.id"),
    Column("epoch", "bigint", "claim.epoch"),
    Column("behind", "int", "behind"),
    *(Column(name, kind, f"record.{name}") for name, kind in _RECORD.items()),
)
# Goes on with the pipelines of a batch whose claims are good, and writes what their steps came to.
# A change that watchers are told of has a number: the last one of the batch is the pipeline's own.
# $1: seconds of a lease, $2: whether changes are logged; then the columns of both tables.
_ADVANCE: Final = f"""
WITH fenced AS (
    UPDATE kit_pipelines SET state = batch.state, parked_reason = batch.reason, idle_claims = 0,
        update_time = kit_now(), sequence = sequence + CASE WHEN $2 THEN batch.changes ELSE 0 END,
        worker = CASE WHEN batch.release THEN NULL ELSE worker END,
        lease_time = CASE WHEN batch.release THEN NULL
            ELSE clock_timestamp() + make_interval(secs => $1) END,
        wake_time = clock_timestamp() + make_interval(secs => batch.sleep),
        holds_place = batch.holds_place
    FROM {rows_of(_ADVANCES, "batch", 3)}
    WHERE kit_pipelines.id = batch.id AND kit_pipelines.epoch = batch.epoch
      AND kit_pipelines.state = {_RUNNING}
    RETURNING kit_pipelines.id AS pipeline_id, kit_pipelines.epoch, cancelled,
        kit_pipelines.sequence, kit_pipelines.state, parked_reason, turns),
step AS (
    SELECT step.*, fenced.sequence - behind AS sequence
    FROM {rows_of(_RECORDS, "step", 3 + len(_ADVANCES))}
    JOIN fenced USING (pipeline_id, epoch)),
recorded AS (
    INSERT INTO kit_steps ({_STEP_COLUMNS}) SELECT {_STEP_COLUMNS} FROM step
    ON CONFLICT (pipeline_id, name) DO UPDATE SET {_RECORDED_AGAIN}),
logged AS (
    INSERT INTO kit_changes ({change_log.COLUMNS})
    SELECT pipeline_id, sequence, name, state, attempts, error_reason, error_message, start_time,
        end_time, replica, error_service FROM step WHERE $2
    UNION ALL
    SELECT pipeline_id, sequence, '', state, 0, '', parked_reason, NULL, NULL, '', '' FROM fenced
    WHERE turns AND $2)
SELECT pipeline_id, epoch, cancelled FROM fenced
"""


class PostgresJournal:
    """Implements the port. `run` must be at work for `advance` to be answered."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        changes: ChangeFeed | None = None,
        *,
        logged: bool = False,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._changes = changes
        self._logged = logged
        self._advances: GroupCommit[str, _Advance, bool] = GroupCommit(
            self._commit, batch=_BATCH, parallel=1
        )

    async def run(self) -> None:
        """Owns the commits, as long as the replica lives."""
        await self._advances.run()

    def begin(self, new: NewPipeline, worker: str) -> tuple[Claim, Statement]:
        """Begins a pipeline, claimed from the start: no search is needed to go on with it."""
        claim = Claim(new.id, new.definition, new.version, 1, new.input, new.traceparent)
        row = (new.id, new.definition, new.version, new.input, new.traceparent)
        return claim, Statement(_BEGIN, (*row, worker, LEASE_SECONDS))

    def enqueue(self, new: NewPipeline) -> Statement:
        """Begins a pipeline that waits until it is admitted."""
        row = (new.id, new.definition, new.version, new.input, new.traceparent, new.owner)
        return Statement(_ENQUEUE, row)

    async def admit(
        self, worker: str, name: str, version: int, places: Places, room: int
    ) -> Sequence[Claim]:
        """Claims what waits for a place of a version, as long as there are any."""
        if not await self._database.fetchval(_WAITING, name):
            return ()
        async with self._database.transaction() as connection:
            await connection.execute(_ADMITTING, name)
            rows = await connection.fetch(
                _ADMIT, name, places.share, places.limit, room, version, worker, LEASE_SECONDS,
                int(self._logged),
            )  # fmt: skip
            # Nothing but its admission has claimed one that was never begun.
            begun = [row for row in rows if row["epoch"] == 1]
            if begun and self._logged:
                running = PipelineState.RUNNING
                changes = [change_log.of_pipeline(r["id"], r["sequence"], running) for r in begun]
                await connection.apply(change_log.appended(changes))
        self._told(row["id"] for row in begun)
        steps = await self._steps([row["id"] for row in rows if row["epoch"] > 1])
        return [
            Claim(
                **{k: v for k, v in row.items() if k != "sequence"},
                records=steps.get(row["id"], {}),
            )
            for row in rows
        ]

    async def positions(
        self, name: str, places: Places, pipeline_ids: Sequence[UUID]
    ) -> Mapping[UUID, int]:
        """Places in the queue of a name, from 1, of those that wait in it."""
        rows = await self._database.fetch(_POSITIONS, name, places.share, list(pipeline_ids))
        return {row["id"]: row["place"] for row in rows}

    async def claim(
        self, worker: str, limit: int, known: Collection[tuple[str, int]]
    ) -> Sequence[Claim]:
        """Claims what is due, with the records that are there."""
        names = [name for name, _ in known]
        versions = [version for _, version in known]
        rows = await self._database.fetch(_CLAIM, worker, limit, LEASE_SECONDS, names, versions)
        steps = await self._steps([row["id"] for row in rows])
        return [Claim(**row, records=steps.get(row["id"], {})) for row in rows]

    async def renew(self, worker: str, claims: Sequence[Claim]) -> Renewal:
        """Prolongs leases."""
        del worker
        rows = await self._database.fetch(
            _RENEW, [c.id for c in claims], [c.epoch for c in claims], LEASE_SECONDS
        )
        kept = {row["id"]: row["cancelled"] for row in rows}
        return Renewal(
            lost=frozenset(c.id for c in claims if c.id not in kept),
            cancelled=frozenset(i for i, cancelled in kept.items() if cancelled),
        )

    async def release(self, claims: Sequence[Claim]) -> None:
        """Gives leases back."""
        if claims:
            await self._database.execute(
                _RELEASE, [c.id for c in claims], [c.epoch for c in claims]
            )

    async def advance(self, claim: Claim, records: Sequence[StepRecord], then: Next) -> bool:
        """Writes records, together with those of other pipelines that come at the same time."""
        return await self._advances.submit(_ALL, _Advance(claim, records, then))

    async def _commit(self, _: str, batch: Sequence[_Advance]) -> Sequence[Exception | bool]:
        """Commits a batch; when one settlement fails, each by itself, so that it fails alone."""
        try:
            return await self._write(batch)
        except Exception as error:  # noqa: BLE001  # told to whoever waits
            if len(batch) == 1:
                return [error]
            return [(await self._commit(_, [one]))[0] for one in batch]

    async def _write(self, batch: Sequence[_Advance]) -> Sequence[Exception | bool]:
        if any(isinstance(advance.then, Finish) for advance in batch):
            async with self._database.transaction() as connection:
                good = await self._advanced(connection, batch)
                events = await self._settle(connection, [a for a in batch if a.key in good])
                if events:
                    await connection.apply(self._outbox.added(events))
        else:
            good = await self._advanced(self._database, batch)
        self._told(pipeline_id for pipeline_id, _ in good)
        return [good[a.key] if a.key in good else FencedError(str(a.claim.id)) for a in batch]

    def _told(self, pipelines: Iterable[UUID]) -> None:
        if self._changes is not None:
            self._changes.tell(pipelines)

    async def _advanced(
        self, source: Database | Connection, batch: Sequence[_Advance]
    ) -> Mapping[_Key, bool]:
        """Claims of the batch that are good, each with whether it was asked to stop."""
        steps = [step for advance in batch for step in advance.steps()]
        rows = await source.fetch(
            _ADVANCE,
            LEASE_SECONDS,
            self._logged,
            *arrays_of(_ADVANCES, batch),
            *arrays_of(_RECORDS, steps),
        )
        return {(row["pipeline_id"], row["epoch"]): row["cancelled"] for row in rows}

    async def _settle(
        self, connection: Connection, batch: Sequence[_Advance]
    ) -> list[events.Event]:
        """Lets each kind of pipeline settle those of its kind that end in this batch."""
        ended: dict[Settle, list[Ended]] = {}
        for advance in batch:
            if isinstance(advance.then, Finish):
                finish = advance.then
                one = Ended(advance.claim, finish.state, finish.records)
                ended.setdefault(finish.settle, []).append(one)
        told: list[events.Event] = []
        for settle, pipelines in ended.items():
            told += await settle(connection, pipelines)
        return told

    async def cancel(self, connection: Connection, pipeline_id: UUID) -> bool:
        """Asks a pipeline to stop; its worker, if it has one, learns it with its next heartbeat."""
        return await self._turned(connection, _CANCEL, pipeline_id)

    async def resume(self, connection: Connection, pipeline_id: UUID, reset: Sequence[str]) -> bool:
        """Lets a pipeline run again. A worker that still believes in an old claim is fenced off."""
        if not await self._turned(connection, _RESUME, pipeline_id, int(PipelineState.FAILED)):
            return False
        await connection.execute(_FORGET_STEPS, pipeline_id, list(reset))
        return True

    async def unpark(self, connection: Connection, pipeline_id: UUID) -> bool:
        """Lets a parked pipeline go on."""
        return await self._turned(connection, _RESUME, pipeline_id, int(PipelineState.PARKED))

    async def _turned(
        self, connection: Connection, statement: str, pipeline_id: UUID, *states: int
    ) -> bool:
        """Has a pipeline go on, with fresh patience. Watchers read of it once it is committed."""
        sequence = await connection.fetchval(statement, pipeline_id, *states, int(self._logged))
        if sequence is None:
            return False
        await connection.execute(_COUNT_ANEW, pipeline_id)
        if self._logged:
            change = change_log.of_pipeline(pipeline_id, sequence, PipelineState.RUNNING)
            await connection.apply(change_log.appended([change]))
        return True

    def tell(self, pipeline_id: UUID) -> None:
        """Wakes watchers, once a transaction has committed that changed a pipeline."""
        self._told([pipeline_id])

    async def get(
        self, pipeline_ids: Sequence[UUID], connection: Connection | None = None
    ) -> Sequence[Run]:
        """Pipelines by id."""
        source = connection or self._database
        return _runs(await source.fetch(_GET, list(pipeline_ids)))

    async def parked(self, after: UUID, limit: int) -> Sequence[Run]:
        """Pipelines that wait for a person."""
        rows = await self._database.fetch(_LIST_PARKED, after, limit)
        return _runs(rows)

    async def parked_counts(self) -> Mapping[str, int]:
        """How many pipelines of each definition wait for a person."""
        rows = await self._database.fetch(_PARKED_COUNTS)
        return {row["definition"]: row["parked"] for row in rows}

    async def _steps(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, StepRecord]]:
        return _steps(await self._database.fetch(_STEPS, ids)) if ids else {}


def _runs(rows: Sequence[Any]) -> list[Run]:
    steps = _steps(row for row in rows if row["name"] is not None)
    return [
        Run(
            id=row["id"],
            definition=row["definition"],
            version=row["version"],
            state=PipelineState(row["run_state"]),
            steps=steps.get(row["id"], {}),
            leased=row["leased"],
            worker=row["worker"],
            cancelled=row["cancelled"],
            parked_reason=row["parked_reason"],
            create_time=row["create_time"],
            update_time=row["update_time"],
        )
        for row in {row["id"]: row for row in rows}.values()
    ]


def _steps(rows: Iterable[Any]) -> dict[UUID, dict[str, StepRecord]]:
    found: dict[UUID, dict[str, StepRecord]] = {}
    for row in rows:
        record = StepRecord(
            name=row["name"],
            state=StepState(row["state"]),
            attempts=row["attempts"],
            start_time=row["start_time"],
            end_time=row["end_time"],
            replica=row["replica"],
            result=row["result"],
            error_reason=row["error_reason"],
            error_message=row["error_message"],
            counted=row["counted"],
            error_service=row["error_service"],
        )
        found.setdefault(row["pipeline_id"], {})[record.name] = record
    return found
