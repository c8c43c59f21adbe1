"""Names on the wire: metadata, headers and trailers that both sides of a call know.

Those that begin with x-icto- Envoy strips from outside and sets itself.
"""

from typing import Final

HEADER_CALLER: Final = "x-icto-caller"
HEADER_PRINCIPAL: Final = "x-icto-principal"
HEADER_ROLES: Final = "x-icto-roles"
HEADER_STATUS: Final = "x-icto-status"
HEADER_ON_BEHALF_OF: Final = "x-icto-on-behalf-of"
HEADER_HEALTH_TARGET: Final = "x-icto-health-target"
HEADER_TRACE_ID: Final = "x-icto-trace-id"
HEADER_ADDRESS: Final = "x-icto-address"
"""Whence a call from outside came."""
IDENTITY_HEADERS: Final = (
    HEADER_CALLER,
    HEADER_PRINCIPAL,
    HEADER_ROLES,
    HEADER_STATUS,
    HEADER_ON_BEHALF_OF,
    HEADER_HEALTH_TARGET,
    HEADER_TRACE_ID,
    HEADER_ADDRESS,
)
TRAILER_REASON: Final = "icto-reason"
TRAILER_TRACE_ID: Final = "icto-trace-id"
TRAILER_RETRIABLE: Final = "icto-retriable"
HEADER_HTTP_STATUS: Final = "icto-http-status"
"""HTTP status of a REST answer that gRPC has no word for, such as 204."""
LAST_EVENT_ID: Final = "last-event-id"
IF_MATCH: Final = "if-match"
ETAG: Final = "etag"
IDEMPOTENCY_KEY: Final = "idempotency-key"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
HEADER_CALLERS_TRACEPARENT: Final = "x-icto-callers-traceparent"
HEADER_CALLERS_TRACESTATE: Final = "x-icto-callers-tracestate"
CALLERS_TRACE: Final = {
    TRACEPARENT: HEADER_CALLERS_TRACEPARENT,
    TRACESTATE: HEADER_CALLERS_TRACESTATE,
}
"""Where Envoy puts what callers from outside say of their own traces."""
GRPC_TIMEOUT: Final = "grpc-timeout"
HEADER_CALLERS_DEADLINE: Final = "x-icto-callers-deadline"
"""Where Envoy puts the deadline that a caller asked for: for a stream it writes its own over it."""
SUSPENDED: Final = "suspended"
"""Value of HEADER_STATUS for a user who is suspended or banned; absent for others."""
EDGE: Final = "edge"
"""Value of HEADER_CALLER for a call from outside."""
