"""Takes a backup: the database, what services keep beside it, secrets and mesh.toml, of one moment.

What services keep beside the database is copied first and the database's snapshot taken after it:
the audit writes a checkpoint to the database before it writes it outside, so that nothing outside
is unknown to the snapshot. The platform goes on meanwhile.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import asyncpg

from contract import loader
from contract.environment import Environment
from mesh import archive, postgres
from mesh.archive import BackupError, Manifest
from mesh.postgres import EmbeddedPostgres, Server
from mesh.rundir import RunDirectory

DATABASE: Final = "database.dump"
STATE: Final = "state"
SECRETS: Final = "secrets.json"
MESH_TOML: Final = "mesh.toml"
_OWN_CONNECTIONS: Final = 10
_HEAD: Final = """
SELECT sequence, entry_hash FROM audit_storage.entries ORDER BY sequence DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A backup that was taken.

    Attributes:
        manifest: what it holds.
        verification: the key that verifies it, in hexadecimal.
    """

    manifest: Manifest
    verification: str


def software_version() -> str:
    """Version of this software, which a backup is restored by."""
    return version("icto-mesh")


async def take(run: RunDirectory, database_url: str, file: Path) -> Taken:
    """Takes a backup of an installation, whether it runs or not.

    Raises:
        BackupError: it cannot be taken, and why.
        PostgresError: the database cannot be reached.
    """
    _check_place(file)
    with staging(file.parent) as folder:
        await asyncio.to_thread(_copy_files, run, folder)
        async with database_of(run, database_url) as server:
            manifest = await _dump(server, folder)
        key = archive.signing_key(run.signing_key)
        await asyncio.to_thread(archive.write, file, folder, manifest, key)
    return Taken(manifest, key.public_key().public_bytes_raw().hex())


@contextlib.asynccontextmanager
async def database_of(run: RunDirectory, database_url: str) -> AsyncIterator[Server]:
    """The database of an installation; the embedded one is started when nothing runs.

    Raises:
        BackupError: there is none.
        PostgresError: it cannot be reached.
    """
    if database_url:
        yield Server.external(database_url)
        return
    embedded = EmbeddedPostgres(run, _OWN_CONNECTIONS, lambda _, __: None)
    if not embedded.exists:
        raise BackupError(f"There is no database in {run.path}: nothing was ever started there.")
    if run.owner() is not None:
        yield embedded.found()
        return
    with run.locked():
        async with embedded.running() as server:
            yield server


async def postgres_program(name: str, server: Server, *arguments: str) -> None:
    """Runs pg_dump or pg_restore against a server; its password is in no argument.

    Raises:
        BackupError: it failed, with its last words.
    """
    address, password = server.login
    program = await asyncio.to_thread(postgres.programs)
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGPASSWORD": password}
    child = await asyncio.create_subprocess_exec(
        str(program / name), "--dbname", address, *arguments,
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode != 0:
        raise BackupError(f"{name} failed: {said.decode(errors='replace').strip()[-2000:]}")


async def server_major(connection: "asyncpg.Connection[Any]") -> int:
    """Major version of a database server."""
    number: str = await connection.fetchval("SHOW server_version_num")
    return int(number) // 10_000


def every_schema() -> frozenset[str]:
    """The schemas that services have, in whatever environment."""
    return frozenset(name for kind in Environment for name in loader.load(kind).services)


async def existing(connection: "asyncpg.Connection[Any]", names: Iterable[str]) -> Sequence[str]:
    """Which of these schemas a database has."""
    found = await connection.fetch(
        "SELECT nspname FROM pg_namespace WHERE nspname = ANY ($1::text[]) ORDER BY nspname",
        list(names),
    )
    return [row["nspname"] for row in found]


async def _dump(server: Server, folder: Path) -> Manifest:
    """Dumps the database as of one snapshot; what the backup holds with it."""
    async with server.connection() as connection:
        major = await server_major(connection)
        if major > postgres.MAJOR:
            raise BackupError(
                f"The server at {server} is PostgreSQL {major}; the pg_dump that comes along is"
                f" {postgres.MAJOR} and cannot read it. Use that server's own pg_dump."
            )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            moment = await connection.fetchval("SELECT now()")
            schemas = await existing(connection, every_schema())
            if "audit_storage" not in schemas:
                raise BackupError(f"The database {server} holds no installation.")
            head = await connection.fetchrow(_HEAD)
            chosen = [part for name in schemas for part in ("--schema", name)]
            await postgres_program(
                "pg_dump", server, "--format=custom", "--no-owner", "--no-privileges",
                f"--snapshot={snapshot}", f"--file={folder / DATABASE}", *chosen,
            )  # fmt: skip
    return Manifest(
        version=software_version(),
        postgres=major,
        backup_time=moment.astimezone(UTC).isoformat(),
        audit_sequence=head["sequence"] if head else 0,
        audit_hash=head["entry_hash"].hex() if head else "",
        members=await asyncio.to_thread(archive.describe, folder),
    )


def _check_place(file: Path) -> None:
    if file.exists():
        raise BackupError(f"{file} exists already; choose another name.")
    if not file.parent.is_dir():
        raise BackupError(f"There is no folder {file.parent}.")


def _copy_files(run: RunDirectory, folder: Path) -> None:
    if run.states.is_dir():
        shutil.copytree(run.states, folder / STATE)
    for file, name in ((run.secrets_file, SECRETS), (run.mesh_toml, MESH_TOML)):
        if file.exists():
            shutil.copyfile(file, folder / name)


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A private folder on the same file system, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".backup-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
