"""A bare grpcio server with one method of the lab: what there is without kit, Envoy and REST.

python -m tests.bench.bare SOCKET
"""

import sys
from typing import Any

import grpc
import uvloop

from icto.lab.v1 import lab_pb2

SERVICE = "icto.lab.v1.LabService"


async def fail_safely(
    request: lab_pb2.FailSafelyRequest, context: Any
) -> lab_pb2.FailSafelyResponse:
    """Succeeds, as the lab does when it is asked for nothing else."""
    del request, context
    return lab_pb2.FailSafelyResponse()


async def main(socket: str) -> None:
    """Serves until it is ended."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        fail_safely,
        request_deserializer=lab_pb2.FailSafelyRequest.FromString,
        response_serializer=lab_pb2.FailSafelyResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"FailSafely": handler})
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
