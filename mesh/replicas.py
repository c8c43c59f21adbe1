"""The replicas: each a fresh process on a fresh socket, known to Envoy while it lives."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from contract.service import Service
from mesh import inherited
from mesh.envoy import Envoy
from mesh.fork_server.client import CodeError, ForkServers
from mesh.process import Command, Output, Process, Start
from mesh.rundir import RunDirectory
from mesh.topology import Topology

PROGRAM: Final = "services.kit.server"
"""The module that runs one replica, or prepares a fork server for all."""
_STOP_SECONDS: Final = 12.0
# Envoy reads a changed file within milliseconds; it says so when it is asked.
_UNLISTED_SECONDS: Final = 2.0
_HEALTHY_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 0.05


class RestartError(Exception):
    """A replica did not come back, or there is none of that name. The message says which."""


class Replica:
    """One replica and the socket that its present process listens on."""

    def __init__(
        self, name: str, service: Service, output: Output, start: Start | None = None
    ) -> None:
        self.name = name
        self.service = service
        self.process = Process(name, output, start)
        self.socket: Path | None = None
        self.listed = False
        self.restarting = asyncio.Lock()


class Replicas:
    """All replicas of one installation."""

    def __init__(
        self,
        run: RunDirectory,
        topology: Topology,
        envoy: Envoy,
        environment: Mapping[str, Mapping[str, str]],
        output: Output,
        fork_servers: ForkServers | None = None,
    ) -> None:
        """Without fork servers each replica is a program of its own."""
        self._run = run
        self._fork_servers = fork_servers
        start = fork_servers.start if fork_servers is not None else None
        self._envoy = envoy
        self._environment = environment
        # A second server on a live path would take it over silently: no path is used twice.
        self._starts = itertools.count(1)
        self.all = [
            Replica(f"{service.mesh_name}-{number}", service, output, start)
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
            **inherited.environment(inherited.REPLICA, os.environ),
            **self._environment[mesh_name],
            "ICTO_INSTANCE": replica.name,
            "ICTO_LISTEN": f"unix:{socket}",
            "ICTO_STATE_DIRECTORY": str(state),
        }
        if self._fork_servers is not None:
            return Command((PROGRAM, mesh_name), environment)
        # -P: whatever lies in the folder where somebody typed `icto up`, it is not our code.
        arguments = (sys.executable, "-P", "-m", PROGRAM, mesh_name)
        return Command(arguments, environment, direct=True)

    async def restart(self, name: str) -> None:
        """Replaces the process of one replica without losing a call.

        Envoy looks away first; then the replica ends what is in flight and goes; its successor gets
        calls once Envoy found it healthy.

        Raises:
            RestartError: there is no such replica, its successor could not be started, or does not
                become healthy.
        """
        replica = next((replica for replica in self.all if replica.name == name), None)
        if replica is None:
            raise RestartError(f"There is no replica {name!r}.")
        await self._check_code(name)
        async with replica.restarting:
            before = replica.socket
            self._list(replica, listed=False)
            with contextlib.suppress(TimeoutError):  # it drains all the same
                async with asyncio.timeout(_UNLISTED_SECONDS):
                    while await self._health(replica, before) is not None:
                        await asyncio.sleep(_ASK_SECONDS)
            await replica.process.restart(signal.SIGTERM, _STOP_SECONDS)
            try:
                async with asyncio.timeout(_HEALTHY_SECONDS):
                    while replica.socket == before or not await self._health(
                        replica, replica.socket
                    ):
                        await asyncio.sleep(_ASK_SECONDS)
            except TimeoutError:
                raise RestartError(
                    f"{name} was started again and is not healthy after"
                    f" {_HEALTHY_SECONDS:.0f} s; see its log."
                ) from None

    async def _check_code(self, name: str) -> None:
        """Passes when there is something to start in the place of a replica."""
        if self._fork_servers is None:
            return
        try:
            await self._fork_servers.check()
        except (CodeError, OSError) as error:
            raise RestartError(
                f"{name} runs as before: its successor's code cannot be loaded ({error})."
            ) from None

    async def end(self, replica: Replica) -> None:
        """Ends a replica that hangs, and starts it again. SIGTERM would not reach it.

        What it had in flight is reset at once, and tried elsewhere where it may be.
        """
        async with replica.restarting:
            await replica.process.restart(signal.SIGKILL, _STOP_SECONDS)

    async def _health(self, replica: Replica, socket: Path | None) -> bool | None:
        """What Envoy thinks of a socket of the replica; None when it does not know it."""
        try:
            hosts = (await self._envoy.hosts()).get(replica.service.mesh_name, ())
        except (OSError, TimeoutError):
            return None
        return next((host.healthy for host in hosts if host.address == str(socket)), None)

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
