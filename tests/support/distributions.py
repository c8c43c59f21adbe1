"""Distributions as tests make them: a token, its creator, and the backend's part by its socket."""

import base64
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from google.protobuf.json_format import MessageToDict, ParseDict

from contract import ids, principal
from icto.distribution.v1 import distribution_pb2 as pb
from icto.distribution.v1.distribution_pb2_grpc import DistributionServiceStub
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.cli.client import CallError, Client
from services.distribution_deployer import merkle_rules
from tests.support.installation import Installation, until
from tests.support.services import Peer, peer

FEE: Final = 10
SUPPLY: Final = 10**15
INSTANT: Final[Mapping[str, Any]] = {"instant": {}}

Json = dict[str, Any]


def linear(seconds: int, initial: int = 0) -> Json:
    return {
        "linear": {"duration": f"{seconds}s"},
        "initialUnlockBasisPoints": initial,
    }


def whitelist(amounts: Mapping[str, int]) -> Json:
    named = [{"principal": who, "amount": str(amount)} for who, amount in amounts.items()]
    return {"whitelist": {"recipients": named}}


def category(number: int, source: Json, schedule: Mapping[str, Any] = INSTANT, **more: Any) -> Json:
    named = {"id": number, "displayName": f"Category {number}", "schedule": dict(schedule)}
    return named | source | more


def spec(total: int, *categories: Json, **more: Any) -> Json:
    return {
        "displayName": "A distribution",
        "campaignType": "CAMPAIGN_TYPE_AIRDROP",
        "totalAmount": str(total),
        "categories": list(categories),
    } | more


@dataclass
class Stage:
    """A mesh with a token whose whole supply its creator holds."""

    mesh: Installation
    creator: Client
    ledger: str
    backend: Peer
    deployer: Peer
    made: list[str] = field(default_factory=list)

    @property
    def stub(self) -> Any:
        return self.backend.stub(DistributionServiceStub)

    async def validate(self, wanted: Json, fee: int = FEE) -> Json:
        request = pb.ValidateDistributionRequest(
            spec=ParseDict(wanted, pb.DistributionSpec()), transfer_fee=str(fee)
        )
        stub = self.stub
        answer = await self.backend.call(stub.ValidateDistribution, request, self.creator.principal)
        return MessageToDict(answer.spec)

    async def create(self, wanted: Json, operation: str = "", **more: Any) -> pb.Distribution:
        operation = operation or new_operation()
        self.made.append(operation)
        request = pb.CreateDistributionRequest(
            request_id=more.pop("request_id", str(uuid4())),
            operation=operation,
            spec=ParseDict(wanted, pb.DistributionSpec()),
            ledger=self.ledger,
            escrow=more.pop("escrow", ledger_pb2.Account(owner=self.creator.principal)),
            **more,
        )
        method, owner = self.stub.CreateDistribution, self.creator.principal
        created: pb.Distribution = await self.backend.call(method, request, owner)
        return created

    async def activate(self, operation: str = "") -> pb.Distribution:
        request = pb.ActivateDistributionRequest(
            request_id=str(uuid4()), operation=operation or self.made[-1]
        )
        active: pb.Distribution = await self.backend.call(self.stub.ActivateDistribution, request)
        return active

    async def abandon(self, operation: str = "") -> pb.AbandonDistributionResponse:
        request = pb.AbandonDistributionRequest(
            request_id=str(uuid4()), operation=operation or self.made[-1]
        )
        answer: pb.AbandonDistributionResponse = await self.backend.call(
            self.stub.AbandonDistribution, request
        )
        return answer

    async def fund(self, made: pb.Distribution, amount: int | None = None) -> None:
        whole = int(made.spec.total_amount) if amount is None else amount
        await self.send(made.account.owner, whole, made.account.subaccount)

    async def send(self, owner: str, amount: int, subaccount: bytes = b"") -> None:
        to = {"owner": owner, "subaccount": base64.b64encode(subaccount).decode()}
        body = {"requestId": str(uuid4()), "to": to, "amount": str(amount)}
        await self.creator.rest("POST", f"/v1/{self.ledger}:transfer", body)

    async def open(self, wanted: Json) -> str:
        """A distribution that is funded and active; its name."""
        created = await self.create(wanted)
        await self.fund(created)
        return (await self.activate()).name

    async def balance(self, owner: str, subaccount: bytes = bytes(32)) -> int:
        account = principal.encode_account(owner, subaccount or bytes(32))
        found = await self.creator.rest("GET", f"/v1/{self.ledger}/accounts/{account}")
        return int(found.body["balance"])

    async def held(self, name: str) -> int:
        """What a distribution's account holds."""
        made = await self.stub.GetDistribution(pb.GetDistributionRequest(name=name), timeout=5)
        return await self.balance(made.account.owner, made.account.subaccount)

    async def supply(self) -> int:
        return int((await self.creator.rest("GET", f"/v1/{self.ledger}")).body["totalSupply"])

    async def state(self, name: str) -> str:
        made = await self.stub.GetDistribution(pb.GetDistributionRequest(name=name), timeout=5)
        return pb.DistributionState.Name(made.state).removeprefix("DISTRIBUTION_STATE_")

    async def until_state(self, name: str, wanted: str, seconds: float = 15.0) -> None:
        async def reached() -> bool:
            return await self.state(name) == wanted

        await until(reached, seconds)


@contextlib.asynccontextmanager
async def stage_of(mesh: Installation) -> AsyncIterator[Stage]:
    """A stage on a mesh."""
    async with peer(mesh, "backend") as backend, peer(mesh, "token_deployer") as deployer:
        creator = await mesh.user(funds=0)
        try:
            ledger = await new_ledger(deployer, creator.principal)
            yield Stage(mesh, creator, ledger, backend, deployer)
        finally:
            await creator.close()


async def new_ledger(deployer: Peer, owner: str, minter: str = "") -> str:
    """A token whose supply somebody holds."""
    name = f"ledgers/{ids.new_id(str(uuid4()))}"
    request = ledger_pb2.CreateLedgerRequest(
        request_id=str(uuid4()),
        name=name,
        display_name="Community",
        symbol="COMM",
        decimals=8,
        transfer_fee=str(FEE),
        initial_balances=[
            ledger_pb2.InitialBalance(account=ledger_pb2.Account(owner=owner), amount=str(SUPPLY))
        ],
        minting_account=ledger_pb2.Account(owner=minter) if minter else None,
        controller=owner,
    )
    await deployer.call(deployer.stub(LedgerServiceStub).CreateLedger, request)
    return name


def new_operation() -> str:
    return f"launches/{uuid4()}/steps/distribution_1"


async def act(client: Client, name: str, verb: str, **body: Any) -> Json:
    """A user's act on a distribution or a list, under a fresh request id."""
    whole = {"requestId": str(uuid4())} | body
    return (await client.rest("POST", f"/v1/{name}:{verb}", whole)).body


async def refused(running: Any) -> str:
    """The reason for which a user's call was refused."""
    try:
        answer = await running
    except CallError as error:
        return error.reason
    raise AssertionError(f"not refused: {answer}")


async def paid(client: Client, claim: Json) -> Json:
    """A claim once it is paid."""

    async def on_the_ledger() -> Json | None:
        body = (await client.rest("GET", f"/v1/{claim['name']}")).body
        return body if body["state"] == "CLAIM_STATE_PAID" else None

    found: Json = await until(on_the_ledger)
    return found


async def claimable(client: Client, name: str) -> Json:
    return (await client.rest("GET", f"/v1/{name}:claimable")).body


async def stats(client: Client, name: str) -> Json:
    return (await client.rest("GET", f"/v1/{name}:stats")).body


async def recipient_list(
    client: Client, number: int, pages: Sequence[Mapping[str, int]]
) -> tuple[str, merkle_rules.Tree]:
    """A list of the client's with its pages, not sealed, and the tree over it."""
    begun = (
        await client.rest(
            "POST", "/v1/recipientLists", {"requestId": str(uuid4()), "categoryId": number}
        )
    ).body
    for position, page in enumerate(pages):
        await act(client, begun["name"], "addRecipients", page=position, recipients=listed(page))
    everybody = [pair for page in pages for pair in page.items()]
    return begun["name"], tree_of(begun["name"], number, everybody)


def listed(page: Mapping[str, int]) -> list[Json]:
    return [{"principal": who, "amount": str(amount)} for who, amount in page.items()]


def tree_of(name: str, number: int, everybody: Iterable[tuple[str, int]]) -> merkle_rules.Tree:
    list_id = UUID(name.partition("/")[2])
    return merkle_rules.Tree(
        merkle_rules.leaf(list_id, number, who, amount) for who, amount in everybody
    )


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
