"""What every command shares: the terminal, the run directory, and how a failure is told.

A command prints what others wrote: names, reasons, log lines. `plain` makes a line of it that a
terminal only shows, and `Terminal` lets no control character past that went around it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TextIO, TypeVar

import grpc
import httpx
import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from contract.status import from_rpc_error
from contract.units import Unit
from mesh import control, rundir
from mesh.cli.address import Address, AddressError
from mesh.cli.client import CallError, KeyFileError
from mesh.rundir import RunDirectory, RunDirectoryError
from observability.printable import escape

T = TypeVar("T")

_UNBOUNDED: Final = 100_000
"""Width of what is no terminal: a file or a program takes lines of any length."""
_USAGE: Final = 2
"""Exit status of a command that was called in a way in which it does nothing."""


class Terminal(Console):
    """Standard output or error. What is printed is text: no markup, no emoji codes, no escapes."""

    def __init__(self, stream: TextIO, *, stderr: bool = False) -> None:
        super().__init__(
            stderr=stderr,
            width=None if stream.isatty() else _UNBOUNDED,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What rich makes of something, with every control character escaped."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape(segment.text, lines=True), segment.style)


out = Terminal(sys.stdout)
err = Terminal(sys.stderr, stderr=True)


def plain(value: object) -> str:
    """What somebody else wrote, as one line that shows as itself."""
    return escape(str(value))


def plain_text(value: object, style: str = "") -> Text:
    """The same with a style."""
    return Text(plain(value), style)


def print_json(value: object, console: Console = out) -> None:
    """A value as JSON, on several lines. It stays JSON whatever stands in it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(escape(text, lines=True), file=console.file, flush=True)


def message_json(message: Message) -> Any:
    """A message as REST writes it, with what is false, 0 or empty: it was said, too."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def confirm_payment(question: str, *, yes: bool) -> None:
    """Passes when the user agrees to what costs or destroys something, or agreed by `--yes`."""
    if not yes:
        require_terminal(yes=yes)
        typer.confirm(question, abort=True, err=True)


def require_terminal(*, yes: bool) -> None:
    """Passes when there is somebody to ask, or nothing to ask since `--yes` was given.

    A command that will ask calls it before it does anything, and ends with 2 otherwise.
    """
    if not yes and not sys.stdin.isatty():
        err.print("There is no terminal to ask at. Add --yes to go on without being asked.")
        raise typer.Exit(_USAGE)


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

JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]
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
        fail(plain(error))
    except grpc.aio.AioRpcError as error:
        told = from_rpc_error(error)
        fail(plain(f"{told.reason}: {told.message}"))
    except httpx.TransportError as error:
        fail(plain(f"The platform cannot be reached: {error or type(error).__name__}."))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(message: str) -> NoReturn:
    """Ends the command with a message."""
    err.print(message, style="red")
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
    return tokens(amount, 8, "ICP")


def tokens(amount: str, decimals: int, symbol: str) -> str:
    """An amount of a token, given in base units, as people read it."""
    return Unit(symbol, decimals).describe(int(amount))


def config_directory() -> Path:
    """Where this user keeps keys: $XDG_CONFIG_HOME/icto."""
    try:
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    except RuntimeError:
        fail("There is no home to keep your key in; set HOME or XDG_CONFIG_HOME.")
    return Path(base) / "icto"
