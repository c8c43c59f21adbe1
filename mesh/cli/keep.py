"""`icto backup | restore`: everything that an installation must not lose, in one file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mesh import backup as backups
from mesh import restore as restores
from mesh.archive import BackupError, Manifest
from mesh.backup import Taken
from mesh.cli.terminal import RUN_DIR, RunDirOption, fail, out, run
from mesh.postgres import PostgresError
from mesh.rundir import RunDirectory


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


def backup(file: FileArgument, run_dir: RunDirOption = RUN_DIR) -> None:
    """Back up database, state, secrets and mesh.toml of one moment into FILE; work goes on.

    FILE holds secrets: whoever has it can become any service and sign the audit.
    """
    run(_backup(RunDirectory(run_dir), file.absolute()))


async def _backup(directory: RunDirectory, file: Path) -> None:
    try:
        taken: Taken = await backups.take(directory, _database_url(), file)
    except (BackupError, PostgresError) as error:
        fail(str(error))
    out.print(f"{file} holds everything as of {taken.manifest.backup_time}.", markup=False)
    out.print("It holds secrets, readable by you alone: keep it so.")
    out.print("To restore it on another machine, name the key that verifies it:")
    out.print(f"  icto restore {file.name} --key {taken.verification}", markup=False)


def restore(
    file: FileArgument,
    run_dir: RunDirOption = RUN_DIR,
    key: Annotated[
        str, typer.Option("--key", help="Verifies FILE; this installation's own when absent.")
    ] = "",
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set aside the installation that is there.")
    ] = False,
) -> None:
    """Restore a backup into an installation that does not run."""
    order = restores.Order(
        run=RunDirectory(run_dir),
        database_url=_database_url(),
        file=file.absolute(),
        verification=key.strip().lower(),
        replace=replace,
    )
    run(_restore(order))


async def _restore(order: restores.Order) -> None:
    try:
        manifest: Manifest = await restores.restore(order)
    except (BackupError, PostgresError) as error:
        fail(str(error))
    out.print(f"Restored as of {manifest.backup_time}. Start it with 'icto up'.", markup=False)
    if order.replace:
        out.print("What was there before is set aside under names that end in .replaced-*.")


def _database_url() -> str:
    return os.environ.get("ICTO_DATABASE_URL", "")
