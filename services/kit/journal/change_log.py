"""The durable log of changes of pipelines: what a watcher reads, and resumes from.

Each change of a pipeline has a number, counted from 1 without gaps. Numbers are given under the
lock of the pipeline's row, so that a lower one is never seen after a higher one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.kit.journal.model import PipelineState, StepRecord, StepState
from services.kit.storage.database import Connection, Database
from services.kit.storage.statement import Statement

COLUMNS: Final = """
    pipeline_id, sequence, step, state, attempts, error_reason, error_message, start_time, end_time,
    replica, error_service
"""
_APPEND: Final = f"""
INSERT INTO kit_changes ({COLUMNS})
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::smallint[], $5::int[], $6::text[],
    $7::text[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[])
"""
_READ: Final = f"""
SELECT {COLUMNS}, change_time
FROM kit_changes WHERE pipeline_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3
"""
_NEWEST: Final = "SELECT coalesce(max(sequence), 0) FROM kit_changes WHERE pipeline_id = $1"
PAGE: Final = 100
"""How many changes are read at a time; fewer, and there were no more."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: of a step when `record` is there, else of the pipeline itself."""

    sequence: int
    time: datetime
    record: StepRecord | None = None
    state: PipelineState | None = None
    reason: str = ""
    """Why the pipeline was parked."""


def appended(rows: Iterable[tuple[Any, ...]]) -> Statement:
    """Appends rows made by `of_pipeline`."""
    columns = zip(*rows, strict=True)
    return Statement(_APPEND, tuple(list(column) for column in columns))


def of_pipeline(
    pipeline_id: UUID, sequence: int, state: PipelineState, reason: str = ""
) -> tuple[Any, ...]:
    """The row of a change of the pipeline itself; `reason` says why it was parked."""
    return (pipeline_id, sequence, "", int(state), 0, "", reason, None, None, "", "")


async def read(database: Database | Connection, pipeline_id: UUID, after: int) -> Sequence[Change]:
    """The next changes after a number, at most a page."""
    rows = await database.fetch(_READ, pipeline_id, after, PAGE)
    return [_change(row) for row in rows]


async def newest(database: Database | Connection, pipeline_id: UUID) -> int:
    """Number of the newest change; 0 before the first."""
    found: int = await database.fetchval(_NEWEST, pipeline_id)
    return found


def _change(row: Any) -> Change:
    if not row["step"]:
        state = PipelineState(row["state"])
        reason = row["error_message"]
        return Change(row["sequence"], row["change_time"], state=state, reason=reason)
    record = StepRecord(
        name=row["step"],
        state=StepState(row["state"]),
        attempts=row["attempts"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        replica=row["replica"],
        error_reason=row["error_reason"],
        error_message=row["error_message"],
        error_service=row["error_service"],
    )
    return Change(row["sequence"], row["change_time"], record)
