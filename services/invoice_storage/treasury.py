"""The platform's account on the ledger: charges come in by allowance, refunds go out.

Every transfer has a deduplication time and a memo that are kept before the ledger is asked, so that
a repeat finds what the first attempt did. When the ledger says that the time is too old, nothing is
known yet: its blocks are searched for the memo before anything is decided (F-8, F-11).
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from services.invoice_storage.domain import Payment, Refund
from services.kit import principal
from services.kit.errors import RemoteError
from services.kit.faults import Faults
from services.kit.kit import Kit

log = logging.getLogger(__name__)

DUPLICATE: Final = "DUPLICATE"
TOO_OLD: Final = "TOO_OLD"
INSUFFICIENT_FUNDS: Final = "INSUFFICIENT_FUNDS"

Attempt = Callable[[int], Awaitable[int]]
"""Asks the ledger for a transfer under a deduplication time; returns its block."""

Renew = Callable[[], Awaitable[int]]
"""Keeps a fresh deduplication time and returns it."""


@dataclass(frozen=True, slots=True)
class Spender:
    """What an account would let the treasury take. Base units; nanoseconds, None for never."""

    allowance: int
    expires: int | None
    balance: int


class Treasury:
    """The account of this service."""

    def __init__(self, kit: Kit) -> None:
        self.account = principal.of_service(kit.service.mesh_name)
        self._ledger = kit.clients.stub(LedgerServiceStub)
        self._faults: Faults = kit.faults

    async def charge(self, payment: Payment, renew: Renew) -> int:
        """Takes a payment from its owner; returns the block.

        Raises:
            RemoteError: the ledger's own reason; `outcome_unknown` when it may have worked.
        """

        async def attempt(created_at: int) -> int:
            request = ledger_pb2.TransferFromRequest(
                request_id=f"{payment.id}:charge:{created_at}",
                ledger=payment.ledger,
                to=ledger_pb2.Account(owner=self.account),
                amount=str(payment.amount),
                memo=payment.memo,
                created_at_time=_stamp(created_at),
                **{"from": ledger_pb2.Account(owner=payment.owner)},  # type: ignore[arg-type]
            )
            self._faults.point("payment.charge.before")
            answer = await self._ledger.TransferFrom(request)
            self._faults.point("payment.charge.after")
            return int(answer.block_index)

        return await self._once(payment.ledger, payment.memo, payment.created_at, attempt, renew)

    async def pay_back(self, refund: Refund, renew: Renew) -> int:
        """Pays a refund to the payer, who gets the exact amount; returns the block.

        Raises:
            RemoteError: the ledger's own reason; `outcome_unknown` when it may have worked.
        """

        async def attempt(created_at: int) -> int:
            request = ledger_pb2.TransferRequest(
                request_id=f"{refund.id}:refund:{created_at}",
                ledger=refund.ledger,
                to=ledger_pb2.Account(owner=refund.owner),
                amount=str(refund.amount),
                memo=refund.memo,
                created_at_time=_stamp(created_at),
            )
            self._faults.point("payment.refund.before")
            answer = await self._ledger.Transfer(request)
            self._faults.point("payment.refund.after")
            return int(answer.block_index)

        return await self._once(refund.ledger, refund.memo, refund.created_at, attempt, renew)

    async def _once(
        self, ledger: str, memo: bytes, created_at: int, attempt: Attempt, renew: Renew
    ) -> int:
        """Makes a transfer once, however often it is asked for."""
        try:
            return await attempt(created_at)
        except RemoteError as error:
            if error.reason == DUPLICATE:
                return int(error.metadata["duplicate_of"])
            if error.reason != TOO_OLD:
                raise
        found = await self._find(ledger, memo)
        if found is not None:
            return found
        # Not there, and no earlier attempt can still arrive: it would be too old as well.
        log.info("a transfer was never made within its window; trying under a fresh time")
        return await attempt(await renew())

    async def _find(self, ledger: str, memo: bytes) -> int | None:
        """The block of the transfer with this memo, if it was ever made."""
        request = ledger_pb2.ListBlocksRequest(parent=ledger, memo=memo, page_size=100)
        while True:
            page = await self._ledger.ListBlocks(request)
            for block in page.blocks:
                if self._is_ours(block):
                    return int(block.index)
            if not page.next_page_token:
                return None
            request.page_token = page.next_page_token

    def _is_ours(self, block: ledger_pb2.Block) -> bool:
        """Anybody may copy a memo; only our own transfers count."""
        payer: ledger_pb2.Account = getattr(block, "from")
        return self.account in (block.spender.owner, payer.owner)

    async def fee(self, ledger: str) -> int:
        """The ledger's present fee, read anew each time (F-47)."""
        found = await self._ledger.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
        return int(found.transfer_fee)

    async def balance(self, ledger: str, owner: str | None = None) -> int:
        """What an account holds; the treasury's own when none is named."""
        name = f"{ledger}/accounts/{owner or self.account}"
        found = await self._ledger.GetAccount(ledger_pb2.GetAccountRequest(name=name))
        return int(found.balance)

    async def spender(self, ledger: str, owner: str) -> Spender:
        """What an account would let the treasury take."""
        name = f"{ledger}/accounts/{owner}/allowances/{self.account}"
        found = await self._ledger.GetAllowance(ledger_pb2.GetAllowanceRequest(name=name))
        expires = found.expire_time.ToNanoseconds() if found.HasField("expire_time") else None
        return Spender(int(found.allowance), expires, await self.balance(ledger, owner))


def _stamp(nanoseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(nanoseconds)
    return stamp
