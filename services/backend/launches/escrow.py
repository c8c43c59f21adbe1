"""The launch's own account on the token's ledger, and the transfers into and out of it.

The account belongs to this service's principal, so that neither the owner nor anybody else can move
what lies there. Each transfer is known by its launch and step, and is made once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from contract.units import Unit
from icto.ledger.v1 import ledger_pb2
from services.backend.launches import domain, store
from services.backend.launches.domain import Launch
from services.kit.money import escrow, memos
from services.kit.money.transfers import Transfers, nanoseconds_of, stamp
from services.kit.serving import Kit

Attempt = Callable[[int], Awaitable[int]]


class Escrow:
    """Escrow accounts of launches."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database
        self._mesh_name = kit.service.mesh_name
        self._transfers = Transfers(kit)

    def account(self, launch_id: UUID) -> ledger_pb2.Account:
        """The escrow account of a launch."""
        owner, subaccount = escrow.account_of(self._mesh_name, f"launches/{launch_id}")
        return ledger_pb2.Account(owner=owner, subaccount=subaccount)

    async def balance(self, launch_id: UUID, ledger: str) -> int:
        """What lies in escrow."""
        account = self.account(launch_id)
        return await self._transfers.balance(ledger, account.owner, account.subaccount)

    async def fee(self, ledger: str) -> int:
        """The ledger's present fee."""
        return await self._transfers.fee(ledger)

    async def ledger(self, name: str) -> ledger_pb2.Ledger:
        """A token's ledger."""
        request = ledger_pb2.GetLedgerRequest(name=name)
        return await self._transfers.ledger.GetLedger(request)

    async def check_takeable(self, ledger: str, payer: str, amount: int) -> None:
        """Passes when `take` could take this much now, the ledger's fee included.

        Raises:
            Error: FAILED_PRECONDITION, allowance or balance fall short.
        """
        allowances = f"{ledger}/accounts/{payer}/allowances/{self._transfers.owner}"
        request = ledger_pb2.GetAllowanceRequest(name=allowances)
        found, allowance, balance = await asyncio.gather(
            self.ledger(ledger),
            self._transfers.ledger.GetAllowance(request),
            self._transfers.balance(ledger, payer),
        )
        unit = Unit(found.symbol, found.decimals)
        domain.check_takeable(int(allowance.allowance), balance, amount, unit)

    async def pay(
        self,
        launch: Launch,
        step: str,
        ledger: str,
        to: ledger_pb2.Account,
        amount: int,
        *,
        source: UUID | None = None,
    ) -> int:
        """Moves tokens out of the escrow of a launch, or of `source`, once; returns the block.

        Raises:
            RemoteError: the ledger's own reason; `outcome_unknown` when it may have worked.
        """

        async def attempt(created_at: int) -> int:
            request = ledger_pb2.TransferRequest(
                request_id=_request_id(launch.id, step, created_at),
                ledger=ledger,
                from_subaccount=self.account(source or launch.id).subaccount,
                to=to,
                amount=str(amount),
                memo=_memo(launch.id, step),
                created_at_time=stamp(created_at),
            )
            answer = await self._transfers.ledger.Transfer(request)
            return int(answer.block_index)

        return await self._once(launch, step, ledger, attempt)

    async def take(self, launch: Launch, step: str, ledger: str, amount: int) -> int:
        """Takes tokens of the owner, who approved it, into escrow, once; returns the block.

        Raises:
            RemoteError: as for `pay`.
        """

        async def attempt(created_at: int) -> int:
            request = ledger_pb2.TransferFromRequest(
                request_id=_request_id(launch.id, step, created_at),
                ledger=ledger,
                to=self.account(launch.id),
                amount=str(amount),
                memo=_memo(launch.id, step),
                created_at_time=stamp(created_at),
                **{"from": ledger_pb2.Account(owner=launch.owner)},  # type: ignore[arg-type]
            )
            answer = await self._transfers.ledger.TransferFrom(request)
            return int(answer.block_index)

        return await self._once(launch, step, ledger, attempt)

    async def _once(self, launch: Launch, step: str, ledger: str, attempt: Attempt) -> int:
        return await self._transfers.once(
            ledger,
            _memo(launch.id, step),
            nanoseconds_of(launch.accept_time),
            attempt,
            lambda: store.renew_transfer(self._database, launch.id, step),
        )


def _memo(launch_id: UUID, step: str) -> bytes:
    return memos.of("launch", f"{launch_id}:{step}")


def _request_id(launch_id: UUID, step: str, created_at: int) -> str:
    """At most 64 characters; the time is that of the deduplication window, in seconds."""
    return f"{launch_id.hex}:{step}:{created_at // 1_000_000_000}"
