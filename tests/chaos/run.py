"""One run: load, faults, recovery, and what must hold after it."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contract import loader
from contract.environment import Environment
from services.kit.testing.faults import DIRECTORY_VARIABLE
from tests.chaos import invariants
from tests.chaos.deployments import TokenDeployments
from tests.chaos.launches import Launches
from tests.chaos.saboteur import Blow, DiscardedError, Saboteur
from tests.chaos.scenario import Scenario
from tests.chaos.schedule import Fault, schedule
from tests.support.installation import Installation, installation, until

SCENARIOS: Final[Mapping[str, Callable[[Installation, int], Scenario]]] = {
    "deploy": TokenDeployments,
    "launch": Launches,
}
# Those that pay, and the one that orders: whose schemas have a journal.
WORKERS: Final = frozenset({"backend", "distribution_deployer", "invoice_storage", "lock_deployer"})
_BURST: Final = 20
_FEED_SECONDS: Final = 0.02
_MOST_OPERATIONS: Final = 6000
_CALM_SECONDS: Final = 120.0


@dataclass
class Report:
    """What a run showed."""

    scenario: str
    seed: int
    plan: Sequence[Fault]
    blows: list[Blow] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    calm_after: float = 0.0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether everything was done, and everything holds."""
        return not self.problems and len(self.blows) == len(self.plan)


def plan(scenario: str, seed: int, limit: int | None = None) -> list[Fault]:
    """The faults of a run: they need no installation to be known."""
    services = sorted(loader.load(Environment.TEST).services)
    made = SCENARIOS[scenario](None, seed)  # type: ignore[arg-type]  # asked for its points only
    return schedule(seed, services, WORKERS, made.points, limit)


async def run(
    name: str, seed: int, tell: Callable[[str], None], limit: int | None = None
) -> Report:
    """Runs a scenario under the faults of a seed."""
    report = Report(name, seed, plan(name, seed, limit))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="icto-faults-") as faults:
        async with installation(environment={DIRECTORY_VARIABLE: faults}) as running:
            scenario = SCENARIOS[name](running, seed)
            await scenario.prepare()
            try:
                await _strike_all(running, scenario, Path(faults), report, tell)
                await _calm(running, scenario, report)
            except* (DiscardedError, TimeoutError, AssertionError) as group:
                report.problems += [f"the run is discarded: {e}" for e in group.exceptions]
            if report.problems:
                return report
            await scenario.finish()
            await _until_told(running)
            await _judge(running, scenario, report)
    report.seconds = time.monotonic() - started
    return report


async def _strike_all(
    running: Installation,
    scenario: Scenario,
    faults: Path,
    report: Report,
    tell: Callable[[str], None],
) -> None:
    async with running.superusers() as truth, asyncio.TaskGroup() as tasks:

        async def in_flight() -> int:
            return int(await truth.fetchval(scenario.in_flight))

        saboteur = Saboteur(running, faults, in_flight)
        for number, fault in enumerate(report.plan, start=1):
            await running.until_served()
            feeding = tasks.create_task(_keep_busy(scenario, in_flight))
            try:
                blow = await saboteur.strike(fault, scenario.complete_one)
            finally:
                feeding.cancel()
            report.blows.append(blow)
            tell(
                f"{number:3}/{len(report.plan)}  {fault!s:52} {blow.in_flight:4} in flight,"
                f" work went on after {blow.recovery:5.2f} s"
            )


async def _keep_busy(scenario: Scenario, in_flight: Callable[[], Awaitable[int]]) -> None:
    """Begins operations so that enough are in flight, until cancelled; then ends what it began."""
    asking: set[asyncio.Task[None]] = set()
    begun = 0
    try:
        while begun < _MOST_OPERATIONS:
            try:
                known = await in_flight()
            except Exception:  # noqa: BLE001  # the database is down: nothing is begun
                known = scenario.busy
            missing = min(_BURST, scenario.busy - known - len(asking))
            for _ in range(missing):
                asking.add(asyncio.create_task(scenario.begin()))
                begun += 1
            for task in [task for task in asking if task.done()]:
                asking.discard(task)
                await task
            await asyncio.sleep(_FEED_SECONDS)
    finally:
        await asyncio.gather(*asking)


async def _calm(running: Installation, scenario: Scenario, report: Report) -> None:
    """Waits until everything that was accepted has ended."""
    started = time.monotonic()
    async with running.superusers() as truth:

        async def nothing_in_flight() -> bool:
            return not await truth.fetchval(scenario.in_flight)

        await until(nothing_in_flight, _CALM_SECONDS)
    report.calm_after = time.monotonic() - started


async def _until_told(running: Installation) -> None:
    """Waits until the audit has been told of everything."""
    async with running.superuser() as connection:

        async def nothing_unsent() -> bool:
            return not await invariants.unsent_events(connection)

        await until(nothing_unsent, _CALM_SECONDS)


async def _judge(running: Installation, scenario: Scenario, report: Report) -> None:
    async with running.superuser() as connection:
        report.counts = await scenario.counts(connection)
        report.problems += await scenario.problems(connection)
    report.problems += shortfalls(report.counts, scenario.least(report.counts))


def shortfalls(counts: Mapping[str, int], least: Mapping[str, int]) -> list[str]:
    """What happened too rarely for a run to prove anything, in words."""
    return [
        f"only {counts.get(what, 0)} {what}, at least {number} are needed"
        for what, number in least.items()
        if counts.get(what, 0) < number
    ]
