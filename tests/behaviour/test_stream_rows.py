"""Open streams are counted over all replicas of a service: on a real database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import pytest

from contract import principal, wire
from contract.errors import Code, Error
from services.kit.serving.identity import Identity
from services.kit.serving.open_streams import OpenStreams, StreamLimits
from tests.support.installation import until
from tests.support.postgres import Schema
from tests.support.tokens import somebody

LIMITS: Final = StreamLimits(per_principal=3, per_address=5)
TOO_MANY: Final = (Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
_AGED: Final = "UPDATE kit_stream_holders SET renew_time = renew_time - interval '11 seconds'"


def who(user: str, address: str = "192.0.2.1") -> Identity:
    return Identity(wire.EDGE, user, frozenset(), address=address)


@contextlib.asynccontextmanager
async def serving(schema: Schema, name: str = "lab-1") -> AsyncIterator[OpenStreams]:
    """The streams of one replica that lives until the end of the block."""
    async with schema.replica(name) as replica:
        streams = OpenStreams(replica.database, LIMITS)
        running = asyncio.create_task(streams.run())
        try:
            yield streams
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def held(stack: contextlib.AsyncExitStack, streams: OpenStreams, caller: Identity) -> str:
    """Holds a stream open until the stack unwinds; by whom it is one too many, or nothing."""
    try:
        await stack.enter_async_context(streams.hold(caller))
    except Error as error:
        told = error.code, error.reason
        return error.metadata["by"] if told == TOO_MANY else error.reason
    return ""


async def test_streams_of_all_replicas_are_one_number(schema: Schema) -> None:
    user = somebody()
    async with serving(schema) as one, serving(schema, "lab-2") as other:
        async with contextlib.AsyncExitStack() as stack:
            for number, streams in enumerate((one, other, one)):
                assert await held(stack, streams, who(user, f"192.0.2.{number}")) == ""
            for streams in (one, other):
                assert await held(stack, streams, who(user)) == "principal"
            assert await held(stack, other, who(somebody())) == ""

        async def free() -> bool:
            async with contextlib.AsyncExitStack() as again:
                return await held(again, other, who(user)) == ""

        await until(free)


async def test_an_address_is_one_number_whoever_signs_in(schema: Schema) -> None:
    async with serving(schema) as streams, contextlib.AsyncExitStack() as stack:
        for user in (principal.ANONYMOUS, somebody(), somebody()):
            assert await held(stack, streams, who(user)) == ""
        for _ in range(2):
            assert await held(stack, streams, who(principal.ANONYMOUS)) == ""
        for user in (principal.ANONYMOUS, somebody()):
            assert await held(stack, streams, who(user)) == "address"
        assert await held(stack, streams, who(somebody(), "192.0.2.2")) == ""


@pytest.mark.parametrize("by", ["principal", "address"])
async def test_who_opens_many_at_once_gets_no_more(schema: Schema, by: str) -> None:
    user = somebody()
    callers = [
        who(user, f"192.0.2.{number}") if by == "principal" else who(somebody())
        for number in range(16)
    ]
    async with (
        serving(schema) as one,
        serving(schema, "lab-2") as other,
        contextlib.AsyncExitStack() as stack,
    ):
        told = await asyncio.gather(
            *(held(stack, (one, other)[i % 2], caller) for i, caller in enumerate(callers))
        )
    assert told.count("") == (LIMITS.per_principal if by == "principal" else LIMITS.per_address)


async def test_a_replica_that_died_holds_nothing(schema: Schema) -> None:
    user = somebody()
    async with schema.replica("dead") as replica, serving(schema) as other:
        dead = OpenStreams(replica.database, LIMITS)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(LIMITS.per_principal):
                assert await held(stack, dead, who(user)) == ""
            assert await held(stack, other, who(user)) == "principal"
            async with schema.connection() as connection:
                await connection.execute(_AGED)
            assert await held(stack, other, who(user)) == ""


async def test_without_the_database_each_replica_counts_its_own(schema: Schema) -> None:
    """Who watches health must hear of such a day."""
    user = somebody()
    async with schema.replica() as replica, contextlib.AsyncExitStack() as stack:
        streams = OpenStreams(replica.database, LIMITS)
        await replica.database.close()
        for number in range(LIMITS.per_principal):
            assert await held(stack, streams, who(user, f"192.0.2.{number}")) == ""
        assert await held(stack, streams, who(user)) == "principal"


async def test_services_hold_as_many_as_they_need(schema: Schema) -> None:
    service = Identity("backend", principal.of_service("backend"), frozenset())
    async with serving(schema) as streams, contextlib.AsyncExitStack() as stack:
        for _ in range(2 * LIMITS.per_address):
            assert await held(stack, streams, service) == ""
