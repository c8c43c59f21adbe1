"""What hangs takes nobody's metrics along, and holds up no suspension: of every part but replicas.

Replicas that hang are replaced; see test_hanging_replicas.py.
"""

import asyncio
import re
import signal
import time
from typing import Any

import httpx

from mesh.cli.client import Client
from tests.support.administration import administrator
from tests.support.installation import Installation, signalled, until
from tests.support.money import post, reason_of
from tests.support.processes import command_of, descendants

_EFFECTIVE_SECONDS = 2.0
_SLACK = 3


async def test_a_supervisor_that_hangs_holds_up_neither_metrics_nor_a_suspension(
    house: Installation,
) -> None:
    assert house.process is not None
    alice = await house.user(0)
    async with administrator(house) as admin:
        signalled(house.process.pid, signal.SIGSTOP)
        try:
            await suspend(admin, alice)
            decided = time.monotonic()
            await until(turned_away(alice), _SLACK * _EFFECTIVE_SECONDS)
            text = await metrics(house)
        finally:
            signalled(house.process.pid, signal.SIGCONT)
    assert time.monotonic() > decided
    assert 'icto_metrics_source_up{source="supervisor"} 0.0' in text
    assert 'icto_metrics_source_up{source="envoy"} 1.0' in text
    assert len(re.findall(r"^icto_replica_up{.*} 1\.0$", text, re.MULTILINE)) == text.count(
        "\nicto_replica_up{"
    )
    await alice.close()


async def test_how_old_the_deny_list_is_shows_when_nothing_renews_it(house: Installation) -> None:
    assert house.process is not None
    assert await age_of_the_deny_list(house) < _SLACK * _EFFECTIVE_SECONDS
    (keeper,) = [p for p in descendants(house.process.pid) if "mesh.denylist" in command_of(p.pid)]
    signalled(keeper.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        await asyncio.sleep(_EFFECTIVE_SECONDS)
        passed = time.monotonic() - stopped
        assert await age_of_the_deny_list(house) >= passed - 1
    finally:
        signalled(keeper.pid, signal.SIGCONT)

    async def renewed() -> bool:
        return await age_of_the_deny_list(house) < 1

    await until(renewed)


async def suspend(admin: Client, user: Client) -> None:
    path = f"/v1/principals/{user.principal}:setStatus"
    await post(admin, path, status="USER_STATUS_SUSPENDED", justification="a test")


def turned_away(user: Client) -> Any:
    async def edge_turns_them_away() -> bool:
        return await reason_of(user.rest("PATCH", "/v1/users/me", {})) == "USER_SUSPENDED"

    return edge_turns_them_away


async def metrics(house: Installation) -> str:
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.get(f"http://127.0.0.1:{house.metrics_port}/metrics")
        return answer.raise_for_status().text


async def age_of_the_deny_list(house: Installation) -> float:
    (age,) = re.findall(r"^icto_deny_list_age_seconds (\S+)$", await metrics(house), re.MULTILINE)
    return float(age)
