"""`icto status | logs | trace | restart | down`: a look at the installation, and its renewal."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mesh import control
from mesh.cli import platform
from mesh.cli.rows import Rows
from mesh.cli.terminal import (
    RUN_DIR,
    JsonOption,
    RunDirOption,
    err,
    fail,
    out,
    plain,
    print_json,
    run,
)
from mesh.logfiles import readable
from mesh.rundir import RunDirectory
from observability import waterfall
from observability.receiver import StoredSpan

_DOWN_SECONDS = 40.0
_RESTART_SECONDS = 60.0
_HEALTH = {True: ("healthy", "green"), False: ("unhealthy", "red"), None: ("unknown", "yellow")}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("status")(status)
    app.command("logs")(logs)
    app.command("trace")(trace)
    app.command("restart")(restart)
    app.command("down")(down)


def status(run_dir: RunDirOption = RUN_DIR, *, as_json: JsonOption = False) -> None:
    """Show what runs and how Envoy finds it; exit status 1 when something is not healthy."""
    state = run(control.ask(RunDirectory(run_dir), "status"))
    stands = run(platform.state(state["edge"]))
    sick = _sick(state)
    if as_json:
        print_json(state | {"platform": stands})
        raise typer.Exit(int(bool(sick)))
    out.print(f"{state['environment']} at {state['edge']}, up {state['uptime']:.0f} s")
    out.print(f"metrics at {state['metrics']}")
    platform.show(stands)
    table = Rows("process", "health", "pid", "up", "restarts")
    for process in (state["postgres"], state["envoy"], *state["replicas"]):
        if process:
            table.add(
                process["name"],
                Text(*_HEALTH[process["healthy"]]) if "healthy" in process else "",
                str(process["pid"] or "-"),
                f"{process['uptime']:.0f} s",
                str(process["restarts"]),
            )
    out.print(table)
    if sick:
        err.print(f"Not healthy: {', '.join(sick)}.", style="red", markup=False)
        raise typer.Exit(1)


def _sick(state: Mapping[str, Any]) -> list[str]:
    """Processes that do not run, and replicas that Envoy does not find healthy."""
    processes = [p for p in (state["postgres"], state["envoy"], *state["replicas"]) if p]
    return [p["name"] for p in processes if not p["pid"] or p.get("healthy", True) is not True]


def logs(
    names: Annotated[list[str] | None, typer.Argument(help="Processes; all when absent.")] = None,
    run_dir: RunDirOption = RUN_DIR,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Lines of each.")] = 20,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show the newest log lines of processes."""
    folder = RunDirectory(run_dir).logs
    wanted = names or sorted(file.stem for file in folder.glob("*.log"))
    positions: dict[Path, int] = {}
    for name in wanted:
        file = folder / f"{name}.log"
        if not file.exists():
            fail(f"There is no log of {name!r} in {folder}.")
        text = file.read_bytes().decode(errors="replace")
        positions[file] = file.stat().st_size
        for line in text.removesuffix("\n").split("\n")[-lines:]:
            out.print(readable(name, line))
    if follow:
        run(_follow(positions))


async def _follow(positions: dict[Path, int]) -> None:
    while True:
        for file, position in positions.items():
            size = file.stat().st_size if file.exists() else 0
            start = position if size >= position else 0
            if size > start:
                with file.open("rb") as opened:
                    opened.seek(start)
                    text = opened.read().decode(errors="replace")
                for line in text.removesuffix("\n").split("\n"):
                    out.print(readable(file.stem, line))
            positions[file] = size
        await asyncio.sleep(0.2)


def restart(
    wanted: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Services or replicas; all when absent."),
    ] = None,
    run_dir: RunDirOption = RUN_DIR,
) -> None:
    """Replace replicas by fresh processes, one at a time of each service, failing no call."""
    run(_restart(RunDirectory(run_dir), wanted or []))


async def _restart(directory: RunDirectory, wanted: list[str]) -> None:
    state = await control.ask(directory, "status")
    services: dict[str, list[str]] = {}
    for replica in state["replicas"]:
        if not wanted or {replica["service"], replica["name"]} & set(wanted):
            services.setdefault(replica["service"], []).append(replica["name"])
    found = {*services, *(name for names in services.values() for name in names)}
    if unknown := sorted(set(wanted) - found):
        offered = ", ".join(sorted({replica["service"] for replica in state["replicas"]}))
        fail(plain(f"There is no {', '.join(unknown)}. Services are {offered}."))
    if changed := state["changed"]:
        single = bool(wanted) and set(wanted).isdisjoint(services)
        _tell_of_change(directory, changed, only_replicas=single)
    await asyncio.gather(*(_restart_each(directory, names) for names in services.values()))


def _tell_of_change(directory: RunDirectory, changed: list[str], *, only_replicas: bool) -> None:
    """A restart of single replicas goes on; more than that is meant to bring mesh.toml's change."""
    told = f"{directory.mesh_toml} was changed since the start: {'; '.join(changed)}."
    remedy = "'icto restart' changes no setting: 'icto down' and 'icto up' do, or put it back."
    if not only_replicas:
        fail(f"{told} {remedy}")
    err.print(f"{told} {remedy}", style="yellow", markup=False)


async def _restart_each(directory: RunDirectory, replicas: list[str]) -> None:
    """Restarts the replicas of one service, each when the one before it is healthy again."""
    for name in replicas:
        started = time.monotonic()
        answer = await control.ask(directory, "restart", _RESTART_SECONDS, replica=name)
        if answer["problem"]:
            fail(plain(answer["problem"]))
        out.print(f"{name} is fresh and healthy after {time.monotonic() - started:.1f} s")


def down(run_dir: RunDirOption = RUN_DIR) -> None:
    """Stop the installation and keep its data."""
    directory = RunDirectory(run_dir)
    owner = directory.owner()
    if owner is None:
        out.print(f"Nothing runs in {directory.path}.")
        return
    os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    while directory.owner() is not None:
        if time.monotonic() > deadline:
            fail(f"Process {owner} did not stop; see {directory.logs}.")
        time.sleep(0.1)
    out.print("Stopped. The data is kept.")


def trace(
    trace_id: Annotated[str, typer.Argument(help="32 hexadecimal digits, as answers carry it.")],
    run_dir: RunDirOption = RUN_DIR,
    *,
    as_json: JsonOption = False,
) -> None:
    """Draw a trace as a waterfall; for a trace of a caller's own, those that its calls began."""
    wanted = trace_id.strip().lower()
    if len(wanted) != 32 or any(c not in "0123456789abcdef" for c in wanted):  # noqa: PLR2004
        fail("A trace id is 32 hexadecimal digits.")
    found = run(control.ask(RunDirectory(run_dir), "trace", trace_id=wanted))
    if not found:
        fail("No span of this trace is kept: it was not sampled, or is too old.")
    if as_json:
        print_json({"trace_id": wanted, "spans": found})
        return
    spans = [StoredSpan(**span) for span in found]
    for one in dict.fromkeys(span.trace_id for span in spans):
        out.print(waterfall.draw([span for span in spans if span.trace_id == one]))
