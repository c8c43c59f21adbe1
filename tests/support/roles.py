"""Roles as if they had been given some time ago."""

from typing import Final

from tests.support.installation import Installation

LONG: Final = "2 days"
"""Long enough for a role to speak for its holder alone."""
_GIVE: Final = """
INSERT INTO gateway.roles (principal, role, granted_by, grant_time)
VALUES ($1, $2, $3, now() - $4::text::interval)
ON CONFLICT (principal, role) DO UPDATE SET
    granted_by = excluded.granted_by, grant_time = excluded.grant_time
"""


async def in_role(
    mesh: Installation, who: str, role: str, *, by: str = "bootstrap", ago: str = LONG
) -> None:
    """Somebody has had a role since then, from a principal or by a bootstrap key."""
    async with mesh.superuser() as database:
        await database.execute(_GIVE, who, role, by, ago)
