"""A backup is of one moment, taken while the platform works; what is restored from it adds up."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contract import loader
from contract.environment import Environment
from icto.audit.v1 import audit_pb2
from icto.audit.v1.audit_pb2_grpc import AuditServiceStub
from mesh import archive, backup, restore
from mesh.archive import BackupError, Manifest
from mesh.cli.client import Client
from mesh.occupancy import Occupancy
from mesh.postgres import PostgresError, Server, provision, role_name
from mesh.rundir import RunDirectory, RunDirectoryError
from tests.chaos import invariants, launch_invariants
from tests.support.installation import Installation, installation, until
from tests.support.launches import lock, ordered, spec, token
from tests.support.postgres import Postgres

LAUNCHES = 50
AT_ONCE = 8
CONTRACT = loader.load("local")
_COUNT = "SELECT count(*) FROM backend.launches"
_UNFINISHED = """
SELECT count(*) FROM backend.launches AS l JOIN backend.kit_pipelines AS p USING (id)
WHERE p.state NOT IN (2, 3, 4)
"""


async def launch_many(client: Client, enough: asyncio.Event) -> None:
    """Orders launches, a few at a time: fifty at least, and on until it is enough."""
    left = LAUNCHES

    async def one_after_another() -> None:
        nonlocal left
        while left > 0 or not enough.is_set():
            left -= 1
            await ordered(client, spec({"newToken": token()}, [lock(client.principal)]))

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))


async def chain_of(mesh: Installation, start: int = 1) -> audit_pb2.VerifyChainResponse:
    """What the verification of the audit says."""
    async with mesh.operator() as operator:
        request = audit_pb2.VerifyChainRequest(from_sequence=start)
        return await operator.stub(AuditServiceStub).VerifyChain(request, timeout=60)


async def until_all_ended(mesh: Installation) -> None:
    async with mesh.superuser() as database:

        async def ended() -> bool:
            unsent = await invariants.unsent_events(database)
            return not unsent and not await database.fetchval(_UNFINISHED)

        await until(ended, 120)


async def signed_beyond(mesh: Installation, sequence: int) -> None:
    """Waits until a checkpoint covers entries that come after one."""
    file = mesh.run.state("audit_storage") / "checkpoints.jsonl"

    async def signed() -> bool:
        newest = [line for line in file.read_text().splitlines() if line][-1]
        return int(newest.split(",")[0].rpartition(" ")[2]) > sequence

    await until(signed, 30)


@pytest.mark.timeout(400)  # two starts and a hundred launches, on a slow machine
async def test_what_is_restored_from_a_backup_under_load_ends_and_adds_up() -> None:
    """Fifty launches while it is taken, fifty more, restored: and the audit names what is gone."""
    settings = {"ICTO_AUDIT_CHECKPOINT_SECONDS": "1"}
    async with installation(environment=settings) as mesh:
        file = mesh.run.path.with_name("backup")
        alice = await mesh.user(10**13)
        enough = asyncio.Event()
        working = asyncio.create_task(launch_many(alice, enough))
        async with mesh.superuser() as database:

            async def under_way() -> bool:
                return bool(await database.fetchval(_UNFINISHED))

            await until(under_way)
            earlier = await database.fetchval(_COUNT)
            code, said = await mesh.icto("backup", str(file))
            assert (code, "holds secrets" in said) == (0, True), said
            assert await database.fetchval(_COUNT) > earlier, "it was not taken under load"
        enough.set()
        await working
        await launch_many(alice, enough)
        async with mesh.superuser() as database:
            before = await database.fetchval("SELECT max(sequence) FROM audit_storage.entries")
            lost = await database.fetchval(_COUNT)
        await signed_beyond(mesh, before - 100)
        code, said = await mesh.icto("restore", str(file), "--replace")
        assert (code, "is in use" in said) == (1, True), said
        await mesh.stop()

        code, said = await mesh.icto("restore", str(file))
        assert (code, "With --replace it is set aside" in said) == (1, True), said
        code, said = await mesh.icto("restore", str(file), "--replace")
        assert code == 0, said
        await mesh.start()
        await until_all_ended(mesh)
        async with mesh.superuser() as database:
            found = await invariants.of_money(database) + await launch_invariants.of_launches(
                database
            )
            found += await invariants.of_audit(database, mesh)
            assert 0 < await database.fetchval(_COUNT) < lost
            found += await invariants.of_ledgers(database)
        assert found == []
        await _names_the_gap(mesh)
        await alice.close()


async def _names_the_gap(mesh: Installation) -> None:
    answer = await chain_of(mesh)
    assert answer.intact
    (gap,) = answer.restorations
    assert gap.known_sequence > gap.sequence
    lost = f"Entries {gap.sequence + 1} to {gap.known_sequence}, signed at "
    assert lost in gap.description
    after = await chain_of(mesh, gap.sequence + 2)
    assert (after.intact, list(after.restorations)) == (True, [])


@contextlib.asynccontextmanager
async def database(postgres: Postgres, name: str) -> AsyncIterator[Server]:
    """A database of its own on the shared server."""
    async with postgres.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    try:
        yield Server(postgres.dsn.replace("/icto?", f"/{name}?"))
    finally:
        async with postgres.connection() as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def provisioned(server: Server) -> str:
    """Brings a database up to date as a supervisor does; the backend's address for it."""
    occupancy = Occupancy(server)
    await occupancy.take()
    try:
        passwords = dict.fromkeys(CONTRACT.services, "secret")
        await provision(server, occupancy.installation, CONTRACT, passwords, Environment.LOCAL)
        return server.service_dsn(role_name(occupancy.installation, "backend"), "secret")
    finally:
        await occupancy.release()


async def users(dsn: str) -> list[str]:
    """The users that a database has."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT principal FROM backend.users ORDER BY principal")
        return [row["principal"] for row in rows]
    finally:
        await connection.close()


async def add_user(server: Server, principal: str) -> None:
    async with server.connection() as connection:
        await connection.execute("INSERT INTO backend.users (principal) VALUES ($1)", principal)


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        made = RunDirectory(Path(base) / "run")
        made.create()
        yield made
        made.remove()


def order(run: RunDirectory, server: Server, file: Path, **more: Any) -> restore.Order:
    settings: dict[str, Any] = {"verification": "", "replace": False} | more
    return restore.Order(run=run, database_url=server.dsn, file=file, **settings)


async def test_a_backup_goes_into_another_database_under_its_key(
    postgres: Postgres, run: RunDirectory, tmp_path: Path
) -> None:
    file = tmp_path / "backup"
    async with database(postgres, "backed_up") as source:
        await provisioned(source)
        await add_user(source, "alice")
        taken = await backup.take(run, source.dsn, file)
    with tempfile.TemporaryDirectory(prefix="icto-test-") as base:
        other = RunDirectory(Path(base) / "run")
        async with database(postgres, "elsewhere") as target:
            with pytest.raises(BackupError, match="knows no key that verifies one"):
                await restore.restore(order(other, target, file))
            with pytest.raises(BackupError, match="64 hexadecimal digits"):
                await restore.restore(order(other, target, file, verification="no key"))
            await restore.restore(order(other, target, file, verification=taken.verification))
            assert await users(await provisioned(target)) == ["alice"]
        other.remove()


async def test_an_installation_is_replaced_only_on_request_and_set_aside(
    postgres: Postgres, run: RunDirectory, tmp_path: Path
) -> None:
    file = tmp_path / "backup"
    async with database(postgres, "replaced") as server:
        await provisioned(server)
        await add_user(server, "alice")
        await backup.take(run, server.dsn, file)
        await add_user(server, "bob")
        with pytest.raises(BackupError, match="With --replace it is set aside"):
            await restore.restore(order(run, server, file))
        assert await users(server.dsn) == ["alice", "bob"]
        await restore.restore(order(run, server, file, replace=True))
        assert await users(await provisioned(server)) == ["alice"]
        async with server.connection() as connection:
            aside = await connection.fetchval(
                "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'backend_replaced_%'"
            )
            assert await connection.fetchval(f"SELECT count(*) FROM {aside}.users") == 2


def broken_backup(run: RunDirectory, tmp_path: Path) -> Path:
    """A backup whose signature holds, and whose dump is none."""
    broken = tmp_path / "files"
    broken.mkdir()
    (broken / backup.DATABASE).write_bytes(b"no dump")
    manifest = Manifest(
        backup.software_version(), 18, "2026-01-02T03:04:05+00:00", 1, "ab",
        archive.describe(broken),
    )  # fmt: skip
    key = archive.signing_key(run.signing_key)
    archive.write(tmp_path / "broken", broken, manifest, key)
    return tmp_path / "broken"


async def test_a_restore_into_nothing_that_fails_leaves_nothing(
    run: RunDirectory, tmp_path: Path
) -> None:
    """An empty database that stayed would be taken for an installation by `icto up`."""
    file = broken_backup(run, tmp_path)
    with pytest.raises(BackupError, match="pg_restore failed"):
        await restore.restore(restore.Order(run, "", file, verification="", replace=False))
    assert not run.database.exists()
    assert not run.restoring.exists()


async def test_a_restore_that_was_killed_in_the_middle_is_undone_by_the_next(
    run: RunDirectory, tmp_path: Path
) -> None:
    """Also if that is killed in turn, once what the first had made is gone."""
    file = broken_backup(run, tmp_path)
    run.database.mkdir()
    aside = run.database.with_name(f"{run.database.name}.replaced-20260102T030405")
    for note, theirs in ((" all aside", True), ("", False)):
        run.restoring.write_text(f"replaced-20260102T030405{note}")
        (aside / "data").mkdir(parents=True)
        (aside / "data" / "PG_VERSION").write_text("18")
        if theirs:
            (run.database / "loaded").touch()
        else:
            shutil.rmtree(run.database)
        with pytest.raises(BackupError, match="With --replace"):
            await restore.restore(restore.Order(run, "", file, verification="", replace=False))
        assert [path.name for path in run.database.iterdir()] == ["data"]
        assert not run.restoring.exists()


async def test_a_restore_that_fails_or_was_killed_puts_everything_back(
    postgres: Postgres, run: RunDirectory, tmp_path: Path
) -> None:
    file = broken_backup(run, tmp_path)
    async with database(postgres, "kept") as server:
        await provisioned(server)
        await add_user(server, "alice")
        wanted = order(run, server, file, replace=True)
        with pytest.raises(BackupError, match="pg_restore failed"):
            await restore.restore(wanted)
        assert await users(server.dsn) == ["alice"]
        assert not run.restoring.exists()
        # As one that was killed leaves it: set aside, and nothing in its place.
        await backup.take(run, server.dsn, tmp_path / "whole")
        run.restoring.write_text("replaced-20260102T030405")
        async with server.connection() as connection:
            await connection.execute(
                "ALTER SCHEMA backend RENAME TO backend_replaced_20260102t030405"
            )
        with pytest.raises(BackupError, match="With --replace"):
            await restore.restore(order(run, server, tmp_path / "whole"))
        assert await users(server.dsn) == ["alice"]


async def test_what_is_in_use_is_not_restored_into(
    postgres: Postgres, run: RunDirectory, tmp_path: Path
) -> None:
    file = tmp_path / "backup"
    async with database(postgres, "used") as server:
        await provisioned(server)
        await backup.take(run, server.dsn, file)
        with run.locked(), pytest.raises(RunDirectoryError, match="is in use"):
            await restore.restore(order(run, server, file, replace=True))
        occupancy = Occupancy(server)
        await occupancy.take()
        with pytest.raises(PostgresError, match="Another installation uses the database"):
            await restore.restore(order(run, server, file, replace=True))
        await occupancy.release()


async def test_a_backup_of_another_version_is_refused_in_words(
    postgres: Postgres, run: RunDirectory, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    manifest = Manifest("99.0.0", 18, "2026-01-02T03:04:05+00:00", 1, "ab", {})
    archive.write(tmp_path / "later", folder, manifest, archive.signing_key(run.signing_key))
    async with database(postgres, "versions") as server:
        with pytest.raises(BackupError, match=r"is of version 99\.0\.0, this is"):
            await restore.restore(order(run, server, tmp_path / "later"))


async def test_a_backup_is_never_written_over_a_file(run: RunDirectory, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    with pytest.raises(BackupError, match="exists already"):
        await backup.take(run, "", file)
    with pytest.raises(BackupError, match="nothing was ever started there"):
        await backup.take(run, "", tmp_path / "backup")
    assert file.read_text() == "mine"
    assert not (tmp_path / "backup").exists()
