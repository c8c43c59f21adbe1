"""All metrics behind one address: every replica's and Envoy's, told apart by label."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import grpc
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mesh.envoy import Envoy
from mesh.replicas import Replica, Replicas
from observability.metrics import SCRAPE_PATH
from observability.receiver import Receiver

_SECONDS: Final = 2.0


class MeshCollector(Collector):
    """Gathers when it is asked; a replica that does not answer is left out, and counted as down.

    All are asked at once, and none is waited for longer than the others: one that hangs, Envoy
    too, takes nobody's metrics along.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, replicas: Replicas, envoy: Envoy, receiver: Receiver
    ) -> None:
        self._loop = loop
        self._replicas = replicas
        self._envoy = envoy
        self._receiver = receiver

    def collect(self) -> Iterator[Metric]:
        """Called in the HTTP server's thread."""
        gathered = asyncio.run_coroutine_threadsafe(self._gather(), self._loop)
        yield from gathered.result(timeout=2 * _SECONDS)

    async def _gather(self) -> list[Metric]:
        envoys, *texts = await asyncio.gather(
            self._scrape_envoy(), *(self._scrape(replica) for replica in self._replicas.all)
        )
        merged: dict[str, Metric] = {}
        up = Metric("icto_replica_up", "Whether a replica answers.", "gauge")
        for replica, text in zip(self._replicas.all, texts, strict=True):
            labels = {"service": replica.service.mesh_name, "instance": replica.name}
            up.add_sample(up.name, labels, 1.0 if text else 0.0)
            _merge(merged, text_string_to_metric_families(text), labels)
        restarts = Metric("icto_replica_restarts", "Starts after the first.", "counter")
        for replica in self._replicas.all:
            labels = {"service": replica.service.mesh_name, "instance": replica.name}
            restarts.add_sample("icto_replica_restarts_total", labels, replica.process.restarts)
        families = text_string_to_metric_families(envoys)
        # Envoy writes the method of a gRPC-Web call into the name; replicas have it as a label.
        _merge(merged, (family for family in families if family.name.islower()), {})
        return [up, restarts, *self._own(), *merged.values()]

    def _own(self) -> Sequence[Metric]:
        batches = Metric("icto_collector_batches", "Batches of spans that were taken.", "counter")
        batches.add_sample("icto_collector_batches_total", {}, self._receiver.received)
        dropped = Metric("icto_collector_dropped", "Batches that were not passed on.", "counter")
        dropped.add_sample("icto_collector_dropped_total", {}, self._receiver.dropped)
        return [batches, dropped]

    async def _scrape_envoy(self) -> str:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                return await self._envoy.prometheus()
        return ""

    async def _scrape(self, replica: Replica) -> str:
        if replica.socket is None or replica.process.pid is None:
            return ""
        async with grpc.aio.insecure_channel(f"unix:{replica.socket}") as channel:
            try:
                scrape: Any = channel.unary_unary(SCRAPE_PATH)
                text: bytes = await scrape(b"", timeout=_SECONDS)
            except grpc.aio.AioRpcError:
                return ""
        return text.decode()


def _merge(merged: dict[str, Metric], families: Iterable[Metric], labels: dict[str, str]) -> None:
    """Adds the samples of families to those of the same name, with labels that tell them apart."""
    for family in families:
        target = merged.get(family.name)
        if target is None:
            target = merged[family.name] = Metric(
                family.name, family.documentation or "From Envoy.", family.type
            )
        for sample in family.samples:
            target.add_sample(sample.name, sample.labels | labels, sample.value)


def serve(collector: MeshCollector, address: str, port: int) -> Any:
    """Serves `/metrics`; returns the server, to be shut down."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, _ = start_http_server(port, address, registry)
    return server
