"""Commits operations on one key together: while one batch commits, the next one gathers.

Operations of one key are applied in the order in which they came, by one batch at a time; keys do
not wait for one another. A caller that gives up does not take its batch with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
O = TypeVar("O")  # noqa: E741  # an operation
R = TypeVar("R")

Commit = Callable[[K, Sequence[O]], Awaitable[Sequence[R | Exception]]]


class GroupCommit(Generic[K, O, R]):
    """Gathers operations and hands them to `commit`, which returns a result or error for each."""

    def __init__(self, commit: Commit[K, O, R], *, batch: int, parallel: int) -> None:
        self._commit = commit
        self._batch = batch
        self._slots = asyncio.Semaphore(parallel)
        self._waiting: dict[K, list[tuple[O, asyncio.Future[R]]]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Owns the batches; runs as long as the service does."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await asyncio.Event().wait()

    async def submit(self, key: K, operation: O) -> R:
        """Waits until the operation is committed.

        Raises:
            Exception: what `commit` returned or raised for it.
        """
        if self._tasks is None:
            raise RuntimeError("submit before run")
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = [(operation, result)]
            self._tasks.create_task(self._drain(key))
        else:
            waiting.append((operation, result))
        return await result

    async def _drain(self, key: K) -> None:
        """Commits batch after batch until nothing waits for the key."""
        while self._waiting[key]:
            async with self._slots:
                batch = self._waiting[key][: self._batch]
                self._waiting[key] = self._waiting[key][self._batch :]
                await self._settle(key, batch)
        del self._waiting[key]

    async def _settle(self, key: K, batch: Sequence[tuple[O, asyncio.Future[R]]]) -> None:
        try:
            results = await self._commit(key, [operation for operation, _ in batch])
        except Exception as error:  # noqa: BLE001  # each caller is told; none may hang
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
