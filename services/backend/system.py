"""icto.backend.v1.SystemService."""

import asyncio
import logging
from importlib.metadata import version
from typing import Any

from typing_extensions import override

from contract.errors import Error
from contract.ids import FEE_LEDGER
from icto.backend.v1 import system_pb2 as pb
from icto.backend.v1.system_handlers import SystemServiceHandlers
from services.backend import restrictions
from services.backend.config_store import Revision, Wish
from services.kit.roles.register import Register
from services.kit.serving import Call, Kit
from services.kit.serving.health_board import HealthBoard

log = logging.getLogger(__name__)

# What it takes to answer, once all is known or waiting is over.
_ANSWER_SECONDS = 0.05


class SystemService(SystemServiceHandlers[Call]):
    """State of the platform, measured when it is asked for (F-61, F-62)."""

    def __init__(self, kit: Kit) -> None:
        self._environment = kit.settings.environment
        self._services = kit.contract.services.values()
        self._board = HealthBoard(kit)
        self._database = kit.database
        self._register = Register(kit.clients)
        self._platform = kit.platform

    @override
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
            **await self._restrictions(),
        )

    async def _restrictions(self) -> dict[str, Any]:
        """What holds the platform up; without a database, as this replica was last told."""
        try:
            maintenance = await restrictions.maintenance(self._database)
            stop = await restrictions.stop(self._database, self._register)
        except Error as error:
            log.warning("what holds the platform up cannot be read: %s", error)
            known = self._platform.config
            return {
                "maintenance": pb.Restriction() if known.maintenance_mode else None,
                "emergency_stop": pb.Restriction() if known.emergency_stop else None,
            }
        return {
            "maintenance": _restriction(maintenance),
            "emergency_stop": _restriction(stop.began),
            "release_wishes": map(_wish, stop.wishes) if stop.began else (),
            "missing_release_count": stop.missing,
        }

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


def _restriction(began: Revision | None) -> pb.Restriction | None:
    if began is None:
        return None
    message = pb.Restriction(principal=began.changed_by, justification=began.justification)
    message.start_time.FromDatetime(began.time)
    return message


def _wish(wish: Wish) -> pb.ReleaseWish:
    message = pb.ReleaseWish(principal=wish.principal)
    message.expire_time.FromDatetime(wish.expire_time)
    return message
