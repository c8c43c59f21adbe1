"""A fork server's children are as fresh as any process, and outlive it, but not the supervisor."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from mesh import inherited
from mesh.fork_server import adoption, client, installed_code
from mesh.fork_server.client import CodeError, ForkServers, Program
from mesh.fork_server.start_method import StartMethodError
from mesh.process import Command, Process, spawn
from tests.support import busy_supervisor, probe
from tests.support.installation import until
from tests.support.processes import command_of

ROOT: Final = Path(__file__).parents[2]
PROBE: Final = probe.__name__
_FORKS: Final = 200
_AT_ONCE: Final = 20
_RESTARTS: Final = 100
# The interpreter sets it itself where no locale is set: for itself, and for what it starts.
_SET_AT_START: Final = "LC_CTYPE"


class Forks:
    """Fork servers of the probe, and what they forked."""

    def __init__(self, fault: Path) -> None:
        self.fault = fault
        self.lines: list[str] = []
        self.environment = inherited.environment(inherited.FORK_SERVER, {}) | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "protos/gen"))),
        }
        program = Program(PROBE, (str(fault),), self.environment)
        self.servers = ForkServers(program, lambda _, line: self.lines.append(line))
        self.code = 0

    def look(self, _: object) -> Mapping[str, Any]:
        """What is installed, as far as this test says."""
        return {"services/lab/service.py": self.code}

    @property
    def server(self) -> int:
        """Process id of the fork server."""
        assert self.servers._server is not None
        pid = self.servers._server._process.pid
        assert pid is not None
        return pid

    def process(self, name: str = "probe-1") -> tuple[Process, list[str]]:
        """One that is forked, and what it prints."""
        lines: list[str] = []
        return Process(name, lambda _, line: lines.append(line), self.servers.start), lines

    def command(self, *arguments: str, **environment: str) -> Command:
        given = dict(self.environment) | environment
        del given["GRPC_ENABLE_FORK_SUPPORT"]
        return Command((PROBE, *arguments), given)

    async def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """One to its end: its exit code and what it printed."""
        process, lines = self.process()
        await process.start(self.command(*arguments, **environment))
        return await process.wait(), "\n".join(lines)

    async def waiting(self, name: str = "probe-1") -> Process:
        """One that waits."""
        process, _ = self.process(name)
        await process.start(self.command("wait"))
        return process


@pytest.fixture(scope="module")
async def forks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Forks]:
    """Fork servers of the probe. A test that changes the code leaves some that can be loaded."""
    made = Forks(tmp_path_factory.mktemp("probe") / "fault")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(installed_code, "look", made.look)
        running = asyncio.create_task(made.servers.run())
        yield made
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await made.servers.end()


async def test_a_forked_process_is_what_a_spawned_one_is(forks: Forks) -> None:
    """Session, parent, streams, descriptors, environment, arguments, signals, mask and limits."""
    secret = secrets.token_hex()
    lines: list[str] = []
    spawned = Process("probe-2", lambda _, line: lines.append(line), spawn)
    command = forks.command("tell", ICTO_SECRET=secret, TZ="Asia/Tokyo")
    program = (sys.executable, "-P", "-m", *command.arguments)
    await spawned.start(Command(program, command.environment))
    assert await spawned.wait() == 0
    status, told = await forks.run("tell", ICTO_SECRET=secret, TZ="Asia/Tokyo")
    assert status == 0, told
    fresh, forked = json.loads(lines[0]), json.loads(told)
    for state in (fresh, forked):
        assert state.pop("pid") == state.pop("session") == state.pop("group") != os.getpid()
        for variables in (state["environment"], state["variables of libc"]):
            variables.pop(_SET_AT_START, None)
    assert forked == fresh
    assert forked["parent"] == os.getpid()
    assert forked["environment"]["ICTO_SECRET"] == secret


async def test_no_two_of_many_forks_draw_the_same(forks: Forks) -> None:
    drawn: list[dict[str, str]] = []
    for _ in range(_FORKS // _AT_ONCE):
        ended = await asyncio.gather(*(forks.run("draw") for _ in range(_AT_ONCE)))
        assert {status for status, _ in ended} == {0}
        drawn += [json.loads(told) for _, told in ended]
    assert len(drawn) == _FORKS
    for source in drawn[0]:
        assert len({one[source] for one in drawn}) == _FORKS, source


async def test_a_replica_has_its_name_in_the_process_table(forks: Forks) -> None:
    process = await forks.waiting("distribution_deployer-1")
    assert process.pid is not None
    await until(holds(lambda: name_of(process) == "distribution_de"))
    assert command_of(process.pid).startswith("icto: distribution_deployer-1")
    assert command_of(forks.server).startswith("icto: fork_server")
    await process.stop(signal.SIGKILL, 1)


async def test_what_a_fork_raises_is_its_last_word_and_its_exit_code(forks: Forks) -> None:
    assert (await forks.run("exit", "75"))[0] == 75
    server, told_before = forks.server, len(forks.lines)
    status, told = await forks.run("fail")
    assert status == 1
    assert told.endswith("ArithmeticError: nobody caught this")
    process = await forks.waiting()
    process.send(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert forks.server == server
    assert len(forks.lines) == told_before


async def test_secrets_are_never_in_the_memory_of_the_server(forks: Forks) -> None:
    secret = secrets.token_hex(32)
    process, _ = forks.process()
    await process.start(forks.command("wait", ICTO_SECRET=secret))
    assert process.pid is not None
    await until(holds(lambda: secret.encode() in memory_of(process.pid or 0)))
    assert secret.encode() not in memory_of(forks.server)
    await process.stop(signal.SIGKILL, 1)


async def test_a_replica_loads_no_module_of_ours_after_it_was_forked(forks: Forks) -> None:
    status, told = await forks.run("import", "contract.room")
    assert status == 1
    assert "contract.room was not loaded before this process was forked" in told
    assert (await forks.run("import", "contract.nothing"))[1].endswith("'contract.nothing'")
    assert (await forks.run("import", "colorsys"))[0] == 0


async def test_variables_that_are_read_when_a_program_starts_are_refused_by_name(
    forks: Forks,
) -> None:
    for name in ("PYTHONMALLOC", "MALLOC_ARENA_MAX", "LD_PRELOAD", "GLIBC_TUNABLES"):
        with pytest.raises(StartMethodError, match=f"{name}: .* set ICTO_START=spawn"):
            await forks.run("tell", **{name: "1"})


async def test_the_server_killed_leaves_its_forks_alone_and_another_one_stands(
    forks: Forks,
) -> None:
    living = [await forks.waiting(f"probe-{number}") for number in range(3)]
    pids, server = [process.pid for process in living], forks.server
    os.kill(server, signal.SIGKILL)
    assert (await forks.run("exit", "0"))[0] == 0
    assert forks.server != server
    assert [process.pid for process in living] == pids
    # If nothing asks for it, too.
    standing = forks.servers._server
    os.kill(forks.server, signal.SIGKILL)
    await until(holds(lambda: forks.servers._server is not standing))
    for process in living:
        await process.stop(signal.SIGKILL, 1)


async def test_a_server_that_hangs_is_replaced(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_FORK_SECONDS", 0.2)
    assert (await forks.run("exit", "0"))[0] == 0
    server = forks.server
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        await forks.run("exit", "0")
    monkeypatch.undo()
    assert (await forks.run("exit", "0"))[0] == 0
    assert forks.server != server


async def test_changed_code_gets_a_new_server_and_the_old_one_ends(
    forks: Forks, caplog: pytest.LogCaptureFixture
) -> None:
    living = await forks.waiting()
    pid, server = living.pid, forks.server
    forks.code += 1
    assert (await forks.run("exit", "0"))[0] == 0
    assert forks.server != server
    assert command_of(server) == ""
    assert living.pid == pid
    assert "services/lab/service.py changed" in caplog.text
    await living.stop(signal.SIGKILL, 1)


async def test_code_that_cannot_be_loaded_is_told_once_until_it_can(
    forks: Forks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "_TRY_AGAIN_SECONDS", 0.1)
    living = await forks.waiting()
    pid, server, told_before = living.pid, forks.server, len(forks.lines)
    forks.fault.write_text("half of it is missing")
    forks.code += 1
    starting = asyncio.create_task(forks.run("exit", "0"))
    for _ in range(3):
        with pytest.raises(CodeError, match="ImportError: half of it is missing"):
            await forks.servers.check()
        await asyncio.sleep(0.2)
    assert forks.servers.refusal == "ImportError: half of it is missing"
    assert caplog.text.count("half of it is missing") == 1
    assert "\n".join(forks.lines[told_before:]).count("half of it is missing") == 1
    assert (living.pid, forks.server) == (pid, server)
    assert not starting.done()

    forks.fault.unlink()
    assert (await starting)[0] == 0
    assert forks.servers.refusal == ""
    await living.stop(signal.SIGKILL, 1)


async def test_a_program_with_threads_is_not_forked(forks: Forks) -> None:
    assert (await forks.run("exit", "0"))[0] == 0
    forks.fault.write_text(probe.THREAD)
    forks.code += 1
    with pytest.raises(CodeError, match="has 2 threads"):
        await forks.servers.check()
    forks.fault.unlink()
    forks.code += 1
    assert (await forks.run("exit", "0"))[0] == 0


async def test_after_many_restarts_there_is_no_zombie(forks: Forks) -> None:
    process, _ = forks.process()

    async def prepare() -> Command:
        return forks.command("wait")

    running = asyncio.create_task(process.keep_running(prepare))
    for _ in range(_RESTARTS):
        await until(holds(lambda: process.pid is not None), pause=0.001)
        await process.restart(signal.SIGKILL, 1)
    assert process.restarts >= _RESTARTS - 1
    running.cancel()
    await process.stop(signal.SIGKILL, 1)
    assert adoption._dead_children() == frozenset()


async def test_orphans_of_others_are_taken_off_the_process_table(forks: Forks) -> None:
    """What a killed child of ours leaves behind; and nobody's exit code is taken away."""
    assert (await forks.run("exit", "0"))[0] == 0
    leaves = "sleep 0.1 >/dev/null & echo $!; exit 3"
    parent = await asyncio.create_subprocess_exec("sh", "-c", leaves, stdout=PIPE)
    slow = await asyncio.create_subprocess_exec("sh", "-c", "sleep 2.2; exit 4")
    told, _ = await parent.communicate()
    await until(holds(lambda: not is_on_the_table(int(told))))
    assert (parent.returncode, await slow.wait()) == (3, 4)


def test_a_fork_server_of_replicas_loads_all_of_their_code_and_opens_nothing() -> None:
    """Another process tells, in which nothing was loaded before."""
    program = (sys.executable, "-P", "-c", _PREPARED)
    told = subprocess.run(program, capture_output=True, check=False, text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


_PREPARED: Final = """
import os, pkgutil, sys
import gateway, services
from services.kit import server
opened = set(os.listdir("/proc/self/fd"))
server.prepare("test")
assert len(os.listdir("/proc/self/task")) == 1, "a thread was started"
assert set(os.listdir("/proc/self/fd")) == opened, "something was opened"
for package in (gateway, services):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        assert found.name in sys.modules, found.name
"""


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.1, 0.3])
async def test_nothing_outlives_a_killed_supervisor_that_forks(
    tmp_path: Path, seconds: float
) -> None:
    """It is killed in the middle of forks, with one replica stopped."""
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-m", busy_supervisor.__name__, str(tmp_path), cwd=ROOT, stdout=PIPE
    )
    assert supervisor.stdout is not None
    stopped = int(await supervisor.stdout.readline())
    os.kill(stopped, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    family = named_after(tmp_path)
    assert len(family) > 2
    supervisor.kill()
    await supervisor.wait()
    await until(holds(lambda: not named_after(tmp_path)), seconds=2)


def name_of(process: Process) -> str:
    """As `ps -o comm` shows it."""
    return Path(f"/proc/{process.pid}/comm").read_text().strip()


def is_on_the_table(pid: int) -> bool:
    """Whether it runs, or has ended and nobody has heard of it."""
    return Path(f"/proc/{pid}").exists()


def named_after(folder: Path) -> set[int]:
    """Processes that have the name of a folder in theirs."""
    found = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in found if str(folder) in command_of(pid)}


def holds(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def it_holds() -> bool:
        return check()

    return it_holds


def memory_of(pid: int) -> bytes:
    """What a process may write, and so all that it was told."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights, *_ = line.split()
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if rights.startswith("rw") and "[v" not in line:
                memory.seek(start)
                with contextlib.suppress(OSError):
                    found.append(memory.read(end - start))
    return b"".join(found)
