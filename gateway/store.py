"""SQL of signing in. One function an operation."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from gateway.domain import (
    ACTIVE,
    CHALLENGE_LIFETIME,
    DENY_LIMIT,
    SUPER_ADMIN,
    SigningKey,
)
from services.kit.storage import Connection, Database

_NOW: Final = "SELECT date_trunc('second', kit_now())"
_AUDIENCE: Final = "SELECT audience FROM installation"
_ADD_CHALLENGE: Final = """
INSERT INTO challenges (id, public_key, message, expire_time) VALUES ($1, $2, $3, $4)
"""
_TAKE_CHALLENGE: Final = """
DELETE FROM challenges WHERE id = $1 AND public_key = $2 AND expire_time > kit_now()
RETURNING message
"""
_FORGET_CHALLENGES: Final = "DELETE FROM challenges WHERE expire_time < kit_now()"
_KEYS: Final = """
SELECT kid, private_key, activate_time, retire_time FROM signing_keys
WHERE retire_time > kit_now() ORDER BY activate_time
"""
_LOCK_KEYS: Final = "SELECT pg_advisory_xact_lock(hashtext('signing keys'))"
_ADD_KEY: Final = """
INSERT INTO signing_keys (kid, private_key, activate_time, retire_time) VALUES ($1, $2, $3, $4)
"""
_FORGET_KEYS: Final = "DELETE FROM signing_keys WHERE retire_time < kit_now()"
_LOCK_PEOPLE: Final = "SELECT pg_advisory_xact_lock(hashtext('people'))"
_ROLES: Final = "SELECT role FROM roles WHERE principal = $1 ORDER BY role"
_GRANT: Final = """
INSERT INTO roles (principal, role, granted_by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_GRANTS: Final = """
WITH RECURSIVE behind AS (
    SELECT principal, role, granted_by, grant_time FROM roles WHERE principal = ANY ($1::text[])
    UNION
    SELECT roles.principal, roles.role, roles.granted_by, roles.grant_time
    FROM roles JOIN behind ON roles.principal = behind.granted_by
)
SELECT principal, role, granted_by, grant_time FROM behind
"""
_INACTIVE: Final = f"""
SELECT principal FROM user_statuses WHERE status <> {ACTIVE:d} AND principal = ANY ($1::text[])
"""
_REVOKE: Final = "DELETE FROM roles WHERE principal = $1 AND role = $2"
_STATUS: Final = "SELECT status FROM user_statuses WHERE principal = $1"
_SET_STATUS: Final = """
INSERT INTO user_statuses (principal, status) VALUES ($1, $2)
ON CONFLICT (principal) DO UPDATE SET status = excluded.status, change_time = kit_now()
"""
_DENIED: Final = f"""
SELECT principal FROM user_statuses WHERE status <> {ACTIVE:d}
    AND change_time > kit_now() - $1::interval
ORDER BY principal LIMIT $2
"""
_IS_BOOTSTRAPPED: Final = f"""
SELECT EXISTS (SELECT FROM roles WHERE role = '{SUPER_ADMIN}')
    OR EXISTS (SELECT FROM bootstrap_keys WHERE redeem_time IS NULL)
"""  # a constant
_DROP_BOOTSTRAP_KEYS: Final = "DELETE FROM bootstrap_keys WHERE redeem_time IS NULL"
_ADD_BOOTSTRAP_KEY: Final = "INSERT INTO bootstrap_keys (key_sha256) VALUES ($1)"
_REDEEM: Final = """
UPDATE bootstrap_keys SET redeem_time = kit_now(), redeemed_by = $2
WHERE key_sha256 = $1 AND redeem_time IS NULL RETURNING true
"""


async def now(database: Database) -> datetime:
    """The time, to the second."""
    value: datetime = await database.fetchval(_NOW)
    return value


async def audience(database: Database) -> str:
    """The name that this installation was given when its tables were made."""
    value: str = await database.fetchval(_AUDIENCE)
    return value


async def add_challenge(
    database: Database, challenge_id: UUID, public_key: bytes, message: bytes, issued: datetime
) -> None:
    """Keeps a challenge until it is used or expires."""
    expires = issued + CHALLENGE_LIFETIME
    await database.execute(_ADD_CHALLENGE, challenge_id, public_key, message, expires)


async def take_challenge(database: Database, challenge_id: UUID, public_key: bytes) -> bytes | None:
    """The challenge's message, once: whoever takes it uses it up."""
    message: bytes | None = await database.fetchval(_TAKE_CHALLENGE, challenge_id, public_key)
    return message


async def forget_challenges(database: Database) -> None:
    """Drops challenges that expired unused."""
    await database.execute(_FORGET_CHALLENGES)


async def keys(connection: Database | Connection) -> list[SigningKey]:
    """Keys that may verify a token now, oldest first."""
    return [SigningKey(*row) for row in await connection.fetch(_KEYS)]


async def lock_keys(connection: Connection) -> None:
    """Lets one replica at a time change the keys."""
    await connection.execute(_LOCK_KEYS)


async def add_key(connection: Connection, key: SigningKey) -> None:
    """Adds a key and drops those that have retired."""
    await connection.execute(_FORGET_KEYS)
    await connection.execute(_ADD_KEY, key.kid, key.private_key, key.activate_time, key.retire_time)


async def lock_people(connection: Connection) -> None:
    """Lets one act upon a person at a time through, so that what it was decided by still holds."""
    await connection.execute(_LOCK_PEOPLE)


async def roles(connection: Database | Connection, principal: str) -> list[str]:
    """Administrative roles of a principal."""
    return [row["role"] for row in await connection.fetch(_ROLES, principal)]


async def grant(connection: Connection, principal: str, role: str, granted_by: str) -> None:
    """Gives a role."""
    await connection.execute(_GRANT, principal, role, granted_by)


async def grants(database: Database, principals: Sequence[str]) -> list[Any]:
    """Roles of people, and of those who gave them, and so on."""
    return list(await database.fetch(_GRANTS, list(principals)))


async def inactive(database: Database, principals: Sequence[str]) -> list[str]:
    """Who of some people is suspended or banned."""
    rows = await database.fetch(_INACTIVE, list(principals))
    return [row["principal"] for row in rows]


async def revoke(connection: Connection, principal: str, role: str) -> None:
    """Takes a role away."""
    await connection.execute(_REVOKE, principal, role)


async def status(connection: Database | Connection, principal: str) -> int:
    """Status of a user, as icto.identity.v1.UserStatus."""
    found: int | None = await connection.fetchval(_STATUS, principal)
    return ACTIVE if found is None else found


async def set_status(connection: Connection, principal: str, status: int) -> None:
    """Changes a user's status."""
    await connection.execute(_SET_STATUS, principal, status)


async def denied(database: Database, period: timedelta) -> list[str]:
    """Users whose status changed within a period: tokens from before may still be good."""
    rows = await database.fetch(_DENIED, period, DENY_LIMIT)
    return [row["principal"] for row in rows]


async def is_bootstrapped(connection: Connection) -> bool:
    """Whether there is a super-admin, or a key with which somebody may become it."""
    return bool(await connection.fetchval(_IS_BOOTSTRAPPED))


async def replace_bootstrap_key(connection: Connection, key_sha256: bytes) -> None:
    """Makes this the only bootstrap key that works."""
    await connection.execute(_DROP_BOOTSTRAP_KEYS)
    await connection.execute(_ADD_BOOTSTRAP_KEY, key_sha256)


async def redeem(connection: Connection, key_sha256: bytes, principal: str) -> bool:
    """Uses a bootstrap key up. False when there is none like it."""
    return bool(await connection.fetchval(_REDEEM, key_sha256, principal))
