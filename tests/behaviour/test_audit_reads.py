"""The audit: who reads what of it, how it is paged, and what happens while it is away."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mesh.cli.client import CallError, Client
from tests.support.edge import Edge, Rest, bearer
from tests.support.installation import Installation, deployed, until
from tests.support.tokens import Mint

ENTRIES = "/v1/auditEntries"
GUARDED = (f"{ENTRIES}:verify", "/v1/auditCheckpoints")


async def project_of(client: Client) -> None:
    """Something to tell."""
    body = {"requestId": str(uuid4()), "project": {"displayName": "A project"}}
    await client.rest("POST", "/v1/projects", body)


async def entries_of(client: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.rest("GET", f"{ENTRIES}?{query}")).body["entries"]
    return found


async def some_entries(client: Client, count: int) -> list[dict[str, Any]]:
    async def there() -> list[dict[str, Any]] | None:
        found = await entries_of(client, "action=CreateProject")
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = await until(there)
    return found


async def test_users_read_what_they_did_and_nothing_else(
    alice: Client, bob: Client, edge: Edge, mint: Mint
) -> None:
    """Upstream's audit was open to everybody (F-29)."""
    await project_of(alice)
    (entry,) = await some_entries(alice, 1)
    assert entry["event"]["act"]["principal"] == alice.principal
    assert (await alice.rest("GET", f"/v1/{entry['name']}")).body == entry
    assert await entries_of(bob) == []
    for path, status in (
        (f"/v1/{entry['name']}", 404),
        (f"{ENTRIES}?principal={alice.principal}", 403),
        *((path, 403) for path in GUARDED),
    ):
        with pytest.raises(CallError) as caught:
            await bob.rest("GET", path)
        assert caught.value.status == status, path
    for path in (ENTRIES, f"/v1/{entry['name']}", *GUARDED):
        assert (await edge.rest(Rest("GET", path))).status == 401
        reader = bearer(mint.token(roles=["READ_ONLY"]))
        assert (await edge.rest(Rest("GET", path, headers=reader))).status == 200, path
        support = bearer(mint.token(roles=["SUPPORT"]))
        allowed = (await edge.rest(Rest("GET", path, headers=support))).status
        assert allowed == (200 if path == ENTRIES else 404 if entry["name"] in path else 403)


async def test_pages_hold_still_while_the_audit_grows(alice: Client, admin: Client) -> None:
    """By key and newest first: nothing twice, nothing left out, whatever is added (F-30)."""
    for _ in range(7):
        await project_of(alice)
    before = [entry["name"] for entry in await some_entries(alice, 7)]
    query = f"{ENTRIES}?principal={alice.principal}&action=CreateProject&pageSize=2"
    seen, token = list[str](), ""
    while True:
        page = (await admin.rest("GET", f"{query}&pageToken={token}")).body
        assert len(page["entries"]) <= 2
        seen += [entry["name"] for entry in page["entries"]]
        token = page["nextPageToken"]
        if not token:
            break
        await project_of(alice)
    assert seen == before
    sequences = [int(entry["sequence"]) for entry in await entries_of(admin, "pageSize=100")]
    assert sequences == sorted(sequences, reverse=True)


async def pending_events(mesh: Installation) -> float:
    """What the metrics say of events that wait for the audit."""
    async with httpx.AsyncClient() as client:
        text = (await client.get((await mesh.status())["metrics"])).text
    lines = [line for line in text.splitlines() if line.startswith("icto_outbox_pending_events{")]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_while_the_audit_is_away_work_goes_on_and_nothing_is_lost(
    mesh: Installation, alice: Client, admin: Client
) -> None:
    """Events wait in the outbox, and the metrics say how many (F-28)."""
    async with mesh.frozen("audit_storage"):
        ended = await deployed(alice)
        assert ended["state"] == "DEPLOYMENT_STATE_SUCCEEDED"

        async def they_wait() -> bool:
            return await pending_events(mesh) > 0

        await until(they_wait)

    async def told() -> bool:
        try:
            found = await entries_of(admin, f"operation={ended['name']}&pageSize=100")
        except CallError as refused:
            # A replica that has just woken up takes what it slept through for load.
            assert refused.reason == "OVERLOADED"  # noqa: PT017
            return False
        acts = [entry["event"]["act"] for entry in found]
        told = {(act["action"], act["status"]) for act in acts}
        return {
            ("CreateToken", "ACT_STATUS_INITIATED"),
            ("CreateToken", "ACT_STATUS_COMPLETED"),
        } <= told

    await until(told, 20)

    async def none_waits() -> bool:
        await asyncio.sleep(0.2)
        return await pending_events(mesh) == 0

    await until(none_waits, 20)
    assert (await admin.rest("GET", GUARDED[0])).body["intact"]
