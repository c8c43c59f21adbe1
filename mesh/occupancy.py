"""Whose a database is: the id of an installation, and the lock that its supervisor holds on it.

The id is kept in the database and stands in the names of its roles, which PostgreSQL shares between
all databases of a server. The lock is an advisory one of a session, so that it ends with whoever
holds it: a second supervisor on one database would restart what the first one runs.
"""

import asyncio
import contextlib
import logging
import secrets
from typing import Any, Final

import asyncpg

from mesh.postgres import DRIVER_FAILURES, PostgresError, Server

log = logging.getLogger(__name__)

_SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS icto_installation;
CREATE TABLE IF NOT EXISTS icto_installation.identity (
    single       boolean PRIMARY KEY DEFAULT true CHECK (single),
    id           text    NOT NULL,
    database_oid oid     NOT NULL
);
"""
# A copy of a database, restored or cloned, is another installation.
_IDENTIFY: Final = """
INSERT INTO icto_installation.identity (id, database_oid)
SELECT $1, oid FROM pg_database WHERE datname = current_database()
ON CONFLICT (single) DO UPDATE SET id = excluded.id, database_oid = excluded.database_oid
WHERE identity.database_oid <> excluded.database_oid
"""
_ID: Final = "SELECT id FROM icto_installation.identity"
# The number of the lock is "icto" in ASCII.
_LOCK: Final = "SELECT pg_try_advisory_lock(1768125551)"
_HOLDER: Final = """
SELECT pid, application_name, coalesce(host(client_addr), 'this machine') AS place, backend_start
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = 1768125551 AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_PROBE_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.25
# What a supervisor that was killed held is free once the server has noticed.
_PATIENCE_SECONDS: Final = 5.0


class Occupancy:
    """The hold of one supervisor on its database.

    Attributes:
        installation: the id of the installation, eight hexadecimal digits.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        # By this name it knows a session of its own that a cut connection left behind.
        self._name = f"icto supervisor {secrets.token_hex(8)}"
        self._connection: asyncpg.Connection[Any] | None = None
        self.installation = ""

    async def take(self) -> None:
        """Takes the lock, and reads the id of the installation or makes one.

        Raises:
            PostgresError: the server cannot be used, or another supervisor holds the database.
        """
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while (holder := await self._try()) is not None:
            if asyncio.get_running_loop().time() > deadline:
                raise PostgresError(
                    f"Another installation uses the database {self._server}: {holder}. Stop it, or"
                    " give this one a database of its own by ICTO_DATABASE_URL."
                )
            await asyncio.sleep(_RETRY_SECONDS)

    async def keep(self) -> None:
        """Holds the lock, and takes it again after a lost connection, until it is cancelled.

        Raises:
            PostgresError: another supervisor took the database meanwhile.
        """
        while True:
            if await self._alive():
                await asyncio.sleep(_PROBE_SECONDS)
                continue
            await self.release()
            try:
                await self.take()
            except _UnreachableError as error:
                log.debug("the lock on the database waits: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                log.warning("the lock on the database was lost with its connection; taken again")

    async def release(self) -> None:
        """Gives the database free."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _alive(self) -> bool:
        if self._connection is None or self._connection.is_closed():
            return False
        try:
            await self._connection.execute("SELECT 1", timeout=_ANSWER_SECONDS)
        except DRIVER_FAILURES:
            return False
        return True

    async def _try(self) -> str | None:
        """Tries to take the lock. Answers who has it, or None.

        Raises:
            PostgresError: the server cannot be used.
        """
        connection = await self._connect()
        try:
            if await connection.fetchval(_LOCK):
                self.installation = await _identified(connection)
                self._connection = connection
                return None
            return await self._holder(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PostgresError(
                f"The login for Postgres at {self._server} must own the database: {error}"
            ) from None
        except DRIVER_FAILURES as error:
            raise _UnreachableError(f"Postgres at {self._server} cannot be used: {error}") from None
        finally:
            if connection is not self._connection:
                connection.terminate()

    async def _connect(self) -> "asyncpg.Connection[Any]":
        try:
            return await self._server.connect(application_name=self._name)
        except PostgresError as error:
            raise _UnreachableError(str(error)) from None

    async def _holder(self, connection: "asyncpg.Connection[Any]") -> str:
        """Who holds the lock; a session of our own that was left behind is ended."""
        row = await connection.fetchrow(_HOLDER)
        if row is None:
            return "its supervisor has just connected"
        if row["application_name"] == self._name:
            with contextlib.suppress(*DRIVER_FAILURES):
                await connection.execute("SELECT pg_terminate_backend($1)", row["pid"])
        since = f"{row['backend_start']:%Y-%m-%d %H:%M:%S} UTC"
        return f"its supervisor is connected from {row['place']} since {since}"


class _UnreachableError(PostgresError):
    """The server does not answer now; it may later."""


async def _identified(connection: "asyncpg.Connection[Any]") -> str:
    """The id of the installation that the database belongs to, made now if there is none."""
    await connection.execute(_SCHEMA)
    await connection.execute(_IDENTIFY, secrets.token_hex(4))
    found: str = await connection.fetchval(_ID)
    return found
