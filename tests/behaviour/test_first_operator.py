"""The first operator: a key that works once, whoever holds it and however often they try (F-56)."""

import asyncio
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.cli.client import CallError, Client
from mesh.supervisor import bootstrap_digest, new_bootstrap_key
from tests.support.installation import Installation

REDEEM = "/v1/bootstrapKeys:redeem"


async def candidate(mesh: Installation) -> Client:
    client = Client(mesh.edge, Ed25519PrivateKey.generate())
    await client.sign_in()
    return client


async def redeemed(client: Client, key: str) -> str:
    """Why a key was refused, or nothing."""
    try:
        await client.rest("POST", REDEEM, {"requestId": str(uuid4()), "bootstrapKey": key})
    except CallError as error:
        return error.reason
    return ""


async def test_a_bootstrap_key_makes_one_super_admin_once(mesh: Installation) -> None:
    """F-57: no seed list; however many redeem it at the same time, at whatever replica."""
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        assert await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    clients = [await candidate(mesh) for _ in range(10)]
    told = await asyncio.gather(*(redeemed(client, key) for client in clients))
    assert sorted(told) == ["", *["BOOTSTRAP_KEY_INVALID"] * 9]
    for client, refusal in zip(clients, told, strict=True):
        await client.sign_in()
        assert client.roles == ([] if refusal else ["SUPER_ADMIN"])
        assert await redeemed(client, key) == "BOOTSTRAP_KEY_INVALID"
        await client.close()


async def test_a_key_that_was_never_issued_makes_nobody_anything(mesh: Installation) -> None:
    client = await candidate(mesh)
    for guess in (new_bootstrap_key(), "x", " ", "0" * 64):
        assert await redeemed(client, guess) == "BOOTSTRAP_KEY_INVALID"
    await client.sign_in()
    assert client.roles == []
    await client.close()


async def test_a_key_is_kept_as_a_digest_alone(mesh: Installation) -> None:
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    async with mesh.superuser() as database:
        rows = await database.fetch("SELECT * FROM gateway.bootstrap_keys")
        events = await database.fetch("SELECT event FROM audit_storage.entries")
    assert rows
    assert not any(key in str(row) for row in rows)
    assert not any(key.encode() in row["event"] for row in events)
    assert key.encode() not in mesh.output()


async def test_nobody_outside_issues_a_key(alice: Client) -> None:
    for path in ("/v1/bootstrapKeys", "/v1/bootstrapKeys:issue"):
        with pytest.raises(CallError) as caught:
            await alice.rest("POST", path, {"requestId": str(uuid4())})
        assert caught.value.status in {403, 404, 405}
