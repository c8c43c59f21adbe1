"""The platform's account on the ledger: charges come in by allowance, refunds go out."""

from dataclasses import dataclass
from functools import partial

from contract.errors import Code, Error, RemoteError
from contract.units import Unit
from icto.ledger.v1 import ledger_pb2
from services.invoice_storage.domain import Payment, Refund
from services.kit.money.transfers import Renew, Transfers, stamp
from services.kit.serving import Kit
from services.kit.testing.faults import Faults


@dataclass(frozen=True, slots=True)
class Spender:
    """What an account would let the treasury take. Base units; nanoseconds, None for never."""

    allowance: int
    expires: int | None
    balance: int


def is_charge(payment: Payment, block: ledger_pb2.Block) -> bool:
    """Whether a block under a payment's memo is its charge: by its payer, of its amount."""
    payer: ledger_pb2.Account = getattr(block, "from")
    return (payer.owner, block.amount) == (payment.owner, str(payment.amount))


class Treasury:
    """The account of this service."""

    def __init__(self, kit: Kit) -> None:
        self._transfers = Transfers(kit)
        self._ledger = self._transfers.ledger
        self.account = self._transfers.owner
        self._faults: Faults = kit.faults

    async def charge(self, payment: Payment, renew: Renew) -> int:
        """Takes a payment from its owner; returns the block.

        Raises:
            RemoteError: the ledger's own reason; `definite` when it was not made by this call.
        """

        async def attempt(created_at: int) -> int:
            self._faults.point("payment.charge.before")
            answer = await self._ledger.TransferFrom(self._charge(payment, created_at))
            self._faults.point("payment.charge.after")
            return int(answer.block_index)

        return await self._transfers.once(
            payment.ledger,
            payment.memo,
            payment.created_at,
            attempt,
            renew,
            partial(is_charge, payment),
        )

    def _charge(self, payment: Payment, created_at: int) -> ledger_pb2.TransferFromRequest:
        return ledger_pb2.TransferFromRequest(
            request_id=f"{payment.id}:charge:{created_at}",
            ledger=payment.ledger,
            to=ledger_pb2.Account(owner=self.account),
            amount=str(payment.amount),
            memo=payment.memo,
            created_at_time=stamp(created_at),
            **{"from": ledger_pb2.Account(owner=payment.owner)},  # type: ignore[arg-type]
        )

    async def give_up(self, payment: Payment) -> int | None:
        """Has the ledger never make a charge, however late a call for it arrives.

        Returns its block when it was made before; then it was not given up.

        Raises:
            Error: neither is known yet.
        """
        request = ledger_pb2.VoidTransferFromRequest(
            request_id=f"{payment.id}:void:{payment.created_at}",
            transfer=self._charge(payment, payment.created_at),
        )
        try:
            answer = await self._ledger.VoidTransferFrom(request)
        except RemoteError as error:
            if not error.definite:
                raise
            raise Error(Code.ABORTED, error.reason, error.message) from None
        return int(answer.block_index) if answer.HasField("block_index") else None

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
                created_at_time=stamp(created_at),
            )
            self._faults.point("payment.refund.before")
            answer = await self._ledger.Transfer(request)
            self._faults.point("payment.refund.after")
            return int(answer.block_index)

        return await self._transfers.once(
            refund.ledger, refund.memo, refund.created_at, attempt, renew
        )

    async def fee(self, ledger: str) -> int:
        """The ledger's present fee."""
        return await self._transfers.fee(ledger)

    async def balance(self, ledger: str, owner: str = "") -> int:
        """What an account holds; the treasury's own when none is named."""
        return await self._transfers.balance(ledger, owner)

    async def unit(self, ledger: str) -> Unit:
        """What the token of a ledger is counted in."""
        found = await self._ledger.GetLedger(ledger_pb2.GetLedgerRequest(name=ledger))
        return Unit(found.symbol, found.decimals)

    async def spender(self, ledger: str, owner: str) -> Spender:
        """What an account would let the treasury take."""
        name = f"{ledger}/accounts/{owner}/allowances/{self.account}"
        found = await self._ledger.GetAllowance(ledger_pb2.GetAllowanceRequest(name=name))
        expires = found.expire_time.ToNanoseconds() if found.HasField("expire_time") else None
        return Spender(int(found.allowance), expires, await self.balance(ledger, owner))
