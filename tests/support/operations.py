"""Acts that take time, as the audit tells of them."""

from icto.events.v1 import events_pb2 as events
from tests.support.installation import Installation, until

_TOLD = "SELECT event FROM audit_storage.entries WHERE operation = $1 ORDER BY sequence"


async def story(mesh: Installation, operation: str, action: str) -> list[events.Act]:
    """What is told of an operation by one action, once whatever was begun has ended."""

    async def whole() -> list[events.Act] | None:
        async with mesh.superuser() as database:
            rows = await database.fetch(_TOLD, operation)
        acts = [events.Event.FromString(row["event"]).act for row in rows]
        told = [act for act in acts if act.action == action]
        begun = sum(act.status == events.ACT_STATUS_INITIATED for act in told)
        return told if told and len(told) == 2 * begun else None

    found: list[events.Act] = await until(whole, 15)
    return found
