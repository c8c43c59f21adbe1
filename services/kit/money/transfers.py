"""Transfers that a service makes exactly once, and what it reads of ledgers beside them.

Every transfer has a deduplication time and a memo that are kept before the ledger is asked, so that
a repeat finds what the first attempt did. When the ledger says that the time is too old, nothing is
known yet: its blocks are searched for the memo before anything is decided (F-8, F-11).
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from contract import principal
from contract.errors import RemoteError
from contract.principal import DEFAULT_SUBACCOUNT
from icto.ledger.v1 import ledger_pb2
from icto.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from services.kit.kit import Kit

log = logging.getLogger(__name__)

DUPLICATE: Final = "DUPLICATE"
TOO_OLD: Final = "TOO_OLD"
BAD_FEE: Final = "BAD_FEE"
INSUFFICIENT_FUNDS: Final = "INSUFFICIENT_FUNDS"

Attempt = Callable[[int], Awaitable[int]]
"""Asks the ledger for a transfer under a deduplication time; returns its block."""

Renew = Callable[[], Awaitable[int]]
"""Keeps a fresh deduplication time in place of the one that was too old, and returns it; or the one
that another attempt kept meanwhile: two times would be two transfers."""

Check = Callable[[ledger_pb2.Block], bool]
"""Whether a block that carries the memo is the transfer in question."""


class Transfers:
    """The accounts of this service on every ledger."""

    def __init__(self, kit: Kit) -> None:
        self.owner = principal.of_service(kit.service.mesh_name)
        self.ledger = kit.clients.stub(LedgerServiceStub)

    async def once(
        self,
        ledger: str,
        memo: bytes,
        created_at: int,
        attempt: Attempt,
        renew: Renew,
        check: Check = lambda _: True,
    ) -> int:
        """Makes a transfer once, however often it is asked for; returns its block.

        `created_at` is in nanoseconds since the epoch.

        Raises:
            RemoteError: the ledger's own reason; `outcome_unknown` when it may have worked.
        """
        try:
            return await _made(attempt, created_at)
        except RemoteError as error:
            if error.reason != TOO_OLD:
                raise
        found = await self.find(ledger, memo, check)
        if found is not None:
            return found
        # Not there, and no earlier attempt can still arrive: it would be too old as well.
        log.info("a transfer was never made within its window; trying under a fresh time")
        return await _made(attempt, await renew())

    async def find(self, ledger: str, memo: bytes, check: Check = lambda _: True) -> int | None:
        """The block of the transfer with this memo, if it was ever made."""
        request = ledger_pb2.ListBlocksRequest(parent=ledger, memo=memo, page_size=100)
        while True:
            page = await self.ledger.ListBlocks(request)
            for block in page.blocks:
                if self._is_ours(block) and check(block):
                    return int(block.index)
            if not page.next_page_token:
                return None
            request.page_token = page.next_page_token

    def _is_ours(self, block: ledger_pb2.Block) -> bool:
        """Anybody may copy a memo, and name us as spender; only our own transfers count."""
        if block.operation == ledger_pb2.OPERATION_APPROVE:
            return False
        payer: ledger_pb2.Account = getattr(block, "from")
        return self.owner in (block.spender.owner, payer.owner)

    async def fee(self, ledger: str) -> int:
        """The ledger's present fee, read anew each time (F-47)."""
        found = await self.ledger.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
        return int(found.transfer_fee)

    async def balance(
        self, ledger: str, owner: str = "", subaccount: bytes = DEFAULT_SUBACCOUNT
    ) -> int:
        """What an account holds; this service's own when no owner is named."""
        account = principal.encode_account(owner or self.owner, subaccount)
        name = f"{ledger}/accounts/{account}"
        found = await self.ledger.GetAccount(ledger_pb2.GetAccountRequest(name=name))
        return int(found.balance)


async def _made(attempt: Attempt, created_at: int) -> int:
    """The block of a transfer: made by this attempt, or by an earlier one of the same time."""
    try:
        return await attempt(created_at)
    except RemoteError as error:
        if error.reason != DUPLICATE:
            raise
        return int(error.metadata["duplicate_of"])


def nanoseconds_of(moment: datetime) -> int:
    """A moment in nanoseconds since the epoch, for instance a deduplication time."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made.ToNanoseconds()


def stamp(nanoseconds: int) -> Timestamp:
    """A moment given in nanoseconds since the epoch."""
    made = Timestamp()
    made.FromNanoseconds(nanoseconds)
    return made
