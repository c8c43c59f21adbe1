"""`icto login | whoami | bootstrap-key | faucet`: who you are, and what the operator may give."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from contract import principal
from contract.environment import Environment
from mesh import control
from mesh.cli.client import Client, load_key
from mesh.cli.terminal import (
    E8S,
    RUN_DIR,
    EdgeOption,
    RunDirOption,
    config_directory,
    edge_of,
    fail,
    out,
    plain,
    run,
)
from mesh.operator import Operator
from mesh.render import Paths
from mesh.rundir import RunDirectory
from mesh.supervisor import bootstrap_digest, new_bootstrap_key


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("login")(login)
    app.command("token")(token)
    app.command("bootstrap-key")(bootstrap_key)
    app.command("faucet")(faucet)


def own_key_file() -> str:
    """Where the key of this user is."""
    return str(config_directory() / "key")


def login(
    bootstrap: Annotated[str, typer.Option(help="One-time key that makes you super-admin.")] = "",
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
) -> None:
    """Sign in with the key in your config directory, made now if there is none."""

    async def work() -> None:
        client = await signed_in(run_dir, edge)
        try:
            if bootstrap:
                body = {"requestId": str(uuid4()), "bootstrapKey": bootstrap}
                await client.rest("POST", "/v1/bootstrapKeys:redeem", body)
                await client.sign_in()
        finally:
            await client.close()
        out.print(plain(f"You are {client.principal}"))
        if client.roles:
            out.print(plain(f"with the roles {', '.join(client.roles)}"))

    run(work())


def token(run_dir: RunDirOption = RUN_DIR, edge: EdgeOption = "") -> None:
    """Print an access token, for instance for curl: it is good for five minutes."""

    async def work() -> None:
        client = await signed_in(run_dir, edge)
        try:
            print(plain(await client.token()))
        finally:
            await client.close()

    run(work())


def as_user(run_dir: Path, edge: str, work: Callable[[Client], Awaitable[None]]) -> None:
    """Does something as the user whose key this is."""

    async def signed() -> None:
        client = await signed_in(run_dir, edge)
        try:
            await work(client)
        finally:
            await client.close()

    run(signed())


async def signed_in(run_dir: object, edge: str) -> Client:
    """A client of this user, signed in."""
    address = await edge_of(run_dir, edge)  # type: ignore[arg-type]  # a Path from typer
    client = Client(address, load_key(config_directory() / "key"))
    await client.sign_in()
    return client


def bootstrap_key(run_dir: RunDirOption = RUN_DIR) -> None:
    """Issue a one-time key that makes whoever redeems it super-admin. Audited."""

    async def work() -> None:
        directory = RunDirectory(run_dir)
        await control.ask(directory, "status")
        operator = Operator(Paths(directory.envoy, directory.sockets))
        key = new_bootstrap_key()
        try:
            await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
        finally:
            await operator.close()
        out.print(f"icto login --bootstrap {key}")

    run(work())


def faucet(
    owner: Annotated[str, typer.Argument(help="Principal that receives; you when absent.")] = "",
    amount: Annotated[float, typer.Option(help="ICP to give.")] = 100.0,
    run_dir: RunDirOption = RUN_DIR,
) -> None:
    """Give ICP, in an environment where it is worth nothing."""

    async def work() -> None:
        directory = RunDirectory(run_dir)
        status = await control.ask(directory, "status")
        if not Environment(status["environment"]).is_play:
            fail("There is no faucet in production: ICP is worth something there.")
        receiver = principal.canonical(owner) or await _own_principal(str(status["edge"]))
        if not principal.is_person(receiver):
            fail(f"{receiver!r} is not a principal that can sign in.")
        operator = Operator(Paths(directory.envoy, directory.sockets))
        try:
            await operator.give(receiver, round(amount * E8S))
        finally:
            await operator.close()
        out.print(f"Gave {amount} ICP to {receiver}.")

    run(work())


async def _own_principal(edge: str) -> str:
    client = Client(edge, load_key(config_directory() / "key"))
    try:
        await client.sign_in()
    finally:
        await client.close()
    return client.principal
