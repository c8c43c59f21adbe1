"""Hints about pipelines: each watcher is woken once by a change, in whichever replica it waits."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from services.kit.journal.changes import ChangeFeed
from tests.support.installation import until
from tests.support.postgres import Schema

_QUIET_SECONDS = 60.0
FIRST, PROBE = uuid4(), uuid4()


class Feed:
    """The feed of one replica, with a watcher of two pipelines and how often each was woken."""

    def __init__(self, changes: ChangeFeed) -> None:
        self.changes = changes
        self.woken = Counter[UUID]()

    async def run(self) -> None:
        """Feeds and watches."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.changes.run())
            tasks.create_task(self._watch(FIRST))
            tasks.create_task(self._watch(PROBE))

    async def _watch(self, pipeline_id: UUID) -> None:
        async for _ in self.changes.watch(pipeline_id, _QUIET_SECONDS):
            self.woken[pipeline_id] += 1


@contextlib.asynccontextmanager
async def feed(schema: Schema, name: str) -> AsyncIterator[Feed]:
    async with schema.replica(name) as replica:
        made = Feed(ChangeFeed(replica.database, schema.dsn, f"lab_{schema.name}"))
        running = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def feeds(schema: Schema) -> AsyncIterator[tuple[Feed, Feed]]:
    """Two replicas that listen to one another."""
    async with feed(schema, "ann") as ann, feed(schema, "ben") as ben:
        for teller, listener in ((ann, ben), (ben, ann)):
            await until(lambda t=teller, heard=listener: _hears(t, heard))
        yield ann, ben


async def _hears(teller: Feed, listener: Feed) -> bool:
    """Whether the other one is woken by what this one tells."""
    before = listener.woken[PROBE]
    teller.changes.tell([PROBE])
    with contextlib.suppress(AssertionError):
        await until(lambda: _grown(listener, before), 0.5)
    return listener.woken[PROBE] > before


async def _grown(listener: Feed, before: int) -> bool:
    return listener.woken[PROBE] > before


async def test_a_change_wakes_each_watcher_once_here_and_elsewhere(
    feeds: tuple[Feed, Feed],
) -> None:
    """Who told it would otherwise hear itself, and every watcher would read everything twice."""
    ann, ben = feeds
    ann.changes.tell([FIRST])
    # Notifications come in order: whoever has heard the later one has heard all before it.
    assert await _hears(ann, ben)
    assert await _hears(ben, ann)
    assert ann.woken[FIRST] == ben.woken[FIRST] == 2, "at once, and at the change"
