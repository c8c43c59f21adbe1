"""What every command shares: the terminal, the run directory, and how a failure is told."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import grpc
import httpx
import typer
from rich.console import Console

from mesh import control, rundir
from mesh.cli.address import Address, AddressError
from mesh.cli.client import CallError, KeyFileError
from mesh.rundir import RunDirectory, RunDirectoryError
from services.kit.status import from_rpc_error

T = TypeVar("T")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

RunDirOption = Annotated[
    Path,
    typer.Option(
        "--run-dir",
        envvar=rundir.ENVIRONMENT_VARIABLE,
        help="Where the installation keeps everything.",
    ),
]
RUN_DIR = Path(rundir.DEFAULT)
E8S = 100_000_000
"""Base units of an ICP."""

EdgeOption = Annotated[
    str,
    typer.Option(
        "--edge", envvar="ICTO_EDGE", help="Address of the platform: host:port or https://host."
    ),
]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work; what a person can mend is told in one line."""
    try:
        return asyncio.run(work)
    except (RunDirectoryError, CallError, KeyFileError, AddressError) as error:
        fail(str(error))
    except grpc.aio.AioRpcError as error:
        told = from_rpc_error(error)
        fail(f"{told.reason}: {told.message}")
    except httpx.TransportError as error:
        fail(f"The platform cannot be reached: {error or type(error).__name__}.")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """Ends the command with a message."""
    err.print(message, style="red", markup=False)
    raise typer.Exit(1)


async def edge_of(run_dir: Path, edge: str) -> str:
    """Address of the platform: as given, or of the installation in the run directory.

    Raises:
        RunDirectoryError: none was given and nothing runs there.
        AddressError: what was given is no address.
    """
    if edge:
        return Address.parse(edge).origin
    status = await control.ask(RunDirectory(run_dir), "status")
    return str(status["edge"])


def icp(amount: str) -> str:
    """An amount of ICP, given in base units, as people read it."""
    whole, rest = divmod(int(amount), E8S)
    return f"{whole}.{rest:08d}".rstrip("0").rstrip(".") + " ICP"


def config_directory() -> Path:
    """Where this user keeps keys: $XDG_CONFIG_HOME/icto."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    except RuntimeError:
        fail("There is no home to keep your key in; set HOME or XDG_CONFIG_HOME.")
    return Path(base) / "icto"
