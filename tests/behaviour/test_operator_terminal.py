"""An operator at a terminal of 80 columns, on IPv6, with few open files: what they are told.

One installation for all of it: what is told at its start, and what commands say of it later.
"""

import asyncio
import os
import pty
import re
import resource
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from mesh import control
from mesh.cli.demo import free_ports
from mesh.rundir import RunDirectory
from tests.support.installation import ICTO, START_SECONDS, STOP_SECONDS, kill, until

COLUMNS = 80
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """`icto up --story` in a terminal."""

    run: RunDirectory
    ports: tuple[int, int]
    child: "subprocess.Popen[bytes]"
    screen: bytearray = field(default_factory=bytearray)

    @property
    def lines(self) -> list[str]:
        """What it printed, without colours."""
        return _CONTROL.sub("", self.screen.decode(errors="replace")).splitlines()

    async def icto(self, *arguments: str) -> tuple[int, str]:
        """Runs a command against it; exit status and output."""
        child = await asyncio.create_subprocess_exec(
            ICTO, *arguments,
            env=os.environ | {"ICTO_RUN_DIR": str(self.run.path), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await child.communicate()
        assert child.returncode is not None
        return child.returncode, output.decode()


@pytest.fixture(scope="module")
async def terminal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Terminal]:
    folder = tmp_path_factory.mktemp("six") / "run"
    folder.mkdir(mode=0o700)
    ports = free_ports(2)
    (folder / "mesh.toml").write_text(
        f'[edge]\naddress = "::1"\nport = {ports[0]}\n'
        f'[observability]\nmetrics_address = "::1"\nmetrics_port = {ports[1]}\n'
    )
    ours, theirs = pty.openpty()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        child = await asyncio.to_thread(
            lambda: subprocess.Popen(
                [ICTO, "up", "--story", "--run-dir", str(folder)],
                stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                env=os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm"},
            )
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.close(theirs)
    made = Terminal(RunDirectory(folder), (ports[0], ports[1]), child)
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, lambda: made.screen.extend(_read(ours)))

    async def told() -> bool:
        assert child.poll() is None, made.lines
        return b"--bootstrap" in made.screen

    try:
        await until(told, START_SECONDS)
        yield made
    finally:
        child.send_signal(signal.SIGINT)
        await asyncio.to_thread(child.wait, STOP_SECONDS)
        loop.remove_reader(ours)
        os.close(ours)
        made.run.remove()
    assert "Traceback" not in "\n".join(made.lines)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def test_nothing_that_is_told_wraps_and_the_one_time_key_is_last(terminal: Terminal) -> None:
    assert [line for line in terminal.lines if len(line) > COLUMNS] == []
    assert any("Everything works." in line for line in terminal.lines)
    assert re.fullmatch(r"  icto login --bootstrap [\w-]{43}", terminal.lines[-1])


async def test_an_edge_on_ipv6_is_served_and_found(terminal: Terminal) -> None:
    edge, metrics = (f"http://[::1]:{port}" for port in terminal.ports)
    assert (await control.ask(terminal.run, "status"))["edge"] == edge
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{edge}/v1/system/status")).status_code == 200
        assert "rpc_server" in (await client.get(f"{metrics}/metrics", timeout=20)).text
    status, output = await terminal.icto("call", "IdentityService/WhoAmI", "--edge", edge)
    assert (status, '"principal"' in output) == (0, True), output
    assert '"roles": []' in output, "what is empty, false or 0 is said, too"


async def test_the_soft_limit_on_open_files_is_raised(terminal: Terminal) -> None:
    state = await control.ask(terminal.run, "status")
    soft, _ = resource.prlimit(state["envoy"]["pid"], resource.RLIMIT_NOFILE)
    assert soft > 10_000


async def test_status_tells_by_its_exit_status_whether_all_is_healthy(terminal: Terminal) -> None:
    async def healthy() -> bool:
        return (await terminal.icto("status"))[0] == 0

    await until(healthy, START_SECONDS)
    state = await control.ask(terminal.run, "status")
    kill(state["envoy"]["pid"], signal.SIGSTOP)
    try:
        status, output = await terminal.icto("status")
    finally:
        kill(state["envoy"]["pid"], signal.SIGCONT)
    assert status == 1
    assert "Not healthy: " in output


async def test_a_restart_that_would_not_bring_what_mesh_toml_says_is_refused(
    terminal: Terminal,
) -> None:
    toml = terminal.run.path / "mesh.toml"
    before = toml.read_text()
    toml.write_text(before + "[services.lock_deployer]\nreplicas = 3\n")
    try:
        status, output = await terminal.icto("restart")
        assert status == 1
        assert f"{toml} was changed since the start" in output
        assert "services.lock_deployer.replicas is 3 and was 2" in output
        assert "'icto down' and 'icto up'" in output
    finally:
        toml.write_text(before)
