"""`icto demo`: the whole story in a throw-away installation beside whatever runs."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

import typer

from mesh.cli.client import CallError
from mesh.cli.story import Story, StoryError
from mesh.cli.terminal import fail, out, plain, run
from mesh.cli.up import Progress, stop_on_signals, told_in_words
from mesh.fork_server import start_method
from mesh.logfiles import LogFiles
from mesh.rundir import RunDirectory
from mesh.supervisor import Options, Supervisor


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo() -> None:
    """Start a throw-away installation on free ports, launch a token, claim, count, stop.

    The exit status tells whether it worked.
    """
    folder = Path(tempfile.mkdtemp(prefix="icto-demo-"))
    directory = RunDirectory(folder)
    try:
        run(_demo(directory))
    finally:
        directory.remove()
        shutil.rmtree(folder, ignore_errors=True)


async def _demo(directory: RunDirectory) -> None:
    directory.create()
    edge_port, metrics_port = free_ports(2)
    files = LogFiles(directory.logs)
    with told_in_words():
        start = start_method.chosen(os.environ)
    options = Options(
        run=directory,
        start=start,
        overrides={"edge": {"port": edge_port}, "observability": {"metrics_port": metrics_port}},
    )
    outcomes: list[str] = []

    async def tell(supervisor: Supervisor) -> None:
        try:
            await Story(supervisor.edge_url, directory, out).tell()
            outcomes.append("")
        except (StoryError, CallError) as error:
            outcomes.append(plain(f"The demo failed: {error}"))
        finally:
            supervisor.stop()

    with directory.locked(), contextlib.closing(files), told_in_words():
        supervisor = Supervisor(options, files.write, Progress())
        stop_on_signals(supervisor)
        tasks: list[asyncio.Task[None]] = []
        await supervisor.serve(lambda up: tasks.append(asyncio.create_task(tell(up))))
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
    if not outcomes:
        fail("The demo was stopped before its end.")
    if outcomes[0]:
        fail(outcomes[0])
    out.print("The demo worked.", style="bold green")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below the range of outgoing connections.

    Drawn at random: two who look at one time find different ones.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports")
