"""One process that brings the whole installation up, keeps it up, and takes it down.

Postgres, migrations, Envoy, the replicas, and what serves metrics and keeps the deny list are its
children; none outlives it. It collects their traces, and feeds Envoy the keys that verify tokens.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import json_format

from contract import loader, principal
from contract.environment import PREFIX, Environment
from contract.identities import GATEWAY, OPERATOR
from contract.model import Contract
from mesh import control, descriptors, inherited, topology
from mesh.envoy import Envoy
from mesh.fork_server import linux
from mesh.fork_server.client import ForkServers, Program
from mesh.fork_server.start_method import StartMethod
from mesh.jaeger import Jaeger
from mesh.occupancy import Occupancy
from mesh.operator import Operator
from mesh.postgres import EmbeddedPostgres, Server, check_room, provision, role_name
from mesh.process import Command, Output, Process
from mesh.render import Paths, Renderer
from mesh.replicas import PROGRAM, Replicas, RestartError
from mesh.rundir import RunDirectory
from mesh.topology import Topology
from mesh.watchdog import Watchdog
from observability.receiver import EXPORT_PATH, Destination, Receiver, SpanStore

log = logging.getLogger(__name__)

_KEYS_SECONDS: Final = 15.0
_RETRY_SECONDS: Final = 0.1
_READY_SECONDS: Final = 60.0
_TRIES: Final = 50
_STOP_SECONDS: Final = 10.0
_FLUSH_SECONDS: Final = 2.0
TREASURY: Final = "invoice_storage"
_FLOAT: Final = 100_00000000  # 100 ICP

Progress = Callable[[str], None]


class StartError(Exception):
    """The installation cannot start. The message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """How an installation is started.

    Attributes:
        run: its run directory.
        environment: what kind of installation it is.
        overrides: as in mesh.toml, over what the file says.
        database_url: an existing Postgres; empty for the embedded one.
        jaeger: start the Jaeger on PATH and pass traces on to it.
        forward_traces: another collector to pass traces on to.
        adopt: go on with the data of an installation whose run directory was lost.
        start: how replicas are started.
    """

    run: RunDirectory
    environment: Environment = Environment.LOCAL
    overrides: Mapping[str, Any] = field(default_factory=dict)
    database_url: str = ""
    jaeger: bool = False
    forward_traces: Destination | None = None
    adopt: bool = False
    start: StartMethod = StartMethod.FORK


class Supervisor:
    """A running installation."""

    def __init__(self, options: Options, output: Output, progress: Progress) -> None:
        self._options = options
        self._run = options.run
        self._output = output
        self._progress = progress
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self.contract: Contract = loader.load(options.environment)
        self.topology: Topology = descriptors.fitted(
            topology.load(self.contract, self._run.mesh_toml, options.overrides)
        )
        self._paths = Paths(self._run.envoy, self._run.sockets)
        self._envoy = Envoy(
            Renderer(self.contract, self.topology, self._paths), self._paths, output
        )
        self._postgres: EmbeddedPostgres | None = None
        self._installation = ""
        port = self.topology.observability.jaeger_port
        self._jaeger = Jaeger(self._run, port, output) if options.jaeger else None
        forward = Destination(self._jaeger.otlp) if self._jaeger else options.forward_traces
        self._store = SpanStore()
        self._receiver = Receiver(self._store, forward)
        self._fork_servers = self._chosen_fork_servers()
        self._replicas: Replicas | None = None
        self.bootstrap_key = ""

    def stop(self) -> None:
        """Asks the installation to end."""
        self._stop.set()

    async def serve(self, ready: Callable[["Supervisor"], None]) -> None:
        """Brings everything up, tells `ready`, and serves until `stop`.

        Raises:
            StartError: something cannot start.
        """
        if self._run.restoring.exists():
            raise StartError(
                f"A restore into {self._run.path} was interrupted: run 'icto restore' again."
            )
        await self._check()
        async with contextlib.AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(_children())
            await stack.enter_async_context(self._collector())
            try:
                self._start_fork_server(tasks, stack)
                self._start_helpers(tasks, stack)
                if self._jaeger:
                    tasks.create_task(self._jaeger.keep_running())
                server = await self._database(tasks, stack)
                await self._mesh(server, tasks, stack)
                operator = Operator(self._paths)
                stack.push_async_callback(operator.close)
                await self._run_until_stopped(operator, tasks, ready)
            finally:
                # First of all, however it ends: what the stack stops must not be started again.
                tasks.cancel()
            self._progress("stopping")

    async def _run_until_stopped(
        self, operator: Operator, tasks: "_Tasks", ready: Callable[["Supervisor"], None]
    ) -> None:
        starting = asyncio.create_task(self._become_ready(operator))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return
            await starting
            tasks.create_task(self._keep_keys(operator))
            ready(self)
            await stopping
        finally:
            starting.cancel()
            stopping.cancel()

    async def _check(self) -> None:
        """Passes when nothing is known that would stop the start half way.

        Raises:
            StartError: a port cannot be used, or data of before lie there unasked.
            TopologyError: there are not enough connections.
            PostgresError: the operator's own database cannot be reached.
        """
        if self._options.database_url:
            await check_room(Server.external(self._options.database_url), self.topology)
        else:
            self.topology.check_embedded()
            self._check_whose_data()
        self._check_ports()
        self._passwords()

    def _check_whose_data(self) -> None:
        if (left := self._run.left_behind) and not self._options.adopt:
            raise StartError(
                f"{left[0]} holds the database of an installation whose run directory was"
                f" {self._run.path} and is gone. 'icto up --adopt' goes on with it, its users and"
                f" tokens included; 'rm -rf {' '.join(map(str, left))}' gives it up."
            )

    def _chosen_fork_servers(self) -> ForkServers | None:
        if self._options.start is not StartMethod.FORK or not linux.has_what_it_takes():
            return None
        environment = inherited.environment(inherited.FORK_SERVER, os.environ)
        program = Program(PROGRAM, (self._options.environment.value,), environment)
        return ForkServers(program, self._output)

    def _start_fork_server(self, tasks: "_Tasks", stack: contextlib.AsyncExitStack) -> None:
        """Before all else: it loads the code while the database is made ready."""
        if self._fork_servers is not None:
            stack.push_async_callback(self._fork_servers.end)
            tasks.create_task(self._fork_servers.run())

    def _start_helpers(self, tasks: "_Tasks", stack: contextlib.AsyncExitStack) -> None:
        """Starts what must neither hold this process up nor be held up by it."""
        seen, run, paths = self.topology.observability, self._run, self._paths
        confirmed = str(run.denylist_confirmed)
        denied = str(paths.resource("denylist"))
        helpers = {
            "metrics": (
                "mesh.exporter", str(run.control), str(paths.admin), confirmed,
                seen.metrics_address, str(seen.metrics_port),
            ),
            "denylist": ("mesh.denylist", str(paths.egress(OPERATOR)), denied, confirmed),
        }  # fmt: skip
        for name, (module, *arguments) in helpers.items():
            process = Process(name, self._output)
            stack.push_async_callback(process.stop, signal.SIGTERM, _STOP_SECONDS)
            tasks.create_task(process.keep_running(_python(module, arguments)))

    def _check_ports(self) -> None:
        edge, seen = self.topology.edge, self.topology.observability
        wanted = [
            ("the edge", edge.address, edge.port, "edge.port"),
            ("metrics", seen.metrics_address, seen.metrics_port, "observability.metrics_port"),
        ]
        if self._jaeger:
            wanted.append(("Jaeger", "127.0.0.1", seen.jaeger_port, "observability.jaeger_port"))
        with contextlib.ExitStack() as probes:
            for what, address, port, key in wanted:
                try:
                    _listen(probes, address, port)
                except OSError as error:
                    raise StartError(
                        f"Port {port} on {address}, for {what}, cannot be used:"
                        f" {error.strerror}. Free it, or set {key} in mesh.toml."
                    ) from None

    @contextlib.asynccontextmanager
    async def _collector(self) -> AsyncIterator[None]:
        """Takes traces, and answers on the control socket."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        raw = {EXPORT_PATH: self._receiver.handler()}
        answers: dict[str, control.Answer] = {
            "status": self._status,
            "trace": self._trace,
            "restart": self._restart,
            "metrics": self._count,
        }
        server.add_generic_rpc_handlers((control.Routes(answers, raw),))
        for path in (self._run.control, self._paths.otlp):
            path.unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{path}")
        await server.start()
        forwarding = asyncio.create_task(self._receiver.forward())
        try:
            yield
        finally:
            await self._receiver.flush(_FLUSH_SECONDS)
            forwarding.cancel()
            await server.stop(0)

    async def _database(self, tasks: "_Tasks", stack: contextlib.AsyncExitStack) -> Server:
        """Postgres, with the roles and schemas of every service."""
        if self._options.database_url:
            server = Server.external(self._options.database_url)
        else:
            self._progress("starting Postgres")
            limit = self.topology.database.max_connections
            postgres = self._postgres = EmbeddedPostgres(self._run, limit, self._output)
            await postgres.prepare()
            stack.push_async_callback(postgres.process.stop, signal.SIGINT, _STOP_SECONDS)
            tasks.create_task(postgres.process.keep_running(postgres.command))
            await postgres.wait_until_ready()
            server = postgres.server
        occupancy = Occupancy(server)
        stack.push_async_callback(occupancy.release)
        await occupancy.take()
        tasks.create_task(occupancy.keep())
        self._installation = occupancy.installation
        self._progress("migrating schemas")
        applied = await provision(
            server,
            self._installation,
            self.contract,
            self._passwords(),
            self._options.environment,
        )
        if applied:
            self._progress(f"applied {applied} migrations")
        return server

    async def _mesh(
        self, server: Server, tasks: "_Tasks", stack: contextlib.AsyncExitStack
    ) -> Replicas:
        """Envoy and the replicas."""
        self._progress(f"starting Envoy and {self.topology.replica_count} replicas")
        self._envoy.write_all(list(self.contract.services))
        stack.push_async_callback(self._envoy.process.stop, signal.SIGTERM, _STOP_SECONDS)
        tasks.create_task(self._envoy.process.keep_running(self._envoy.command))
        environment = {
            mesh_name: self._replica_environment(server, mesh_name)
            for mesh_name in self.contract.services
        }
        self._replicas = replicas = Replicas(
            self._run, self.topology, self._envoy, environment, self._output, self._fork_servers
        )
        stack.push_async_callback(replicas.stop)
        tasks.create_task(replicas.run())
        tasks.create_task(Watchdog(replicas, self.topology.health_interval).run())
        return replicas

    def _replica_environment(self, server: Server, mesh_name: str) -> dict[str, str]:
        password, service = self._passwords()[mesh_name], self.topology.services[mesh_name]
        seen, database = self.topology.observability, self.topology.database
        values = {
            "environment": self._options.environment.value,
            "egress": f"unix:{self._paths.egress(mesh_name)}",
            "database_url": server.service_dsn(role_name(self._installation, mesh_name), password),
            "database_pool": str(database.pool),
            "database_connections": str(self.topology.database_connections),
            "otlp_endpoint": f"unix:{self._paths.otlp}",
            "trace_ratio": str(seen.trace_ratio),
            "log_level": seen.log_level,
            "health_interval": str(self.topology.health_interval),
            "heartbeat_seconds": str(self.topology.edge.heartbeat),
            "streams_per_principal": str(service.streams_per_principal),
            "streams_per_address": str(service.streams_per_address),
            "audience": self.topology.edge.audience,
            "origins": " ".join(self.topology.edge.own_origins),
            "https": str(self.topology.edge.https),
        }
        return {PREFIX + name.upper(): value for name, value in values.items()}

    def _passwords(self) -> dict[str, str]:
        return {name: self._run.secret(f"database {name}") for name in self.contract.services}

    async def _become_ready(self, operator: Operator) -> None:
        """Waits until tokens can be verified and every service has a healthy replica.

        Raises:
            StartError: that takes longer than a minute, or one of them cannot run.
        """
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not await self._fetch_keys(operator):
                    self._check_started()
                    await asyncio.sleep(_RETRY_SECONDS)
                while waiting := await self._waiting_for():
                    self._check_started()
                    self._progress(f"waiting for {', '.join(waiting)}")
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            waiting = await self._waiting_for() or [GATEWAY]
            raise StartError(
                f"{', '.join(waiting)} did not become healthy; see {self._run.logs}."
            ) from None
        await self._insist(self._offer_bootstrap_key, operator)
        if self._options.environment.is_play:
            await self._insist(self._fund_treasury, operator)

    def _check_started(self) -> None:
        """Passes while there is hope for every process.

        Raises:
            StartError: one ended for a reason that its next start will meet, too: with its words.
        """
        replicas = [replica.process for replica in self._started_replicas().all]
        servers = (self._fork_servers,) if self._fork_servers is not None else ()
        for process in (self._envoy.process, *servers, *replicas):
            if process.refusal:
                log_file = self._run.logs / f"{process.name}.log"
                told = " ".join(process.refusal.split())
                raise StartError(f"{process.name}: {told} (from {log_file})")

    async def _insist(self, act: Callable[[Operator], Awaitable[None]], operator: Operator) -> None:
        """Does what a replica refuses that has not heard of the configuration yet."""
        for left in reversed(range(_TRIES)):
            try:
                await act(operator)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not left:
                    log.warning("left undone at the start: %s", error.details())
                    return
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _waiting_for(self) -> list[str]:
        """Services without a healthy replica, and the metrics if nobody serves them yet."""
        try:
            hosts = await self._envoy.hosts()
        except (OSError, TimeoutError):
            return ["envoy"]
        waiting = [
            name
            for name in self.contract.services
            if not any(host.healthy for host in hosts.get(name, ()))
        ]
        return waiting if await self._metrics_are_served() else [*waiting, "metrics"]

    async def _metrics_are_served(self) -> bool:
        seen = self.topology.observability
        try:
            _, writer = await asyncio.open_connection(seen.metrics_address, seen.metrics_port)
        except OSError:
            return False
        writer.close()
        return True

    async def _fetch_keys(self, operator: Operator) -> bool:
        """Writes the keys that verify tokens where Envoy reads them."""
        try:
            keys = await operator.jwks()
        except grpc.aio.AioRpcError as error:
            log.debug("no keys yet: %s", error.details())
            return False
        if keys.keys:
            self._envoy.write_keys(json_format.MessageToJson(keys, indent=None), keys.audience)
        return bool(keys.keys)

    async def _keep_keys(self, operator: Operator) -> None:
        while True:
            await asyncio.sleep(_KEYS_SECONDS)
            with _disk_troubles():
                await self._fetch_keys(operator)

    async def _offer_bootstrap_key(self, operator: Operator) -> None:
        """A key for the first operator, if there is none and no key is outstanding."""
        key = new_bootstrap_key()
        if await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=True):
            self.bootstrap_key = key

    async def _fund_treasury(self, operator: Operator) -> None:
        """Where tokens are worth nothing, the treasury gets the float that it needs for refunds."""
        treasury = principal.of_service(TREASURY)
        if await operator.balance(treasury) < _FLOAT:
            await operator.give(treasury, _FLOAT)

    def _started_replicas(self) -> Replicas:
        if self._replicas is None:
            raise control.RefusedError("is starting and has no replica yet; try again in a moment")
        return self._replicas

    async def _status(self, question: Mapping[str, Any]) -> Any:
        del question
        replicas = self._started_replicas()
        try:
            hosts = await self._envoy.hosts()
        except (OSError, TimeoutError):
            hosts = {}
        healthy = {host.address: host.healthy for found in hosts.values() for host in found}
        return {
            "environment": self._options.environment.value,
            "edge": self.edge_url,
            "metrics": self.metrics_url,
            "uptime": time.monotonic() - self._started,
            "pid": os.getpid(),
            "changed": self._changed(),
            "postgres": _told(self._postgres.process) if self._postgres else None,
            "envoy": _told(self._envoy.process),
            "replicas": [
                {
                    **_told(replica.process),
                    "service": replica.service.mesh_name,
                    "socket": str(replica.socket or ""),
                    # UNKNOWN when Envoy has no sample: nothing is healthy by default.
                    "healthy": healthy.get(str(replica.socket)),
                }
                for replica in replicas.all
            ],
        }

    def _changed(self) -> list[str]:
        """What mesh.toml says now and did not say at the start."""
        try:
            now = topology.load(self.contract, self._run.mesh_toml, self._options.overrides)
            return topology.differences(self.topology, descriptors.fitted(now))
        except topology.TopologyError as error:
            return [str(error)]

    async def _count(self, question: Mapping[str, Any]) -> Any:
        """What the exporter of metrics has to know."""
        del question
        replicas = self._replicas.all if self._replicas else ()
        return {
            "replicas": [
                {
                    "name": replica.name,
                    "service": replica.service.mesh_name,
                    "socket": str(replica.socket or "") if replica.process.pid else "",
                    "restarts": replica.process.restarts,
                }
                for replica in replicas
            ],
            "batches": self._receiver.received,
            "dropped": self._receiver.dropped,
        }

    async def _restart(self, question: Mapping[str, Any]) -> Any:
        """Replaces one replica; answers what went wrong, or nothing."""
        try:
            await self._started_replicas().restart(question["replica"])
        except RestartError as error:
            return {"problem": str(error)}
        return {"problem": ""}

    async def _trace(self, question: Mapping[str, Any]) -> Any:
        # Not in the loop: a large store takes a while to look through.
        spans = await asyncio.to_thread(self._store.trace, question["trace_id"])
        return [asdict(span) for span in spans]

    @property
    def edge_url(self) -> str:
        """Where the platform is reached."""
        return self.topology.origin

    @property
    def jaeger_url(self) -> str:
        """Where Jaeger shows traces; empty when it was not asked for."""
        return self._jaeger.url if self._jaeger else ""

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return self.topology.metrics_url


def _listen(probes: contextlib.ExitStack, address: str, port: int) -> None:
    """Listens on a port until the probes are closed, so that a second one on it is noticed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    probe = probes.enter_context(socket.socket(family))
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family is socket.AF_INET6:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    probe.bind((address, port))
    probe.listen()


@contextlib.contextmanager
def _disk_troubles() -> Iterator[None]:
    """What cannot be written now is written the next time: a full disk must not end the mesh."""
    try:
        yield
    except OSError as error:
        log.warning("what Envoy is told cannot be written: %s", error)


def _python(module: str, arguments: Sequence[str]) -> Callable[[], Awaitable[Command]]:
    """How a module of ours is started as a process of its own."""

    async def command() -> Command:
        # -P: whatever lies in the folder where somebody typed `icto up`, it is not our code.
        program = (sys.executable, "-P", "-m", module, *arguments)
        return Command(program, inherited.environment(inherited.HELPER, os.environ))

    return command


def _told(process: Process) -> dict[str, Any]:
    """What is told of a child."""
    return {
        "name": process.name,
        "pid": process.pid,
        "uptime": process.uptime,
        "restarts": process.restarts,
    }


class _Tasks:
    """Tasks that run beside the body; a failure of one ends the body."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._running: list[asyncio.Task[None]] = []

    def create_task(self, work: Any) -> None:
        """Starts one."""
        self._running.append(self._group.create_task(work))

    def cancel(self) -> None:
        """Ends them all."""
        for task in self._running:
            task.cancel()


@contextlib.asynccontextmanager
async def _children() -> AsyncIterator[_Tasks]:
    async with asyncio.TaskGroup() as group:
        tasks = _Tasks(group)
        try:
            yield tasks
        finally:
            tasks.cancel()


def new_bootstrap_key() -> str:
    """A fresh bootstrap key: 32 random bytes as text."""
    return secrets.token_urlsafe(32)


def bootstrap_digest(key: str) -> bytes:
    """What is stored of a bootstrap key."""
    return hashlib.sha256(key.encode()).digest()
