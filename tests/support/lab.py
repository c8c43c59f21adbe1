"""The lab as tests use it: what it counted, and how it is left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.support.installation import Installation

LAB: Final = "/icto.lab.v1.LabService"
JSON: Final = {"content-type": "application/json"}
_COUNT: Final = "SELECT count FROM lab.attempts WHERE key = $1"


async def attempts(mesh: Installation, key: str) -> int:
    """How often the lab was called with a key, whatever came of it."""
    async with mesh.superuser() as database:
        return await database.fetchval(_COUNT, key) or 0


@asynccontextmanager
async def shifted(mesh: Installation, service: str, interval: str) -> AsyncIterator[None]:
    """The clock of one service's database, moved on."""
    async with mesh.superuser() as database:
        await database.execute(f"UPDATE {service}.kit_clock SET shift = '{interval}'")
        try:
            yield
        finally:
            await database.execute(f"UPDATE {service}.kit_clock SET shift = '0'")
