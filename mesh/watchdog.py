"""Asks each replica whether it is there, and ends those that hang.

Each is asked directly on its own socket, by `grpc.health.v1`. Any answer will do, NOT_SERVING too:
what it means is Envoy's business. Two things are not held against a replica: time in which this
process did not run itself, and time that the replica spent waiting for a processor.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from contract import wire
from contract.identities import OPERATOR
from mesh.replicas import Replica, Replicas
from mesh.silence import HANG_INTERVALS, HOLD_SECONDS, Judgement, Pulse, judge
from mesh.starvation import Wait, threads_of

log = logging.getLogger(__name__)

# Longer than the slowest start that `icto up` waits for.
_START_SECONDS: Final = 60.0
# A replica that comes back and ends again, and again, does not protect the others for ever.
_REPLACE_SECONDS: Final = 60.0
_NOBODY: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
"""Statuses of a question that nobody heard or answered, unless a replica gave its reason."""
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Watchdog:
    """Watches the replicas of one installation."""

    def __init__(self, replicas: Replicas, interval: float) -> None:
        self._replicas = replicas
        self._interval = interval
        self._tick = interval / 2
        self._clock = _AwakeClock(2 * self._tick)
        self._watched = [_Watched(replica, self._clock, interval) for replica in replicas.all]
        self._judgement = Judgement()

    async def run(self) -> None:
        """Watches until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watched in self._watched:
                tasks.create_task(watched.ask())
            while True:
                await asyncio.sleep(self._tick)
                self._clock.tick()
                for watched in self._hanging():
                    tasks.create_task(self._replace(watched))

    def _hanging(self) -> Iterator["_Watched"]:
        """Those to end now."""
        pulses = {watched.pulse(): watched for watched in self._watched}
        before, now = self._judgement, self._clock.now()
        self._judgement = judge(list(pulses), before, now, self._interval)
        if self._judgement.hold is not None and before.hold is None:
            log.warning(
                "half of all replicas are silent at once: none of them is ended until one answers,"
                " or %.0f s have passed",
                HOLD_SECONDS,
            )
        for pulse in self._judgement.ended:
            yield pulses[pulse]

    async def _replace(self, watched: "_Watched") -> None:
        watched.replaced()
        log.error(
            "%s has not answered for %.1f s, %d health intervals, besides %.1f s in which it waited"
            " for a processor: it hangs, is ended by SIGKILL, and started again",
            watched.replica.name,
            watched.silent,
            HANG_INTERVALS,
            watched.waited,
        )
        await self._replicas.end(watched.replica)


class _AwakeClock:
    """Seconds in which this process could have heard an answer.

    It heard none while it slept, or waited for a processor itself.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._passed = 0.0
        self._last = time.monotonic()
        self._wait = Wait.begin(threads_of(os.getpid()), self._last)

    def now(self) -> float:
        """Seconds from its start to its last tick."""
        return self._passed

    def tick(self) -> None:
        """Says that this process runs. Each gap between two ticks counts up to the longest."""
        now, threads = time.monotonic(), threads_of(os.getpid())
        waited = self._wait.look(threads, now).seconds
        self._passed += max(min(now - self._last, self._longest) - waited, 0.0)
        # Anew each time: what a busy hour left over would stop the clock in the idle one after it.
        self._last, self._wait = now, Wait.begin(threads, now)


class _Watched:
    """One replica, as far as it was heard."""

    def __init__(self, replica: Replica, clock: _AwakeClock, interval: float) -> None:
        self.replica = replica
        self._clock = clock
        self._interval = interval
        self._process = ""
        self._answered = False
        self._begun = 0.0
        self._asked: float | None = None
        self._wait: Wait | None = None
        self._away_since: float | None = clock.now()

    async def ask(self) -> None:
        """Asks the present process again and again, and its successors."""
        while True:
            socket = self.replica.socket
            if socket is None or self.replica.process.pid is None:
                await asyncio.sleep(self._interval / 2)
                continue
            self._meet(str(socket))
            async with grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
                stub: Any = HealthStub(channel)  # type: ignore[no-untyped-call]
                while self.replica.socket == socket:
                    await self._ask_once(stub)
                    await asyncio.sleep(self._interval)

    def _meet(self, process: str) -> None:
        """Begins anew with another process."""
        self._process, self._answered, self._begun = process, False, self._clock.now()
        self._asked = self._wait = None
        if self._away_since is None:
            self._away_since = self._begun

    async def _ask_once(self, stub: Any) -> None:
        if self._asked is None:
            self._asked = self._clock.now()
        with contextlib.suppress(_SilentError):
            await _answer(stub, HANG_INTERVALS * self._interval)
            self._asked = self._wait = self._away_since = None
            self._answered = True

    def replaced(self) -> None:
        """Says that it is ended now."""
        self._away_since = self._clock.now()

    @property
    def silent(self) -> float:
        """Seconds for which its oldest question is unanswered, though it could have answered."""
        if self._asked is None:
            return 0.0
        now = self._clock.now()
        return self._wait.answerable(now) if self._wait else now - self._asked

    @property
    def waited(self) -> float:
        """Seconds of its silence in which it waited for a processor."""
        return self._wait.seconds if self._wait else 0.0

    def look(self) -> None:
        """Looks whether a processor is what it waits for, once it is late."""
        pid, now = self.replica.process.pid, self._clock.now()
        if self._asked is None or pid is None or now - self._asked < self._interval / 2:
            return
        threads = threads_of(pid)
        self._wait = self._wait.look(threads, now) if self._wait else Wait.begin(threads, now)

    def pulse(self) -> Pulse:
        """What is known of it now."""
        self.look()
        now, replica = self._clock.now(), self.replica
        starting = not self._answered and now - self._begun < _START_SECONDS
        ending = replica.restarting.locked() or replica.process.pid is None
        unknown = str(replica.socket) != self._process
        away = self._away_since is not None and now - self._away_since < _REPLACE_SECONDS
        return Pulse(
            self._process,
            replica.service.mesh_name,
            None if starting or ending or unknown else self.silent,
            replacing=away or ending,
        )


class _SilentError(Exception):
    """Nobody answered."""


async def _answer(stub: Any, seconds: float) -> None:
    """Waits for any answer.

    Raises:
        _SilentError: there is none.
    """
    try:
        await stub.Check(
            health_pb2.HealthCheckRequest(),
            timeout=seconds,
            metadata=((wire.HEADER_CALLER, OPERATOR),),
        )
    except grpc.aio.AioRpcError as error:
        from_a_replica = wire.TRAILER_REASON in (error.trailing_metadata() or ())
        if error.code() in _NOBODY and not from_a_replica:
            raise _SilentError from None
