"""Health is what a probe found, whoever asked for it; what no probe found is unknown."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from contract.errors import Code, Error
from icto.backend.v1 import system_pb2
from icto.config.v1 import config_pb2
from services.backend.system import SystemService
from services.kit.calling import deadline
from services.kit.serving.health_board import HealthBoard


class SlowHealth:
    """A service whose probes end when a test says so; they see their caller's deadline."""

    def __init__(self) -> None:
        self.count = 0
        self.answers = asyncio.Event()

    async def Check(self, _: Any, *, timeout: float, **__: Any) -> Any:  # noqa: N802
        self.count += 1
        if deadline.remaining() < timeout:
            raise Error(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "No time was left.")
        await self.answers.wait()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class NoDatabase:
    """A database that does not answer: health is told all the same."""

    async def fetch(self, *_: Any) -> Any:
        raise Error(Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", "It is away.")


def kit(service: SlowHealth, interval: float = 60.0) -> Any:
    lab = SimpleNamespace(mesh_name="lab", proto_services=("icto.lab.v1.LabService",))
    return SimpleNamespace(
        settings=SimpleNamespace(health_interval=interval, environment="test"),
        clients=SimpleNamespace(stub=lambda _: service),
        contract=SimpleNamespace(services={"lab": lab}),
        database=NoDatabase(),
        platform=SimpleNamespace(config=config_pb2.SystemConfig()),
    )


@pytest.mark.parametrize("leaves", [False, True], ids=["waits", "gives up"])
async def test_an_impatient_caller_makes_no_service_look_unhealthy(leaves: bool) -> None:
    """Anybody may ask, and everybody is told what the probe found."""
    service = SlowHealth()
    board = HealthBoard(kit(service))

    async def impatient() -> None:
        with deadline.within(0.01):
            await board.sample("lab", "lab")

    first = asyncio.create_task(impatient())
    await asyncio.sleep(0)
    second = asyncio.create_task(board.sample("lab", "lab"))
    await asyncio.sleep(0)
    if leaves:
        first.cancel()
    service.answers.set()
    assert (await second).serving
    assert (await board.sample("lab", "lab")).serving
    assert service.count == 1, "one probe was enough for all"
    await asyncio.gather(first, return_exceptions=True)


async def test_a_sample_is_taken_anew_when_it_is_older_than_an_interval() -> None:
    service = SlowHealth()
    service.answers.set()
    board = HealthBoard(kit(service, interval=0.0))
    for count in (1, 2, 3):
        assert (await board.sample("lab", "lab")).serving
        assert service.count == count


async def told(system: SystemService, seconds: float) -> "system_pb2.HealthState.ValueType":
    call: Any = SimpleNamespace(remaining=seconds)
    status = await system.GetSystemStatus(system_pb2.GetSystemStatusRequest(), call)
    (service,) = status.services
    assert service.HasField("probe_time") == (service.state != system_pb2.HEALTH_STATE_UNKNOWN)
    return service.state


async def test_what_nobody_could_probe_in_time_is_unknown() -> None:
    """Neither healthy by default nor unhealthy because the caller was in a hurry (F-61)."""
    service = SlowHealth()
    system = SystemService(kit(service))
    assert await told(system, 0.06) == system_pb2.HEALTH_STATE_UNKNOWN
    service.answers.set()
    assert await told(system, 3.0) == system_pb2.HEALTH_STATE_HEALTHY


async def test_a_sample_of_two_intervals_ago_is_as_good_as_unknown() -> None:
    """F-54: no stale health, and none that nobody measured."""
    service = SlowHealth()
    service.answers.set()
    system = SystemService(kit(service, interval=60.0))
    assert await told(system, 3.0) == system_pb2.HEALTH_STATE_HEALTHY
    service.answers.clear()
    ((name, sample),) = system._board._samples.items()
    for intervals, state in (
        (1.5, system_pb2.HEALTH_STATE_HEALTHY),
        (2.5, system_pb2.HEALTH_STATE_UNKNOWN),
    ):
        system._board._samples[name] = replace(sample, taken=sample.taken - intervals * 60.0)
        assert await told(system, 0.0) == state
