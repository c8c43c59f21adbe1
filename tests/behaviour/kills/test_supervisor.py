"""The supervisor keeps the platform up whatever is killed, and goes away without a trace.

Each test leaves it running for the next.
"""

import asyncio
import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest

from contract import loader
from contract.environment import Environment
from contract.status import from_rpc_error
from icto.lab.v1 import lab_pb2
from icto.lab.v1.lab_pb2_grpc import LabServiceStub
from mesh import control, supervisor
from mesh.cli.demo import free_ports
from mesh.operator import Operator
from mesh.process import Command, Process
from mesh.render import Paths
from mesh.rundir import RunDirectory, RunDirectoryError
from mesh.supervisor import Options, StartError, Supervisor
from tests.support.installation import (
    HEALTH_INTERVAL,
    Installation,
    deployed,
    finished,
    kill,
    paid_body,
    signalled,
    until,
)
from tests.support.load import METHODS, load_on, rounds
from tests.support.processes import ProcessId, command_of, descendants, listeners_of

_HEAL_SECONDS = 30.0
_REPEATS = 100
_TRIES = 20


async def test_a_second_supervisor_is_refused_with_its_reason(house: Installation) -> None:
    assert house.process is not None
    status, output = await house.icto("up", "--port", "1", "--metrics-port", "1")
    assert status == 1
    assert f"a supervisor runs there with process id {house.process.pid}" in output
    assert "icto down" in output


@pytest.mark.parametrize(
    ("taken", "names"), [("edge", "edge.port"), ("metrics", "observability.metrics_port")]
)
async def test_a_taken_port_is_named(
    house: Installation, tmp_path: Path, taken: str, names: str
) -> None:
    port = house.port if taken == "edge" else house.metrics_port
    free = house.port + 1000
    ports = (port, free) if taken == "edge" else (free, port)
    status, output = await house.icto(
        "up", "--run-dir", str(tmp_path / "run"),
        "--port", str(ports[0]), "--metrics-port", str(ports[1]),
    )  # fmt: skip
    assert status == 1
    assert f"Port {port} on 127.0.0.1" in output
    assert f"set {names} in mesh.toml" in output


async def test_everything_listens_on_loopback_alone(house: Installation) -> None:
    assert house.process is not None
    pids = {process.pid for process in descendants(house.process.pid)}
    assert listeners_of(pids) == {"127.0.0.1"}


async def test_a_killed_replica_costs_no_request(house: Installation) -> None:
    contract = loader.load(Environment.TEST)
    assert all(contract.method(path).retriable for path in METHODS)
    async with load_on(house) as load:
        for together in rounds((await house.status())["replicas"]):
            await asyncio.gather(*(kill_with_calls(house, replica) for replica in together))
            await until_replaced(house, together)
    assert load.failures() == []


async def test_a_replica_that_cannot_be_reached_is_ejected(house: Installation) -> None:
    """Sooner than health checks find it dead, or the supervisor takes it off the list."""
    assert house.process is not None
    alice, victim = await house.user(), (await house.replicas("gateway"))[0]
    before = await house.ejections("gateway")
    kill(house.process.pid, signal.SIGSTOP)
    try:
        kill(victim["pid"])
        for _ in range(_TRIES):
            await asyncio.gather(*(alice.rest("GET", "/v1/whoami") for _ in range(_TRIES)))
        assert await house.ejections("gateway") > before
    finally:
        kill(house.process.pid, signal.SIGCONT)
        await alice.close()
    await until_replaced(house, [victim])


async def test_a_hundred_repeats_of_an_order_are_one_order_though_a_replica_dies(
    house: Installation,
) -> None:
    """One effect, one answer, and nobody notices (F-18)."""
    alice = await house.user()
    body = await paid_body(alice)
    victim = (await house.replicas("backend"))[0]
    kill(victim["pid"], signal.SIGSTOP)
    repeats = [asyncio.create_task(alice.rest("POST", "/v1/tokens", body)) for _ in range(_REPEATS)]

    async def some_are_answered_and_some_hang() -> bool:
        return any(repeat.done() for repeat in repeats)

    await until(some_are_answered_and_some_hang)
    assert not all(repeat.done() for repeat in repeats)
    signalled(victim["pid"], signal.SIGKILL)  # if the supervisor has not done it yet
    answers = [answer.body for answer in await asyncio.gather(*repeats)]
    assert answers == [answers[0]] * _REPEATS

    ended = await finished(alice, answers[0]["name"])
    assert ended["state"] == "DEPLOYMENT_STATE_SUCCEEDED"
    orders = (await alice.rest("GET", "/v1/deployments")).body["deployments"]
    assert [order["name"] for order in orders] == [ended["name"]]
    payments = (await alice.rest("GET", "/v1/payments")).body["payments"]
    assert [payment["name"] for payment in payments] == [ended["payment"]]
    entries = f"/v1/auditEntries?operation={ended['name']}&action=CreateToken"

    async def told_once() -> bool:
        told = (await alice.rest("GET", entries)).body["entries"]
        return sorted(entry["event"]["act"]["status"] for entry in told) == [
            "ACT_STATUS_COMPLETED", "ACT_STATUS_INITIATED",
        ]  # fmt: skip

    await until(told_once)
    await until_replaced(house, [victim])
    await alice.close()


async def test_a_killed_envoy_and_a_killed_postgres_lose_nothing(house: Installation) -> None:
    async with load_on(house) as load:
        for name in ("envoy", "postgres"):
            before = (await house.status())[name]
            killed = time.monotonic()
            kill(before["pid"])
            await until_replaced(house, [before])
            await house.until_healthy(_HEAL_SECONDS)
            assert load.failures(killed), "nobody was calling"
            await until_calm(load)


async def test_an_envoy_that_hangs_takes_no_metrics_of_others_along(house: Installation) -> None:
    pid, replicas = (await house.status())["envoy"]["pid"], (await house.status())["replicas"]
    kill(pid, signal.SIGSTOP)
    try:
        async with httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{house.metrics_port}/metrics"
            answer = await http.get(url, timeout=30)
    finally:
        kill(pid, signal.SIGCONT)
    assert answer.status_code == 200, answer.text
    assert answer.text.count("\nicto_replica_up{") == len(replicas)
    assert "envoy_" not in answer.text
    await house.until_healthy(_HEAL_SECONDS)


async def test_a_rolling_restart_fails_no_call(house: Installation) -> None:
    before, logged = (await house.status())["replicas"], len(house.output())
    async with load_on(house) as load:
        status, output = await house.icto("restart")
        assert status == 0, output
    assert load.failures() == []
    after = (await house.status())["replicas"]
    for old, new in zip(before, after, strict=True):
        assert new["pid"] != old["pid"]
        assert f"{new['name']} is fresh and healthy after" in output
    assert not re.search(r"warning +\S+ ended", house.output(logged).decode())


async def read_all(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_stream_ends_with_its_replica_and_says_that_another_goes_on(
    house: Installation,
) -> None:
    """A stream has no end of its own: whoever waited for it would wait out the whole grace."""
    request = lab_pb2.StreamRequest(count=10_000)
    request.pause.FromMilliseconds(50)
    async with grpc.aio.insecure_channel(house.target) as channel:
        stream = LabServiceStub(channel).Stream(request)
        await stream.read()
        restarting = asyncio.create_task(house.icto("restart", "lab"))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_all(stream)
        assert from_rpc_error(ended.value).reason == "REPLICA_LEAVING"
        status, output = await restarting
        assert status == 0, output


async def test_nothing_outlives_a_killed_supervisor_and_its_successor_serves_the_old_token(
    house: Installation,
) -> None:
    alice = await house.user()
    token = (await deployed(alice))["token"]
    assert house.process is not None
    family = descendants(house.process.pid)
    assert_is_the_whole_family(family, await house.status())

    kill(house.process.pid)
    house.process.wait()
    await until(none_lives(family), seconds=2)

    await house.start()
    assert (await alice.rest("GET", f"/v1/{token}")).body["name"] == token
    assert (await deployed(alice))["state"] == "DEPLOYMENT_STATE_SUCCEEDED"
    await alice.close()


async def test_ctrl_c_takes_all_down_and_keeps_the_data(house: Installation) -> None:
    """Also the data of root when the run directory is lost, which nobody takes over unasked."""
    alice = await house.user()
    token = (await deployed(alice))["token"]
    assert house.process is not None
    family = descendants(house.process.pid)

    await house.stop()
    assert house.process.returncode == 0
    await until(none_lives(family), seconds=2)
    status, output = await house.icto("status")
    assert status == 1
    assert f"Nothing runs in {house.run.path}. Start it with 'icto up'." in output

    await house.start(*await run_directory_lost(house))
    assert (await alice.rest("GET", f"/v1/{token}")).body["name"] == token
    await alice.close()


async def run_directory_lost(house: Installation) -> tuple[str, ...]:
    """What `icto up` needs to go on without a run directory: root keeps the data elsewhere."""
    if os.getuid() != 0:
        return ()
    toml = house.run.mesh_toml.read_text()
    shutil.rmtree(house.run.path)
    house.run.path.mkdir(mode=0o700)
    (house.run.path / "mesh.toml").write_text(toml)
    house.faults.mkdir(exist_ok=True)
    code, said = await house.icto("up")
    assert (code, "'icto up --adopt' goes on with it" in said) == (1, True), said
    return ("--adopt",)


async def test_a_start_that_fails_stops_what_runs_and_says_before_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stopped on the way out must not be started again."""
    asked = asyncio.Event()

    async def provision(*_: Any) -> int:
        await asked.wait()
        raise StartError("no schemas today")

    monkeypatch.setattr(supervisor, "provision", provision)
    run, (edge, metrics) = RunDirectory(tmp_path), free_ports(2)
    run.create()
    ports = {"edge": {"port": edge}, "observability": {"metrics_port": metrics}}
    made = Supervisor(Options(run, Environment.TEST, ports), lambda *_: None, lambda _: None)
    with run.locked():
        serving = asyncio.create_task(made.serve(lambda _: None))

        async def postgres_runs() -> Any:
            return made._postgres and made._postgres.process.pid

        await until(postgres_runs)
        for question in ("status", "restart"):
            with pytest.raises(RunDirectoryError, match="is starting and has no replica yet"):
                await control.ask(run, question)
        asked.set()
        with pytest.raises(ExceptionGroup) as failed:
            await serving
    run.remove()
    assert failed.group_contains(StartError, match="no schemas today")
    assert made._postgres is not None
    assert (made._postgres.process.pid, made._postgres.process.restarts) == (None, 0)


async def test_what_cannot_be_started_now_is_tried_again() -> None:
    """A full disk, or no memory for a process, must not end the mesh."""
    process, tries = Process("true", lambda *_: None), itertools.count()

    async def prepare() -> Command:
        if next(tries) == 0:
            raise OSError(errno.ENOSPC, "no space left")
        return Command(("/bin/true",), {})

    running = asyncio.create_task(process.keep_running(prepare))

    async def it_ran() -> bool:
        assert not running.done()
        return process.restarts > 1

    await until(it_ran)
    running.cancel()


class HesitantOperator(Operator):
    """Is refused at first, as by a replica that has not heard of the configuration yet."""

    def __init__(self, paths: Paths, refusals: int) -> None:
        super().__init__(paths)
        self.left = refusals
        self.given: list[int] = []

    async def balance(self, owner: str) -> int:
        """Nothing."""
        del owner
        return 0

    async def give(self, owner: str, amount: int) -> None:
        """Keeps what was given."""
        del owner
        self.left -= 1
        if self.left >= 0:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, NOTHING, NOTHING, "not yet")
        self.given.append(amount)


NOTHING: Final = grpc.aio.Metadata()


async def test_what_is_refused_at_the_start_is_done_as_soon_as_it_is_taken(
    tmp_path: Path,
) -> None:
    """A treasury without its float pays no refund: F-25."""
    made = Supervisor(
        Options(RunDirectory(tmp_path), Environment.TEST), lambda *_: None, lambda _: None
    )
    operator = HesitantOperator(Paths(tmp_path, tmp_path), refusals=2)
    await made._insist(made._fund_treasury, operator)
    assert len(operator.given) == 1
    await operator.close()


_LOGS: Final = """
import sys
from pathlib import Path
from mesh.cli import up
from mesh.logfiles import LogFiles
files = LogFiles(Path(sys.argv[1]))
output = up.shown(files.write)
for number in range(3):
    output("lab-1", f"line {number}")
files.close()
"""


def test_a_terminal_that_went_stops_nobody(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", _LOGS, tmp_path], stdout=write, check=False)
    os.close(write)
    assert done.returncode == 0
    assert len((tmp_path / "lab-1.log").read_text().splitlines()) == 3


async def kill_with_calls(house: Installation, replica: dict[str, Any]) -> None:
    """Kills a replica while callers wait for it. It is stopped first: what it has, it keeps."""
    for _ in range(_TRIES):
        kill(replica["pid"], signal.SIGSTOP)
        # Within two intervals; after that it is looked away from.
        given_up = time.monotonic() + HEALTH_INTERVAL
        while time.monotonic() < given_up:
            if await calls_in(house, replica["socket"]):
                kill(replica["pid"])
                return
            await asyncio.sleep(0.01)
        kill(replica["pid"], signal.SIGCONT)
        await asyncio.sleep(HEALTH_INTERVAL)
    raise AssertionError(f"nobody calls {replica['name']}")


async def calls_in(house: Installation, socket: str) -> int:
    """Calls that Envoy has with a replica."""
    active = f"::{socket}::rq_active::"
    lines = (await house.envoy("/clusters")).splitlines()
    return sum(int(line.rpartition("::")[2]) for line in lines if active in line)


async def until_replaced(house: Installation, processes: list[dict[str, Any]]) -> None:
    """Waits until new ones run in the place of processes, and pass their health checks."""
    old = {process["name"]: process["pid"] for process in processes}

    async def replaced() -> bool:
        state = await house.status()
        return all(
            process["pid"] not in (None, old[process["name"]]) and process.get("healthy", True)
            for process in (state["postgres"], state["envoy"], *state["replicas"])
            if process["name"] in old
        )

    await until(replaced, _HEAL_SECONDS)


async def until_calm(load: Any) -> None:
    """Waits until no call failed for three health intervals."""

    async def calm() -> bool:
        return not load.failures(time.monotonic() - 3 * HEALTH_INTERVAL)

    await until(calm, _HEAL_SECONDS)


def none_lives(family: set[ProcessId]) -> Any:
    async def none_of_them_lives() -> bool:
        return not any(process.alive for process in family)

    return none_of_them_lives


def assert_is_the_whole_family(family: set[ProcessId], state: Any) -> None:
    """Passes when every process that the supervisor tells of was found, and Postgres' own."""
    pids = {process.pid for process in family}
    told = {p["pid"] for p in (state["postgres"], state["envoy"], *state["replicas"])}
    assert told < pids
    commands = [command_of(pid) for pid in pids]
    assert any("postgres:" in command for command in commands)
