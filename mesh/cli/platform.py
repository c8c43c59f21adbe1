"""`icto stop | release | maintenance`: what an administrator may hold up, and how it stands."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

import httpx
import typer

from mesh.cli.address import Address
from mesh.cli.client import Client
from mesh.cli.identity import as_user
from mesh.cli.terminal import RUN_DIR, EdgeOption, RunDirOption, fail, out, plain

_SECONDS = 5.0

WhyOption = Annotated[str, typer.Option("--why", help="The reason; the audit keeps it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("stop")(stop)
    app.command("release")(release)
    app.command("maintenance")(maintenance)


def stop(
    why: WhyOption, run_dir: RunDirOption = RUN_DIR, edge: EdgeOption = "",
) -> None:  # fmt: skip
    """Emergency stop: nothing changes any more, and maintenance is on. Two people release it."""

    async def work(client: Client) -> None:
        await _post(client, "stop", justification=why)
        await _show(client)

    as_user(run_dir, edge, work)


def release(
    why: WhyOption, run_dir: RunDirOption = RUN_DIR, edge: EdgeOption = "",
) -> None:  # fmt: skip
    """Ask for the end of the emergency stop; it ends when two people have within 15 minutes."""

    async def work(client: Client) -> None:
        answer = await _post(client, "release", justification=why)
        if answer.get("explanation"):
            out.print(plain(answer["explanation"]))
        out.print("The stop has ended." if answer["released"] else "The platform is still stopped.")
        await _show(client)

    as_user(run_dir, edge, work)


def maintenance(
    switch: Annotated[str, typer.Argument(metavar="on|off", help="Whether it shall be on.")],
    why: WhyOption,
    run_dir: RunDirOption = RUN_DIR,
    edge: EdgeOption = "",
) -> None:
    """Switch maintenance: users change nothing, and what was begun goes on."""
    if switch not in {"on", "off"}:
        fail("Maintenance is switched 'on' or 'off'.")

    async def work(client: Client) -> None:
        await _post(client, "setMaintenance", enabled=switch == "on", justification=why)
        await _show(client)

    as_user(run_dir, edge, work)


async def state(edge: str) -> Mapping[str, Any] | None:
    """How the platform stands, as it tells anybody; None when it does not answer."""
    try:
        async with Address.parse(edge).http(_SECONDS) as client:
            answer = await client.get("/v1/system/status")
            answer.raise_for_status()
    except httpx.HTTPError:
        return None
    found: dict[str, Any] = answer.json()
    return found


def show(status: Mapping[str, Any] | None) -> None:
    """Writes what holds the platform up, a line each; nothing when nothing does."""
    for line in _described(status):
        out.print(plain(line))


def _described(status: Mapping[str, Any] | None) -> Iterator[str]:
    if status is None:
        yield "Whether the platform is stopped is not known: it does not answer."
        return
    held = status.get("maintenance"), status.get("emergencyStop")
    for name, found in zip(("in maintenance", "STOPPED"), held, strict=True):
        if found is not None:
            yield f"The platform is {name}{_since(found)}."
    for wish in status.get("releaseWishes", ()):
        yield f"{wish['principal']} asks for its release, until {_moment(wish['expireTime'])}."
    missing = status.get("missingReleaseCount")
    if missing:
        yield f"{missing} more {_people(missing)} to ask: 'icto release --why REASON'."
    elif held[0] is not None and held[1] is None:
        yield "'icto maintenance off --why REASON' ends it."


def _since(found: Mapping[str, Any]) -> str:
    if "startTime" not in found:
        return ""
    since, who = _moment(found["startTime"]), found["principal"]
    return f" since {since}, by {who}: {found['justification']}"


def _people(count: int) -> str:
    return "person has" if count == 1 else "people have"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


async def _show(client: Client) -> None:
    show((await client.rest("GET", "/v1/system/status")).body)


async def _post(client: Client, verb: str, **body: Any) -> dict[str, Any]:
    request = {"requestId": str(uuid4())} | body
    return (await client.rest("POST", f"/v1/config:{verb}", request)).body
