"""Watching a launch: every change once, in order, through whatever breaks on the way."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from google.protobuf import json_format

from contract.tokens import COOKIE
from gateway.domain import SUPER_ADMIN
from icto.backend.v1 import launches_pb2 as pb
from icto.backend.v1.launches_pb2_grpc import LaunchServiceStub
from mesh.cli import follow
from mesh.cli.client import Client
from tests.conftest import NARROW_IDLE_SECONDS
from tests.support import events
from tests.support.edge import Edge, Rest, Rpc, bearer, caller
from tests.support.events import Event
from tests.support.installation import Installation
from tests.support.launches import ended, launched, lock, spec, token
from tests.support.tokens import Mint
from tests.support.watches import LOCKS, check, order, told, user

WATCH: Final = "/icto.backend.v1.LaunchService/WatchLaunch"
END: Final = Event("end", {})


# Quiet streams.


async def test_a_quiet_watch_outlives_every_idle_timeout(narrow: Installation) -> None:
    """One stream from the first change to the last; one that grows too old says so."""
    async with user(narrow) as client, caller(narrow.target) as edge:
        signed = bearer(await client.token())
        async with narrow.held(LOCKS):
            name = await order(client)
            path = f"/v1/{name}:watch"
            request = pb.WatchLaunchRequest(name=name)
            page = asyncio.create_task(edge.rest(Rest("GET", path, headers=signed)))
            native = asyncio.create_task(edge.grpc(Rpc(WATCH, request.SerializeToString(), signed)))
            old = await edge.rest(Rest("GET", path, headers=signed | {"grpc-timeout": "2S"}))
            await asyncio.sleep(2 * NARROW_IDLE_SECONDS)
            assert not page.done()
            assert not native.done()
        await ended(client, name)
        expected = await told(client, name)
        outcome = await page
        *changes, last = events.parse(outcome.body.decode())
        assert outcome.body.count(b": heartbeat") > 2
        assert ([change.data for change in changes], last) == (expected, END)
        assert (await native).status == 200
        *some, failure = events.parse(old.body.decode())
        assert [event.data for event in some] == expected[: len(some)]
        assert failure.name == "error"
        assert failure.data["details"][0]["reason"] == "STREAM_TOO_LONG"
    check(expected)


# One launch that has ended, read in many ways.


@pytest.fixture(scope="module")
async def owner(mesh: Installation) -> AsyncIterator[Client]:
    async with user(mesh) as client:
        yield client


@pytest.fixture(scope="module")
async def launch(owner: Client) -> str:
    """A launch that has ended."""
    done = await launched(owner, spec({"newToken": token()}, [lock(owner.principal)]))
    return str(done["name"])


@pytest.fixture(scope="module")
async def everything(owner: Client, launch: str) -> list[dict[str, Any]]:
    """Its changes."""
    return await told(owner, launch)


def reader(mint: Mint) -> dict[str, str]:
    """An administrator whom no limit has seen: one user may open few streams."""
    return bearer(mint.token(roles=(SUPER_ADMIN,)))


async def read(edge: Edge, path: str, headers: Mapping[str, str]) -> list[Event]:
    """The events of a stream that has ended."""
    outcome = await edge.rest(Rest("GET", path, headers=headers))
    assert outcome.status == 200, outcome
    assert outcome.headers["content-type"] == "text/event-stream"
    return events.parse(outcome.body.decode())


async def test_every_change_is_told_with_its_number_and_then_the_end(
    edge: Edge, owner: Client, launch: str, everything: list[dict[str, Any]]
) -> None:
    *changes, last = await read(edge, f"/v1/{launch}:watch", bearer(await owner.token()))
    assert last == END
    assert {event.name for event in changes} == {"change"}
    assert [event.id for event in changes] == [event.data["sequence"] for event in changes]
    assert [event.data for event in changes] == everything
    check(everything)


async def test_a_cookie_is_enough_to_follow(edge: Edge, owner: Client, launch: str) -> None:
    cookie = {"cookie": f"{COOKIE}={await owner.token()}"}
    assert (await read(edge, f"/v1/{launch}:watch", cookie))[-1] == END


async def test_a_browser_that_knows_the_end_is_told_to_stay_away(
    edge: Edge, mint: Mint, launch: str, everything: list[dict[str, Any]]
) -> None:
    """An EventSource comes back each second, until it is answered with 204 (WHATWG HTML, 9.2.3)."""
    headers = reader(mint) | {"last-event-id": str(len(everything))}
    for query in ("", "?afterSequence=1"):
        told_end = await edge.rest(Rest("GET", f"/v1/{launch}:watch{query}", headers=headers))
        assert (told_end.status, told_end.body) == (204, b"")
        assert "content-type" not in told_end.headers
        assert told_end.headers["cache-control"] == "no-store"


async def test_who_is_told_nothing_but_the_end_does_not_come_back_for_it(
    edge: Edge, mint: Mint, launch: str, everything: list[dict[str, Any]]
) -> None:
    """The stream says where it begins, so that a browser comes back with that number."""
    signed, path = reader(mint), f"/v1/{launch}:watch?afterSequence={len(everything)}"
    told_end = (await edge.rest(Rest("GET", path, headers=signed))).body.decode()
    assert events.parse(told_end) == [END]
    known = dict(re.findall(r"^(id): (\d+)$", told_end, re.MULTILINE))
    again = await edge.rest(Rest("GET", path, headers=signed | {"last-event-id": known["id"]}))
    assert again.status == 204


@pytest.mark.parametrize("path", ["/v1/{launch}:watch", "/v1/lab:streamEvents?count=1"])
async def test_no_cache_keeps_events(edge: Edge, mint: Mint, launch: str, path: str) -> None:
    told_all = await edge.rest(Rest("GET", path.format(launch=launch), headers=reader(mint)))
    assert (told_all.status, told_all.headers.get("cache-control")) == (200, "no-store")


@pytest.mark.parametrize("beyond", [1, 999_999_999, 2**63, 2**64])
async def test_a_number_beyond_the_newest_hides_nothing(
    edge: Edge, mint: Mint, launch: str, everything: list[dict[str, Any]], beyond: int
) -> None:
    """It was told by somebody else, or of another launch: everything is told, the end as well."""
    headers = reader(mint) | {"last-event-id": str(len(everything) + beyond)}
    *changes, _ = await read(edge, f"/v1/{launch}:watch", headers)
    assert [event.data for event in changes] == everything


@pytest.mark.parametrize("known", [1, 3, "all", 999_999_999])
async def test_a_watch_goes_on_after_any_number(
    edge: Edge,
    mint: Mint,
    owner: Client,
    launch: str,
    everything: list[dict[str, Any]],
    known: int | str,
) -> None:
    """After the last one there is nothing but the end."""
    after = len(everything) if known == "all" else int(known)
    signed, path = reader(mint), f"/v1/{launch}:watch"
    asked = [(0, f"?afterSequence={after}")]
    if after < len(everything):
        asked += [(after, ""), (after, "?afterSequence=1")]
    for number, query in asked:
        headers = signed | ({"last-event-id": str(number)} if number else {})
        *changes, last = await read(edge, path + query, headers)
        assert ([event.data for event in changes], last) == (everything[after:], END)
    native = [json_format.MessageToDict(c) async for c in follow.changes(owner, launch, after)]
    assert native == everything[after:]


@pytest.mark.parametrize("garbage", ["", "x", "-1", "1.5", "1e3", "٣", "9" * 40, "1, 2", "\x7f"])
async def test_a_last_event_id_that_is_none_of_ours_means_from_the_start(
    edge: Edge, mint: Mint, launch: str, garbage: str
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in reader(mint).items()]
    headers.append((b"last-event-id", garbage.encode()))
    async with edge.http.stream("GET", f"/v1/{launch}:watch", headers=headers) as reply:
        body = (await reply.aread()).decode()
    if reply.status_code == 400:  # not even a header: Envoy's parser refuses it
        assert garbage == "\x7f"
        return
    assert events.parse(body)[0].id == "1"


@pytest.mark.parametrize("which", ["a stranger's", "nobody's", "no name"])
async def test_what_is_not_yours_is_not_found_before_any_event(
    mesh: Installation, edge: Edge, launch: str, which: str
) -> None:
    name = {"a stranger's": launch, "nobody's": f"launches/{uuid4()}", "no name": "launches/x"}
    async with user(mesh) as stranger:
        signed = bearer(await stranger.token())
        request = pb.WatchLaunchRequest(name=name[which])
        told_all = await edge.all(
            Rest("GET", f"/v1/{name[which]}:watch", headers=signed),
            Rpc(WATCH, request.SerializeToString(), signed),
        )
        expected = (400, "INVALID_NAME") if which == "no name" else (404, "LAUNCH_NOT_FOUND")
        for outcome in told_all.values():
            assert outcome.refusal == expected
        with pytest.raises(grpc.aio.AioRpcError):
            await told(stranger, name[which])


async def test_nobody_follows_without_signing_in(edge: Edge, launch: str) -> None:
    """Without a token nobody learns whether there is one."""
    assert (await edge.rest(Rest("GET", f"/v1/{launch}:watch"))).refusal == (401, "TOKEN_MISSING")
    stub = LaunchServiceStub(edge.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.WatchLaunch(pb.WatchLaunchRequest(name=launch)).read()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
