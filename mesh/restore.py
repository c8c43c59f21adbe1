"""Restores a backup into an installation that does not run, whole or not at all.

What was there is set aside, not deleted. While it is under way a note in the run directory keeps
`icto up` from starting on a part of it; a restore that fails puts everything back, and one that was
killed is put back by the next. Each service finds in its state what was restored and what its state
was before: the audit signs from it what was lost.
"""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mesh import archive
from mesh.archive import BackupError, Manifest
from mesh.backup import (
    DATABASE,
    MESH_TOML,
    SECRETS,
    STATE,
    every_schema,
    existing,
    postgres_program,
    server_major,
    software_version,
    staging,
)
from mesh.occupancy import Occupancy
from mesh.postgres import EmbeddedPostgres, Server
from mesh.rundir import RunDirectory, write_atomically

NOTE: Final = "restored.json"
FORMER: Final = "former"
_ALL_ASIDE: Final = " all aside"
"""At the end of the note in the run directory once all that was there is set aside."""
_CONNECTIONS: Final = 10


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be restored, and where.

    Attributes:
        run: the run directory of the installation.
        database_url: its own PostgreSQL; empty for the embedded one.
        file: the backup.
        verification: the key that verifies it, in hexadecimal; empty: this installation's own.
        replace: set aside an installation that is there.
    """

    run: RunDirectory
    database_url: str
    file: Path
    verification: str
    replace: bool


async def restore(order: Order) -> Manifest:
    """Restores a backup; what it holds.

    Raises:
        BackupError: it cannot be restored, and nothing changed.
        RunDirectoryError: the run directory is in use.
        PostgresError: the database cannot be used, or is in use.
    """
    run = order.run
    run.create()
    with run.locked(), staging(run.path) as folder:
        manifest = await asyncio.to_thread(_verified, order, folder)
        async with _held(order), _set_aside(order) as suffix:
            async with _server(order) as server:
                await _load(server, manifest, folder)
            await asyncio.to_thread(_put_files, run, manifest, folder, suffix)
    return manifest


def _verified(order: Order, folder: Path) -> Manifest:
    """Unpacks the backup, if it is one that can be restored here."""
    verification = order.verification or archive.verification_key(order.run.signing_key)
    if not verification:
        raise BackupError(
            "This installation has made no backup and knows no key that verifies one. Name the"
            " verification key that 'icto backup' printed: --key KEY."
        )
    try:
        valid = len(bytes.fromhex(verification)) == 32  # noqa: PLR2004  # an Ed25519 key
    except ValueError:
        valid = False
    if not valid:
        raise BackupError("A verification key is 64 hexadecimal digits, as 'icto backup' printed.")
    manifest = archive.unpack(order.file, folder, verification)
    if manifest.version != software_version():
        raise BackupError(
            f"The backup is of version {manifest.version}, this is {software_version()}: restore it"
            f" with {manifest.version}, then start this one on it."
        )
    return manifest


@contextlib.asynccontextmanager
async def _set_aside(order: Order) -> AsyncIterator[str]:
    """Moves what is there out of the way, and back if the block fails. Gives the suffix it has now.

    Raises:
        BackupError: there is an installation, and it is not to be replaced.
    """
    run = order.run
    if run.restoring.exists():
        await _put_back(order, run.restoring.read_text())
    if not order.replace and await _occupied(order):
        raise BackupError(
            f"There is an installation in {run.path} already. With --replace it is set aside, and"
            " the backup takes its place."
        )
    suffix = f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    write_atomically(run.restoring, suffix, durable=True)
    try:
        for path in _files(run):
            if path.exists():
                path.rename(_aside(path, suffix))
        if order.database_url:
            await _rename_schemas(order, "{name}", f"{{name}}_{_sql(suffix)}")
        write_atomically(run.restoring, suffix + _ALL_ASIDE, durable=True)
        yield suffix
    except BaseException:
        await _put_back(order, run.restoring.read_text())
        raise
    run.restoring.unlink()


async def _put_back(order: Order, note: str) -> None:
    """Undoes what a restore has done so far, by its note in the run directory.

    Once all is set aside, whatever stands in its place is the restore's own, and goes: an empty
    database that stayed would be taken for an installation.
    """
    run, suffix = order.run, note.removesuffix(_ALL_ASIDE)
    if note.endswith(_ALL_ASIDE):
        for path in _files(run):
            await asyncio.to_thread(_delete, path)
        if order.database_url:
            await _drop_schemas(order)
        # From now on what stands in its place is what was there before.
        write_atomically(run.restoring, suffix, durable=True)
    for path in _files(run):
        if _aside(path, suffix).exists():
            _aside(path, suffix).rename(path)
    if order.database_url:
        await _rename_schemas(order, f"{{name}}_{_sql(suffix)}", "{name}")
    run.restoring.unlink(missing_ok=True)


def _files(run: RunDirectory) -> Iterator[Path]:
    """What an installation keeps outside of its database server, and the embedded server's data."""
    yield run.states
    yield run.secrets_file
    yield run.path / MESH_TOML
    yield run.database


def _aside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _sql(suffix: str) -> str:
    return suffix.replace("-", "_").lower()


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


async def _occupied(order: Order) -> bool:
    """Whether an installation is there."""
    if not order.database_url:
        return _embedded(order.run).exists
    async with Server.external(order.database_url).connection() as connection:
        return bool(await existing(connection, every_schema()))


async def _drop_schemas(order: Order) -> None:
    """Drops what a restore has loaded into an external database."""
    async with Server.external(order.database_url).connection() as connection:
        for name in await existing(connection, every_schema()):
            await connection.execute(f"DROP SCHEMA {name} CASCADE")


async def _rename_schemas(order: Order, old: str, new: str) -> None:
    """Renames every schema of an installation from one form of name to another, if it is there."""
    names = {old.format(name=name): new.format(name=name) for name in every_schema()}
    server = Server.external(order.database_url)
    async with server.connection() as connection, connection.transaction():
        for name in await existing(connection, names):
            await connection.execute(f"ALTER SCHEMA {name} RENAME TO {names[name]}")


@contextlib.asynccontextmanager
async def _held(order: Order) -> AsyncIterator[None]:
    """Keeps supervisors of other run directories from using an external database meanwhile."""
    if not order.database_url:
        yield
        return
    occupancy = Occupancy(Server.external(order.database_url))
    await occupancy.take()
    try:
        yield
    finally:
        await occupancy.release()


@contextlib.asynccontextmanager
async def _server(order: Order) -> AsyncIterator[Server]:
    """The server to restore into."""
    if order.database_url:
        yield Server.external(order.database_url)
        return
    async with _embedded(order.run).running() as server:
        yield server


def _embedded(run: RunDirectory) -> EmbeddedPostgres:
    return EmbeddedPostgres(run, _CONNECTIONS, lambda _, __: None)


async def _load(server: Server, manifest: Manifest, folder: Path) -> None:
    async with server.connection() as connection:
        major = await server_major(connection)
        if major < manifest.postgres:
            raise BackupError(
                f"The backup is of PostgreSQL {manifest.postgres}; the server at {server} is"
                f" {major}. Restore it into one of the same version or a later one."
            )
    await postgres_program(
        "pg_restore", server, "--no-owner", "--no-privileges", "--single-transaction",
        "--exit-on-error", str(folder / DATABASE),
    )  # fmt: skip


def _put_files(run: RunDirectory, manifest: Manifest, folder: Path, suffix: str) -> None:
    if (folder / STATE).is_dir():
        shutil.copytree(folder / STATE, run.states, dirs_exist_ok=True)
        run.states.chmod(0o700)
        _leave_notes(run, manifest, suffix)
    for name, target in ((SECRETS, run.secrets_file), (MESH_TOML, run.path / MESH_TOML)):
        if (folder / name).exists():
            write_atomically(target, (folder / name).read_text(), durable=True)


def _leave_notes(run: RunDirectory, manifest: Manifest, suffix: str) -> None:
    """Tells each service what was restored, and leaves it the state that it had before."""
    note = json.dumps(
        {
            "audit_sequence": manifest.audit_sequence,
            "audit_hash": manifest.audit_hash,
            "backup_time": manifest.backup_time,
            "restore_time": datetime.now(UTC).isoformat(),
        }
    )
    for state in run.states.iterdir():
        former = _aside(run.states, suffix) / state.name
        if former.is_dir():
            shutil.copytree(former, state / FORMER, dirs_exist_ok=True)
        write_atomically(state / NOTE, note, durable=True)
