"""Paid deployments: how soon one is accepted and delivered, how many a second, and what they cost.

The load is open: orders arrive by the clock, whether those before them were answered or not, and a
latency counts from when the order was due. Quotes are made and approved beforehand.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from icto.backend.v1 import deployments_pb2 as pb
from icto.backend.v1.deployments_pb2_grpc import DeploymentServiceStub
from mesh.cli.client import Client
from tests.bench import usage
from tests.bench.http import Pool, RefusedError
from tests.bench.offers import Offers
from tests.bench.report import Figure, Report
from tests.support.installation import (
    E8S,
    TOKEN_ORDER,
    Installation,
    approve_everything,
    token_body,
    until,
)

_CREATORS: Final = 24
_FUNDS: Final = 1_000_000 * E8S
_AT_ONCE: Final = 16
_IDLE_ORDERS: Final = 60
_PROBE_ORDERS: Final = 200
_OPEN_SECONDS: Final = 6.0
_HALF_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 2.0
_OVERLOAD: Final = 1.2
_UNFINISHED: Final = {pb.DEPLOYMENT_STATE_PENDING, pb.DEPLOYMENT_STATE_IN_PROGRESS}
_RUNNING: Final = "SELECT count(*) FROM backend.kit_pipelines WHERE state IN (1, 6)"
_DELIVERED: Final = """
SELECT count(*) AS count, extract(epoch FROM max(deploy_time) - $1)::float8 AS seconds
FROM token_deployer.tokens WHERE deploy_time > $1
"""


@dataclass
class Latencies:
    """Of one run, in seconds from when each order was due."""

    accepted: list[float] = field(default_factory=list)
    succeeded: list[float] = field(default_factory=list)
    refused: int = 0


class Creators:
    """Users who order tokens."""

    delivered = _DELIVERED

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.pool = Pool(installation.port)
        self._clients: list[Client] = []
        self._turn: Any = itertools.cycle(())

    async def prepare(self) -> None:
        """Signs them in, funds them, and has them approve whatever they will order."""
        self._clients = [await self.installation.user(_FUNDS) for _ in range(_CREATORS)]
        await asyncio.gather(*map(approve_everything, self._clients))
        self._turn = itertools.cycle(self._clients)

    async def orders(self, count: int) -> list[tuple[Client, dict[str, Any]]]:
        """Orders with a quote each."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def order(client: Client) -> tuple[Client, dict[str, Any]]:
            body = {"requestId": str(uuid4()), "items": self.items()}
            token = await client.token()
            async with slots:
                quote = await Offers().insist(lambda: self.pool.post("/v1/quotes", token, body))
            return client, self.body(client) | {"quote": quote["name"]}

        return await asyncio.gather(*(order(next(self._turn)) for _ in range(count)))

    def items(self) -> list[dict[str, str]]:
        """What an order pays for."""
        step, service = TOKEN_ORDER
        return [{"step": step, "service": service}]

    def body(self, client: Client) -> dict[str, Any]:
        """An order without its quote."""
        del client
        return token_body()

    async def accept(self, client: Client, body: dict[str, Any]) -> str:
        """Name of the deployment."""
        answer = await self.pool.post("/v1/tokens", await client.token(), body)
        return str(answer["name"])

    async def watch(self, client: Client, name: str) -> None:
        """Follows a deployment until it succeeded."""
        request = pb.WatchDeploymentRequest(name=name)
        stub = DeploymentServiceStub(client.channel)
        async for told in stub.WatchDeployment(request, metadata=await client.metadata()):
            if told.HasField("deployment") and told.deployment.state not in _UNFINISHED:
                assert told.deployment.state == pb.DEPLOYMENT_STATE_SUCCEEDED, told
                return

    async def follow(self, client: Client, body: dict[str, Any], due: float, to: Latencies) -> None:
        """One order from when it was due until its success was seen."""
        try:
            name = await self.accept(client, body)
        except RefusedError:
            to.refused += 1
            return
        to.accepted.append(time.perf_counter() - due)
        await self.watch(client, name)
        to.succeeded.append(time.perf_counter() - due)

    async def drained(self) -> None:
        """Waits until no deployment is under way."""
        async with self.installation.superuser() as database:

            async def none_runs() -> bool:
                return bool(await database.fetchval(_RUNNING) == 0)

            await until(none_runs, 60.0)

    async def close(self) -> None:
        """Signs out."""
        self.pool.close()
        for client in self._clients:
            await client.close()


async def idle(report: Report, creators: Creators) -> None:
    """One order at a time."""
    told = Latencies()
    for client, body in await creators.orders(_IDLE_ORDERS):
        await creators.follow(client, body, time.perf_counter(), told)
    report.latencies("accepted and durable, idle", told.accepted, "bar 8")
    report.latencies("SUCCEEDED seen by the watch, idle", told.succeeded, "bar 30")


async def capacity(report: Report, creators: Creators) -> tuple[float, int]:
    """Deployments delivered a second under a little more load than the platform takes.

    From the first order until the last one is delivered: what queued up meanwhile counts as well.
    What is refused is told, and not delivered.
    """
    told = Offers()
    burst = await creators.orders(_PROBE_ORDERS)
    began = time.perf_counter()
    slots = asyncio.Semaphore(4 * _AT_ONCE)

    async def one(client: Client, body: dict[str, Any]) -> None:
        async with slots:
            await told.once(lambda: creators.accept(client, body))

    await asyncio.gather(*(one(*order) for order in burst))
    await creators.drained()
    rough = max(1, told.taken) / (time.perf_counter() - began)
    told.tell(report, f"{_PROBE_ORDERS} orders, {4 * _AT_ONCE} at a time")
    rate = rough * _OVERLOAD
    told = Offers()
    async with creators.installation.superuser() as database:
        orders = await creators.orders(int(rate * _OPEN_SECONDS))
        first = await database.fetchval("SELECT clock_timestamp()")

        async def order(client: Client, body: dict[str, Any], _: float) -> None:
            await told.once(lambda: creators.accept(client, body))

        await arrive(orders, rate, order)
        await creators.drained()
        delivered = await database.fetchrow(creators.delivered, first)
    assert delivered is not None
    told.tell(report, f"{len(orders)} orders, {rate:.0f} a second")
    return delivered["count"] / delivered["seconds"], delivered["count"]


async def half(report: Report, creators: Creators, rate: float) -> None:
    """Orders at half of the capacity, each watched."""
    told = Latencies()
    orders = await creators.orders(int(rate / 2 * _HALF_SECONDS))
    await creators.drained()
    anyway = await _idle_rates(creators.installation)
    before = usage.cpu_by_part(await creators.installation.status())
    began = time.perf_counter()

    async def order(client: Client, body: dict[str, Any], due: float) -> None:
        await creators.follow(client, body, due, told)

    await arrive(orders, rate / 2, order)
    seconds = time.perf_counter() - began
    after = usage.cpu_by_part(await creators.installation.status())
    report.latencies("accepted and durable, half load", told.accepted)
    report.latencies("SUCCEEDED seen by the watch, half load", told.succeeded)
    report.add(Figure("refused at half load", told.refused, "orders", "bar 0", len(orders)))
    costs = {
        name: (after[name] - before[name] - anyway[name] * seconds) * 1000 / len(orders)
        for name in after
    }
    own = sum(cost for name, cost in costs.items() if name != "load generator")
    runs = len(orders)
    report.add(Figure("CPU of one at half load, all parts", own, "ms", "", runs))
    for name, cost in sorted(costs.items(), key=lambda item: -item[1]):
        report.add(Figure(f"  {name}", cost, "ms", "", runs))
    busy = sum(after.values()) - sum(before.values())
    report.add(Figure("processors busy at half load", busy / seconds, "", "", runs))
    report.add(Figure("processors busy without load", sum(anyway.values())))


async def _idle_rates(installation: Installation) -> dict[str, float]:
    """CPU seconds a second that each part spends without orders: probes, leases, exports."""
    await asyncio.sleep(_IDLE_SECONDS)  # what the last orders left behind
    before, began = usage.cpu_by_part(await installation.status()), time.perf_counter()
    await asyncio.sleep(_IDLE_SECONDS)
    after = usage.cpu_by_part(await installation.status())
    seconds = time.perf_counter() - began
    return {name: (after[name] - before[name]) / seconds for name in after}


async def arrive(
    orders: Sequence[tuple[Client, dict[str, Any]]],
    rate: float,
    order: Callable[[Client, dict[str, Any], float], Awaitable[None]],
) -> None:
    """Lets orders arrive by the clock, and waits for all of them."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, (client, body) in enumerate(orders):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(_awaited(order(client, body, due)))


async def _awaited(work: Awaitable[None]) -> None:
    await work
