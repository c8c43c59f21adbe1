"""The first stories: a creator deploys a token and transfers some; launches one that is claimed."""

from uuid import uuid4

from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import Client
from tests.support.installation import deployed, until
from tests.support.launches import (
    FEE,
    SUPPLY,
    distribution,
    launched,
    ledger_of,
    lock,
    spec,
    token,
)


async def test_a_creator_deploys_a_token_and_transfers_some_of_it(
    alice: Client, bob: Client
) -> None:
    deployment = await deployed(alice, totalSupply="1000000", transferFee="10")
    assert deployment["state"] == "DEPLOYMENT_STATE_SUCCEEDED"
    ledger = deployment["token"].replace("tokens/", "ledgers/")

    response = await LedgerServiceStub(alice.channel).Transfer(
        ledger_pb2.TransferRequest(
            request_id=str(uuid4()),
            ledger=ledger,
            to=ledger_pb2.Account(owner=bob.principal),
            amount="1234",
        ),
        metadata=await alice.metadata(),
    )

    assert response.block_index == 1
    assert await balance(alice, ledger, alice.principal) == 1000000 - 1234 - 10
    assert await balance(alice, ledger, bob.principal) == 1234
    assert (await bob.rest("GET", f"/v1/{ledger}")).body["totalSupply"] == str(1000000 - 10)


async def balance(client: Client, ledger: str, owner: str) -> int:
    """A balance in base units."""
    return int((await client.rest("GET", f"/v1/{ledger}/accounts/{owner}")).body["balance"])


async def test_a_creator_launches_and_whoever_was_meant_claims_it(
    alice: Client, bob: Client
) -> None:
    """A lock and a share of a distribution, both open at once: counted to the last unit."""
    locked, given = 5_000, 7_000
    launch = await launched(
        alice,
        spec(
            {"newToken": token()},
            [lock(bob.principal, locked, schedule={"instant": {}})],
            [distribution(bob.principal, given)],
        ),
    )
    assert launch["state"] == "LAUNCH_STATE_SUCCEEDED"
    ledger = ledger_of(launch)
    for name in (*launch["locks"], *launch["distributions"]):
        claim = (await bob.rest("POST", f"/v1/{name}:claim", {"requestId": str(uuid4())})).body

        async def paid(claim: str = claim["name"]) -> bool:
            found = (await bob.rest("GET", f"/v1/{claim}")).body
            return bool(found["state"] == "CLAIM_STATE_PAID")

        await until(paid)

    assert await balance(bob, ledger, bob.principal) == locked + given - 2 * FEE
    assert await balance(alice, ledger, alice.principal) == SUPPLY - locked - given - 3 * FEE
    burned = 5 * FEE
    assert (await bob.rest("GET", f"/v1/{ledger}")).body["totalSupply"] == str(SUPPLY - burned)
    payment = (await alice.rest("GET", f"/v1/{launch['payment']}")).body
    invoice = (await alice.rest("GET", f"/v1/{payment['invoice']}")).body
    assert invoice["total"] == payment["deliveredAmount"] == launch["cost"]
