"""An administrator of an installation, and the emergency stop that they may call."""

import contextlib
from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.cli.client import Client
from mesh.supervisor import bootstrap_digest, new_bootstrap_key
from tests.support.installation import Installation
from tests.support.money import get, post, until_followed
from tests.support.roles import in_role

_WHY = "a test"


@contextlib.asynccontextmanager
async def administrator(mesh: Installation) -> AsyncIterator[Client]:
    """A super-admin by a bootstrap key of their own, who has had it for long."""
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    client = Client(mesh.edge, Ed25519PrivateKey.generate())
    try:
        await client.sign_in()
        await post(client, "/v1/bootstrapKeys:redeem", bootstrapKey=key)
        await in_role(mesh, client.principal, "SUPER_ADMIN")
        await client.sign_in()
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def emergency_stop(mesh: Installation, admin: Client) -> AsyncIterator[None]:
    """A stop that every replica knows of in this block, released by two administrators after it."""
    changed = await post(admin, "/v1/config:stop", justification=_WHY)
    await until_followed(mesh, int(changed["revision"]))
    try:
        yield
    finally:
        async with administrator(mesh) as second:
            for who in (admin, second):
                await post(who, "/v1/config:release", justification=_WHY)
        await until_followed(mesh, int((await get(admin, "config"))["revision"]))
        changed = await post(admin, "/v1/config:setMaintenance", enabled=False, justification=_WHY)
        await until_followed(mesh, int(changed["revision"]))
