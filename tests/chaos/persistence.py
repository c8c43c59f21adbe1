"""A client that never gives up: it repeats one call, under one request id, until it knows."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc
import httpx

from mesh.cli.client import CallError

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 120.0
_UNKNOWN_STATUS: Final = frozenset({408, 409, 429, 499, 500, 502, 503, 504})
_TELLING_REASONS: Final = frozenset({"SYMBOL_TAKEN", "OPERATION_REUSED", "PAYMENT_CONSUMED"})
"""Conflicts that will stay conflicts."""


class Persistence:
    """Repeats calls, and counts how often it had to."""

    def __init__(self, chance: random.Random) -> None:
        self.repeats = 0
        self._chance = chance

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of a call, or its definite refusal.

        Raises:
            CallError: it was refused for good.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await call()
            except CallError as error:
                if is_definite(error) or time.monotonic() > deadline:
                    raise
            except (httpx.TransportError, grpc.aio.AioRpcError):
                if time.monotonic() > deadline:
                    raise
            self.repeats += 1
            await asyncio.sleep(self._chance.uniform(0.05, 0.25))


def is_definite(error: CallError) -> bool:
    """Whether a refusal says for certain that nothing happened or will."""
    return error.status not in _UNKNOWN_STATUS or error.reason in _TELLING_REASONS
