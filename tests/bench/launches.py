"""Full launches: a token, a lock and a distribution each; claims on one hot distribution; proofs.

How launches are offered and counted is as for deployments.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

from contract import ids, principal
from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from mesh.cli.client import Client
from services.distribution_deployer import merkle_rules
from tests.bench.deployments import Creators
from tests.bench.offers import Offers
from tests.bench.report import Figure, Report
from tests.support import launches
from tests.support.distributions import recipient_list

_CROWDS: Final = (150, 1000)
_AT_ONCE: Final = 64
_CLAIMS: Final = 1500
_CLAIM_AMOUNT: Final = 100
_CLAIMERS: Final = 64
_PROOFS: Final = 2000
_LISTED: Final = 1_000_000
_PAGE: Final = 1_000
_DELIVERED: Final = """
SELECT count(*) AS count, extract(epoch FROM max(update_time) - $1)::float8 AS seconds
FROM backend.kit_pipelines WHERE definition = 'launch' AND state = 2 AND update_time > $1
"""
_SPAN: Final = """
SELECT extract(epoch FROM max(p.update_time) - min(l.create_time))::float8 AS seconds,
    array_agg(extract(epoch FROM p.update_time - l.create_time)::float8) AS latencies
FROM backend.launches AS l JOIN backend.kit_pipelines AS p ON p.id = l.id
WHERE l.create_time >= $1
"""
_OPEN: Final = """
SELECT count(*) FILTER (WHERE state = 1) AS running, count(*) FILTER (WHERE state = 6) AS queued
FROM backend.kit_pipelines WHERE state IN (1, 6)
"""
_PAYING: Final = "SELECT count(*) FROM distribution_deployer.kit_pipelines WHERE state = 1"


class Launchers(Creators):
    """Users who order launches."""

    delivered = _DELIVERED

    def items(self) -> list[dict[str, str]]:
        """What a launch pays for."""
        return [
            {"step": "create_token", "service": "PAID_SERVICE_TOKEN"},
            {"step": "lock_1", "service": "PAID_SERVICE_LOCK"},
            {"step": "distribution_1", "service": "PAID_SERVICE_DISTRIBUTION"},
            {"step": "launch", "service": "PAID_SERVICE_PIPELINE"},
        ]

    def body(self, client: Client) -> dict[str, Any]:
        """A launch without its quote."""
        who = client.principal
        parts = [launches.lock(who)], [launches.distribution(who)]
        return {
            "requestId": str(uuid4()),
            "spec": launches.spec({"newToken": launches.token()}, *parts),
        }

    async def accept(self, client: Client, body: dict[str, Any]) -> str:
        """Name of the launch."""
        answer = await self.pool.post("/v1/launches", await client.token(), body)
        return str(answer["name"])

    async def watch(self, client: Client, name: str) -> None:
        """Follows a launch until it succeeded."""
        stub = LaunchServiceStub(client.channel)
        request = pb.WatchLaunchRequest(name=name)
        async for told in stub.WatchLaunch(request, metadata=await client.metadata()):
            if told.change.state == pb.LAUNCH_STATE_SUCCEEDED:
                return
        raise AssertionError(f"{name} did not succeed")


async def crowds(report: Report, launchers: Launchers) -> None:
    """Many launches accepted at one time: how long until each has ended."""
    for size in _CROWDS:
        orders = await launchers.orders(size)
        async with launchers.installation.superuser() as database:
            first = await database.fetchval("SELECT clock_timestamp()")
            gathered = asyncio.ensure_future(_offered(launchers, orders))
            draining = asyncio.ensure_future(_drained(launchers, gathered))
            running, queued = 0, 0
            while not draining.done():
                now: Any = await database.fetchrow(_OPEN)
                running, queued = max(running, now["running"]), max(queued, now["queued"])
                await asyncio.sleep(0.05)
            offers = await draining
            row = await database.fetchrow(_SPAN, first)
        assert row is not None
        name = f"{size} launches at one time"
        offers.tell(report, name)
        report.add(Figure(f"{name}, most in flight", float(running), "", "", size))
        report.add(Figure(f"{name}, most in the queue", float(queued), "", "", size))
        report.add(Figure(f"{name}, rate", size / row["seconds"], "1/s", "bar 100", size))
        report.latencies(f"{name}, until ended", row["latencies"])


async def _drained(launchers: Launchers, offered: Awaitable[Offers]) -> Offers:
    """Waits until all that was offered has ended; what became of the offers."""
    offers = await offered
    await launchers.drained()
    return offers


async def _offered(launchers: Launchers, orders: Sequence[tuple[Client, dict[str, Any]]]) -> Offers:
    """Offers orders as fast as they are taken, and again those that are told to wait."""
    slots = asyncio.Semaphore(_AT_ONCE)
    offers = Offers()

    async def one(client: Client, body: dict[str, Any]) -> None:
        async with slots:
            await offers.insist(lambda: launchers.accept(client, body))

    await asyncio.gather(*(one(*order) for order in orders))
    return offers


async def claims(report: Report, launchers: Launchers) -> None:
    """Partial claims of many recipients of one distribution, until each is paid."""
    people = [client for client, _ in await launchers.orders(_CLAIMERS)]
    people = list(dict.fromkeys(people))
    share = _CLAIMS * _CLAIM_AMOUNT
    recipients = [{"principal": p.principal, "amount": str(share)} for p in people]
    hot = launches.distribution(people[0].principal, share * len(people))
    hot["categories"][0]["whitelist"] = {"recipients": recipients}
    launch = await launches.launched(
        people[0], launches.spec({"newToken": launches.token()}, [], [hot])
    )
    path = f"/v1/{launch['distributions'][0]}:claim"

    async def claiming(client: Client, count: int) -> None:
        for _ in range(count):
            body = {"requestId": str(uuid4()), "amount": str(_CLAIM_AMOUNT)}
            token = await client.token()
            await offers.insist(partial(launchers.pool.post, path, token, body))

    offers = Offers()
    each = _CLAIMS // len(people)
    began = time.perf_counter()
    await asyncio.gather(*(claiming(person, each) for person in people))
    accepted = time.perf_counter() - began
    async with launchers.installation.superuser() as database:
        while await database.fetchval(_PAYING):
            await asyncio.sleep(0.05)
    paid = time.perf_counter() - began
    count = each * len(people)
    offers.tell(report, f"{count} claims of {len(people)} at a time")
    report.add(
        Figure("claims a second on one distribution, accepted", count / accepted, "1/s", "", count)
    )
    report.add(Figure("claims a second on one distribution, paid", count / paid, "1/s", "", count))


def proofs(report: Report) -> None:
    """Proofs out of a tree over a million leaves."""
    report.title("Merkle proofs over 1,000,000 leaves")
    list_id = ids.new_id("bench")
    began = time.perf_counter()
    leaves = (
        merkle_rules.leaf(list_id, 1, f"recipient-{number}", number + 1)
        for number in range(merkle_rules.MAX_LEAVES)
    )
    tree = merkle_rules.Tree(leaves)
    report.add(Figure("tree over a million leaves, built", time.perf_counter() - began, "s"))
    began = time.perf_counter()
    for number in range(_PROOFS):
        tree.proof(number * 499)
    each = (time.perf_counter() - began) / _PROOFS
    report.add(Figure("one proof", each * 1e6, "us", "", _PROOFS))


async def stored_proofs(report: Report, client: Client) -> None:
    """A list of a million that is sent in pages, sealed, and asked for proofs one by one."""
    everybody = [(principal.encode(number.to_bytes(29)), number + 1) for number in range(_LISTED)]
    began = time.perf_counter()
    pages = [dict(everybody[start : start + _PAGE]) for start in range(0, _LISTED, _PAGE)]
    name, tree = await recipient_list(client, 1, pages)
    told = f"{_LISTED:,} recipients in pages of {_PAGE:,}, sent"
    report.add(Figure(told, time.perf_counter() - began, "s"))
    began = time.perf_counter()
    seal = {"requestId": str(uuid4()), "root": base64.b64encode(tree.root).decode()}
    await client.rest("POST", f"/v1/{name}:seal", seal)
    report.add(Figure("the list, sealed", time.perf_counter() - began, "s"))
    latencies = []
    for number in range(0, _LISTED, _LISTED // _PROOFS):
        began = time.perf_counter()
        await client.rest("GET", f"/v1/{name}/proofs/{everybody[number][0]}")
        latencies.append(time.perf_counter() - began)
    report.latencies("a proof over REST", latencies)
