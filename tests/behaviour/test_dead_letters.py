"""Events that the audit refuses for good: they hold up nothing, are seen, and can be replayed."""

from typing import Any
from uuid import uuid4

import pytest

from contract import ids
from icto.events.v1 import events_pb2 as events
from mesh.cli.client import CallError, Client
from tests.support.installation import Installation, until

_WRITE = "INSERT INTO kit_outbox (event) VALUES ($1)"
_FROM_TOMORROW = 999


def _event(version: int) -> events.Event:
    made = events.Event(
        id=str(ids.new_id("x")),
        source="/icto/token_deployer",
        type="icto.act.v1",
        subject=f"tokens/{uuid4()}",
        partition_key="x",
        version=version,
    )
    made.act.action = "DeployToken"
    made.act.status = events.ACT_STATUS_COMPLETED
    return made


async def test_a_refused_event_holds_up_nothing_and_is_replayed_by_an_admin(
    mesh: Installation, admin: Client, alice: Client
) -> None:
    bad, good = _event(_FROM_TOMORROW), _event(1)
    async with mesh.superuser() as database:
        await database.execute("SET search_path = token_deployer")
        for raw in (bad.SerializeToString(), b"\xff no event", good.SerializeToString()):
            await database.execute(_WRITE, raw)

    async def read(identifier: str) -> bool:
        try:
            await admin.rest("GET", f"/v1/auditEntries/{identifier}")
        except CallError:
            return False
        return True

    async def letters() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = (await admin.rest("GET", "/v1/deadLetters")).body[
            "deadLetters"
        ]
        return found if len(found) == 2 else None

    assert await until(lambda: read(good.id))
    waiting = await until(letters)
    assert {letter["source"] for letter in waiting} == {"token_deployer"}
    assert all(letter["reason"] for letter in waiting)
    body = {"requestId": str(uuid4()), "justification": "read by the new release"}
    for letter in waiting:
        with pytest.raises(CallError) as refused:
            await admin.rest("POST", f"/v1/{letter['name']}:replay", body | _fresh())
        assert refused.value.status == 400
    assert len(await until(letters)) == 2
    # What a new release of the reader does: it knows the version.
    bad.version = 1
    bad.time.GetCurrentTime()
    async with mesh.superuser() as database:
        raw = bad.SerializeToString()
        await database.execute("UPDATE audit_storage.dead_letters SET event = $1", raw)
    assert not await read(bad.id)
    await admin.rest("POST", f"/v1/{waiting[0]['name']}:replay", body | _fresh())
    assert await read(bad.id)
    await admin.rest("POST", f"/v1/{waiting[1]['name']}:replay", body | _fresh())
    assert (await admin.rest("GET", "/v1/deadLetters")).body["deadLetters"] == []
    with pytest.raises(CallError) as denied:
        await alice.rest("GET", "/v1/deadLetters")
    assert denied.value.status == 403


def _fresh() -> dict[str, str]:
    return {"requestId": str(uuid4())}
