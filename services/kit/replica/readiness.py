"""Whether this replica takes calls, as `grpc.health.v1` tells it for each service it serves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from contract.errors import Code, Error


class Readiness:
    """The state behind the health service of one replica."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self.servicer = HealthServicer()
        self.serving = False
        self.draining = asyncio.Event()
        self._names = ("", *service_names)
        self._streams: set[asyncio.Timeout] = set()

    async def set(self, *, serving: bool) -> None:
        """Says whether calls are taken. Once draining, never again."""
        self.serving = serving and not self.draining.is_set()
        for name in self._names:
            await self.servicer.set(name, self.status)

    async def drain(self) -> None:
        """Takes no new calls from now on; whoever watches is told."""
        self.draining.set()
        self.serving = False
        await self.servicer.enter_graceful_shutdown()

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """A block that serves a stream, until the replica leaves.

        Raises:
            Error: UNAVAILABLE and retriable, it leaves now; another replica goes on.
        """
        cut = asyncio.timeout(None)
        try:
            async with cut:
                self._streams.add(cut)
                yield
        except TimeoutError:
            if not cut.expired():
                raise
            raise _leaving() from None
        finally:
            self._streams.discard(cut)

    def leave(self) -> None:
        """Ends the streams, once nobody is sent here any more: they have no end of their own."""
        now = asyncio.get_running_loop().time()
        for cut in self._streams:
            cut.reschedule(now)

    @property
    def status(self) -> Any:
        """The state in the health service's words."""
        states = health_pb2.HealthCheckResponse
        return states.SERVING if self.serving else states.NOT_SERVING


def _leaving() -> Error:
    return Error(
        Code.UNAVAILABLE,
        "REPLICA_LEAVING",
        "This replica leaves; follow another from where you are.",
        retriable=True,
    )
