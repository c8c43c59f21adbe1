"""The first story: a signed-in creator deploys a token over REST and transfers some over gRPC."""

from uuid import uuid4

from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import Client
from tests.support.installation import deployed


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
