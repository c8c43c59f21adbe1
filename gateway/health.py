"""Health of every service, at the edge: Envoy cannot route by a name in the body."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2

from contract.errors import Code, Error
from services.kit.serving import Call, Kit
from services.kit.serving.health_board import HealthBoard

States = health_pb2.HealthCheckResponse
State = Any
"""One of the States: the package's stubs cannot name them."""


class Health:
    """grpc.health.v1.Health for the whole mesh, by the name of a proto service."""

    def __init__(self, kit: Kit) -> None:
        self._board = HealthBoard(kit)
        self._readiness = kit.readiness
        self._own = frozenset({"", *kit.service.proto_services})
        self._mesh_names = {
            name: service.mesh_name
            for service in kit.contract.services.values()
            for name in service.proto_services
        }

    async def Check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        """State of one service; "" is the edge itself."""
        del call
        state = await self._state(request.service)
        if state == States.SERVICE_UNKNOWN:
            raise Error(
                Code.NOT_FOUND, "SERVICE_NOT_FOUND", f"There is no service {request.service!r}."
            )
        return States(status=state)

    async def List(
        self, request: health_pb2.HealthListRequest, call: Call
    ) -> health_pb2.HealthListResponse:
        """State of every service."""
        del request, call
        services = sorted(self._own | self._mesh_names.keys())
        states = await asyncio.gather(*(self._state(service) for service in services))
        statuses = {
            name: States(status=state) for name, state in zip(services, states, strict=True)
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """State of one service, now and at every change. Ends when this replica drains."""
        del call
        told: State | None = None
        while not self._readiness.draining.is_set():
            state = await self._state(request.service)
            if state != told:
                yield States(status=state)
                told = state
            await asyncio.sleep(self._board.interval)

    async def _state(self, service: str) -> State:
        if service in self._own:
            return self._readiness.status
        mesh_name = self._mesh_names.get(service)
        if mesh_name is None:
            return States.SERVICE_UNKNOWN
        sample = await self._board.sample(mesh_name, service)
        return States.SERVING if sample.serving else States.NOT_SERVING
