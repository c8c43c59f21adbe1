"""Schemas come up to date once, however many replicas start at the same time."""

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

from contract.environment import Environment
from schema_setup import migrations
from tests.support.postgres import JOURNAL, LAB, Postgres, Schema


async def migrated(
    schema: Schema, package: str = LAB, environment: Environment = Environment.TEST
) -> int:
    async with schema.connection() as connection:
        return await migrations.migrate(connection, package, environment)


async def tables(schema: Schema) -> set[str]:
    async with schema.connection() as connection:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r'",
            schema.name,
        )
    return {row["relname"] for row in rows}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service's package with a schema of its own."""
    folder = tmp_path / "sample_service"
    (folder / "migrations").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "schema.sql").write_text("CREATE TABLE samples (id int PRIMARY KEY);")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sample_service", raising=False)
    return folder


async def test_ten_replicas_that_start_at_once_migrate_once(postgres: Postgres) -> None:
    schema = await postgres.empty_schema()
    applied = await asyncio.gather(*(migrated(schema) for _ in range(10)))
    assert sorted(applied) == [0] * 9 + [3]
    assert {"kit_answers", "kit_outbox", "kit_leases", "attempts"} <= await tables(schema)


async def test_what_was_applied_is_not_applied_again(postgres: Postgres) -> None:
    schema = await postgres.empty_schema()
    assert await migrated(schema) == 3
    assert await migrated(schema) == 0


async def test_later_files_are_applied_in_the_order_of_their_numbers(
    postgres: Postgres, package: Path
) -> None:
    schema = await postgres.empty_schema()
    assert await migrated(schema, package.name) == 3
    for number, change in (
        ("0010", "ALTER TABLE samples ALTER name SET NOT NULL"),
        ("0002", "ALTER TABLE samples ADD name text"),
    ):
        (package / "migrations" / f"{number}_change.sql").write_text(change)
    assert await migrated(schema, package.name) == 2
    assert await migrated(schema, package.name) == 0
    async with schema.connection() as connection:
        rows = await connection.fetch(
            "SELECT number, name FROM kit_migrations WHERE module = $1 ORDER BY apply_time, number",
            package.name,
        )
    assert [tuple(row) for row in rows] == [(1, "schema"), (2, "change"), (10, "change")]


async def test_a_migration_that_fails_leaves_nothing(postgres: Postgres, package: Path) -> None:
    schema = await postgres.empty_schema()
    broken = package / "migrations" / "0002_broken.sql"
    broken.write_text("CREATE TABLE more (id int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrated(schema, package.name)
    assert await tables(schema) == set()
    broken.write_text("CREATE TABLE more (id int);")
    assert await migrated(schema, package.name) == 4
    assert {"samples", "more"} <= await tables(schema)


async def test_a_schema_brings_the_packages_that_it_requires(
    postgres: Postgres, package: Path
) -> None:
    schema = await postgres.empty_schema()
    (package / "schema.sql").write_text(
        f"-- requires: {JOURNAL}\nCREATE TABLE samples (id uuid REFERENCES kit_pipelines);"
    )
    kit = sum(len(migrations.of_package(one)) for one in ("services.kit", JOURNAL))
    assert await migrated(schema, package.name) == kit + 1
    assert {"kit_pipelines", "kit_steps", "samples"} <= await tables(schema)


async def test_two_services_share_no_table(postgres: Postgres) -> None:
    one, other = await postgres.schema(), await postgres.schema()
    async with one.connection() as connection:
        await connection.execute("INSERT INTO attempts VALUES ('key', 1)")
    async with other.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 0


async def test_only_a_test_can_shift_the_clock(postgres: Postgres) -> None:
    schema = await postgres.empty_schema()
    question = "SELECT kit_now() - now() > interval '1 hour'"
    await migrated(schema, environment=Environment.TEST)
    async with schema.connection() as connection:
        await connection.execute("UPDATE kit_clock SET shift = '48 hours'")
        assert await connection.fetchval(question)
    for environment in (Environment.LOCAL, Environment.PRODUCTION):
        await migrated(schema, environment=environment)
        assert "kit_clock" not in await tables(schema)
        async with schema.connection() as connection:
            assert not await connection.fetchval(question)
