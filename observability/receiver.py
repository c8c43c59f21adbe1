"""Traces at home: takes OTLP batches as raw bytes, keeps the newest, and passes them on.

Nothing is parsed until somebody asks for a trace. What does not fit is forgotten, oldest first;
what cannot be passed on is dropped and counted. Taking a batch never waits for anything.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

EXPORT_PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_CAPACITY_BYTES: Final = 64 * 1024 * 1024
_FORWARD_QUEUE: Final = 512
_FORWARD_SECONDS: Final = 5.0
_ACCEPTED: Final = ExportTraceServiceResponse().SerializeToString()


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span as it is shown. Times in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    instance: str
    kind: int
    start: int
    end: int
    failed: bool
    attributes: dict[str, str]


class SpanStore:
    """The newest batches of spans, up to a number of bytes."""

    def __init__(self, capacity: int = _CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._size = 0
        self._batches: deque[bytes] = deque()

    def add(self, batch: bytes) -> None:
        """Keeps a batch and forgets the oldest ones that no longer fit."""
        self._batches.append(batch)
        self._size += len(batch)
        while self._size > self._capacity:
            self._size -= len(self._batches.popleft())

    def trace(self, trace_id: str) -> list[StoredSpan]:
        """The spans of a trace, by start."""
        wanted = bytes.fromhex(trace_id)
        found = [
            span for batch in self._batches if wanted in batch for span in _spans(batch, wanted)
        ]
        return sorted({span.span_id: span for span in found}.values(), key=lambda s: s.start)


class Receiver:
    """The collector of one machine."""

    def __init__(self, store: SpanStore, forward_to: str) -> None:
        self._store = store
        self._target = forward_to
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_FORWARD_QUEUE)
        self.received = 0
        self.dropped = 0

    def handler(self) -> Any:
        """The gRPC handler of OTLP's trace export, on raw bytes."""
        return grpc.unary_unary_rpc_method_handler(self._export)

    async def _export(self, batch: bytes, context: Any) -> bytes:
        del context
        self.received += 1
        self._store.add(batch)
        if self._target:
            try:
                self._queue.put_nowait(batch)
            except asyncio.QueueFull:
                self.dropped += 1
        return _ACCEPTED

    async def forward(self) -> None:
        """Passes batches on to another collector, if there is one."""
        if not self._target:
            return
        async with grpc.aio.insecure_channel(self._target) as channel:
            export: Any = channel.unary_unary(EXPORT_PATH)
            while True:
                batch = await self._queue.get()
                try:
                    await export(batch, timeout=_FORWARD_SECONDS)
                except grpc.aio.AioRpcError:
                    self.dropped += 1
                finally:
                    self._queue.task_done()

    async def flush(self, seconds: float) -> None:
        """Waits a while until everything is passed on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._queue.join()


def _spans(batch: bytes, wanted: bytes) -> list[StoredSpan]:
    request = ExportTraceServiceRequest.FromString(batch)
    found: list[StoredSpan] = []
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope in resource_spans.scope_spans:
            found += [_stored(s, resource) for s in scope.spans if s.trace_id == wanted]
    return found


def _stored(span: Any, resource: dict[str, str]) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=resource.get("service.name", "unknown"),
        instance=resource.get("service.instance.id", ""),
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, str]:
    return {
        pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "", ""))
        for pair in pairs
    }
