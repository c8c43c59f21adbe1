"""What happens around each handler: the same steps for every method, in one readable place.

identity -> authorization -> size -> parse -> request id -> bounds -> handler -> ownership
-> size of the answer -> answer

Authorization comes before validation (AIP-211), and whatever goes wrong leaves as one error shape
with the trace id. The steps are composed once for each method at start, not per call.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from opentelemetry import trace
from opentelemetry.trace import use_span

from contract import status, wire
from contract.errors import Code, Error, RemoteError, internal, invalid
from contract.limits import DEFAULT_MAX_REQUEST_BYTES
from contract.method import Kind, Method
from contract.oversize import instead_of_many
from observability import names
from observability.setup import Telemetry
from observability.tracing import links_to, note_failure, trace_id
from services.kit.audit.outbox import Outbox
from services.kit.calling import deadline
from services.kit.replica.denials import Denial, Denials
from services.kit.replica.overload import Overload
from services.kit.replica.platform import Platform
from services.kit.replica.readiness import Readiness
from services.kit.serving import answers, authorization, identity, preconditions, spelling
from services.kit.serving.call import Call
from services.kit.serving.identity import Identity
from services.kit.serving.open_streams import OpenStreams
from services.kit.serving.summaries import summarize
from services.kit.serving.validation import RequestValidator
from services.kit.storage import idempotency
from services.kit.storage.database import Database
from services.kit.storage.idempotency import Replayed

log = logging.getLogger(__name__)

# Less than this is not enough to do anything and answer.
_MINIMUM_SECONDS: Final = 0.002

MOST_MESSAGES: Final = 100
"""Messages that a caller sends on one stream. Each may draw an answer of its own, and only the
stream was counted."""

_CHANGES: Final = frozenset({"PATCH", "PUT", "DELETE"})

Context = grpc.aio.ServicerContext[Any, Any]
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Surroundings:
    """What the steps need."""

    telemetry: Telemetry
    database: Database
    outbox: Outbox
    overload: Overload
    platform: Platform
    denials: Denials
    readiness: Readiness
    validator: RequestValidator
    streams: OpenStreams


class Handlers:
    """Wraps the methods of a service into gRPC handlers."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def wrap(self, method: Method, behavior: Callable[..., Any]) -> Any:
        """The gRPC handler of one method."""
        served = _Served(method, behavior, _message_class(method.request_type), self._around)
        if method.kind is Kind.UNARY:
            return grpc.stream_unary_rpc_method_handler(served.unary)
        if method.kind is Kind.SERVER_STREAM:
            return grpc.stream_stream_rpc_method_handler(served.server_stream)
        return grpc.stream_stream_rpc_method_handler(served.bidi_stream)


class _Served:
    """One method being served."""

    def __init__(
        self,
        method: Method,
        behavior: Callable[..., Any],
        request_class: type[Message],
        around: Surroundings,
    ) -> None:
        self._method = method
        self._behavior = behavior
        self._request_class = request_class
        self._around = around
        self._takes_etag = takes_etag(method)
        self._response_class = _message_class(method.response_type)
        self._has_etag = wire.ETAG in self._response_class.DESCRIPTOR.fields_by_name
        metrics = around.telemetry.metrics
        self._durations = metrics.server_durations(method.full_name)

    # Both read their one message as if it began a stream: where gRPC reads it for us, a call that
    # ends without any is left alone until its deadline.

    async def unary(self, raws: AsyncIterator[bytes], context: Context) -> bytes:
        """Serves a call with one request and one response."""
        del raws

        async def work(call: Call) -> bytes:
            request = await self._request(await _message(context), call, context)
            response: Message = await self._behavior(request, call)
            call.verify_ownership()
            if self._method.lists:
                summarize(response)
            answer = response.SerializeToString()
            answers.check(self._method, answer)
            await self._head(call.headers, response, context)
            return answer

        return await self._observe(context, work)

    async def server_stream(self, raws: AsyncIterator[bytes], context: Context) -> None:
        """Serves a call with one request and many responses."""
        del raws

        async def work(call: Call) -> bytes:
            async with self._around.streams.hold(call.identity):
                request = await self._request(await _message(context), call, context)
                await self._send(self._behavior(request, call), call, context)
            return b""

        await self._observe(context, work)

    async def bidi_stream(self, raws: AsyncIterator[bytes], context: Context) -> None:
        """Serves a call with many requests and many responses: reflection, no method of ours."""

        async def work(call: Call) -> bytes:
            async with self._around.streams.hold(call.identity):
                await self._send(self._behavior(self._requests(raws), call), call, context)
            return b""

        await self._observe(context, work)

    async def _send(self, responses: AsyncIterator[Message], call: Call, context: Context) -> None:
        """Sends responses; the first, and the end of none, only after the ownership check."""
        async with (
            self._around.readiness.stream(),
            contextlib.aclosing(responses),  # type: ignore[type-var]  # a generator
        ):
            headed = False
            async for response in responses:
                call.verify_ownership()
                answer = response.SerializeToString()
                answers.check(self._method, answer)
                if not headed:
                    headed = True
                    await _send_headers(call.headers, context)
                await context.write(answer)
        call.verify_ownership()
        if not headed:
            await _send_headers(call.headers, context)

    async def _head(self, headers: Headers, response: Message, context: Context) -> None:
        """Sends the headers of a unary answer, its etag among them."""
        tag = getattr(response, wire.ETAG) if self._has_etag else ""
        await _send_headers([*headers, (wire.ETAG, tag)] if tag else headers, context)

    async def _repeated(
        self, answer: bytes, span: trace.Span, context: Context
    ) -> tuple[bytes, Error | None]:
        """An answer that is given again, with the headers that it had."""
        try:
            answers.check(self._method, answer)
        except Error as error:
            return b"", _marked(span, error)
        if self._has_etag:
            await self._head([], self._response_class.FromString(answer), context)
        return answer, None

    async def _observe(self, context: Context, work: Callable[[Call], Awaitable[bytes]]) -> bytes:
        """Runs the work in its span, measures it, and turns every failure into a status."""
        telemetry = self._around.telemetry
        metadata: Mapping[str, str | bytes] = dict(context.invocation_metadata() or ())
        traceparent = str(metadata.get(wire.TRACEPARENT, ""))
        span = telemetry.tracing.start_server_span(
            self._method.full_name, traceparent, links_to(*identity.callers_trace(metadata))
        )
        outcome, started = Code.CANCELLED.name, time.perf_counter()
        telemetry.metrics.in_flight.inc()
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                answer, error = await self._guarded(metadata, span, context, work)
            outcome = error.code.name if error else names.OK
        finally:
            telemetry.metrics.in_flight.dec()
            self._durations[outcome].observe(time.perf_counter() - started)
            span.set_attribute(names.RPC_STATUS, outcome)
            span.end()
        if error is not None:
            await context.abort(*status.to_abort(error, trace_id(span)))
        return answer

    async def _guarded(
        self,
        metadata: Mapping[str, str | bytes],
        span: trace.Span,
        context: Context,
        work: Callable[[Call], Awaitable[bytes]],
    ) -> tuple[bytes, Error | None]:
        caller = identity.read(metadata, self._method)
        try:
            if self._method.mutates:
                await self._around.platform.heard()
            call = self._admit(caller, metadata, span, context)
            async with asyncio.timeout(self._own_timeout(self._remaining(context, metadata))):
                with deadline.within(call.remaining):
                    return await work(call), None
        except Replayed as replayed:
            span.set_attribute(names.REPLAYED, True)
            self._around.telemetry.metrics.replays.inc()
            return await self._repeated(replayed.answer, span, context)
        except RemoteError as error:
            return b"", _marked(span, error.passed_on())
        except Error as error:
            self._note_denial(caller, error)
            return b"", _marked(span, error)
        except TimeoutError:
            return b"", _marked(span, _too_late())
        except Exception:
            log.exception("%s failed", self._method.full_name)
            return b"", _marked(span, internal())

    def _remaining(self, context: Context, metadata: Mapping[str, str | bytes]) -> float | None:
        """Seconds until the caller's deadline; None when it has none."""
        left = _time_remaining(context)
        if self._method.kind is Kind.UNARY:
            return left
        # What gRPC knows of a stream is Envoy's own limit; what its caller asked for stands here.
        asked = deadline.seconds_of(str(metadata.get(wire.HEADER_CALLERS_DEADLINE, "")))
        wanted = self._method.deadline if asked == math.inf else asked
        return wanted if left is None else min(wanted, left)

    def _own_timeout(self, remaining: float | None) -> float | None:
        """Seconds after which we end the call; None when gRPC does, at the caller's deadline."""
        ceiling = self._method.deadline_ceiling
        if remaining is None:
            return self._method.deadline
        if self._method.kind is not Kind.UNARY:
            return min(remaining, ceiling)
        return None if remaining <= ceiling else ceiling

    def _note_denial(self, caller: Identity, error: Error) -> None:
        """Has the audit told of a caller whom we refused ourselves."""
        if error.code is Code.PERMISSION_DENIED and not isinstance(error, RemoteError):
            name = self._method.full_name
            denial = Denial(caller.principal, caller.caller, name, error.reason)
            self._around.denials.note(denial)

    def _admit(
        self,
        caller: Identity,
        metadata: Mapping[str, str | bytes],
        span: trace.Span,
        context: Context,
    ) -> Call:
        """Everything that is decided before the request is read.

        Raises:
            Error: the call is refused.
        """
        remaining = self._remaining(context, metadata)
        ceiling = self._method.deadline_ceiling
        seconds = self._method.deadline if remaining is None else min(remaining, ceiling)
        span.set_attribute(names.CALLER, caller.caller)
        span.set_attribute(names.PRINCIPAL, caller.principal)
        span.set_attribute(names.DEADLINE_REMAINING, round(seconds, 3))
        self._around.overload.admit(self._method)
        if seconds < _MINIMUM_SECONDS:
            raise _too_late()
        authorization.check(self._method, caller)
        self._around.platform.check(self._method)
        condition = _if_match(context) if wire.IF_MATCH in metadata else ""
        if condition and self._method.mutates and not self._takes_etag:
            raise preconditions.failed()
        return Call(
            self._method,
            caller,
            span,
            self._around.database,
            self._around.outbox,
            time.monotonic() + seconds,
            last_event_id=str(metadata.get(wire.LAST_EVENT_ID, "")),
            if_match=condition,
        )

    async def _request(self, raw: bytes, call: Call, context: Context) -> Message:
        """The request, valid as far as the proto can say.

        Raises:
            Error: INVALID_ARGUMENT, it is not.
        """
        request = self._parse(raw)
        spelling.lower_principals(request, raw)
        request_id = self._request_id(request, context)
        await self._check(request, len(raw))
        if request_id:
            call.span.set_attribute(names.REQUEST_ID, request_id)
        call.accept(request, request_id)
        return request

    async def _requests(self, raws: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        count = 0
        async for raw in raws:
            count += 1
            if count > MOST_MESSAGES:
                raise _too_many_messages()
            request = self._parse(raw)
            await self._check(request, len(raw))
            yield request

    async def _check(self, request: Message, size: int) -> None:
        """Passes a request that is within the bounds of its proto.

        What is large takes a tenth of a second: a thread looks through it, and others go on.

        Raises:
            Error: INVALID_ARGUMENT with a violation for each field.
        """
        check = self._around.validator.check
        if size > DEFAULT_MAX_REQUEST_BYTES:
            await asyncio.to_thread(check, request)
        else:
            check(request)

    def _parse(self, raw: bytes) -> Message:
        if len(raw) > self._method.max_request_bytes:
            raise Error(
                Code.RESOURCE_EXHAUSTED,
                "REQUEST_TOO_LARGE",
                f"The request has {len(raw)} bytes; this method takes"
                f" {self._method.max_request_bytes} at most."
                f" {instead_of_many(self._method.request_type)}".rstrip(),
            )
        try:
            return self._request_class.FromString(raw)
        except DecodeError:
            raise Error(
                Code.INVALID_ARGUMENT,
                "MALFORMED_REQUEST",
                f"The bytes are not a {self._method.request_type}.",
            ) from None

    def _request_id(self, request: Any, context: Context) -> str:
        """The request id, from the body or from `Idempotency-Key`; they must not differ."""
        if not self._method.has_request_id:
            return ""
        sent = [
            str(value)
            for name, value in context.invocation_metadata() or ()
            if name == wire.IDEMPOTENCY_KEY
        ]
        key = idempotency.key_of(sent)
        if key and request.request_id not in ("", key):
            raise invalid("request_id", "differs from the Idempotency-Key", "REQUEST_ID_CONFLICT")
        request.request_id = request.request_id or key
        return str(request.request_id)


async def _message(context: Context) -> bytes:
    """The one message of a request.

    Raises:
        Error: INVALID_ARGUMENT, the call ended without one.
    """
    raw: Any = await context.read()
    if raw is grpc.aio.EOF:
        raise Error(
            Code.INVALID_ARGUMENT, "MESSAGE_MISSING", "The call ended before its one message."
        )
    return bytes(raw)


async def _send_headers(headers: Headers, context: Context) -> None:
    if headers:
        await context.send_initial_metadata(tuple(headers))


def _if_match(context: Context) -> str:
    """The condition of a call; headers of one name are one list (RFC 9110, 5.3)."""
    metadata = context.invocation_metadata() or ()
    return ", ".join(str(value) for name, value in metadata if name == wire.IF_MATCH)


def takes_etag(method: Method) -> bool:
    """Whether a method changes something that has an etag, in its request or the resource in it."""
    if not any(http.verb in _CHANGES for http in method.http):
        return False
    request = descriptor_pool.Default().FindMessageTypeByName(method.request_type)
    resources = (field.message_type for field in request.fields if field.message_type)
    return any(wire.ETAG in each.fields_by_name for each in (request, *resources))


def _message_class(full_name: str) -> type[Message]:
    descriptor = descriptor_pool.Default().FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)


def _time_remaining(context: Context) -> float | None:
    """Seconds until the caller's deadline; None when it set none, which the stubs do not say."""
    remaining: Any = context.time_remaining()
    return None if remaining is None else float(remaining)


def _marked(span: trace.Span, error: Error) -> Error:
    ours = error.code.name in names.SERVER_FAULTS
    note_failure(span, error.code.name, error.reason, error.message, ours=ours)
    return error


def _too_many_messages() -> Error:
    return Error(
        Code.RESOURCE_EXHAUSTED,
        "TOO_MANY_MESSAGES",
        f"A stream takes {MOST_MESSAGES} messages; go on with another.",
    )


def _too_late() -> Error:
    return Error(
        Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "The call took longer than its deadline."
    )
