"""A launch followed to its end, through whatever breaks on the way.

Every change has a number. Whoever lost the stream goes on after the last number that arrived, so
that each change is seen once and in order.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
import httpx

from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from mesh.cli.client import Client

FINAL: Final = frozenset(
    {
        pb.LAUNCH_STATE_SUCCEEDED,
        pb.LAUNCH_STATE_PARTIALLY_SUCCEEDED,
        pb.LAUNCH_STATE_FAILED,
        pb.LAUNCH_STATE_CANCELLED,
    }
)
_RETRY_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 60.0
# The platform, or the way to it, is away for a while; or the stream, or the token, is too old.
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class LostError(Exception):
    """Nothing was heard of a launch for a while. It goes on by itself."""


async def changes(client: Client, name: str, after: int = 0) -> AsyncIterator[pb.LaunchChange]:
    """Each change of a launch after a number, once and in order, until the launch has ended.

    Raises:
        LostError: the platform cannot be reached any more.
        grpc.aio.AioRpcError: it refuses to tell, for instance since there is no such launch.
    """
    heard = time.monotonic()
    while True:
        try:
            request = pb.WatchLaunchRequest(name=name, after_sequence=after)
            watch = LaunchServiceStub(client.channel).WatchLaunch(
                request, metadata=await client.metadata()
            )
            async for answer in watch:
                heard = time.monotonic()
                if answer.HasField("change"):
                    after = answer.change.sequence
                    yield answer.change
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING:
                raise
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                client.forget_token()
        except httpx.TransportError:
            pass  # signing in: the edge is away
        else:
            return
        if time.monotonic() - heard > _PATIENCE_SECONDS:
            raise LostError(f"Nothing was heard of {name} for {_PATIENCE_SECONDS:.0f} s.")
        await asyncio.sleep(_RETRY_SECONDS)
