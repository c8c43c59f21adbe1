"""A launch that is watched while replicas, the gateway and Envoy die: every change once."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format

from contract.tokens import COOKIE
from mesh.cli import follow
from mesh.cli.client import Client
from tests.conftest import tool
from tests.support.browser import Page, browser
from tests.support.installation import Installation, kill, until
from tests.support.watches import LOCKS, check, order, told, user


async def active(mesh: Installation) -> dict[str, int]:
    """Calls under way to each replica of the backend, by its socket."""
    clusters = json.loads(await mesh.envoy("/clusters?format=json"))["cluster_statuses"]
    hosts = next(c for c in clusters if c["name"] == "backend").get("host_statuses", ())
    return {
        host["address"]["pipe"]["path"]: next(
            int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_active"
        )
        for host in hosts
    }


async def kill_the_server(mesh: Installation, before: Mapping[str, int]) -> None:
    """Kills the replica of the backend that got another call since `before`."""

    async def serving() -> str | None:
        now = await active(mesh)
        return next((path for path, count in now.items() if count > before.get(path, 0)), None)

    socket = await until(serving)
    (replica,) = [r for r in await mesh.replicas("backend") if r["socket"] == socket]
    kill(replica["pid"])


async def kill_envoy(mesh: Installation) -> None:
    kill((await mesh.status())["envoy"]["pid"])


FOLLOW: Final = """
(() => {
  window.seen = []; window.opened = 0; window.ended = ''; window.closed = false;
  const source = new EventSource(%s);
  source.onopen = () => { window.opened += 1; };
  source.onerror = () => { window.closed ||= source.readyState === EventSource.CLOSED; };
  source.addEventListener('change', e => window.seen.push([e.lastEventId, JSON.parse(e.data)]));
  source.addEventListener('end', () => { window.ended = 'end'; source.close(); });
})()
"""
SIGN_IN: Final = """
fetch('/v1/sessions', {method: 'POST', headers: {'content-type': 'application/json'}, body: %s})
  .then(reply => reply.status)
"""


async def sign_in(page: Page, client: Client) -> None:
    """Signs a page in with the client's key; what remains of it is a cookie that it cannot read."""
    answer = await client.session_request()
    assert await page.run(SIGN_IN % json.dumps(json.dumps(answer))) == 200
    assert COOKIE not in await page.run("document.cookie")


async def test_a_browser_sees_every_change_once_through_kills(
    house: Installation, tmp_path: Path
) -> None:
    """The replica that serves the stream is killed, then Envoy; EventSource does the rest."""
    async with browser(tool("chromium"), tmp_path) as chromium, user(house) as client:
        page = await chromium.open(f"{house.edge}/.well-known/jwks.json")
        await sign_in(page, client)
        async with house.held(LOCKS):
            name = await order(client)
            before = await active(house)
            await page.run(FOLLOW % json.dumps(f"/v1/{name}:watch"))

            async def opened(times: int) -> bool:
                assert not await page.run("window.closed")
                return bool(await page.run("window.opened") >= times)

            await until(lambda: opened(1))
            await until(lambda: page.run("window.seen.length >= 3"))
            await kill_the_server(house, before)
            await until(lambda: opened(2), 20)
            await kill_envoy(house)
            await until(lambda: opened(3), 30)
        await until(lambda: page.run("window.ended === 'end'"), 60)
        seen = await page.run("window.seen")
        assert [change for _, change in seen] == await told(client, name)
        assert [int(number) for number, _ in seen] == list(range(1, len(seen) + 1))
        check([change for _, change in seen])
    await house.until_healthy()


async def test_a_watch_goes_on_after_the_last_number_through_kills(house: Installation) -> None:
    """The serving replica, the gateway and Envoy are killed, one after the other."""
    async with user(house) as client:
        seen: list[dict[str, Any]] = []

        async def watch(name: str) -> None:
            async for change in follow.changes(client, name):
                seen.extend([json_format.MessageToDict(change)])

        async with house.held(LOCKS):
            name = await order(client)
            before = await active(house)
            watching = asyncio.create_task(watch(name))
            await until(lambda: asyncio.sleep(0, len(seen) >= 3))
            await kill_the_server(house, before)
            for replica in await house.replicas("gateway"):
                kill(replica["pid"])
            await house.until_healthy()
            await kill_envoy(house)
            await house.until_healthy()
        async with asyncio.timeout(60):
            await watching
        assert seen == await told(client, name)
        check(seen)
