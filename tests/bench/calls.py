"""One call by four ways: a bare server, the kit, the kit behind Envoy, and REST."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from contract import wire
from icto.lab.v1 import lab_pb2
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from tests.bench import usage
from tests.bench.http import Pool
from tests.bench.report import Figure, Report, percentile
from tests.support.installation import Installation

_WARM: Final = 500
_CALLS: Final = 1000
_AT_ONCE: Final = 16
_ROUNDS: Final = 3
_IDLE_SECONDS: Final = 2.0

One = Callable[[], Awaitable[object]]


@dataclass
class Way:
    """One way to make the call, and the processes that serve it."""

    name: str
    call: One
    pids: Sequence[int]
    seconds: list[float] = field(default_factory=list)
    count: int = 0
    cpu: float = 0.0
    elapsed: float = 0.0
    idle: float = 0.0
    """CPU seconds a second without calls."""

    async def one_by_one(self, count: int) -> None:
        """Makes calls one after the other, for their latency."""
        for _ in range(count):
            started = time.perf_counter()
            await self.call()
            self.seconds.append(time.perf_counter() - started)

    async def together(self, count: int) -> None:
        """Makes calls many at a time, for what they cost: a server that is busy wakes up less."""
        began, spent = time.perf_counter(), usage.cpu_seconds(self.pids)

        async def some() -> None:
            for _ in range(count // _AT_ONCE):
                await self.call()

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
        self.count += count // _AT_ONCE * _AT_ONCE
        self.elapsed += time.perf_counter() - began
        self.cpu += usage.cpu_seconds(self.pids) - spent

    async def warm_up(self) -> None:
        """Makes calls that do not count, and sees what the processes do without any."""
        await self.together(_WARM)
        before = usage.cpu_seconds(self.pids)
        await asyncio.sleep(_IDLE_SECONDS)
        self.idle = (usage.cpu_seconds(self.pids) - before) / _IDLE_SECONDS
        self.count, self.cpu, self.elapsed = 0, 0.0, 0.0

    @property
    def median(self) -> float:
        """Milliseconds."""
        return percentile(self.seconds, 50) * 1000

    @property
    def cost(self) -> float:
        """CPU microseconds of a call, without what the processes do anyway."""
        return (self.cpu - self.idle * self.elapsed) / self.count * 1e6


async def measure(report: Report, installation: Installation) -> None:
    """Latency and CPU of each way, in turns, with tracing off."""
    report.title(f"One call that does nothing, tracing off; CPU with {_AT_ONCE} at a time")
    async with _ways(installation) as ways:
        await asyncio.gather(*(way.warm_up() for way in ways))
        for _ in range(_ROUNDS):
            for way in ways:
                await way.one_by_one(_CALLS)
                await way.together(_CALLS)
    for way in ways:
        count = len(way.seconds)
        for percent in (50, 99):
            value = percentile(way.seconds, percent) * 1000
            report.add(Figure(f"{way.name}, p{percent}", value, "ms", runs=count))
        report.add(Figure(f"{way.name}, CPU of the servers", way.cost, "us/call", runs=way.count))
    bare, kit, envoy, rest = ways
    told = "bar 0.3; Istio sidecars +2.65 (p90), Dapr +1.40"
    report.add(Figure("an Envoy hop adds, p50", envoy.median - kit.median, "ms", told, count))
    report.add(Figure("REST adds to that, p50", rest.median - envoy.median, "ms", "", count))
    report.add(Figure("the kit adds, p50", kit.median - bare.median, "ms", "", count))
    report.add(Figure("the kit adds, CPU", kit.cost - bare.cost, "us/call", "bar 60", count))


@contextlib.asynccontextmanager
async def _ways(installation: Installation) -> AsyncIterator[list[Way]]:
    replicas = await installation.replicas("lab")
    lab = [replica["pid"] for replica in replicas]
    envoy = (await installation.status())["envoy"]["pid"]
    async with contextlib.AsyncExitStack() as stack:
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "bare.sock"
        bare = stack.enter_context(_bare(socket))
        rest = Pool(installation.port)
        stack.callback(rest.close)
        yield [
            Way("bare grpcio server", await _grpc(stack, f"unix:{socket}"), [bare]),
            Way(
                "kit",
                await _grpc(
                    stack, f"unix:{replicas[0]['socket']}", ((wire.HEADER_CALLER, wire.EDGE),)
                ),
                lab[:1],
            ),
            Way("kit behind Envoy", await _grpc(stack, installation.target), [envoy, *lab]),
            Way("REST", _rest(rest), [envoy, *lab]),
        ]


async def _grpc(
    stack: contextlib.AsyncExitStack, target: str, metadata: tuple[tuple[str, str], ...] = ()
) -> One:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
    stub, request = LabServiceStub(channel), lab_pb2.FailSafelyRequest()

    async def call() -> object:
        return await stub.FailSafely(request, metadata=metadata)

    return call


def _rest(pool: Pool) -> One:
    headers = {"content-type": "application/json"}

    async def call() -> object:
        status, body = await pool.call("POST", "/v1/lab:failSafely", headers, b"{}")
        assert status == 200, body
        return body

    return call


@contextlib.contextmanager
def _bare(socket: Path) -> Iterator[int]:
    """A bare server while the block runs; its process id."""
    command = (sys.executable, "-m", "tests.bench.bare", str(socket))
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield server.pid
        finally:
            server.terminate()
