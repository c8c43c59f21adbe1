"""Postgres that is killed ends no replica, however often and whatever part of it is killed."""

import contextlib
import json
import random
import signal
from typing import Any, Final

import pytest

from mesh.postgres import DRIVER_FAILURES
from tests.support.installation import Installation, signalled, until
from tests.support.load import load_on

_KILLS: Final = 20
_OF_ITS_MAIN_PROCESS: Final = 3
_HEAL_SECONDS: Final = 60.0
_BACKENDS: Final = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '-[0-9]+$'"


@pytest.mark.timeout(300)
async def test_twenty_kills_of_postgres_under_load_end_no_replica(house: Installation) -> None:
    """One backend that is killed takes all connections along; the main process, the server."""
    before = {file: file.stat().st_size for file in house.run.logs.glob("*-[0-9].log")}
    pids = {replica["name"]: replica["pid"] for replica in (await house.status())["replicas"]}
    chance = random.Random(30)
    async with load_on(house) as load:
        for number in range(_KILLS):
            backends = await until(connected(house), _HEAL_SECONDS)
            if number % (_KILLS // _OF_ITS_MAIN_PROCESS) == 0:
                assert house.postgres_pid is not None
                signalled(house.postgres_pid, signal.SIGKILL)
            else:
                signalled(chance.choice(backends), signal.SIGKILL)
        await until(connected(house), _HEAL_SECONDS)
        await house.until_healthy(_HEAL_SECONDS)
        assert load.failures(), "nobody was calling"
    after = {replica["name"]: replica["pid"] for replica in (await house.status())["replicas"]}
    assert after == pids
    told = [
        json.loads(line)
        for file, size in before.items()
        for line in file.read_bytes()[size:].decode().splitlines()
    ]
    assert [line for line in told if "Traceback" in line["message"]] == []
    assert [line for line in told if 'File "' in line["message"]] == []


def connected(house: Installation) -> Any:
    """The processes of Postgres that work for replicas, once there are some again."""

    async def some_replicas_are_connected() -> list[int]:
        with contextlib.suppress(*DRIVER_FAILURES):
            async with house.superuser() as database:
                return [row["pid"] for row in await database.fetch(_BACKENDS)]
        return []

    return some_replicas_are_connected
