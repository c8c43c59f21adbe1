"""An administrator of an installation."""

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
