"""A worker in a process of its own, to be frozen by a signal in the middle of a step.

    python -m tests.support.worker DSN

It begins a pipeline, prints its id, works for as long as nobody writes to its standard input, and
then prints how its write ended.
"""

import asyncio
import sys
from datetime import UTC, datetime

from services.kit.journal.model import PipelineState, StepRecord, StepState
from services.kit.journal.port import FencedError, Finish
from tests.support.journals import Bench, new_pipeline, settle
from tests.support.postgres import Postgres, Schema


async def main(dsn: str) -> None:
    async with Bench(Schema(Postgres(dsn), "", dsn)).worker("frozen") as worker:
        claim = await worker.begin(new_pipeline())
        sys.stdout.write(f"{claim.id}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        now = datetime.now(UTC)
        record = StepRecord("a", StepState.SUCCEEDED, 1, now, now, worker.name, b"late")
        end = Finish(PipelineState.SUCCEEDED, settle, {"a": record})
        try:
            await worker.journal.advance(claim, [record], end)
        except FencedError:
            sys.stdout.write("refused\n")
        else:
            sys.stdout.write("written\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
