"""Forked or spawned, a replica is the same process; `ICTO_START` chooses, and nothing else."""

import os
from pathlib import Path
from typing import Any, Final

from tests.support.installation import Installation
from tests.support.processes import command_of, descendants

_SAME: Final = ("Umask", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp", "Groups", "CapEff")


async def test_a_forked_replica_is_to_the_system_what_a_spawned_one_is(
    mesh: Installation, narrow: Installation
) -> None:
    """The shared mesh forks its replicas, and the narrow one spawns them."""
    for service in ("gateway", "ledger", "lab"):
        (forked, *_), (spawned, *_) = await mesh.replicas(service), await narrow.replicas(service)
        assert command_of(forked["pid"]).startswith(f"icto: {service}-1")
        assert f"-m services.kit.server {service}" in command_of(spawned["pid"])
        assert seen_by_the_system(mesh, forked) == seen_by_the_system(narrow, spawned)


async def test_a_mesh_that_spawns_has_no_fork_server(narrow: Installation) -> None:
    assert narrow.process is not None
    family = descendants(narrow.process.pid)
    assert not [p for p in family if "fork_server" in command_of(p.pid)]


def seen_by_the_system(installation: Installation, replica: dict[str, Any]) -> dict[str, Any]:
    """What the kernel keeps of a replica, apart from numbers of its own."""
    pid = replica["pid"]
    assert installation.process is not None
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    streams = [str(Path(f"/proc/{pid}/fd/{n}").readlink()).partition(":")[0] for n in range(3)]
    return {
        "status": {name: status[name] for name in _SAME},
        "child of the supervisor": status["PPid"] == str(installation.process.pid),
        "session of its own": os.getsid(pid) == os.getpgid(pid) == pid,
        "streams": streams,
        "limits": Path(f"/proc/{pid}/limits").read_text(),
        "folder": str(Path(f"/proc/{pid}/cwd").readlink()),
        "priority": os.getpriority(os.PRIO_PROCESS, pid),
    }
