"""Metrics at one address: whoever reads them, and however many, holds nothing else up."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_families

from mesh import control
from mesh.cli.client import Client
from tests.support.edge import Edge, Rest, bearer
from tests.support.installation import Installation, until
from tests.support.tokens import Mint, somebody

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_SCRAPERS: Final = 8
_SUSPENSIONS: Final = 50
_TOGETHER: Final = 5
_EFFECTIVE_SECONDS: Final = 2.0
_CONTROL_SECONDS: Final = 0.2
# The scrapers, their load and the mesh share a machine, that may do much else.
_SLACK: Final = 3
_PAUSE: Final = 0.05


async def test_eight_scrapers_hold_up_neither_suspensions_nor_the_control_socket(
    mesh: Installation, edge: Edge, admin: Client, mint: Mint
) -> None:
    lost = await spans_lost(mesh)
    answers: list[int] = []
    control_took: list[float] = []

    async def scrape(http: httpx.AsyncClient, accept: str) -> None:
        answers.append((await http.get(url(mesh), headers={"accept": accept})).status_code)

    async def ask_supervisor() -> None:
        started = time.monotonic()
        await control.ask(mesh.run, "status")
        control_took.append(time.monotonic() - started)

    async with (
        httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=_SCRAPERS)) as http,
        repeating(
            *[lambda: scrape(http, _OPENMETRICS)] * (_SCRAPERS // 2),
            *[lambda: scrape(http, "text/plain")] * (_SCRAPERS // 2),
            ask_supervisor,
            lambda: edge.rest(Rest("GET", "/v1/whoami", headers=bearer(mint.anybody))),
        ),
    ):
        suspended = await suspend_many(edge, admin, mint)

    assert set(answers) == {200}
    assert len(answers) > 2 * _SCRAPERS
    assert max(suspended) < _SLACK * _EFFECTIVE_SECONDS
    assert max(control_took) < _SLACK * _CONTROL_SECONDS
    assert await spans_lost(mesh) == lost


async def suspend_many(edge: Edge, admin: Client, mint: Mint) -> list[float]:
    """Suspends users, a few at a time; the seconds until the edge turned each of them away."""
    places = asyncio.Semaphore(_TOGETHER)

    async def suspend() -> float:
        user = somebody()
        headers = bearer(mint.token(user)) | {"content-type": "application/json"}

        async def turned_away() -> bool:
            outcome = await edge.rest(Rest("PATCH", "/v1/users/me", b"{}", headers))
            return outcome.reason == "USER_SUSPENDED"

        async with places:
            body = {"requestId": str(uuid4()), "status": "USER_STATUS_SUSPENDED"}
            path = f"/v1/principals/{user}:setStatus"
            await admin.rest("POST", path, body | {"justification": "a test"})
            decided = time.monotonic()
            await until(turned_away, 60)
            return time.monotonic() - decided

    return list(await asyncio.gather(*(suspend() for _ in range(_SUSPENSIONS))))


@contextlib.asynccontextmanager
async def repeating(*acts: Callable[[], Any]) -> AsyncIterator[None]:
    """Acts that are done again and again in this block, each by itself, a moment apart."""
    stop = asyncio.Event()

    async def repeat(act: Callable[[], Any]) -> None:
        while not stop.is_set():
            await act()
            await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as tasks:
        for act in acts:
            tasks.create_task(repeat(act))
        try:
            yield
        finally:
            stop.set()


async def test_the_reference_parser_takes_what_is_offered_as_openmetrics(
    mesh: Installation, alice: Client
) -> None:
    await alice.rest("GET", "/v1/whoami")
    answer = (await get(mesh, accept=_OPENMETRICS)).raise_for_status()
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    parse: Any = openmetrics.text_string_to_metric_families
    families = {f.name: f for f in parse(answer.text)}
    assert families["rpc_server_call_duration_seconds"].type == "histogram"
    assert families["envoy_cluster_upstream_rq"].type == "counter"
    plain = {f.name: f for f in text_families((await get(mesh)).text)}
    assert plain.keys() == families.keys()
    for name, one in plain.items():
        assert one.type == families[name].type, name
        assert one.documentation == families[name].documentation, name


async def test_no_series_is_told_twice_or_for_nobody(mesh: Installation, alice: Client) -> None:
    await alice.rest("GET", "/v1/whoami")
    series = [
        line.rpartition(" ")[0] for line in (await get(mesh)).raise_for_status().text.splitlines()
    ]
    told = [one for one in series if not one.startswith("#")]
    assert len(told) == len(set(told))
    assert [one for one in told if re.match(r"\w+_created\b", one)] == []
    assert [one for one in told if re.search(r"_socket_event|_main_thread_|_worker_\d", one)] == []


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/favicon.ico"])
async def test_the_metrics_address_answers_nothing_else(mesh: Installation, path: str) -> None:
    assert (await get(mesh, path)).status_code == 404
    assert (await get(mesh, "/healthz")).status_code == 200
    assert (await get(mesh, "/metrics?name[]=up")).status_code == 200


async def get(mesh: Installation, path: str = "/metrics", accept: str = "*/*") -> httpx.Response:
    """What the metrics address answers."""
    async with httpx.AsyncClient(timeout=30) as http:
        return await http.get(url(mesh, path), headers={"accept": accept})


def url(mesh: Installation, path: str = "/metrics") -> str:
    return f"http://127.0.0.1:{mesh.metrics_port}{path}"


async def spans_lost(mesh: Installation) -> float:
    """Spans that replicas or Envoy have lost so far."""
    text = (await get(mesh)).text
    lost = re.findall(
        r"^(?:icto_spans_dropped_total|envoy_tracing_\w*dropped\w*)(?:{.*})? (\S+)$",
        text,
        re.MULTILINE,
    )
    return sum(map(float, lost))
