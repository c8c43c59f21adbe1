"""A killed fork server costs no replica and no call, and another one forks the next replica."""

import os
import signal
from pathlib import Path
from typing import Any, Final

from tests.support.installation import Installation, kill, until
from tests.support.load import load_on
from tests.support.processes import ProcessId, command_of, descendants

_HEAL_SECONDS: Final = 30.0
_PRIVATE: Final = "0077"
_NO_SIGNAL: Final = "0" * 16


async def test_replicas_are_processes_of_their_own(house: Installation) -> None:
    """Children of the supervisor, each with its name, and with nothing of the fork server's."""
    assert house.process is not None
    (server,) = fork_servers(house)
    for replica in (await house.status())["replicas"]:
        pid = replica["pid"]
        status = status_of(pid)
        assert status["PPid"] == str(house.process.pid)
        assert (status["Umask"], status["SigBlk"]) == (_PRIVATE, _NO_SIGNAL)
        assert os.getsid(pid) == pid
        assert status["Name"] == replica["name"][:15]
        assert command_of(pid).startswith(f"icto: {replica['name']}")
        assert not sockets_of(pid) & sockets_of(server.pid)


async def test_a_killed_fork_server_leaves_every_replica_and_every_call_alone(
    house: Installation,
) -> None:
    before = (await house.status())["replicas"]
    (server,) = fork_servers(house)

    async def another_one_stands() -> bool:
        return bool(found := fork_servers(house)) and found != [server]

    async with load_on(house) as load:
        kill(server.pid)
        await until(another_one_stands, _HEAL_SECONDS)
    assert load.failures() == []
    now = (await house.status())["replicas"]
    assert [replica["pid"] for replica in now] == [replica["pid"] for replica in before]
    await killed_and_replaced(house, before[0])


async def test_a_replica_that_ends_while_there_is_no_fork_server_is_replaced(
    house: Installation,
) -> None:
    (server,) = fork_servers(house)
    victim = (await house.replicas("ledger"))[0]
    kill(server.pid, signal.SIGSTOP)
    kill(server.pid)
    await killed_and_replaced(house, victim)
    assert zombies_of(house) == set()


async def killed_and_replaced(house: Installation, victim: dict[str, Any]) -> None:
    """Kills a replica, and waits until another process is healthy in its place."""
    kill(victim["pid"])

    async def replaced() -> bool:
        (now,) = [r for r in await house.replicas(victim["service"]) if r["name"] == victim["name"]]
        return bool(now["healthy"]) and now["pid"] not in (None, victim["pid"])

    await until(replaced, _HEAL_SECONDS)


def fork_servers(house: Installation) -> list[ProcessId]:
    """Those that stand."""
    assert house.process is not None
    family = descendants(house.process.pid)
    return [p for p in family if command_of(p.pid).startswith("icto: fork_server") and p.alive]


def zombies_of(house: Installation) -> set[ProcessId]:
    """Processes of an installation that have ended and that nobody has waited for."""
    assert house.process is not None
    return {process for process in descendants(house.process.pid) if not process.alive}


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def sockets_of(pid: int) -> set[str]:
    """Sockets and pipes that a process has open."""
    links = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return {link for link in links if link.startswith(("socket:", "pipe:"))}
