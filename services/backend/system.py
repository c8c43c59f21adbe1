"""icto.backend.v1.SystemService."""

import asyncio
from importlib.metadata import version

from icto.backend.v1 import system_pb2 as pb
from services.kit import Call, Kit
from services.kit.health_board import HealthBoard

FEE_LEDGER = "ledgers/icp"
# What it takes to answer, once all is known or waiting is over.
_ANSWER_SECONDS = 0.05


class SystemService:
    """State of the platform, measured when it is asked for (F-61, F-62)."""

    def __init__(self, kit: Kit) -> None:
        self._environment = kit.settings.environment
        self._services = kit.contract.services.values()
        self._board = HealthBoard(kit)

    async def GetSystemStatus(
        self, request: pb.GetSystemStatusRequest, call: Call
    ) -> pb.GetSystemStatusResponse:
        """Probes every service through the mesh."""
        del request
        seconds = max(0.0, call.remaining - _ANSWER_SECONDS)
        return pb.GetSystemStatusResponse(
            version=version("icto-mesh"),
            environment=self._environment,
            fee_ledger=FEE_LEDGER,
            services=await asyncio.gather(
                *(self._health(seconds, s.mesh_name, s.proto_services[0]) for s in self._services)
            ),
        )

    async def _health(self, seconds: float, mesh_name: str, proto_service: str) -> pb.ServiceHealth:
        sample = await self._board.sample_within(seconds, mesh_name, proto_service)
        if sample is None:
            return pb.ServiceHealth(service=mesh_name, state=pb.HEALTH_STATE_UNKNOWN)
        health = pb.ServiceHealth(
            service=mesh_name,
            state=pb.HEALTH_STATE_HEALTHY if sample.serving else pb.HEALTH_STATE_UNHEALTHY,
            response_seconds=round(sample.response_seconds, 6),
            error=sample.error,
        )
        health.probe_time.FromDatetime(sample.probe_time)
        return health
