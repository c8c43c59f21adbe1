"""One replica: starts a service by its mesh name, serves, and goes away without losing a call.

    python -m services.kit.server ledger

Start: settings, telemetry, database, handlers, listen. Stop, at SIGTERM: health says NOT_SERVING,
the mesh looks away, calls in flight end, telemetry is flushed. A second signal ends it at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import grpc
import uvloop

from contract import loader
from contract.errors import Code, Error
from contract.limits import MAX_HEADER_KB
from contract.model import Contract
from contract.service import Service
from observability import SCRAPE_PATH, logs, setup
from observability.setup import Telemetry
from schema_setup.packages import package_of
from services.kit import settings
from services.kit.audit.audit_sink import Audit
from services.kit.audit.outbox import Outbox
from services.kit.calling.client import Clients
from services.kit.kit import Kit
from services.kit.replica.denials import Denials
from services.kit.replica.overload import Overload
from services.kit.replica.platform import Platform
from services.kit.replica.readiness import Readiness
from services.kit.serving import discovery, grpc_builtins, lifeline
from services.kit.serving.composition import Serving
from services.kit.serving.handler import Handlers, Surroundings
from services.kit.serving.open_streams import OpenStreams, StreamLimits
from services.kit.serving.validation import RequestValidator
from services.kit.settings import Settings
from services.kit.storage import durability, idempotency
from services.kit.storage.database import Database
from services.kit.testing.faults import Faults

log = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
_HOUSEKEEPING_SECONDS: Final = 60.0
_MEASURE_SECONDS: Final = 2.0
_PASSING: Final = frozenset({Code.ABORTED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE})
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 2 * MAX_HEADER_KB * 1024),
    # Envoy pings every 30 s at most; without this the server takes that for an attack.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def prepare(environment: str) -> Callable[[Sequence[str]], None]:
    """Loads what replicas have in common, for processes that are forked; it opens nothing.

    Returns:
        What runs one replica, as `main` does.
    """
    contract = loader.load(environment, proven=True)
    for package in ("services.kit", *map(package_of, contract.services)):
        discovery.load_all(package)
    return partial(main, contract=contract)


def main(arguments: Sequence[str] | None = None, contract: Contract | None = None) -> None:
    """Runs one replica until it is told to stop. A contract that was loaded before is used."""
    (mesh_name,) = arguments or sys.argv[1:]
    logs.configure(mesh_name, mesh_name, "info")  # until the settings say how
    lifeline.follow_parent()
    try:
        chosen = settings.load(Settings, os.environ)
    except settings.SettingsError as error:
        raise SystemExit(f"{mesh_name}: {error}") from None
    os.umask(0o077)
    contract = contract or loader.load(chosen.environment, proven=True)
    uvloop.run(_run(contract, mesh_name, chosen))


async def _run(contract: Contract, mesh_name: str, chosen: Settings) -> None:
    service = contract.services[mesh_name]
    telemetry = setup.configure(
        service=mesh_name,
        instance=chosen.instance,
        version=version("icto-mesh"),
        environment=chosen.environment,
        otlp_endpoint=chosen.otlp_endpoint,
        sample_ratio=chosen.trace_ratio,
        log_level=chosen.log_level,
    )
    log.info("starting", extra={"settings": repr(chosen)})
    try:
        async with _kit(contract, service, chosen, telemetry) as kit:
            await Replica(kit).serve()
    except (Error, settings.SettingsError) as error:
        log.critical("cannot run: %s", error)
        raise SystemExit(os.EX_TEMPFAIL if _passes(error) else 1) from None
    finally:
        await asyncio.to_thread(telemetry.tracing.close)


def _passes(error: Exception) -> bool:
    """Whether what keeps a replica from running may be over at its next start."""
    return isinstance(error, Error) and error.code in _PASSING


@contextlib.asynccontextmanager
async def _kit(
    contract: Contract, service: Service, chosen: Settings, telemetry: Telemetry
) -> AsyncIterator[Kit]:
    tracer, metrics = telemetry.tracing.tracer, telemetry.metrics
    database = await Database.open(
        chosen.database_url.reveal(),
        instance=chosen.instance,
        size=chosen.database_pool,
        tracer=tracer,
        metrics=metrics,
    )
    outbox = Outbox(database, service.mesh_name, chosen.instance, tracer, metrics)
    clients = Clients(chosen.egress, contract, metrics)
    try:
        await durability.check(database, chosen)
        readiness = Readiness(service.proto_services)
        yield Kit(
            contract,
            service,
            chosen,
            database,
            outbox,
            clients,
            telemetry,
            readiness,
            Platform(clients, metrics),
            Faults(chosen.environment),
            Denials(database, outbox),
        )
    finally:
        await clients.close()
        await database.close()


@dataclass(frozen=True)
class _Signals:
    """What the process was told."""

    stop: asyncio.Event
    hurry: asyncio.Event

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told, number)

    def _told(self, number: int) -> None:
        if self.stop.is_set() or number == signal.SIGINT:
            self.hurry.set()
        self.stop.set()


class Replica:
    """A running replica."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._readiness = kit.readiness
        self._overload = Overload(kit.telemetry.metrics)
        self._signals = _Signals(asyncio.Event(), asyncio.Event())
        self._streams = OpenStreams(kit.database, _stream_limits(kit))

    async def serve(self) -> None:
        """Serves until told to stop."""
        serving = discovery.compose(self._kit.service, self._kit)
        server = self._server(serving)
        self._signals.install()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(work) for work in self._background(serving)]
                server.add_insecure_port(self._kit.settings.listen)
                await server.start()
                log.info("serving %s", self._kit.settings.listen)
                await self._signals.stop.wait()
                await self._drain(server)
                for task in running:
                    task.cancel()
        finally:
            await server.stop(0)

    def _server(self, serving: Serving) -> grpc.aio.Server:
        server = grpc.aio.server(options=_OPTIONS)
        around = Surroundings(
            self._kit.telemetry,
            self._kit.database,
            self._kit.outbox,
            self._overload,
            self._kit.platform,
            self._kit.denials,
            self._readiness,
            RequestValidator(),
            self._streams,
        )
        handlers = Handlers(around)
        routes = {
            method.path: handlers.wrap(method, serving.handlers[method.path])
            for method in self._kit.service.methods
        }
        routes[SCRAPE_PATH] = grpc.unary_unary_rpc_method_handler(self._metrics)
        server.add_generic_rpc_handlers((_Routes(routes),))
        grpc_builtins.add(server, self._kit.service, self._readiness.servicer)
        return server

    async def _metrics(self, request: bytes, context: Any) -> bytes:
        del request, context
        return self._kit.telemetry.metrics.exposition()

    def _background(self, serving: Serving) -> list[Coroutine[Any, Any, None]]:
        """Everything that runs beside the calls; it ends with the replica."""
        work = [
            self._overload.watch(),
            self._watch_readiness(),
            self._kit.platform.follow(),
            self._kit.denials.run(),
            self._kit.outbox.relay(Audit(self._kit.clients)),
            self._streams.run(),
            self._keep_house(),
            self._watch_outbox(),
        ]
        return work + [run() for run in serving.work]

    async def _watch_readiness(self) -> None:
        """Serving means that the database answers; probed as often as the mesh probes us."""
        interval = self._kit.settings.health_interval
        while True:
            ready = await self._kit.database.answers(max(1.0, interval))
            await self._readiness.set(serving=ready)
            await asyncio.sleep(interval)

    async def _keep_house(self) -> None:
        """Forgets old answers."""
        while True:
            with contextlib.suppress(Error):
                async with self._kit.database.connection() as connection:
                    while await idempotency.forget_old(connection):
                        pass
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)

    async def _watch_outbox(self) -> None:
        """Measures the outbox, more often than anybody scrapes."""
        while True:
            with contextlib.suppress(Error):
                await self._kit.outbox.measure()
            await asyncio.sleep(_MEASURE_SECONDS)

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Lets the mesh look away, ends streams, and lets calls end; a second signal skips both."""
        log.info("draining")
        await self._readiness.drain()
        chosen = self._kit.settings
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chosen.drain_seconds):
                await self._signals.hurry.wait()
        self._readiness.leave()
        await server.stop(0 if self._signals.hurry.is_set() else chosen.grace_seconds)


def _stream_limits(kit: Kit) -> StreamLimits:
    """As mesh.toml says, or else the contract."""
    chosen, service = kit.settings, kit.service
    return StreamLimits(
        chosen.streams_per_principal or service.streams_per_principal,
        chosen.streams_per_address or service.streams_per_address,
    )


class _Routes(grpc.GenericRpcHandler):
    """Finds a handler by path."""

    def __init__(self, routes: dict[str, Any]) -> None:
        self._routes = routes

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._routes.get(handler_call_details.method)


if __name__ == "__main__":
    main()
