"""Every name that leaves the platform in a span, a metric or a log line.

Span attributes follow the OpenTelemetry semantic conventions (RPC: release candidate, database:
stable); metrics are the same names in Prometheus form, base units included.
"""

from typing import Final

from opentelemetry.semconv._incubating.attributes import (
    db_attributes,
    rpc_attributes,
    server_attributes,
    service_attributes,
)
from opentelemetry.semconv.attributes import error_attributes

# Resource.
SERVICE_NAME: Final = service_attributes.SERVICE_NAME
SERVICE_NAMESPACE: Final = service_attributes.SERVICE_NAMESPACE
SERVICE_VERSION: Final = service_attributes.SERVICE_VERSION
SERVICE_INSTANCE_ID: Final = service_attributes.SERVICE_INSTANCE_ID
DEPLOYMENT_ENVIRONMENT: Final = "deployment.environment.name"
NAMESPACE: Final = "icto"

# Spans of calls.
RPC_SYSTEM: Final = rpc_attributes.RPC_SYSTEM_NAME
RPC_METHOD: Final = rpc_attributes.RPC_METHOD
RPC_STATUS: Final = rpc_attributes.RPC_RESPONSE_STATUS_CODE
GRPC: Final = "grpc"
OK: Final = "OK"
SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Statuses that say something of the server; the rest are the caller's."""
SERVER_ADDRESS: Final = server_attributes.SERVER_ADDRESS
ERROR_TYPE: Final = error_attributes.ERROR_TYPE
CALLER: Final = "icto.caller"
PRINCIPAL: Final = "enduser.pseudo.id"
REQUEST_ID: Final = "icto.request_id"
REPLAYED: Final = "icto.replayed"
REASON: Final = "icto.error.reason"
ERROR_MESSAGE: Final = "icto.error.message"
ERROR_SERVICE: Final = "icto.error.service"
DEADLINE_REMAINING: Final = "icto.deadline.remaining_seconds"

# Spans of statements.
DB_SYSTEM: Final = db_attributes.DB_SYSTEM_NAME
DB_QUERY_SUMMARY: Final = db_attributes.DB_QUERY_SUMMARY
DB_QUERY_TEXT: Final = db_attributes.DB_QUERY_TEXT
DB_NAMESPACE: Final = db_attributes.DB_NAMESPACE
DB_RESPONSE_STATUS: Final = db_attributes.DB_RESPONSE_STATUS_CODE
POSTGRESQL: Final = "postgresql"

# Spans of events.
OUTBOX_PUBLISH: Final = "outbox publish"
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BATCH_COUNT: Final = "messaging.batch.message_count"

# Spans of pipeline steps.
PIPELINE_ID: Final = "icto.pipeline.id"
STEP_ATTEMPT: Final = "icto.step.attempt"

# Metrics. RED for each method, USE for loop, pool and queue.
CALL_DURATION: Final = "rpc_server_call_duration_seconds"
CLIENT_CALL_DURATION: Final = "rpc_client_call_duration_seconds"
CALLS_IN_FLIGHT: Final = "icto_server_calls_in_flight"
CALLS_SHED: Final = "icto_server_calls_shed_total"
LOOP_LAG: Final = "icto_event_loop_lag_seconds"
POOL_SIZE: Final = "icto_database_pool_connections"
POOL_WAIT: Final = "icto_database_pool_wait_seconds"
CONFIG_REVISION: Final = "icto_config_revision"
MAINTENANCE: Final = "icto_maintenance"
EMERGENCY_STOP: Final = "icto_emergency_stop"
OUTBOX_PENDING: Final = "icto_outbox_pending_events"
OUTBOX_OLDEST: Final = "icto_outbox_oldest_event_age_seconds"
OUTBOX_PUBLISHED: Final = "icto_outbox_published_events_total"
PIPELINES_PARKED: Final = "icto_parked_pipelines"
REPLAYS: Final = "icto_idempotent_replays_total"
SPANS_EXPORTED: Final = "icto_spans_exported_total"
SPANS_DROPPED: Final = "icto_spans_dropped_total"
