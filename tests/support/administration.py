"""An administrator of an installation, and changes to its configuration."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.cli.client import Client
from mesh.supervisor import bootstrap_digest, new_bootstrap_key
from tests.support.installation import Installation


async def administrator(mesh: Installation) -> Client:
    """A fresh super-admin, by a bootstrap key of their own."""
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    client = Client(mesh.edge, Ed25519PrivateKey.generate())
    await client.sign_in()
    body = {"requestId": str(uuid4()), "bootstrapKey": key}
    await client.rest("POST", "/v1/bootstrapKeys:redeem", body)
    await client.sign_in()
    return client


async def configure(
    admin: Client, change: Callable[[dict[str, Any]], None], why: str = "a test"
) -> dict[str, Any]:
    """Changes the configuration as an administrator does; returns the new one."""
    config = (await admin.rest("GET", "/v1/config")).body
    change(config)
    body = {"requestId": str(uuid4()), "config": config, "justification": why}
    changed: dict[str, Any] = (await admin.rest("PATCH", "/v1/config", body)).body
    return changed
