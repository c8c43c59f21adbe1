"""From nothing to the first answer, and what the whole platform takes of memory."""

import asyncio
import time
from typing import Final

from tests.bench import usage
from tests.bench.http import Connection
from tests.bench.report import Figure, Report
from tests.support.installation import Installation, installation

_PAUSE: Final = 0.01
# What starting took goes again: connections that nobody uses any more.
_SETTLE_SECONDS: Final = 25.0
_MEBIBYTE: Final = 1 << 20


async def measure(report: Report) -> None:
    """Starts twice: with no data, and with what the first one left."""
    report.title("Start and memory: `icto up` with the default replicas")
    async with installation(start=False) as one:
        told = "bar 8; Online Boutique and the OpenTelemetry demo need a cluster"
        report.add(Figure("cold start to the first 200", await _started(one), "s", told))
        await asyncio.sleep(_SETTLE_SECONDS)
        memory = usage.pss_by_part(await one.status())
        told = "bar 1,024; OpenTelemetry demo 3,200 and more"
        total = sum(memory.values()) / _MEBIBYTE
        report.add(Figure("memory of everything (PSS), idle", total, "MiB", told))
        for name, size in sorted(memory.items(), key=lambda item: -item[1]):
            report.add(Figure(f"  {name}", size / _MEBIBYTE, "MiB"))
        await one.stop()
        report.add(Figure("warm start to the first 200", await _started(one), "s"))


async def _started(one: Installation) -> float:
    """Seconds until the status of the platform is answered."""
    began = time.perf_counter()
    up = asyncio.create_task(one.start("--environment", "local"))
    while not await _answers(one.port):
        assert not up.done() or up.exception() is None, one.output().decode()[-2000:]
        await asyncio.sleep(_PAUSE)
    seconds = time.perf_counter() - began
    await up
    return seconds


async def _answers(port: int) -> bool:
    connection = Connection(port)
    try:
        status, _ = await connection.call("GET", "/v1/system/status", {})
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        connection.close()
    return status == 200
