"""What Envoy refused at the edge, for the audit: it tells the gateway, and only those calls.

Envoy speaks OTLP here, as its OpenTelemetry access logger does; a record is one call.
"""

from collections.abc import Iterable

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as pb
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from contract import wire
from observability import names
from services.kit.replica.denials import Denial
from services.kit.serving import Call, Kit


class LogsService:
    """opentelemetry.proto.collector.logs.v1.LogsService."""

    def __init__(self, kit: Kit) -> None:
        self._denials = kit.denials

    async def Export(
        self, request: pb.ExportLogsServiceRequest, call: Call
    ) -> pb.ExportLogsServiceResponse:
        """Takes refused calls."""
        del call
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    self._denials.note(_denial(record.attributes))
        return pb.ExportLogsServiceResponse()


def _denial(attributes: Iterable[KeyValue]) -> Denial:
    values = {pair.key: pair.value.string_value for pair in attributes}
    return Denial(
        principal=values.get(names.PRINCIPAL, ""),
        caller=wire.EDGE,
        method=values.get(names.RPC_METHOD, ""),
        reason=values.get(names.REASON, ""),
    )
