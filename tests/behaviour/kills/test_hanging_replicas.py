"""A replica that hangs is ended and replaced; one that is merely slow is not.

Bounds are in health intervals: three without an answer are a hang, a question may be an interval
old when the replica stops, and the supervisor looks each half interval.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import httpx

from mesh.cli.client import CallError
from tests.support.installation import HEALTH_INTERVAL, Installation, kill, until
from tests.support.load import User, new_user
from tests.support.processes import ProcessId, descendants

_HANG: Final = 3 * HEALTH_INTERVAL
# On a machine that does much else, the supervisor and this test look late.
_ENDED_WITHIN: Final = 2 * _HANG
_START_SECONDS: Final = 30.0
_HANGS: Final = re.compile(r"(\S+) has not answered for")
_READERS: Final = 6
_WRITERS: Final = 6
_SPINNERS: Final = 24
_HOLDER: Final = """
SELECT application_name FROM pg_stat_activity
WHERE application_name LIKE 'ledger-%' AND wait_event_type = 'Lock' AND xact_start < query_start
"""


async def test_a_replica_that_hangs_is_ended_and_replaced_and_no_safe_call_fails(
    house: Installation,
) -> None:
    (victim, *_), logged = await house.replicas("gateway"), len(house.output())
    process = process_of(house, victim)
    failures: list[str] = []
    async with reading(house, failures):
        kill(victim["pid"], signal.SIGSTOP)
        await until(gone([process]), _ENDED_WITHIN)
        await until_replaced(house, [victim])
    assert failures == []
    assert hangs(house, logged) == [victim["name"]]
    assert f"{victim['name']} ended with" not in house.output(logged).decode()


async def test_a_write_in_a_replica_that_hangs_has_its_effect_once_and_holds_nothing_up(
    house: Installation,
) -> None:
    """It hangs in the middle of its transaction, with the ledger locked."""
    failures: list[grpc.StatusCode] = []
    async with new_user(house) as user:
        async with writing(user, failures):
            victim = await hung_in_a_transaction(house)
            await until(writes_go_on(user), _ENDED_WITHIN + HEALTH_INTERVAL)
            await until_replaced(house, [victim])
        assert set(failures) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED}
        await settled(user)


async def test_of_replicas_that_all_hang_none_is_ended_and_all_go_on(house: Installation) -> None:
    """A machine that was asleep is no reason to start everything anew."""
    replicas, logged = (await house.status())["replicas"], len(house.output())
    with stopped([replica["pid"] for replica in replicas]):
        await asyncio.sleep(3 * _HANG)
    await house.until_healthy()
    await asyncio.sleep(2 * _HANG)
    after = (await house.status())["replicas"]
    assert [r["pid"] for r in after] == [r["pid"] for r in replicas]
    assert hangs(house, logged) == []


async def test_once_one_of_many_that_hang_answers_the_others_are_replaced_by_turns(
    house: Installation,
) -> None:
    replicas, logged = (await house.status())["replicas"], len(house.output())
    processes = {replica["name"]: process_of(house, replica) for replica in replicas}
    answering, *hanging = replicas
    with stopped([replica["pid"] for replica in replicas]):
        await asyncio.sleep(2 * _HANG)
        assert hangs(house, logged) == []
        kill(answering["pid"], signal.SIGCONT)
        first = next(iter({r["service"]: r for r in reversed(hanging)}.values()))
        await until(gone([processes[first["name"]]]), 2 * _ENDED_WITHIN)
        ended = hangs(house, logged)
    await house.until_healthy()
    assert processes[answering["name"]].alive
    service_of = {replica["name"]: replica["service"] for replica in replicas}
    assert len(ended) > 1
    assert len({service_of[name] for name in ended}) == len(ended), "two of a service at once"


async def test_a_replica_that_hardly_gets_a_processor_is_left_alone(house: Installation) -> None:
    """It answers nothing for longer than one that hangs may; but it would, if it were let."""
    (victim, *_), logged = await house.replicas("lab"), len(house.output())
    process = process_of(house, victim)
    with starved(victim["pid"]):
        await until(is_unhealthy(house, victim), _START_SECONDS)
        await asyncio.sleep(3 * _HANG)
        assert process.alive
    await house.until_healthy()
    assert process.alive
    assert hangs(house, logged) == []


async def test_a_supervisor_that_was_stopped_itself_takes_nobody_for_hanging(
    house: Installation,
) -> None:
    assert house.process is not None
    before, logged = (await house.status())["replicas"], len(house.output())
    with stopped([house.process.pid]):
        await asyncio.sleep(2 * _HANG)
    await asyncio.sleep(HEALTH_INTERVAL)
    assert [r["pid"] for r in (await house.status())["replicas"]] == [r["pid"] for r in before]
    assert hangs(house, logged) == []


def process_of(house: Installation, replica: dict[str, Any]) -> ProcessId:
    """The process that serves as a replica now."""
    assert house.process is not None
    family = {process.pid: process for process in descendants(house.process.pid)}
    return family[replica["pid"]]


def hangs(house: Installation, since: int) -> list[str]:
    """The replicas that the supervisor says it ended because they hang, in order."""
    return _HANGS.findall(house.output(since).decode())


def gone(processes: Sequence[ProcessId]) -> Any:
    async def all_are_gone() -> bool:
        return not any(process.alive for process in processes)

    return all_are_gone


def is_unhealthy(house: Installation, replica: dict[str, Any]) -> Any:
    async def envoy_looks_away() -> bool:
        found = await house.replicas(replica["service"])
        return any(r["name"] == replica["name"] and not r["healthy"] for r in found)

    return envoy_looks_away


async def until_replaced(house: Installation, replicas: Sequence[dict[str, Any]]) -> None:
    """Waits until others run in the place of replicas, and pass their health checks."""
    old = {replica["name"]: replica["pid"] for replica in replicas}

    async def replaced() -> bool:
        now = [r for r in (await house.status())["replicas"] if r["name"] in old]
        return all(r["healthy"] and r["pid"] not in (None, old[r["name"]]) for r in now)

    await until(replaced, _START_SECONDS)


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Processes that hang in this block; those that live go on after it."""
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def starved(pid: int) -> Iterator[None]:
    """A process that gets next to nothing of one processor, which others keep busy.

    A session is scheduled as a group, and each process of a mesh has its own: the group is made
    the last in the queue, and each of its threads in it.
    """
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    (cpu, *_), every = os.sched_getaffinity(0), os.sched_getaffinity(pid)
    spin = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(spin, start_new_session=True) for _ in range(_SPINNERS)]
    group = Path(f"/proc/{pid}/autogroup")
    try:
        for spinner in busy:
            os.sched_setaffinity(spinner.pid, {cpu})
        group.write_text("19")
        for thread in threads:
            os.sched_setaffinity(thread, {cpu})
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        yield
    finally:
        for spinner in busy:
            spinner.kill()
            spinner.wait()
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            group.write_text("0")
            for thread in threads:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(thread, every)


@contextlib.asynccontextmanager
async def reading(house: Installation, failures: list[str]) -> AsyncIterator[None]:
    """Several readers."""
    stop, client = asyncio.Event(), await house.user(0)

    async def read() -> None:
        while not stop.is_set():
            try:
                await client.rest("GET", "/v1/whoami")
            except (CallError, httpx.HTTPError) as error:
                failures.append(repr(error))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_READERS):
            tasks.create_task(read())
        try:
            yield
        finally:
            stop.set()
    await client.close()


@contextlib.asynccontextmanager
async def writing(user: User, failures: list[grpc.StatusCode]) -> AsyncIterator[None]:
    """Several writers on one ledger, by way of all its replicas."""
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            try:
                await user.transfer(str(uuid4()))
            except grpc.aio.AioRpcError as error:
                failures.append(error.code())
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_WRITERS):
            tasks.create_task(write())
        try:
            yield
        finally:
            stop.set()


async def hung_in_a_transaction(house: Installation) -> dict[str, Any]:
    """Stops a replica of the ledger whose transaction has the ledger locked; it never ends it."""
    async with house.superuser() as watching:
        while True:
            async with house.held("ledger.kit_outbox"):
                given_up = time.monotonic() + 2.0  # sooner than a statement waits for a lock
                while time.monotonic() < given_up:
                    if name := await watching.fetchval(_HOLDER):
                        (found,) = [r for r in await house.replicas("ledger") if r["name"] == name]
                        kill(found["pid"], signal.SIGSTOP)
                        return found
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)


def writes_go_on(user: User) -> Any:
    """Whether a transfer that begins from now on is acknowledged."""
    before = dict(user.transfers)

    async def a_later_one_is_acknowledged() -> bool:
        return any(block is not None for key, block in user.transfers.items() if key not in before)

    return a_later_one_is_acknowledged


async def settled(user: User) -> None:
    """Repeats what has no known outcome, and finds each effect once."""
    for request_id in [key for key, block in user.transfers.items() if block is None]:
        await user.transfer(request_id)
    blocks = list(user.transfers.values())
    assert None not in blocks
    assert len(set(blocks)) == len(blocks)
    account = await user.client.rest("GET", f"/v1/{user.ledger}/accounts/{user.friend}")
    assert int(account.body["balance"]) == len(blocks)
