"""Whose a database is: installations on one server leave one another alone, two never share one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from contract import loader
from contract.environment import Environment
from mesh.occupancy import Occupancy
from mesh.postgres import PostgresError, Server, provision, role_name
from tests.support.installation import until
from tests.support.postgres import Postgres

CONTRACT = loader.load("local")


def passwords(word: str) -> Mapping[str, str]:
    """A password for each service."""
    return dict.fromkeys(CONTRACT.services, word)


@contextlib.asynccontextmanager
async def database(postgres: Postgres, name: str, template: str = "") -> AsyncIterator[Server]:
    """A database of its own on the shared server."""
    async with postgres.connection() as connection:
        await connection.execute(
            f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")
        )
    server = Server(postgres.dsn.replace("/icto?", f"/{name}?"))
    try:
        yield server
    finally:
        async with postgres.connection() as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def occupied(server: Server) -> AsyncIterator[Occupancy]:
    """A supervisor's hold on a database, taken and not yet watched."""
    occupancy = Occupancy(server)
    await occupancy.take()
    try:
        yield occupancy
    finally:
        await occupancy.release()


async def provisioned(server: Server, word: str) -> str:
    """Brings a database up to date as a supervisor does; the id of the installation."""
    async with occupied(server) as occupancy:
        await provision(
            server, occupancy.installation, CONTRACT, passwords(word), Environment.LOCAL
        )
        return occupancy.installation


async def reads_its_tables(server: Server, installation: str, word: str) -> bool:
    """Whether the backend gets in and may read what it keeps."""
    dsn = server.service_dsn(role_name(installation, "backend"), word)
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM users") == 0)
    finally:
        await connection.close()


async def test_installations_on_one_server_leave_one_anothers_passwords_alone(
    postgres: Postgres,
) -> None:
    async with database(postgres, "first") as first, database(postgres, "second") as second:
        ours = await provisioned(first, "ours")
        theirs = await provisioned(second, "theirs")
        assert ours != theirs
        assert await reads_its_tables(first, ours, "ours")
        assert await reads_its_tables(second, theirs, "theirs")


async def test_a_copy_of_a_database_is_another_installation(postgres: Postgres) -> None:
    async with database(postgres, "original") as original:
        ours = await provisioned(original, "ours")
        async with database(postgres, "copied", "original") as copy:
            theirs = await provisioned(copy, "theirs")
            assert ours != theirs
            assert await reads_its_tables(original, ours, "ours")
            assert await reads_its_tables(copy, theirs, "theirs")


async def as_before(server: Server) -> None:
    """Roles as an older installation named them: without an id."""
    installation = await provisioned(server, "old")
    async with server.connection() as connection:
        for mesh_name in CONTRACT.services:
            await connection.execute(
                f"ALTER ROLE {role_name(installation, mesh_name)} RENAME TO icto_{mesh_name}"
            )
        await connection.execute("DROP SCHEMA icto_installation CASCADE")


async def test_roles_of_an_older_installation_are_renamed_in_place(postgres: Postgres) -> None:
    async with database(postgres, "older") as server:
        await as_before(server)
        async with server.connection() as connection:
            before = await connection.fetchval("SELECT 'icto_backend'::regrole::oid")
            installation = await provisioned(server, "new")
            role = role_name(installation, "backend")
            assert await connection.fetchval(f"SELECT '{role}'::regrole::oid") == before
        assert await reads_its_tables(server, installation, "new")


async def test_a_role_that_another_database_uses_is_left_to_it(postgres: Postgres) -> None:
    async with database(postgres, "shared") as one:
        await as_before(one)
        async with database(postgres, "sharing", "shared") as two:
            async with two.connection() as connection:
                await connection.execute("GRANT CONNECT ON DATABASE sharing TO icto_backend")
            installation = await provisioned(two, "new")
            assert await reads_its_tables(two, installation, "new")
            connection = await asyncpg.connect(one.service_dsn("icto_backend", "old"))
            await connection.close()
            await provisioned(one, "moved")


async def test_a_second_supervisor_on_a_database_is_refused_in_words(postgres: Postgres) -> None:
    async with database(postgres, "taken") as server, occupied(server):
        with pytest.raises(PostgresError, match=r"Another installation uses the database .*/taken"):
            await Occupancy(server).take()


async def ends_sessions(server: Server) -> None:
    """Cuts every connection to a database but the one that does it."""
    async with server.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def is_held(server: Server) -> bool:
    """Whether a supervisor holds the database."""
    async with server.connection() as connection:
        return bool(
            await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        )


async def test_a_lock_that_was_lost_with_its_connection_is_taken_again(postgres: Postgres) -> None:
    async with database(postgres, "cut") as server, occupied(server) as occupancy:
        keeping = asyncio.create_task(occupancy.keep())
        try:
            await ends_sessions(server)

            async def held() -> bool:
                return await is_held(server)

            await until(held)
            assert not keeping.done()
        finally:
            keeping.cancel()


async def test_a_supervisor_whose_database_was_taken_meanwhile_ends(postgres: Postgres) -> None:
    async with database(postgres, "lost") as server, occupied(server) as occupancy:
        await ends_sessions(server)
        async with occupied(server):
            with pytest.raises(PostgresError, match="Another installation uses the database"):
                await asyncio.wait_for(occupancy.keep(), 30)
