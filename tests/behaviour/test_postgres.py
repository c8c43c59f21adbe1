"""The embedded Postgres: found again, one server for one data, and in words what is wrong with it."""

import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mesh.postgres import EmbeddedPostgres, PostgresError
from mesh.rundir import RunDirectory
from tests.support.postgres import served


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        made = RunDirectory(Path(base) / "run")
        yield made
        made.remove()


async def ask(server: EmbeddedPostgres, statement: str) -> object:
    connection = await asyncpg.connect(server.server.dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def with_data(run: RunDirectory) -> None:
    """A server that has run, and left something."""
    async with served(run) as server:
        await ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")


def lose(run: RunDirectory) -> None:
    """The run directory goes; the database, which root keeps elsewhere, stays."""
    for path in run.path.iterdir():
        if path.is_dir() and path != run.database:
            shutil.rmtree(path)
        elif path != run.database:
            path.unlink()


async def test_data_is_found_again_when_the_run_directory_was_lost(
    run: RunDirectory, tmp_path: Path
) -> None:
    await with_data(run)
    lose(run)
    (tmp_path / "link").symlink_to(run.path.parent)
    async with served(RunDirectory(tmp_path / "link" / "run")) as server:
        assert await ask(server, "SELECT answer FROM kept") == 42
    assert stat.S_IMODE(run.database_password.stat().st_mode) == 0o600


async def test_a_password_of_before_is_adopted(run: RunDirectory) -> None:
    await with_data(run)
    secrets = {"postgres": run.database_password.read_text()}
    (run.path / "secrets.json").write_text(json.dumps(secrets))
    run.database_password.unlink()
    async with served(run):
        pass
    lose(run)
    async with served(run) as server:
        assert await ask(server, "SELECT answer FROM kept") == 42


async def test_a_database_whose_password_is_lost_is_refused_in_words(run: RunDirectory) -> None:
    await with_data(run)
    run.database_password.unlink()
    with pytest.raises(PostgresError, match=rf"in {run.database}, and its password is lost"):
        await EmbeddedPostgres(run, 10, lambda *_: None).prepare()
