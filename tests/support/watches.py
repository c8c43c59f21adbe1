"""Launches that are watched."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf import json_format

from mesh.cli import follow
from mesh.cli.client import Client
from tests.support.installation import Installation
from tests.support.launches import lock, ordered, spec, token


@contextlib.asynccontextmanager
async def user(mesh: Installation) -> AsyncIterator[Client]:
    """A fresh user of a mesh."""
    client = await mesh.user()
    try:
        yield client
    finally:
        await client.close()


LOCKS: Final = "lock_deployer.locks"
"""Held, it keeps launches with a lock under way."""


async def order(client: Client) -> str:
    """A launch with a lock."""
    accepted = await ordered(client, spec({"newToken": token()}, [lock(client.principal)]))
    return str(accepted["name"])


async def told(client: Client, name: str) -> list[dict[str, Any]]:
    """Every change of a launch that has ended, as the API tells them at once."""
    return [json_format.MessageToDict(change) async for change in follow.changes(client, name)]


def check(changes: list[dict[str, Any]]) -> None:
    """Numbers without a gap or a repeat, up to the end of the launch."""
    assert [int(change["sequence"]) for change in changes] == list(range(1, len(changes) + 1))
    assert changes[-1]["state"] == "LAUNCH_STATE_SUCCEEDED"
