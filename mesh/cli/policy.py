"""`icto render | check`: what the contract says to Envoy."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import yaml

from contract import bounds, loader
from contract.environment import Environment
from contract.model import Contract, ContractError
from mesh import envoy, inherited, topology
from mesh.cli.terminal import (
    RUN_DIR,
    JsonOption,
    RunDirOption,
    fail,
    out,
    plain,
    print_json,
)
from mesh.database_url import VARIABLE
from mesh.postgres import PostgresError, Server, check_room
from mesh.render import Paths, Renderer
from mesh.rundir import RunDirectory

EnvironmentOption = Annotated[Environment, typer.Option(help="Kind of installation.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("render")(render)
    app.command("check")(check)


def render(
    what: Annotated[
        str, typer.Argument(help="clusters, listeners, routes-edge, bootstrap, ... or all.")
    ] = "all",
    run_dir: RunDirOption = RUN_DIR,
    environment: EnvironmentOption = Environment.LOCAL,
) -> None:
    """Print Envoy's configuration as the contract and mesh.toml make it."""
    renderer = _renderer(RunDirectory(run_dir), environment)
    names = ("bootstrap", *renderer.resources)
    if what not in ("all", *names):
        fail(f"There is no {what!r}; take all, or one of {', '.join(names)}.")
    for name in names if what == "all" else (what,):
        content = renderer.bootstrap() if name == "bootstrap" else renderer.resource(name)
        print(yaml.safe_dump(content, sort_keys=False))


def check(
    run_dir: RunDirOption = RUN_DIR,
    environment: EnvironmentOption = Environment.LOCAL,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check the contract, mesh.toml and the database's room; Envoy validates what follows."""
    problem, warnings = _findings(RunDirectory(run_dir), environment)
    if as_json:
        print_json({"ok": not problem, "problem": problem, "warnings": warnings})
        raise typer.Exit(int(bool(problem)))
    if problem:
        fail("\n".join(map(plain, problem.split("\n"))))
    for line in warnings:
        out.print(plain(line), style="yellow")
    for line in _forgotten(loader.load(environment)):
        out.print(line)
    out.print("The contract is complete, and Envoy accepts its configuration.", style="green")


def _findings(directory: RunDirectory, environment: Environment) -> tuple[str, list[str]]:
    """What is wrong, "" when nothing is; and what is worth a look."""
    try:
        loaded = loader.load(environment)
        bounds.check(loaded)
        chosen = topology.load(loaded, directory.mesh_toml)
        asyncio.run(_check_connections(chosen))
        with tempfile.TemporaryDirectory() as scratch:
            asyncio.run(envoy.check(loaded, chosen, Path(scratch)))
    except (topology.TopologyError, PostgresError) as error:
        return plain(error), []
    except ContractError as error:
        return str(error), []
    except envoy.EnvoyRefusedError as error:
        return f"Envoy refuses the configuration:\n{error}", []
    return "", [*chosen.edge.warnings, *inherited.ignored(os.environ)]


def _forgotten(loaded: Contract) -> Iterator[str]:
    """What each service forgets when nobody uses it, a line each."""
    for service in loaded.services.values():
        for what, kept in service.retention.items():
            most = f", {kept.per_user:,} a user at most" if kept.per_user else ""
            named = what.replace("_", " ")
            after = f"{kept.period.days} d after {kept.since}"
            yield f"{service.mesh_name} forgets {named} {after}{most}"


async def _check_connections(chosen: topology.Topology) -> None:
    """Passes when the database, ours or the operator's own, has room for every replica."""
    url = os.environ.get(VARIABLE, "")
    if url:
        await check_room(Server.external(url), chosen)
    else:
        chosen.check_embedded()


def _renderer(directory: RunDirectory, environment: Environment) -> Renderer:
    try:
        loaded = loader.load(environment)
        chosen = topology.load(loaded, directory.mesh_toml)
    except topology.TopologyError as error:
        fail(plain(error))
    except ContractError as error:
        fail(str(error))
    return Renderer(loaded, chosen, Paths(directory.envoy, directory.sockets))
