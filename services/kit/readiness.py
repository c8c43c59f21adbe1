"""Whether this replica takes calls, as `grpc.health.v1` tells it for each service it serves."""

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer


class Readiness:
    """The state behind the health service of one replica."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self.servicer = HealthServicer()
        self.serving = False
        self.draining = asyncio.Event()
        self._names = ("", *service_names)

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

    @property
    def status(self) -> Any:
        """The state in the health service's words."""
        states = health_pb2.HealthCheckResponse
        return states.SERVING if self.serving else states.NOT_SERVING
