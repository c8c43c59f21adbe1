"""A plain user's installation, in production, in a deep path, beside another one."""

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.cli.client import CallError, Client
from mesh.cli.demo import free_ports
from mesh.rundir import RunDirectory
from tests.support.installation import (
    ICTO,
    START_SECONDS,
    STOP_SECONDS,
    Installation,
    until,
)
from tests.support.processes import capabilities_of, descendants

# A socket's path may have 107 bytes.
_DEEP = Path(*["a-rather-long-name-of-a-folder"] * 5)


def plain_user() -> tuple[int, tuple[str, ...]]:
    """A user without rights, and how a command becomes theirs. We are one, unless we are root."""
    if os.getuid() != 0:
        return os.getuid(), ()
    uid = pwd.getpwnam("nobody").pw_uid
    # A namespace of its own, since another user could not read a checkout in root's home.
    become = ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}")
    if subprocess.run([*become, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("root here, and this kernel gives no user namespace to be somebody else in")
    return uid, become


class PlainUser:
    """Somebody without rights, with a home, who types commands."""

    def __init__(self, home: Path) -> None:
        self.uid, self._become = plain_user()
        self.home = home
        self.run = home / _DEEP / ".icto"
        self.run.parent.mkdir(parents=True)

    def spawn(self, arguments: Sequence[str], output: Any) -> "subprocess.Popen[bytes]":
        """Starts `icto` in the folder of the checkout."""
        return subprocess.Popen(
            [*self._become, ICTO, *arguments],
            cwd=self.run.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "COLUMNS": "200"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    async def icto(self, *arguments: str) -> tuple[int, str]:
        """Runs a command; exit status and output."""
        child = self.spawn(arguments, subprocess.PIPE)
        output, _ = await asyncio.to_thread(child.communicate, timeout=60)
        return child.returncode, output.decode()

    @property
    def sockets(self) -> Path:
        """Where this user's run directory has its sockets."""
        ours = RunDirectory(self.run).sockets
        return ours.with_name(ours.name.replace(f"icto-{os.getuid()}-", f"icto-{self.uid}-"))


@pytest.fixture
async def user() -> AsyncIterator[PlainUser]:
    home = Path(tempfile.mkdtemp(prefix="icto-home-"))
    made = PlainUser(home)
    try:
        yield made
    finally:
        shutil.rmtree(made.sockets, ignore_errors=True)
        shutil.rmtree(home)


@contextlib.asynccontextmanager
async def started(
    user: PlainUser, *arguments: str
) -> AsyncIterator[tuple["subprocess.Popen[bytes]", str]]:
    """An installation of a user while the block runs: its supervisor, and what that printed."""
    log = user.home / "up.out"
    with log.open("wb") as output:
        child = user.spawn(["up", *arguments], output)

    async def is_up() -> bool:
        assert child.poll() is None, log.read_text()
        return "is up after" in log.read_text()

    try:
        await until(is_up, START_SECONDS)
        yield child, log.read_text()
    finally:
        child.terminate()
        child.wait(STOP_SECONDS)


@pytest.mark.timeout(300)  # it copies the environment
async def test_a_plain_user_runs_production_in_a_deep_path_beside_another_installation(
    user: PlainUser, mesh: Installation
) -> None:
    assert len(str(user.run)) > 107
    edge_port, metrics_port = free_ports(2)
    arguments = (
        "--environment", "production",
        "--port", str(edge_port), "--metrics-port", str(metrics_port),
    )  # fmt: skip
    async with started(user, *arguments) as (supervisor, greeting):
        family = descendants(supervisor.pid)
        assert {capabilities_of(process.pid) for process in family} == {0}
        edge = f"http://127.0.0.1:{edge_port}"
        await check_they_do_not_mix(edge, mesh)
        await check_production(user, edge)
        await check_first_operator(user, greeting)

        status, output = await user.icto("down")
        assert (status, output.strip()) == (0, "Stopped. The data is kept.")
        assert await asyncio.to_thread(supervisor.wait, STOP_SECONDS) == 0
    assert not any(process.alive for process in family)
    status, output = await user.icto("down")
    assert (status, output.strip()) == (0, f"Nothing runs in {user.run}.")


async def check_they_do_not_mix(edge: str, mesh: Installation) -> None:
    """What one has is unknown to the other, and so is whoever signed in there."""
    key = Ed25519PrivateKey.generate()
    here, there = Client(edge, key), Client(mesh.edge, key)
    body = {"requestId": str(uuid4()), "project": {"displayName": "Only here"}}
    project = (await here.rest("POST", "/v1/projects", body)).body["name"]
    with pytest.raises(CallError, match="404"):
        await there.rest("GET", f"/v1/{project}")
    there._token = await here.token()
    with pytest.raises(CallError, match="401"):
        await there.rest("GET", "/v1/whoami")
    await here.close()
    await there.close()


async def check_production(user: PlainUser, edge: str) -> None:
    """What is there for play is not there in production."""
    status, output = await user.icto("faucet")
    assert status == 1
    assert "There is no faucet in production" in output
    client = Client(edge, Ed25519PrivateKey.generate())
    with pytest.raises(CallError, match="404"):
        await client.rest("POST", "/v1/lab:fail", {})
    await client.close()


async def check_first_operator(user: PlainUser, greeting: str) -> None:
    """The printed key makes one super-admin; whoever holds the run directory issues another."""
    (command,) = re.findall(r"icto (login --bootstrap \S+)", greeting)
    status, output = await user.icto(*command.split())
    assert (status, "with the roles SUPER_ADMIN" in output) == (0, True), output
    status, output = await user.icto(*command.split())
    assert status == 1
    assert "BOOTSTRAP_KEY_INVALID" in output

    status, output = await user.icto("bootstrap-key")
    assert status == 0
    (again,) = re.findall(r"icto (login --bootstrap \S+)", output)
    status, output = await user.icto(*again.split())
    assert status == 0, output
    await until(_issues_are_audited(user))


def _issues_are_audited(user: PlainUser) -> Any:
    async def two_keys_are_in_the_audit() -> bool:
        _, output = await user.icto("call", "AuditService/ListEntries", '{"pageSize": 100}')
        return output.count('"action": "IssueBootstrapKey"') == 2

    return two_keys_are_in_the_audit
