"""The replicas: each a fresh process on a fresh socket, known to Envoy while it lives."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mesh.contract import Service
from mesh.envoy import Envoy
from mesh.process import Command, Output, Process
from mesh.rundir import RunDirectory
from mesh.topology import Topology

_STOP_SECONDS: Final = 12.0


class Replica:
    """One replica and the socket that its present process listens on."""

    def __init__(self, name: str, service: Service, output: Output) -> None:
        self.name = name
        self.service = service
        self.process = Process(name, output)
        self.socket: Path | None = None
        self.listed = False


class Replicas:
    """All replicas of one installation."""

    def __init__(
        self,
        run: RunDirectory,
        topology: Topology,
        envoy: Envoy,
        environment: Mapping[str, Mapping[str, str]],
        output: Output,
    ) -> None:
        self._run = run
        self._envoy = envoy
        self._environment = environment
        # A second server on a live path would take it over silently: no path is used twice.
        self._starts = itertools.count(1)
        self.all = [
            Replica(f"{service.mesh_name}-{number}", service, output)
            for number, service in _by_turns(topology)
        ]

    async def run(self) -> None:
        """Keeps every replica running, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for replica in self.all:
                tasks.create_task(self._keep(replica))

    async def _keep(self, replica: Replica) -> None:
        async def prepare() -> Command:
            replica.socket = self._run.sockets / f"{replica.name}.{next(self._starts)}.sock"
            self._list(replica, listed=True)
            return self._command(replica, replica.socket)

        async def ended() -> None:
            self._list(replica, listed=False)
            if replica.socket is not None:
                replica.socket.unlink(missing_ok=True)

        await replica.process.keep_running(prepare, ended)

    def _list(self, replica: Replica, *, listed: bool) -> None:
        """Tells Envoy whether the replica may get calls; it checks its health by itself."""
        replica.listed = listed
        sockets = [
            str(other.socket)
            for other in self.all
            if other.service is replica.service and other.listed and other.socket
        ]
        self._envoy.write_endpoints(replica.service.mesh_name, sockets)

    def _command(self, replica: Replica, socket: Path) -> Command:
        mesh_name = replica.service.mesh_name
        state = self._run.state(mesh_name)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **self._environment[mesh_name],
            "ICTO_INSTANCE": replica.name,
            "ICTO_LISTEN": f"unix:{socket}",
            "ICTO_STATE_DIRECTORY": str(state),
            "PYTHONUNBUFFERED": "1",
        }
        arguments = (sys.executable, "-m", "services.kit.server", mesh_name)
        return Command(arguments, environment, direct=True)

    def named(self, name: str) -> Replica | None:
        """The replica with this name."""
        return next((replica for replica in self.all if replica.name == name), None)

    async def stop(self) -> None:
        """Stops all replicas at once; nothing is lost, since no calls come any more."""
        await asyncio.gather(
            *(replica.process.stop(signal.SIGINT, _STOP_SECONDS) for replica in self.all)
        )


def _by_turns(topology: Topology) -> list[tuple[int, Service]]:
    """First one replica of each service, then the second ones: the first answer comes sooner."""
    services = topology.services.values()
    most = max((service.replicas for service in services), default=0)
    return [
        (number, service)
        for number in range(1, most + 1)
        for service in services
        if number <= service.replicas
    ]
