"""What the audit tells of an operation, or of a resource."""

from icto.events.v1 import events_pb2 as events
from tests.support.installation import Installation, until

_TOLD = """
SELECT event FROM audit_storage.entries WHERE $1 IN (operation, subject) AND action = $2
ORDER BY sequence
"""


async def acts(mesh: Installation, operation: str, action: str) -> list[events.Act]:
    """What is told of it by now."""
    async with mesh.superuser() as database:
        rows = await database.fetch(_TOLD, operation, action)
    return [events.Event.FromString(row["event"]).act for row in rows]


async def act(mesh: Installation, operation: str, action: str) -> events.Act:
    """The one act of it, once it is told."""
    (found,) = await until(lambda: acts(mesh, operation, action), 15)
    return found  # type: ignore[no-any-return]  # what `acts` found


async def story(mesh: Installation, operation: str, action: str) -> list[events.Act]:
    """The same of what takes time, once whatever was begun has ended."""

    async def whole() -> list[events.Act] | None:
        told = await acts(mesh, operation, action)
        begun = sum(act.status == events.ACT_STATUS_INITIATED for act in told)
        return told if told and len(told) == 2 * begun else None

    found: list[events.Act] = await until(whole, 15)
    return found
