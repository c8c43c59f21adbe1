"""Health of the other services, measured through the mesh.

A state is probed when somebody asks for it and the last sample is older than one health interval.
Nothing is healthy by default, and every sample has its age. Whoever asks meanwhile shares the
probe, so it has a deadline of its own: an impatient caller makes no service look unhealthy.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from contract import wire
from contract.errors import Error
from services.kit.calling import deadline
from services.kit.kit import Kit

States = health_pb2.HealthCheckResponse
_PROBE_SECONDS: Final = 0.4
# Enough for a probe, its hop among it.
_WORK_SECONDS: Final = 1.0
# Older than so many intervals, a sample says nothing of now.
_GOOD_FOR: Final = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """What one probe found. Times in seconds."""

    serving: bool
    probe_time: datetime
    response_seconds: float
    error: str
    taken: float

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.taken


class HealthBoard:
    """What the last probe of each service found."""

    def __init__(self, kit: Kit) -> None:
        self.interval = kit.settings.health_interval
        self._stub = kit.clients.stub(HealthStub)
        self._samples: dict[str, Sample] = {}
        self._probing: dict[str, asyncio.Task[Sample]] = {}

    async def sample(self, mesh_name: str, proto_service: str) -> Sample:
        """A sample of a service that is at most one interval old."""
        known = self._samples.get(proto_service)
        if known is not None and known.age < self.interval:
            return known
        return await asyncio.shield(self._shared_probe(mesh_name, proto_service))

    async def sample_within(
        self, seconds: float, mesh_name: str, proto_service: str
    ) -> Sample | None:
        """The same if it can be had in time; else one of two intervals ago; None without any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.sample(mesh_name, proto_service)
        known = self._samples.get(proto_service)
        return known if known is not None and known.age < _GOOD_FOR * self.interval else None

    def _shared_probe(self, mesh_name: str, proto_service: str) -> asyncio.Task[Sample]:
        """The probe of a service that is at work, or a new one."""
        probing = self._probing.get(proto_service)
        if probing is None or probing.done():
            with deadline.detached(_WORK_SECONDS):
                probing = asyncio.create_task(self._probe(mesh_name, proto_service))
            self._probing[proto_service] = probing
        return probing

    async def _probe(self, mesh_name: str, proto_service: str) -> Sample:
        started, moment = time.monotonic(), datetime.now(UTC)
        serving, problem = False, ""
        try:
            answer = await self._stub.Check(
                health_pb2.HealthCheckRequest(service=proto_service),
                timeout=_PROBE_SECONDS,
                metadata=((wire.HEADER_HEALTH_TARGET, mesh_name),),
            )
            serving = answer.status == States.SERVING
        except Error as error:
            problem = error.reason
        now = time.monotonic()
        sample = Sample(serving, moment, now - started, problem, now)
        self._samples[proto_service] = sample
        return sample
