"""Does the faults of a schedule, each while enough is in flight, and sees work go on after it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from mesh.silence import HANG_INTERVALS
from tests.chaos.schedule import ENVOY, EVERYTHING, POSTGRES, Fault, Kind
from tests.support.installation import HEALTH_INTERVAL, Installation
from tests.support.processes import descendants

LEAST_IN_FLIGHT: Final = 20
_PATIENCE_SECONDS: Final = 60.0
_MOST_TRIES: Final = 5
_POLL_SECONDS: Final = 0.005
_HANG_SECONDS: Final = HANG_INTERVALS * HEALTH_INTERVAL

Count = Callable[[], Awaitable[int]]
"""How many operations are in flight, as the database knows it."""


class DiscardedError(Exception):
    """The run proves nothing: too little was in flight, or a crash point was never passed."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault as it was done, and when work went on. Seconds."""

    fault: Fault
    in_flight: int
    recovery: float


class Saboteur:
    """Does faults, one after the other."""

    def __init__(self, installation: Installation, faults: Path, in_flight: Count) -> None:
        self._installation = installation
        self._faults = faults
        self._in_flight = in_flight

    async def strike(self, fault: Fault, work_goes_on: Callable[[], Awaitable[None]]) -> Blow:
        """Does a fault while enough is in flight; `work_goes_on` returns once new work ends.

        Raises:
            DiscardedError: it could not be done as it should.
        """
        in_flight = await self._until_busy(fault)
        started = time.monotonic()
        match fault.kind:
            case Kind.POINT:
                in_flight = await self._crash_while_busy(fault)
                started = time.monotonic()
            case Kind.KILL:
                await self._kill(fault)
            case Kind.STOP:
                await self._stop(fault)
        await work_goes_on()
        return Blow(fault, in_flight, time.monotonic() - started)

    async def _until_busy(self, fault: Fault) -> int:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        count = 0
        while time.monotonic() < deadline:
            count = await self._count()
            if count >= LEAST_IN_FLIGHT:
                return count
            await asyncio.sleep(_POLL_SECONDS)
        raise DiscardedError(f"{fault}: never more than {count} operations in flight")

    async def _count(self) -> int:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return await self._in_flight()
        return 0

    async def _crash_while_busy(self, fault: Fault) -> int:
        """Crashes at a point until it was done with enough in flight."""
        for _ in range(_MOST_TRIES):
            await self._until_busy(fault)
            count = await self._crash_at(fault.target)
            if count >= LEAST_IN_FLIGHT:
                return count
        raise DiscardedError(f"{fault}: too little in flight, {_MOST_TRIES} times")

    async def _crash_at(self, point: str) -> int:
        """Arms a crash point and waits until a process has died there."""
        armed, hit = self._faults / point, self._faults / f"{point}.hit"
        count = await self._count()
        armed.touch()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not hit.exists():
            if time.monotonic() > deadline:
                armed.unlink(missing_ok=True)
                raise DiscardedError(f"nobody passed {point}")
            await asyncio.sleep(_POLL_SECONDS)
            count = await self._count() or count
        hit.unlink()
        return count

    async def _kill(self, fault: Fault) -> None:
        if fault.target == EVERYTHING:
            await self._kill_everything()
        else:
            os.kill(await self._pid(fault), signal.SIGKILL)

    async def _kill_everything(self) -> None:
        process = self._installation.process
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait)
        await self._installation.start()

    async def _stop(self, fault: Fault) -> None:
        stopped: set[int] = set()
        try:
            if fault.target == EVERYTHING:
                self._stop_everything(stopped)
            else:
                stopped.add(await self._pid(fault))
                if fault.seconds > _HANG_SECONDS:
                    # Or the supervisor would end it as one that hangs, before its lease is over.
                    stopped.add(self._supervisor)
                _signal(stopped, signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
        finally:
            _signal(stopped, signal.SIGCONT)

    @property
    def _supervisor(self) -> int:
        process = self._installation.process
        assert process is not None
        return process.pid

    def _stop_everything(self, stopped: set[int]) -> None:
        """Stops every process there is, parents that could start others first."""
        stopped.add(self._supervisor)
        while True:
            _signal(stopped, signal.SIGSTOP)
            found = {one.pid for one in descendants(self._supervisor)}
            if found <= stopped:
                return
            stopped |= found

    async def _pid(self, fault: Fault) -> int:
        """A process of the target; one that is being restarted is waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            pids = [pid for pid in await self._pids(fault.target) if pid]
            if pids:
                return pids[fault.replica % len(pids)]
            await asyncio.sleep(_POLL_SECONDS)
        raise DiscardedError(f"{fault}: there is no such process")

    async def _pids(self, target: str) -> list[int | None]:
        if target == POSTGRES:
            return [self._installation.postgres_pid]
        state = await self._installation.status()
        if target == ENVOY:
            return [state["envoy"]["pid"]]
        return [r["pid"] for r in state["replicas"] if r["service"] == target]


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
