"""Clients of other services: through this service's own listener in Envoy, and nowhere else.

A stub made here passes the trace on, gives each call what is left of the caller's deadline, and
raises `RemoteError`. It never retries: Envoy does, where the contract says that it is safe.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from contract import wire
from contract.errors import Code, Error
from contract.limits import LARGEST_ANSWER
from contract.method import Method
from contract.model import Contract
from contract.status import from_rpc_error
from observability import names
from observability.metrics import Metrics
from observability.tracing import current_traceparent
from services.kit.calling import deadline

S = TypeVar("S")

# What a hop needs beside the work: the answer must be back before the caller's own deadline. gRPC
# rounds a deadline up by as much as a hundredth.
_HOP_SECONDS: Final = 0.01
_ROUNDING: Final = 0.99

CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", int(LARGEST_ANSWER.wire)),
    ("grpc.use_local_subchannel_pool", 1),
    # Envoy owns connections; a ping every 30 s finds a dead one behind a socket that looks alive.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


Metadata = tuple[tuple[str, str], ...]


def on_behalf_of(principal: str) -> Metadata:
    """Metadata of a call that a service makes for a user; the method's policy must admit it."""
    return ((wire.HEADER_ON_BEHALF_OF, principal),)


class Clients:
    """Makes stubs on one channel."""

    def __init__(self, target: str, contract: Contract, metrics: Metrics) -> None:
        self._channel = _MeshChannel(target, contract, metrics)

    def stub(self, kind: Callable[[grpc.aio.Channel], S]) -> S:
        """A stub of a generated class, for instance `clients.stub(LedgerServiceStub)`."""
        return kind(self._channel)  # type: ignore[arg-type]  # has all that a stub calls

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class _MeshChannel:
    """What a generated stub needs of a channel."""

    def __init__(self, target: str, contract: Contract, metrics: Metrics) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._contract = contract
        self._metrics = metrics

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> "_Unary":
        inner = self._channel.unary_unary(path, request_serializer, response_deserializer)
        return _Unary(inner, path, self._contract, self._metrics)

    def unary_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> "_Stream":
        inner = self._channel.unary_stream(path, request_serializer, response_deserializer)
        return _Stream(inner, path, self._contract)

    async def close(self) -> None:
        await self._channel.close()


class _Unary:
    """One method: called like the stub's own."""

    def __init__(self, inner: Any, path: str, contract: Contract, metrics: Metrics) -> None:
        self._inner = inner
        self._path = path
        self._contract = contract
        self._durations = metrics.client_durations(path.lstrip("/"))

    async def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Any:
        method = self._contract.method(self._path)
        budget = _budget(method, timeout)
        started, status = time.perf_counter(), names.OK
        try:
            return await self._inner(
                request, timeout=budget, metadata=_metadata(metadata), wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            status = error.code().name
            raise from_rpc_error(error, method.mesh_name) from None
        finally:
            self._durations[status].observe(time.perf_counter() - started)


class _Stream:
    """One server-streaming method."""

    def __init__(self, inner: Any, path: str, contract: Contract) -> None:
        self._inner = inner
        self._path = path
        self._contract = contract

    async def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[Any]:
        method = self._contract.method(self._path)
        budget = _budget(method, timeout)
        try:
            async for message in self._inner(
                request, timeout=budget, metadata=_metadata(metadata), wait_for_ready=True
            ):
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, method.mesh_name) from None


def _budget(method: Method, timeout: float | None) -> float:
    """Seconds that a call may take: what was asked for, within what the caller has left."""
    wanted = min(timeout or method.deadline, method.deadline_ceiling)
    remaining = deadline.remaining()
    left = min(remaining - _HOP_SECONDS, remaining * _ROUNDING)
    if left <= 0:
        raise Error(
            Code.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            f"No time was left to call {method.full_name}.",
        )
    return min(wanted, left)


def _metadata(own: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    traceparent = current_traceparent()
    return (*own, (wire.TRACEPARENT, traceparent)) if traceparent else tuple(own)
