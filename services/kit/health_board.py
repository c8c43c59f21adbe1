"""Health of the other services, measured through the mesh.

A state is probed when somebody asks for it and the last sample is older than one health interval.
Nothing is healthy by default, and every sample has its age.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from observability import names
from services.kit.errors import Error
from services.kit.kit import Kit

States = health_pb2.HealthCheckResponse
_PROBE_SECONDS: Final = 0.4


@dataclass(frozen=True, slots=True)
class Sample:
    """What one probe found. Times in seconds."""

    serving: bool
    probe_time: datetime
    response_seconds: float
    error: str
    taken: float


class HealthBoard:
    """What the last probe of each service found."""

    def __init__(self, kit: Kit) -> None:
        self.interval = kit.settings.health_interval
        self._stub = kit.clients.stub(HealthStub)
        self._samples: dict[str, Sample] = {}
        self._probing: dict[str, asyncio.Lock] = {}

    async def sample(self, mesh_name: str, proto_service: str) -> Sample:
        """A sample of a service that is at most one interval old."""
        async with self._probing.setdefault(proto_service, asyncio.Lock()):
            known = self._samples.get(proto_service)
            if known is not None and time.monotonic() - known.taken < self.interval:
                return known
            fresh = await self._probe(mesh_name, proto_service)
            self._samples[proto_service] = fresh
            return fresh

    async def _probe(self, mesh_name: str, proto_service: str) -> Sample:
        started, moment = time.monotonic(), datetime.now(UTC)
        serving, problem = False, ""
        try:
            answer = await self._stub.Check(
                health_pb2.HealthCheckRequest(service=proto_service),
                timeout=_PROBE_SECONDS,
                metadata=((names.HEADER_HEALTH_TARGET, mesh_name),),
            )
            serving = answer.status == States.SERVING
        except Error as error:
            problem = error.reason
        now = time.monotonic()
        return Sample(serving, moment, now - started, problem, now)
