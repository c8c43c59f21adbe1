"""Sets traces, metrics and logs of one process up, in one call."""

from dataclasses import dataclass

from observability import logs, names
from observability.metrics import Metrics
from observability.tracing import Tracing


@dataclass(frozen=True)
class Telemetry:
    """What a process tells about itself."""

    tracing: Tracing
    metrics: Metrics


def configure(
    *,
    service: str,
    instance: str,
    version: str,
    environment: str,
    otlp_endpoint: str,
    sample_ratio: float,
    log_level: str,
) -> Telemetry:
    """Logs to standard output, exports spans to `otlp_endpoint` ("" for none)."""
    logs.configure(service, instance, log_level)
    resource = {
        names.SERVICE_NAME: service,
        names.SERVICE_NAMESPACE: names.NAMESPACE,
        names.SERVICE_VERSION: version,
        names.SERVICE_INSTANCE_ID: instance,
        names.DEPLOYMENT_ENVIRONMENT: environment,
    }
    metrics = Metrics()
    tracing = Tracing(resource, otlp_endpoint, sample_ratio)
    metrics.watch_spans(tracing.statistics)
    return Telemetry(tracing, metrics)
