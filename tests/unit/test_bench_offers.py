"""The bench goes on when it is refused, and counts what with."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.bench.http import LOST, Pool, RefusedError
from tests.bench.offers import Offers
from tests.bench.report import Report

BURST = 400


@asynccontextmanager
async def answering(*statuses: int) -> AsyncIterator[Pool]:
    """An edge that answers with these in turn; LOST hangs up."""
    turn = itertools.cycle(statuses)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            status = next(turn)
            if status == LOST:
                writer.close()
                return
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}".encode())

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(server.sockets[0].getsockname()[1])
    try:
        yield pool
    finally:
        pool.close()
        server.close()


async def test_a_burst_of_which_a_quarter_is_refused_ends_and_tells_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    offers, slots = Offers(), asyncio.Semaphore(64)
    async with answering(200, 200, 504, 200) as pool:

        async def one() -> None:
            async with slots:
                await offers.once(lambda: pool.post("/v1/launches", "token", {}))

        await asyncio.gather(*(one() for _ in range(BURST)))
    assert (offers.taken, offers.refused) == (300, {504: 100})
    offers.tell(Report(as_json=True), "a burst")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["name"], one["value"], one["runs"]) for one in told] == [
        ("a burst, refused", 100, BURST),
        ("  with 504", 100, BURST),
    ]


async def test_what_is_refused_for_the_moment_is_offered_again() -> None:
    offers = Offers()
    async with answering(503, LOST, 429, 504, 200) as pool:
        assert await offers.insist(lambda: pool.post("/v1/quotes", "token", {})) == {}
    assert (offers.taken, offers.refused) == (1, {503: 1, LOST: 1, 429: 1, 504: 1})


@pytest.mark.parametrize(("status", "times"), [(400, 1), (503, 50)])
async def test_what_is_refused_for_good_is_told(status: int, times: int) -> None:
    offers = Offers()
    async with answering(status) as pool:
        with pytest.raises(RefusedError):
            await offers.insist(lambda: pool.post("/v1/quotes", "token", {}))
    assert offers.refused == {status: times}
