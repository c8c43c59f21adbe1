"""A mesh service as its peers see it: calls through its own egress listener, as it makes them."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from contract import wire
from contract.errors import RemoteError
from contract.status import from_rpc_error
from tests.support.installation import Installation

S = TypeVar("S")
_SECONDS = 15.0


class Peer:
    """Calls under the identity of one service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def stub(self, kind: Callable[[grpc.aio.Channel], S]) -> S:
        """A stub of a generated class."""
        return kind(self._channel)

    async def call(self, method: Any, request: Any, on_behalf_of: str = "") -> Any:
        """One call, perhaps for a user.

        Raises:
            RemoteError: it was refused.
        """
        metadata = ((wire.HEADER_ON_BEHALF_OF, on_behalf_of),) if on_behalf_of else ()
        try:
            return await method(request, timeout=_SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def refusal(running: Any) -> str:
    """The reason for which a peer's call was refused."""
    try:
        answer = await running
    except RemoteError as error:
        return error.reason
    raise AssertionError(f"not refused: {answer}")


@contextlib.asynccontextmanager
async def peer(mesh: Installation, service: str) -> AsyncIterator[Peer]:
    """A service of a mesh, by its name."""
    async with grpc.aio.insecure_channel(f"unix:{mesh.paths.egress(service)}") as channel:
        yield Peer(channel)
