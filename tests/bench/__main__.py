"""Measures the platform on this machine, and prints each figure beside its reference.

    python -m tests.bench [--json] [PART ...]     parts: start, calls, ledger, deployments, launches

Nothing is mocked: each part runs against a fresh installation with the durability of production.
Compare figures of one run with one another; two machines, or two loads beside, are two worlds.
"""

import argparse
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

import uvloop

from contract.environment import Environment
from tests.bench import calls, deployments, launches, ledger, start
from tests.bench.report import Figure, Report
from tests.support.installation import Installation, installation

PARTS: Final = ("start", "calls", "ledger", "deployments", "launches")
_RATIOS: Final = (0.0, 0.1, 1.0)
# The lab, which only tests have, has a narrow breaker, for tests of breakers.
_LAB: Final = "[services.lab.breaker]\nmax_requests = 1000\nmax_pending_requests = 1000\n"
# All users of the bench call from one address, and follow more than people do.
_STREAMS: Final = """
[services.backend]
streams_per_principal = 10000
streams_per_address = 10000
"""
_SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes")


async def main(parts: set[str], report: Report) -> None:
    """Runs parts."""
    report.title("Where")
    report.add(Figure("processors", float(os.cpu_count() or 0)))
    report.add(Figure("load of others", os.getloadavg()[0], "processes"))
    if "start" in parts:
        await start.measure(report)
    if "calls" in parts:
        async with traced(0.0, Environment.TEST) as running:
            await calls.measure(report, running)
    if "ledger" in parts:
        async with traced(0.0) as running:
            await _durability(report, running)
            await ledger.measure(report, running)
    if "deployments" in parts:
        await _deployments(report)
    if "launches" in parts:
        await _launches(report)


@contextlib.asynccontextmanager
async def traced(
    ratio: float, environment: Environment = Environment.LOCAL
) -> AsyncIterator[Installation]:
    """An installation that traces this share of calls."""
    toml = f"[observability]\ntrace_ratio = {ratio}\n{_STREAMS}"
    if environment is Environment.TEST:
        toml += _LAB
    async with installation(toml, start=False) as running:
        await running.start("--environment", environment.value)
        yield running


async def _deployments(report: Report) -> None:
    report.title("Paid deployments over REST, open loop")
    rates: dict[float, float] = {}
    for ratio in _RATIOS:
        async with traced(ratio) as running:
            creators = deployments.Creators(running)
            await creators.prepare()
            if ratio == 1.0:
                await deployments.idle(report, creators)
            rates[ratio], runs = await deployments.capacity(report, creators)
            name = f"paid deployments a second, tracing {ratio:.0%}"
            told = "bar 150; the seed's last phase is 1.2"
            report.add(Figure(name, rates[ratio], "1/s", told, runs))
            if ratio == 1.0:
                await deployments.half(report, creators, rates[ratio])
            await creators.close()
    cost = (1 - rates[1.0] / rates[0.0]) * 100
    told = "bar 15; instrumentation-grpc costs bare calls 60, Envoy's own spans 21"
    report.add(Figure("tracing everything costs", cost, "%", told))


async def _launches(report: Report) -> None:
    report.title("Full launches over REST (charge, token, lock, distribution, audit), open loop")
    for ratio in (0.1, 1.0):
        async with traced(ratio) as running:
            launchers = launches.Launchers(running)
            await launchers.prepare()
            if ratio == 1.0:
                await deployments.idle(report, launchers)
            rate, runs = await deployments.capacity(report, launchers)
            name = f"full launches a second, tracing {ratio:.0%}"
            report.add(Figure(name, rate, "1/s", "bar 100", runs))
            if ratio == 1.0:
                await deployments.half(report, launchers, rate)
            else:
                await launches.crowds(report, launchers)
                await launches.claims(report, launchers)
            await launchers.close()
    launches.proofs(report)
    async with traced(0.0) as running:
        client = await running.user()
        await launches.stored_proofs(report, client)
        await client.close()


async def _durability(report: Report, running: Installation) -> None:
    report.title("Durability: as in production")
    async with running.superuser() as database:
        for setting in _SETTINGS:
            report.add(Figure(setting, await database.fetchval(f"SHOW {setting}"), "", "on"))
        unlogged = await database.fetchval(
            "SELECT count(*) FROM pg_class WHERE relpersistence = 'u'"
        )
        report.add(Figure("unlogged tables", float(unlogged), "", "0"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all when absent")
    chosen = parser.parse_args()
    uvloop.run(main(set(chosen.parts or PARTS), Report(as_json=chosen.json)))
