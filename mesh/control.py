"""The supervisor's private socket: what runs, the spans of a trace, and the restart of a replica.

JSON over gRPC on a socket that only whoever holds the run directory can open. It is not part of the
contract: nothing outside of this machine ever speaks it.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc

from mesh.rundir import RunDirectory, RunDirectoryError

_PREFIX: Final = "/icto.supervisor/"
METRICS_PATH: Final = _PREFIX + "metrics"
"""What the exporter of metrics asks: what runs, and what the supervisor has counted."""
_SECONDS: Final = 10.0
_MAX_BYTES: Final = 64 * 1024 * 1024


class RefusedError(Exception):
    """The supervisor cannot answer now. The message says what it is or does instead."""


Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]


class Routes(grpc.GenericRpcHandler):
    """Serves named answers, and whatever raw handlers are given beside them."""

    def __init__(self, answers: Mapping[str, Answer], raw: Mapping[str, Any]) -> None:
        self._handlers = dict(raw) | {
            _PREFIX + name: grpc.unary_unary_rpc_method_handler(_served(answer))
            for name, answer in answers.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Finds a handler by path: grpc's own name for it."""
        return self._handlers.get(handler_call_details.method)


def _served(answer: Answer) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def serve(request: bytes, context: Any) -> bytes:
        try:
            return json.dumps(await answer(json.loads(request or b"{}"))).encode()
        except RefusedError as refused:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refused))
            raise

    return serve


async def ask(run: RunDirectory, name: str, seconds: float = _SECONDS, **question: Any) -> Any:
    """Asks the supervisor of a run directory, and waits so many seconds for its answer.

    Raises:
        RunDirectoryError: none runs there, or it cannot answer yet.
    """
    if run.owner() is None:
        raise RunDirectoryError(f"Nothing runs in {run.path}. Start it with 'icto up'.")
    options = (("grpc.max_receive_message_length", _MAX_BYTES),)
    async with grpc.aio.insecure_channel(f"unix:{run.control}", options=options) as channel:
        call: Any = channel.unary_unary(_PREFIX + name)
        try:
            reply: bytes = await call(json.dumps(question).encode(), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise RunDirectoryError(f"What runs in {run.path} {error.details()}.") from None
            raise RunDirectoryError(
                f"The supervisor in {run.path} does not answer: {error.details()}"
            ) from None
    return json.loads(reply)
