"""Locks as tests use them: made as the backend makes them, funded by a token's owner."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from google.protobuf import json_format

from contract import principal
from contract.principal import DEFAULT_SUBACCOUNT
from icto.ledger.v1 import ledger_pb2
from icto.lock.v1 import lock_pb2 as pb
from icto.lock.v1.lock_pb2_grpc import LockServiceStub
from mesh.cli.client import Client
from services.kit.money.escrow import account_of
from tests.support.installation import Installation, deployed, until
from tests.support.services import Peer

Account = tuple[str, bytes]
PAID = "CLAIM_STATE_PAID"


@dataclass(frozen=True)
class Vault:
    """One token of one owner, and what is locked of it."""

    mesh: Installation
    backend: Peer
    owner: Client
    ledger: str
    fee: int
    escrow: Account

    @property
    def locks(self) -> LockServiceStub:
        return self.backend.stub(LockServiceStub)

    async def create(self, spec: Mapping[str, Any], operation: str = "", **more: Any) -> pb.Lock:
        """A lock that waits to be funded."""
        owner, subaccount = self.escrow
        request = pb.CreateLockRequest(
            request_id=str(uuid4()),
            operation=operation or new_operation(),
            spec=json_format.ParseDict(dict(spec), pb.LockSpec()),
            ledger=self.ledger,
            escrow=ledger_pb2.Account(owner=owner, subaccount=subaccount),
            **more,
        )
        lock: pb.Lock = await self.backend.call(
            self.locks.CreateLock, request, self.owner.principal
        )
        return lock

    async def activate(self, operation: str) -> pb.Lock:
        request = pb.ActivateLockRequest(request_id=str(uuid4()), operation=operation)
        lock: pb.Lock = await self.backend.call(self.locks.ActivateLock, request)
        return lock

    async def abandon(self, operation: str) -> pb.AbandonLockResponse:
        owner, subaccount = self.escrow
        request = pb.AbandonLockRequest(
            request_id=str(uuid4()),
            operation=operation,
            ledger=self.ledger,
            escrow=ledger_pb2.Account(owner=owner, subaccount=subaccount),
        )
        answer: pb.AbandonLockResponse = await self.backend.call(self.locks.AbandonLock, request)
        return answer

    async def active(self, spec: Mapping[str, Any], **more: Any) -> pb.Lock:
        """A lock that is funded and vests."""
        lock = await self.create(spec, **more)
        await self.pay_in(account(lock), int(lock.spec.total_amount))
        return await self.activate(lock.operation)

    async def pay_in(self, to: Account, amount: int) -> None:
        """The token's owner sends some of it."""
        body = {
            "requestId": str(uuid4()),
            "to": {"owner": to[0], "subaccount": base64.b64encode(to[1]).decode()},
            "amount": str(amount),
        }
        await self.owner.rest("POST", f"/v1/{self.ledger}:transfer", body)

    async def balance(self, holder: Account | str) -> int:
        """What an account holds."""
        owner, subaccount = (holder, DEFAULT_SUBACCOUNT) if isinstance(holder, str) else holder
        text = principal.encode_account(owner, subaccount)
        found = await self.owner.rest("GET", f"/v1/{self.ledger}/accounts/{text}")
        return int(found.body["balance"])

    async def until_balance(self, holder: Account | str, amount: int) -> None:
        """Waits until an account holds exactly so much."""

        async def reached() -> bool:
            return await self.balance(holder) == amount

        await until(reached, 15)

    async def paid(self, claim: Mapping[str, Any]) -> dict[str, Any]:
        """A claim once it is paid, as the lock's owner sees it."""

        async def ended() -> dict[str, Any] | None:
            body = (await self.owner.rest("GET", f"/v1/{claim['name']}")).body
            return body if body["state"] == PAID else None

        found: dict[str, Any] = await until(ended, 15)
        return found

    async def check(self, lock: pb.Lock) -> dict[str, Any]:
        """Passes when every unit of a lock is where it should be; returns the lock.

        Everything that it owes must be paid: the account then holds what was neither claimed nor
        returned.
        """
        found = (await self.owner.rest("GET", f"/v1/{lock.name}")).body
        claims = (await self.owner.rest("GET", f"/v1/{lock.name}/claims?pageSize=100")).body
        claimed, returned = int(found["claimedAmount"]), int(found["returnedAmount"])
        for claim in claims.get("claims", []):
            await self.paid(claim)
        total = int(lock.spec.total_amount)
        await self.until_balance(account(lock), total - claimed - returned)
        assert claimed == sum(int(claim["amount"]) for claim in claims.get("claims", []))
        assert claimed == sum(int(b["claimedAmount"]) for b in found["spec"]["beneficiaries"])
        return found


async def vault(
    mesh: Installation, backend: Peer, supply: int = 10**16, fee: int = 10_000
) -> Vault:
    """A fresh token, whose escrow is an account of the backend's."""
    owner = await mesh.user()
    done = await deployed(owner, totalSupply=str(supply), transferFee=str(fee))
    ledger = done["token"].replace("tokens/", "ledgers/")
    return Vault(mesh, backend, owner, ledger, fee, account_of("backend", f"escrow/{uuid4()}"))


def new_operation() -> str:
    """A step that no launch has."""
    return f"launches/{uuid4()}/steps/lock"


def account(lock: pb.Lock) -> Account:
    """Where a lock holds what is locked."""
    return lock.account.owner, lock.account.subaccount


async def claim(client: Client, lock: pb.Lock, amount: int | None = None) -> dict[str, Any]:
    """A claim as a beneficiary makes it."""
    body = {"requestId": str(uuid4())} | ({} if amount is None else {"amount": str(amount)})
    return (await client.rest("POST", f"/v1/{lock.name}:claim", body)).body
