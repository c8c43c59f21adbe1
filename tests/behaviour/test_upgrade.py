"""An installation of an earlier release goes on: what was under way ends, all is still read."""

import asyncio
import base64
import json
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract import principal
from mesh.cli.client import Client
from mesh.supervisor import bootstrap_digest, new_bootstrap_key
from tests.chaos import invariants, launch_invariants
from tests.conftest import REQUIRED
from tests.support.administration import administrator
from tests.support.earlier import EarlierClient, program_of
from tests.support.installation import Installation, deployed, installation, until
from tests.support.launches import lock, ordered, spec, token
from tests.support.money import get, post

EARLIER: Final = "ae57535"
"""The release before roles had an id, before text was bounded, and before no token was like ICP."""
LAUNCHES: Final = 12
SVG: Final = (
    "data:image/svg+xml;base64,"
    + base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>').decode()
)
NAME: Final = "red \x1b[31m \u202ename"
NOBODY: Final = "aaaaa-aa"
_UNFINISHED: Final = """
SELECT count(*) FROM backend.launches AS l JOIN backend.kit_pipelines AS p USING (id)
WHERE p.state NOT IN (2, 3, 4)
"""


async def signed_in(mesh: Installation, key: Ed25519PrivateKey) -> EarlierClient:
    """A user of then, with some ICP."""
    client = EarlierClient(mesh.edge, key)
    await client.sign_in()
    async with mesh.operator() as operator:
        await operator.give(client.principal, 10**12)
    return client


async def gives_nobody_a_role(mesh: Installation) -> None:
    """The first super-admin, who was not kept from it then."""
    key = new_bootstrap_key()
    async with mesh.operator() as operator:
        await operator.issue_bootstrap_key(bootstrap_digest(key), only_first=False)
    chief = EarlierClient(mesh.edge, Ed25519PrivateKey.generate())
    await chief.sign_in()
    await post(chief, "/v1/bootstrapKeys:redeem", bootstrapKey=key)
    await chief.sign_in()
    path = f"/v1/principals/{NOBODY}:grantRole"
    await post(chief, path, role="ROLE_MODERATOR", justification="a test")
    await chief.close()


async def with_a_list(client: Client) -> str:
    """A recipient list of three thousand, not sealed."""
    made = (await post(client, "/v1/recipientLists", categoryId=1))["name"]
    for page in range(3):
        recipients = [
            {
                "principal": principal.of_public_key((page * 1000 + n).to_bytes(32, "big")),
                "amount": "1000",
            }
            for n in range(1000)
        ]
        await post(client, f"/v1/{made}:addRecipients", page=page, recipients=recipients)
    return str(made)


async def ended(mesh: Installation) -> list[str]:
    """Waits until every launch has ended, and gives what does not add up."""
    async with mesh.superuser() as database:

        async def over() -> bool:
            unsent = await invariants.unsent_events(database)
            return not unsent and not await database.fetchval(_UNFINISHED)

        await until(over, 120)
        found = await invariants.of_money(database) + await launch_invariants.of_launches(database)
        found += await invariants.of_audit(database, mesh)
        return found + await invariants.of_ledgers(database)


@pytest.mark.timeout(400)  # two starts, and whatever is under way
async def test_an_installation_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    program = program_of(EARLIER, tmp_path / "earlier")
    if program is None:
        missing = f"the history of this checkout does not reach back to {EARLIER}"
        if REQUIRED:
            pytest.fail(missing)
        pytest.skip(missing)
    key = Ed25519PrivateKey.generate()
    async with installation(icto=program) as mesh:
        alice = await signed_in(mesh, key)
        icp = await deployed(alice, symbol="ICP", displayName="Internet Computer")
        pictured = await deployed(alice, logo=SVG)
        wanted = await with_a_list(alice)
        await gives_nobody_a_role(mesh)
        named = [ordered(alice, spec({"newToken": token()}) | {"displayName": NAME})]
        locked = [
            ordered(alice, spec({"newToken": token()}, [lock(alice.principal)]))
            for _ in range(LAUNCHES)
        ]
        await asyncio.gather(*named, *locked)
        async with mesh.superuser() as database:
            assert await database.fetchval(_UNFINISHED), "nothing was under way"
        assert mesh.process is not None
        mesh.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(mesh.process.wait)
        await alice.close()

        now = Installation(mesh.run.path, (mesh.port, mesh.metrics_port))
        try:
            await now.start()
            assert await ended(now) == []
            await _is_read(now, key, wanted, icp, pictured, tmp_path)
            await _roles_are_renamed(now)
        finally:
            await now.stop()


async def _is_read(
    mesh: Installation,
    key: Ed25519PrivateKey,
    recipients: str,
    icp: dict[str, Any],
    pictured: dict[str, Any],
    home: Path,
) -> None:
    """What was stored under the old rules, by REST and on a terminal."""
    alice = Client(mesh.edge, key)
    await alice.sign_in()
    assert (await get(alice, icp["token"]))["spec"]["symbol"] == "ICP"
    assert (await get(alice, pictured["token"]))["spec"]["logo"] == SVG
    assert (await get(alice, recipients))["recipientCount"] == 3000
    assert (await deployed(alice))["state"] == "DEPLOYMENT_STATE_SUCCEEDED"
    await alice.close()
    (home / "icto").mkdir(mode=0o700)
    file = home / "icto" / "key"
    file.write_text(key.private_bytes_raw().hex())
    file.chmod(0o600)
    status, shown = await mesh.icto("launches", home=home)
    assert (status, "\x1b" in shown, "\u202e" in shown) == (0, False, False), json.dumps(shown)
    assert "red " in shown
    async with administrator(mesh) as chief:
        path = f"/v1/principals/{NOBODY}:revokeRole"
        await post(chief, path, role="ROLE_MODERATOR", justification="a test")


async def _roles_are_renamed(mesh: Installation) -> None:
    async with mesh.superuser() as database:
        installation_id = await database.fetchval("SELECT id FROM icto_installation.identity")
        roles = {
            row["rolname"]
            for row in await database.fetch("SELECT rolname FROM pg_roles WHERE rolcanlogin")
        }
    assert f"icto_{installation_id}_backend" in roles
    assert "icto_backend" not in roles
