"""`Error` to and from what travels: a gRPC status with `google.rpc` details and our trailers."""

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb2
from google.rpc.status_pb2 import Status

from contract import wire
from contract.errors import MAX_MESSAGE, Code, Error, RemoteError

DOMAIN: Final = "icto"
DETAILS_TRAILER: Final = "grpc-status-details-bin"
# Clients take 8 KiB of trailers, a message percent-encoded and the details in base64 among them.
_MAX_DETAILS: Final = 3 * 1024
_MAX_VALUE: Final = 256
# What packing a BadRequest adds: its type's name, and lengths.
_PACKING: Final = 64

_AWAY: Final = "SERVICE_UNAVAILABLE", "A service that is needed does not answer; try again soon."

GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Trailers = tuple[tuple[str, str | bytes], ...]


def to_abort(error: Error, trace_id: str) -> tuple[grpc.StatusCode, str, Trailers]:
    """What a gRPC call is aborted with: code, message, trailers."""
    told = to_status(error, trace_id)
    trailers: list[tuple[str, str | bytes]] = [
        (DETAILS_TRAILER, told.SerializeToString()),
        (wire.TRAILER_REASON, error.reason),
        (wire.TRAILER_TRACE_ID, trace_id),
    ]
    if error.retriable:
        trailers.append((wire.TRAILER_RETRIABLE, "true"))
    return GRPC_CODES[told.code], told.message, tuple(trailers)


def to_status(error: Error, trace_id: str) -> Status:
    """The status of an error: ErrorInfo, then what else is known."""
    status = Status(code=int(error.code), message=_cut(error.message, MAX_MESSAGE))
    info = details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = _cut(value, _MAX_VALUE)
    if trace_id:
        info.metadata["trace_id"] = trace_id
    status.details.add().Pack(info)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(details_pb2.RetryInfo(retry_delay=delay))
    bad = _bad_request(error.violations, _MAX_DETAILS - status.ByteSize())
    if bad.field_violations:
        status.details.add().Pack(bad)
    return status


def _bad_request(violations: Iterable[tuple[str, str]], room: int) -> details_pb2.BadRequest:
    """As many of the violations as there is room for, in bytes."""
    bad = details_pb2.BadRequest()
    for field, problem in violations:
        bad.field_violations.add(
            field=_cut(field, _MAX_VALUE), description=_cut(problem, _MAX_VALUE)
        )
        if bad.ByteSize() > room - _PACKING:
            del bad.field_violations[-1]
            break
    return bad


def _cut(text: str, size: int) -> str:
    """The text, or as much of it as fits into so many bytes."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")


def from_rpc_error(error: grpc.aio.AioRpcError, service: str = "") -> RemoteError:
    """What another service, or the mesh on its behalf, answered. `service` is who was asked."""
    code = Code(error.code().value[0])
    trailers = error.trailing_metadata() or ()
    info, bad, retry = details_pb2.ErrorInfo(), details_pb2.BadRequest(), details_pb2.RetryInfo()
    for detail in _details_of(trailers):
        for known in (info, bad, retry):
            detail.Unpack(known)
    reason, message = info.reason or code.name, error.details() or code.name
    if code is Code.UNAVAILABLE and not info.reason:
        # Envoy on our own side of the call: how it puts it is of no use to whoever asked us.
        reason, message = _AWAY
    return RemoteError(
        code,
        reason,
        message,
        metadata=dict(info.metadata),
        violations=tuple((v.field, v.description) for v in bad.field_violations),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.ByteSize() else None,
        retriable=any(key == wire.TRAILER_RETRIABLE for key, _ in trailers),
        service=service,
    )


def _details_of(trailers: Iterable[tuple[str, str | bytes]]) -> Iterable[AnyMessage]:
    for key, value in trailers:
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            yield from Status.FromString(value).details
