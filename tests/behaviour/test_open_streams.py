"""How many streams somebody holds open: bounded for the whole service, and freed when they end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from services.kit.serving.open_streams import SILENCE
from tests.conftest import NARROW_STREAMS_PER_ADDRESS, NARROW_STREAMS_PER_PRINCIPAL
from tests.support.edge import WEB, Edge, bearer, caller
from tests.support.installation import Installation, kill, until
from tests.support.tokens import Mint, mint_of

WATCH: Final = "/grpc.health.v1.Health/Watch"
EMPTY: Final = b"\0\0\0\0\0"
OPEN: Final = ""
REFUSED: Final = "TOO_MANY_STREAMS"
QUESTIONS: Final = 100


class Holder:
    """A caller from an address of its own, and the streams that it holds open."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._held: list[httpx.Response] = []

    async def opened(self, token: str = "") -> str:
        """Opens a stream and leaves it open; the reason when it was refused."""
        headers = {"content-type": WEB, "x-grpc-web": "1", **bearer(token)}
        http = self._edge.http
        request = http.build_request("POST", WATCH, content=EMPTY, headers=headers)
        reply = await http.send(request, stream=True)
        reason = str(reply.headers.get("icto-reason", OPEN))
        if reason == OPEN:
            self._held.append(reply)
        else:
            await reply.aclose()
        return reason

    async def leave(self) -> None:
        """Lets go of all."""
        for reply in self._held:
            await reply.aclose()


@contextlib.asynccontextmanager
async def holders(mesh: Installation, *places: str) -> AsyncIterator[Sequence[Holder]]:
    """Callers from addresses of their own; whatever they hold ends with the block."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Holder(await stack.enter_async_context(caller(mesh.target, local_address=place)))
            for place in places
        ]


async def until_open(holder: Holder, token: str, seconds: float = 10.0) -> None:
    async def free() -> bool:
        return await holder.opened(token) == OPEN

    await until(free, seconds)


@pytest.fixture
async def narrow_mint(narrow: Installation) -> Mint:
    return await mint_of(narrow)


async def test_a_principal_holds_so_many_streams_of_a_service_open(
    narrow: Installation, narrow_mint: Mint
) -> None:
    """Wherever the principal calls from, and whichever replica answers; what ends is free."""
    token = narrow_mint.anybody
    async with holders(narrow, "127.0.1.1", "127.0.1.2") as (one, other):
        for place in (one, other):
            assert await place.opened(token) == OPEN
        for place in (one, other) * NARROW_STREAMS_PER_PRINCIPAL:
            assert await place.opened(token) == REFUSED
        assert await other.opened(narrow_mint.anybody) == OPEN
        await one.leave()
        await until_open(other, token)


async def test_an_address_holds_so_many_streams_of_a_service_open(
    narrow: Installation, narrow_mint: Mint
) -> None:
    """Whatever token comes along, and with none."""
    async with holders(narrow, "127.0.1.3", "127.0.1.4") as (one, other):
        tokens = ["", narrow_mint.anybody, narrow_mint.anybody]
        assert len(tokens) == NARROW_STREAMS_PER_ADDRESS
        assert [await one.opened(token) for token in tokens] == [OPEN] * len(tokens)
        for token in ("", narrow_mint.anybody):
            assert await one.opened(token) == REFUSED
        assert await other.opened() == OPEN


async def test_a_burst_gets_no_more_than_the_number(
    narrow: Installation, narrow_mint: Mint
) -> None:
    token, most = narrow_mint.anybody, NARROW_STREAMS_PER_PRINCIPAL
    async with holders(narrow, *(f"127.0.1.{number}" for number in range(10, 18))) as callers:
        told = await asyncio.gather(*(one.opened(token) for one in callers))
        assert sorted(told) == [OPEN] * most + [REFUSED] * (len(callers) - most)


async def test_what_a_replica_held_is_free_when_it_has_died(
    narrow: Installation, narrow_mint: Mint
) -> None:
    token = narrow_mint.anybody
    async with holders(narrow, "127.0.1.20", "127.0.1.21") as (one, other):
        for _ in range(NARROW_STREAMS_PER_PRINCIPAL):
            assert await one.opened(token) == OPEN
        for replica in await narrow.replicas("gateway"):
            kill(replica["pid"])
        await narrow.until_healthy()
        await until_open(other, token, 3 * SILENCE.total_seconds())


def question() -> reflection_pb2.ServerReflectionRequest:
    return reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="icto.ledger.v1.LedgerService"
    )


async def test_a_stream_of_questions_takes_a_hundred(mesh: Installation) -> None:
    """A file is answered with all that it needs: without a bound one call draws tens of MiB."""
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        stub: Any = ServerReflectionStub
        call = stub(channel).ServerReflectionInfo(question() for _ in range(QUESTIONS + 20))
        answers = 0
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                answers += 1
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(await call.trailing_metadata())["icto-reason"] == "TOO_MANY_MESSAGES"
    assert answers == QUESTIONS
