"""Traces: spans of calls, statements and events, exported as OTLP without ever blocking.

Inside the mesh a server continues the trace of its caller (W3C `traceparent`) and samples as the
caller did; a trace begins at the edge and is sampled by ratio. What callers from outside say of
their own traces becomes a link to those, and no more: nobody writes into ours, or switches it off.
What cannot be exported is dropped and counted.
"""

import os
import re
from collections.abc import Sequence
from typing import Final

from grpc import Compression
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.trace.propagation import set_span_in_context

from observability import EXPORT_MILLISECONDS, names

_VERSION: Final = "00"
_INVALID_VERSION: Final = "ff"
# Later versions may add more at the end; of this one there is no more.
_TRACEPARENT: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII
)
# The sampled flag is the lowest bit of the last hexadecimal digit.
_SAMPLED_DIGITS: Final = frozenset("13579bdf")
# A burst of spans fills the queue at most; 8192 spans are about 8 MB.
_QUEUE_SIZE: Final = 8192
_EXPORT_SECONDS: Final = 5
_FLUSH_MILLISECONDS: Final = 2000
_LONGEST_MESSAGE: Final = 300


class Tracing:
    """The tracer of one process."""

    def __init__(self, resource: dict[str, str], endpoint: str, sample_ratio: float) -> None:
        # The SDK's own account of what it exported and dropped; read by the metrics.
        os.environ.setdefault(OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED, "true")
        self.statistics = InMemoryMetricReader()
        self._provider = TracerProvider(
            resource=Resource(resource),
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        )
        if endpoint:
            self._provider.add_span_processor(_processor(endpoint, self.statistics))
        self.tracer = self._provider.get_tracer("icto")

    def start_server_span(
        self, method: str, traceparent: str | None, links: Sequence[Link] = ()
    ) -> trace.Span:
        """A span for a call that arrived, child of the caller's."""
        if traceparent and not is_sampled(traceparent):
            parent = parse_traceparent(traceparent)
            return trace.INVALID_SPAN if parent is None else NonRecordingSpan(parent)
        return self.tracer.start_span(
            method,
            context=parent_context(traceparent),
            kind=SpanKind.SERVER,
            attributes={names.RPC_SYSTEM: names.GRPC, names.RPC_METHOD: method},
            links=links,
        )

    def close(self) -> None:
        """Exports what is left, for two seconds at most."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()


def _processor(endpoint: str, statistics: InMemoryMetricReader) -> BatchSpanProcessor:
    """Exports in batches from a bounded queue, in a thread of its own."""
    meters = MeterProvider([statistics])
    exporter = OTLPSpanExporter(
        endpoint=endpoint,
        insecure=True,
        timeout=_EXPORT_SECONDS,
        compression=Compression.NoCompression,  # or a variable would choose it
        meter_provider=meters,
    )
    return BatchSpanProcessor(
        exporter,
        max_queue_size=_QUEUE_SIZE,
        schedule_delay_millis=EXPORT_MILLISECONDS,
        meter_provider=meters,
    )


def parent_context(traceparent: str | None) -> Context:
    """The context that a W3C `traceparent` names; an empty one when it is absent or malformed."""
    parent = parse_traceparent(traceparent)
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def is_sampled(traceparent: str) -> bool:
    """Whether a W3C `traceparent` asks for its trace to be kept."""
    return traceparent[-1:] in _SAMPLED_DIGITS


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """Reads a W3C `traceparent`, or None when it is absent or malformed."""
    return _parsed(traceparent or "", TraceState())


def _parsed(traceparent: str, state: TraceState) -> SpanContext | None:
    parts = _TRACEPARENT.fullmatch(traceparent)
    if parts is None or parts[1] == _INVALID_VERSION or (parts[1] == _VERSION and parts[5]):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts.groups()[1:4])
    context = SpanContext(trace_id, span_id, True, TraceFlags(flags), state)  # remote
    return context if context.is_valid else None


def links_to(traceparent: str, tracestate: str) -> Sequence[Link]:
    """A link to the span that a W3C `traceparent` names; none when it is absent or malformed."""
    context = _parsed(traceparent, TraceState.from_header([tracestate]))
    return () if context is None else (Link(context),)


def format_traceparent(span: trace.Span) -> str:
    """W3C `traceparent` of a span, or "" when there is no trace."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"{_VERSION}-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_id(span: trace.Span) -> str:
    """Trace id as 32 hexadecimal digits, or "" when there is no trace."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def note_failure(span: trace.Span, code: str, reason: str, message: str, *, ours: bool) -> None:
    """Says on a span how the work that it stands for failed; `ours` if it was not the caller."""
    span.set_attribute(names.REASON, reason)
    span.set_attribute(names.ERROR_MESSAGE, message[:_LONGEST_MESSAGE])
    if ours:
        span.set_attribute(names.ERROR_TYPE, code)
        span.set_status(StatusCode.ERROR, reason)


def current_traceparent() -> str:
    """`traceparent` of the span that is at work in this task."""
    return format_traceparent(trace.get_current_span())
