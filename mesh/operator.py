"""The operator's own calls through the mesh: over a listener that only this user can reach."""

from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import grpc

from contract.identities import OPERATOR
from contract.ids import FEE_LEDGER
from icto.identity.v1 import identity_pb2
from icto.identity.v1.identity_pb2_grpc import IdentityServiceStub
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.render import Paths

S = TypeVar("S")
_SECONDS = 5.0


class Operator:
    """A channel under the operator's identity."""

    def __init__(self, paths: Paths) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{paths.egress(OPERATOR)}",
            options=(
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ),
        )

    def stub(self, kind: Callable[[grpc.aio.Channel], S]) -> S:
        """A stub of a generated class."""
        return kind(self._channel)

    async def jwks(self) -> identity_pb2.GetJwksResponse:
        """Keys that verify access tokens.

        Raises:
            grpc.aio.AioRpcError: the gateway does not answer.
        """
        stub = self.stub(IdentityServiceStub)
        return await stub.GetJwks(identity_pb2.GetJwksRequest(), timeout=_SECONDS)

    async def issue_bootstrap_key(self, key_sha256: bytes, *, only_first: bool) -> bool:
        """Makes a bootstrap key work. False when `only_first` held it back.

        Raises:
            grpc.aio.AioRpcError: the gateway does not answer.
        """
        stub = self.stub(IdentityServiceStub)
        request = identity_pb2.IssueBootstrapKeyRequest(
            request_id=str(uuid4()), key_sha256=key_sha256, only_first=only_first
        )
        return (await stub.IssueBootstrapKey(request, timeout=_SECONDS)).issued

    async def give(self, owner: str, amount: int) -> None:
        """Mints fee tokens for somebody, where the operator may: nowhere but in play environments.

        Raises:
            grpc.aio.AioRpcError: the ledger refused.
        """
        await self.stub(LedgerServiceStub).Transfer(
            ledger_pb2.TransferRequest(
                request_id=str(uuid4()),
                ledger=FEE_LEDGER,
                to=ledger_pb2.Account(owner=owner),
                amount=str(amount),
            ),
            timeout=_SECONDS,
        )

    async def balance(self, owner: str) -> int:
        """What somebody holds of the fee token, base units.

        Raises:
            grpc.aio.AioRpcError: the ledger does not answer.
        """
        request = ledger_pb2.GetAccountRequest(name=f"{FEE_LEDGER}/accounts/{owner}")
        account = await self.stub(LedgerServiceStub).GetAccount(request, timeout=_SECONDS)
        return int(account.balance)

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()
