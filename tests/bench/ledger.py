"""Transfers on one token and on many, and how fast the audit takes what they tell."""

import asyncio
import time
from typing import Final
from uuid import uuid4

from contract import principal
from mesh.cli.client import Client
from tests.bench.http import Pool
from tests.bench.report import Figure, Report
from tests.support.installation import E8S, Installation, deployed, until

_USERS: Final = 24
_SECONDS: Final = 4.0
_IN_FLIGHT: Final = 48
_FUNDS: Final = 1_000_000 * E8S
_FRIEND: Final = principal.of_service("friend of the bench")
_OUTBOX: Final = "SELECT count(*) FROM ledger.kit_outbox"
_HEAD: Final = "SELECT sequence FROM audit_storage.head"


async def measure(report: Report, installation: Installation) -> None:
    """Closed loop over REST: so many callers, each with one transfer under way."""
    report.title(f"Ledger and audit, REST, {_IN_FLIGHT} callers, tracing off")
    users = [await installation.user(_FUNDS) for _ in range(_USERS)]
    tokens = [(await deployed(user))["token"].replace("tokens", "ledgers") for user in users]
    pool = Pool(installation.port)
    one = await _transfers(installation, pool, [(user, "ledgers/icp") for user in users])
    many = await _transfers(installation, pool, list(zip(users, tokens, strict=True)))
    report.add(Figure("transfers a second, one token", one[0], "1/s", "", one[2]))
    report.add(Figure(f"transfers a second, {_USERS} tokens", many[0], "1/s", "", many[2]))
    report.add(Figure("audit entries a second, end to end", many[1], "1/s", "", many[2]))
    pool.close()
    for user in users:
        await user.close()


async def _transfers(
    installation: Installation, pool: Pool, pairs: list[tuple[Client, str]]
) -> tuple[float, float, int]:
    """Transfers a second, entries a second until the audit has them all, and how many."""
    end, done = time.perf_counter() + _SECONDS, 0

    async def caller(number: int) -> None:
        nonlocal done
        user, ledger = pairs[number % len(pairs)]
        token = await user.token()
        while time.perf_counter() < end:
            body = {"requestId": str(uuid4()), "to": {"owner": _FRIEND}, "amount": "1"}
            await pool.post(f"/v1/{ledger}:transfer", token, body)
            done += 1

    async with installation.superuser() as database:
        before, began = await database.fetchval(_HEAD), time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(_IN_FLIGHT)))
        seconds = time.perf_counter() - began

        async def audited() -> bool:
            return bool(await database.fetchval(_OUTBOX) == 0)

        await until(audited, 60.0)
        entries = (await database.fetchval(_HEAD)) - before
        return done / seconds, entries / (time.perf_counter() - began), done
