"""Postgres, embedded or somebody's own: found again, never two on one data, and told in words."""

import asyncio
import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from contract import loader
from mesh import postgres as postgres_module
from mesh import rundir
from mesh.postgres import EmbeddedPostgres, PostgresError, Server
from mesh.rundir import RunDirectory
from tests.support.installation import Installation, deployed, installation, until
from tests.support.postgres import Postgres, served


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
    """The run directory goes; what lies beside the database, which root keeps elsewhere, stays."""
    kept = (run.database, run.state("audit_storage").parent)
    for path in run.path.iterdir():
        if path in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
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


async def test_a_database_that_lies_elsewhere_names_its_run_directory(run: RunDirectory) -> None:
    await with_data(run)
    if run.names_its_database_by_hash:
        assert (run.database / "run-directory").read_text() == f"{run.path}\n"
    else:
        assert run.path in run.database.parents


async def test_what_the_audit_signs_with_lies_beside_the_data(run: RunDirectory) -> None:
    """Or a lost run directory would have the audit call its own past forged."""
    await with_data(run)
    key = run.state("audit_storage") / "checkpoint.key"
    before = run.path / "state" / "audit_storage" / "checkpoint.key"
    before.parent.mkdir(parents=True, mode=0o700)
    before.write_text("a key of before")
    run.create()
    lose(run)
    assert key.read_text() == "a key of before"
    run.remove()
    assert not key.parent.parent.exists()


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


async def test_there_are_never_two_servers_on_one_data_and_the_second_waits(
    run: RunDirectory,
) -> None:
    """As when a supervisor was killed, and the next one is quicker than its Postgres' end."""
    async with served(run) as first:
        second = EmbeddedPostgres(run, 10, lambda *_: None)
        await second.prepare()
        trying = asyncio.create_task(second.process.keep_running(second.command))

        async def it_was_refused() -> bool:
            return second.process.restarts > 0

        await until(it_was_refused)
        assert not second._says_ready(), "the first one's word was taken for the second's"
        assert await ask(first, "SELECT 42") == 42
    await second.wait_until_ready()
    assert await ask(second, "SELECT 42") == 42
    trying.cancel()
    await second.process.stop(signal.SIGINT, 10)
    await asyncio.gather(trying, return_exceptions=True)


async def test_a_lock_that_names_another_program_by_now_does_not_block(run: RunDirectory) -> None:
    """After a restart of the machine, process ids are somebody else's."""
    async with served(run) as server:
        files = [server._pid_file, server._socket / ".s.PGSQL.5432.lock"]
        locks = [file.read_text().split("\n") for file in files]
    somebody = await asyncio.create_subprocess_exec("sleep", "100", cwd="/", user=server._user)
    try:
        for file, (_, *rest) in zip(files, locks, strict=True):
            file.write_text("\n".join((str(somebody.pid), *rest)))
            shutil.chown(file, file.parent.stat().st_uid, file.parent.stat().st_gid)
        async with served(run) as server:
            assert await ask(server, "SELECT 42") == 42
    finally:
        somebody.kill()
        await somebody.wait()


@pytest.fixture
async def elsewhere(postgres: Postgres) -> AsyncIterator[str]:
    """Somebody's own database, of a name that wants quotes."""
    async with postgres.connection() as connection:
        await connection.execute('CREATE DATABASE "our-tokens"')
        yield postgres.dsn.replace("/icto?", "/our-tokens?")
        await connection.execute('DROP DATABASE "our-tokens" WITH (FORCE)')


async def test_a_mesh_runs_on_a_database_of_any_name(elsewhere: str) -> None:
    async with installation("[database]\npool = 2\n", {"ICTO_DATABASE_URL": elsewhere}) as running:
        assert (await running.status())["postgres"] is None
        alice = await running.user()
        token = (await deployed(alice))["token"]
        await alice.close()
    connection = await asyncpg.connect(elsewhere)
    count = await connection.fetchval("SELECT count(*) FROM token_deployer.tokens")
    await connection.close()
    assert (count, bool(token)) == (1, True)


async def test_an_address_where_nobody_answers_is_told_in_words() -> None:
    url = "postgresql://me:secret@127.0.0.1:1/icto"
    async with installation(environment={"ICTO_DATABASE_URL": url}, start=False) as running:
        running.spawn()
        assert running.process is not None
        assert await asyncio.to_thread(running.process.wait, 60) == 1
        output = running.output().decode()
    assert "Postgres at postgresql://127.0.0.1:1/icto cannot be used: " in output
    assert "Traceback" not in output
    assert "secret" not in output


@pytest.mark.parametrize("url", ["postgresql://me:x@127.0.0.1", "nonsense", "postgresql://[", ""])
def test_what_is_no_address_is_refused_in_words(url: str) -> None:
    with pytest.raises(PostgresError, match="must be like postgresql://user:password@host"):
        Server.external(url)


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("//postgres:", "//somebody:", "password authentication failed"),
        ("/icto?", "/nothing?", 'database "nothing" does not exist'),
        ("port=5432", "port=five", "cannot be used: "),
    ],
)
async def test_a_login_that_fails_is_told_in_words(
    postgres: Postgres, right: str, wrong: str, says: str
) -> None:
    assert right in postgres.dsn
    with pytest.raises(PostgresError, match=says):
        async with Server(postgres.dsn.replace(right, wrong)).connection():
            pass


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass."""
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        Path(base).chmod(0o755)
        (Path(base) / "lib").mkdir(mode=0o755)
        yield Path(base)


@pytest.mark.skipif(os.getuid() != 0, reason="only root keeps its data where others must pass")
@pytest.mark.parametrize("umask", [0o027, 0o077])
async def test_root_starts_first_under_a_strict_umask(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    folder = open_folder / "lib" / "icto"
    monkeypatch.setattr(postgres_module, "_ROOT_BINARIES", folder)
    monkeypatch.setattr(rundir, "_ROOT_STATE", folder)
    before = os.umask(umask)
    try:
        async with served(RunDirectory(open_folder / "run")) as server:
            assert await ask(server, "SELECT 42") == 42
    finally:
        os.umask(before)


async def test_the_connections_that_listen_are_those_that_the_contract_counts(
    mesh: Installation,
) -> None:
    services = loader.load("test").services.values()
    counted = {s.mesh_name: s.replicas * s.listeners for s in services if s.listeners}
    assert counted

    async def all_listen() -> bool:
        async with mesh.superuser() as database:
            rows = await database.fetch(
                "SELECT usename, count(*) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN %' AND usename LIKE 'icto%' GROUP BY usename"
            )
        found = dict(rows)
        return len(found) == len(counted) and all(
            number == counted[mesh_name]
            for mesh_name in counted
            for role, number in found.items()
            if role.endswith(mesh_name)
        )

    await until(all_listen)
