"""Metrics in Prometheus form: rate, errors and duration of each method; use of what may run out.

A metric exists once it was measured: nothing here has a made-up value.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from observability import names

# Each bound is a line for each method, status and replica. Dense where the bars of the bench are;
# what took longer than the last one is a matter for traces.
DURATION_BUCKETS: Final = (0.0025, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
COARSE_BUCKETS: Final = (0.001, 0.01, 0.1, 1.0)
"""For what only shows that something else is slow."""
_SDK_PROCESSED: Final = "otel.sdk.processor.span.processed"
_SDK_EXPORTED: Final = "otel.sdk.exporter.span.exported"


# The attributes of the semantic conventions. An error type that is empty stands for none.
_CALL_LABELS: Final = (
    "rpc_system_name", "rpc_method", "rpc_response_status_code", "error_type",
)  # fmt: skip


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.call_duration = Histogram(
            names.CALL_DURATION,
            "Duration of calls that this replica served.",
            _CALL_LABELS,
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.client_call_duration = Histogram(
            names.CLIENT_CALL_DURATION,
            "Duration of calls that this replica made.",
            _CALL_LABELS,
            buckets=COARSE_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            names.CALLS_IN_FLIGHT, "Calls at work in this replica.", registry=registry
        )
        self.shed = Counter(
            names.CALLS_SHED,
            "Calls refused because this replica could not keep up.",
            ("criticality",),
            registry=registry,
        )
        self.loop_lag = Gauge(
            names.LOOP_LAG, "How late the event loop ran its last timer.", registry=registry
        )
        self.pool_connections = Gauge(
            names.POOL_SIZE, "Database connections.", ("state",), registry=registry
        )
        self.pool_wait = Histogram(
            names.POOL_WAIT,
            "Wait for a database connection.",
            buckets=COARSE_BUCKETS,
            registry=registry,
        )
        self.outbox_pending = Gauge(
            names.OUTBOX_PENDING, "Events not yet handed on.", registry=registry
        )
        self.outbox_oldest = Gauge(
            names.OUTBOX_OLDEST, "Age of the oldest event not yet handed on.", registry=registry
        )
        self.outbox_published = Counter(
            names.OUTBOX_PUBLISHED, "Events handed on.", registry=registry
        )
        self.config_revision = Gauge(
            names.CONFIG_REVISION,
            "Revision of the configuration that this replica follows; 0: none yet.",
            registry=registry,
        )
        self.maintenance = Gauge(
            names.MAINTENANCE,
            "1 while this replica knows of maintenance, 0 while it knows of none.",
            registry=registry,
        )
        self.emergency_stop = Gauge(
            names.EMERGENCY_STOP,
            "1 while this replica knows of an emergency stop, 0 while it knows of none.",
            registry=registry,
        )
        self.pipelines_parked = Gauge(
            names.PIPELINES_PARKED,
            "Pipelines of the whole service that wait for a person, by definition.",
            ("definition",),
            registry=registry,
        )
        self.replays = Counter(
            names.REPLAYS, "Repeated requests answered from the record.", registry=registry
        )

    def watch_spans(self, statistics: InMemoryMetricReader) -> None:
        """Reports how many spans were exported and dropped."""
        self._registry.register(_SpanCollector(statistics))

    def server_durations(self, method: str) -> Mapping[str, Histogram]:
        """The histogram of a method that is served, by status code. To be looked up once."""
        return _Lazily(self.call_duration, method, names.SERVER_FAULTS.__contains__)

    def client_durations(self, method: str) -> Mapping[str, Histogram]:
        """The histogram of a method that is called, by status code."""
        return _Lazily(self.client_call_duration, method, names.OK.__ne__)

    def counter(self, name: str, documentation: str, *labels: str) -> Counter:
        """A counter of one service's own."""
        return Counter(name, documentation, labels, registry=self._registry)

    def gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        """A gauge of one service's own."""
        return Gauge(name, documentation, labels, registry=self._registry)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Lazily(dict[str, Histogram]):
    """Children of a histogram, made when a status occurs: no metric without a sample."""

    def __init__(self, histogram: Histogram, method: str, is_error: Callable[[str], bool]) -> None:
        super().__init__()
        self._histogram = histogram
        self._method = method
        self._is_error = is_error

    def __missing__(self, status: str) -> Histogram:
        error_type = status if self._is_error(status) else ""
        child = self._histogram.labels(names.GRPC, self._method, status, error_type)
        self[status] = child
        return child


class _SpanCollector(Collector):
    """Turns the tracing SDK's own statistics into two counters."""

    def __init__(self, statistics: InMemoryMetricReader) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        exported = dropped = 0
        for name, failed, count in self._sums():
            if name == _SDK_EXPORTED and not failed:
                exported += count
            elif failed:
                dropped += count
        yield CounterMetricFamily(names.SPANS_EXPORTED, "Spans handed to the collector.", exported)
        yield CounterMetricFamily(names.SPANS_DROPPED, "Spans lost before it.", dropped)

    def _sums(self) -> Iterator[tuple[str, bool, int]]:
        data = self._statistics.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name in (_SDK_EXPORTED, _SDK_PROCESSED) and isinstance(
                        metric.data, Sum
                    ):
                        for point in metric.data.data_points:
                            failed = names.ERROR_TYPE in (point.attributes or {})
                            yield metric.name, failed, int(point.value)
