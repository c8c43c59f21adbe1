"""Traces at home: takes OTLP batches as raw bytes, keeps the newest, and passes them on.

Nothing is parsed until somebody asks for a trace. What does not fit is forgotten, oldest first;
what cannot be passed on is dropped and counted. Taking a batch never waits for anything.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.util.re import parse_env_headers

EXPORT_PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_CAPACITY_BYTES: Final = 64 * 1024 * 1024
_FORWARD_QUEUE: Final = 512
_FORWARD_SECONDS: Final = 5.0
_ACCEPTED: Final = ExportTraceServiceResponse().SerializeToString()
_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_STANDARD_PORT: Final = 4317
_HEADER_NAME: Final = re.compile(r"[a-z0-9_.-]+")
_HEADER_VALUE: Final = re.compile(r"[ -~]*")
_PEM: Final = b"-----BEGIN CERTIFICATE-----"
_DIRECT: Final = (("grpc.enable_http_proxy", 0),)


class DestinationError(Exception):
    """Traces cannot be passed on to where the environment says. The message says why."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Another collector, that takes OTLP by gRPC.

    Attributes:
        target: gRPC's name for it.
        headers: what each call carries, for instance a key.
        secure: whether it is reached by TLS.
        roots: certificates to trust, as PEM; None for those that gRPC brings along.
    """

    target: str
    headers: tuple[tuple[str, str], ...] = ()
    secure: bool = False
    roots: bytes | None = None

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> "Destination | None":
        """Where OpenTelemetry's standard variables say, if they do.

        Raises:
            DestinationError: they say something that cannot be, or not by gRPC.
        """
        endpoint = environ.get(_ENDPOINT, "")
        if not endpoint:
            return None
        if environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "") not in {"", "grpc"}:
            raise DestinationError(
                "Traces go on by gRPC: OTEL_EXPORTER_OTLP_PROTOCOL must be grpc."
            )
        try:
            url = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
            host, port = url.hostname, url.port or _STANDARD_PORT
        except ValueError:
            host, port = None, 0
        more = (url.path.strip("/"), url.query, url.fragment, url.username) if host else ()
        if not host or any(more) or url.scheme not in {"http", "https"}:
            raise DestinationError(
                f"{_ENDPOINT} is {endpoint!r}; it must be like http://collector:4317, or https://"
                " for TLS."
            )
        return cls(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            _headers(environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")),
            url.scheme == "https",
            _roots(environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE", "")),
        )

    def channel(self) -> grpc.aio.Channel:
        """A channel to it."""
        if not self.secure:
            return grpc.aio.insecure_channel(self.target, options=_DIRECT)
        credentials = grpc.ssl_channel_credentials(self.roots)
        return grpc.aio.secure_channel(self.target, credentials, options=_DIRECT)


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    headers = tuple(parse_env_headers(text, liberal=True).items())
    given = [part for part in text.split(",") if part.strip()]
    sound = all(_HEADER_NAME.fullmatch(k) and _HEADER_VALUE.fullmatch(v) for k, v in headers)
    if len(headers) != len(given) or not sound:
        # Not by its value, which may be a key.
        raise DestinationError(
            "OTEL_EXPORTER_OTLP_HEADERS must be like authorization=Bearer%20key,x-team=ops."
        )
    return headers


def _roots(file: str) -> bytes | None:
    try:
        roots = Path(file).read_bytes() if file else None
    except OSError as error:
        raise DestinationError(f"OTEL_EXPORTER_OTLP_CERTIFICATE cannot be read: {error}") from None
    if roots is not None and _PEM not in roots:
        raise DestinationError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: {file} has no certificate in PEM.")
    return roots


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
        """The spans of a trace, by start.

        Of a trace that is a caller's own: the spans of ours that are linked to it.
        """
        wanted = bytes.fromhex(trace_id)
        batches = list(self._batches)  # others may be added meanwhile, by another thread
        found = [span for batch in batches if wanted in batch for span in _spans(batch, wanted)]
        if not found:
            ours = {one for batch in batches if wanted in batch for one in _linked(batch, wanted)}
            found = [
                span
                for one in ours
                for batch in batches
                if one in batch
                for span in _spans(batch, one)
            ]
        return sorted({span.span_id: span for span in found}.values(), key=lambda s: s.start)


class Receiver:
    """The collector of one machine."""

    def __init__(self, store: SpanStore, destination: Destination | None) -> None:
        self._store = store
        self._destination = destination
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
        if self._destination:
            try:
                self._queue.put_nowait(batch)
            except asyncio.QueueFull:
                self.dropped += 1
        return _ACCEPTED

    async def forward(self) -> None:
        """Passes batches on to another collector, if there is one."""
        if not self._destination:
            return
        headers = self._destination.headers
        async with self._destination.channel() as channel:
            export: Any = channel.unary_unary(EXPORT_PATH)
            while True:
                batch = await self._queue.get()
                try:
                    await export(batch, timeout=_FORWARD_SECONDS, metadata=headers)
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


def _linked(batch: bytes, wanted: bytes) -> set[bytes]:
    """The traces in a batch with a link to another trace."""
    request = ExportTraceServiceRequest.FromString(batch)
    return {
        span.trace_id
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
        if any(link.trace_id == wanted for link in span.links)
    }


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
