"""Standard services that the gateway offers for the whole mesh.

Their protos are not ours, so their policy stands here.
"""

from dataclasses import replace

from contract.identities import EVERY_SERVICE, GATEWAY, OPERATOR, PROXY
from contract.limits import DEFAULT_MAX_REQUEST_BYTES
from contract.method import Audience, Criticality, Kind, Method, RetrySafety


def standard_methods() -> tuple[Method, ...]:
    """Health, reflection, and where Envoy sends its access log."""
    audience = Audience(
        public=True,
        user=False,
        owner="",
        permission="",
        roles=frozenset(),
        services=frozenset({EVERY_SERVICE, OPERATOR}),
    )
    health, reflection = "grpc.health.v1", "grpc.reflection"
    check = Method(
        service=f"{health}.Health",
        name="Check",
        mesh_name=GATEWAY,
        kind=Kind.UNARY,
        request_type=f"{health}.HealthCheckRequest",
        response_type=f"{health}.HealthCheckResponse",
        audience=audience,
        deadline=3.0,
        deadline_ceiling=10.0,
        rate_limit="READ",
        criticality=Criticality.CRITICAL,
        max_request_bytes=DEFAULT_MAX_REQUEST_BYTES,
        retry_safety=RetrySafety.SAFE,
        allowed_when_suspended=True,
    )
    everything = replace(
        check,
        name="List",
        request_type=f"{health}.HealthListRequest",
        response_type=f"{health}.HealthListResponse",
    )
    stream = replace(
        check,
        name="Watch",
        kind=Kind.SERVER_STREAM,
        deadline=3600.0,
        deadline_ceiling=3600.0,
        rate_limit="STREAM",
        retry_safety=RetrySafety.UNSAFE,
    )
    info = replace(
        stream, name="ServerReflectionInfo", kind=Kind.BIDI_STREAM, deadline=30.0, rate_limit="READ"
    )
    versions = tuple(
        replace(
            info,
            service=f"{reflection}.{version}.ServerReflection",
            request_type=f"{reflection}.v1alpha.ServerReflectionRequest",
            response_type=f"{reflection}.v1alpha.ServerReflectionResponse",
        )
        for version in ("v1", "v1alpha")
    )
    return (check, everything, stream, *versions, _access_log(check))


def _access_log(like: Method) -> Method:
    """Envoy's account of what it refused, in OpenTelemetry's protocol."""
    package = "opentelemetry.proto.collector.logs.v1"
    return replace(
        like,
        service=f"{package}.LogsService",
        name="Export",
        request_type=f"{package}.ExportLogsServiceRequest",
        response_type=f"{package}.ExportLogsServiceResponse",
        audience=replace(like.audience, public=False, services=frozenset({PROXY})),
        max_request_bytes=1024 * 1024,
        retry_safety=RetrySafety.UNSAFE,
    )
