"""`icto up`: brings the installation up and keeps it up until Ctrl-C."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from contract.environment import Environment
from mesh.cli.client import CallError
from mesh.cli.story import Story, StoryError
from mesh.cli.terminal import RUN_DIR, RunDirOption, fail, out, plain, run
from mesh.fork_server import start_method
from mesh.fork_server.start_method import StartMethodError
from mesh.jaeger import JaegerMissingError
from mesh.logfiles import LogFiles, readable
from mesh.postgres import PostgresError
from mesh.process import Output
from mesh.rundir import RunDirectory
from mesh.supervisor import Options, StartError, Supervisor
from mesh.topology import TopologyError
from observability.logs import JsonFormatter
from observability.receiver import Destination, DestinationError

_SUPERVISOR: Final = "supervisor"
_TOLD: Final = (StartError, StartMethodError, TopologyError, PostgresError, JaegerMissingError)
"""What keeps an installation from starting, and says what to do."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("up")(up)


def up(
    run_dir: RunDirOption = RUN_DIR,
    port: Annotated[int, typer.Option(help="Port of the edge; mesh.toml's when absent.")] = 0,
    metrics_port: Annotated[int, typer.Option(help="Port of /metrics.")] = 0,
    environment: Annotated[Environment, typer.Option(help="Kind of installation.")] = (
        Environment.LOCAL
    ),
    *,
    jaeger: Annotated[bool, typer.Option("--jaeger", help="Start the Jaeger on PATH.")] = False,
    story: Annotated[
        bool, typer.Option("--story", help="Launch a token, claim and transfer once it is up.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Logs to files only.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over data whose run directory was lost.")
    ] = False,
) -> None:
    """Start Postgres, Envoy and every replica; Ctrl-C stops them and keeps the data."""
    overrides: dict[str, Any] = {}
    if port:
        overrides["edge"] = {"port": port}
    if metrics_port:
        overrides["observability"] = {"metrics_port": metrics_port}
    try:
        forward = Destination.of_environment(os.environ)
        start = start_method.chosen(os.environ)
    except (DestinationError, StartMethodError) as error:
        fail(str(error))
    options = Options(
        run=RunDirectory(run_dir),
        environment=environment,
        overrides=overrides,
        database_url=os.environ.get("ICTO_DATABASE_URL", ""),
        jaeger=jaeger,
        forward_traces=forward,
        adopt=adopt,
        start=start,
    )
    run(serve(options, story=story, quiet=quiet))


async def serve(options: Options, *, story: bool, quiet: bool) -> None:
    """Runs a supervisor in this process until it is told to stop."""
    options.run.create()
    started = time.monotonic()
    told = Progress()
    files = LogFiles(options.run.logs)
    output = files.write if quiet else shown(files.write)
    _log_to(output)
    with options.run.locked(), contextlib.closing(files), told_in_words():
        supervisor = Supervisor(options, output, told)
        stop_on_signals(supervisor)
        tasks: list[asyncio.Task[None]] = []

        def ready(up_now: Supervisor) -> None:
            _greet(up_now, options.run, time.monotonic() - started)
            if story:
                tasks.append(asyncio.create_task(_tell(up_now, options.run)))
            else:
                _offer_key(up_now)

        await supervisor.serve(ready)
        for task in tasks:
            task.cancel()


def shown(kept: Output) -> Output:
    """Output that is shown on the terminal as well, for as long as somebody is there to look."""

    def output(name: str, line: str) -> None:
        kept(name, line)
        # A terminal that went is an OSError, a closed pipe makes rich exit: the mesh stays.
        with contextlib.suppress(OSError, SystemExit):
            if out.is_terminal:  # cut where it ends; the file has all of it
                line = readable(name, line)
                out.print(line, markup=False, soft_wrap=False, no_wrap=True, overflow="ellipsis")
            else:
                out.print(readable(name, line), markup=False)

    return output


@contextlib.contextmanager
def told_in_words() -> Iterator[None]:
    """Ends the command with what a person can mend, where an installation does not start."""
    try:
        yield
    except* _TOLD as group:
        fail("\n".join(plain(error) for error in _leaves(group)))


class Progress:
    """Says what is being done, each thing once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, message: str) -> None:
        """Says it, unless it was the last thing said."""
        if message != self._last:
            out.print(f"... {message}", style="dim")
            self._last = message


async def _tell(supervisor: Supervisor, directory: RunDirectory) -> None:
    try:
        await Story(supervisor.edge_url, directory, out).tell()
        out.print("Everything works. Ctrl-C stops it; the data is kept.")
    except (StoryError, CallError) as error:
        out.print(plain(f"The story failed: {error}"), style="red")
    _offer_key(supervisor)


def _greet(supervisor: Supervisor, directory: RunDirectory, seconds: float) -> None:
    out.print(f"ICTO mesh is up after {seconds:.1f} s.", style="bold green")
    addresses = {
        "REST, gRPC and gRPC-Web": supervisor.edge_url,
        "metrics": supervisor.metrics_url,
        "traces": supervisor.jaeger_url,
        "logs": _shortest(directory.logs),
    }
    for what, where in addresses.items():
        if where:
            out.print(f"  {what:<25} {where}")
    sys.stdout.flush()


def _offer_key(supervisor: Supervisor) -> None:
    """The one-time key, last of all, where it stays in sight."""
    if supervisor.bootstrap_key:
        out.print("Nobody operates this installation yet. To be the first, once:", style="bold")
        out.print(f"  icto login --bootstrap {supervisor.bootstrap_key}", markup=False)
        sys.stdout.flush()


def _shortest(folder: Path) -> str:
    """A folder as it is typed from here."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def stop_on_signals(supervisor: Supervisor) -> None:
    """Ends the installation in an orderly way, whoever asks for it."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)


def _log_to(output: Output) -> None:
    """The supervisor's own log lines go where its children's go."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            output(_SUPERVISOR, self.format(record))

    handler = Handler()
    handler.setFormatter(JsonFormatter(_SUPERVISOR, _SUPERVISOR))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
