"""gRPC's own services on a replica's private side: health, reflection, channelz.

A service that offers health or reflection itself, as the gateway does for the whole mesh, keeps its
own. The packages carry no types for the functions that add them.
"""

from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contract.service import Service


def add(server: grpc.aio.Server, service: Service, health_servicer: Any) -> None:
    """Adds what the service does not offer itself."""
    own = {method.service for method in service.methods}
    if health.SERVICE_NAME not in own:
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)  # type: ignore[no-untyped-call]
    if reflection.SERVICE_NAME not in own:
        names = (*service.proto_services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)  # type: ignore[no-untyped-call]
    channelz.add_channelz_servicer(server)  # type: ignore[no-untyped-call]
