"""Orders payouts and pays them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from services.kit import memos
from services.kit.database import Connection
from services.kit.errors import Code, Error, RemoteError
from services.kit.journal import Claim, Definition, Ended, Pipelines, RetryPolicy, Step, StepContext
from services.kit.kit import Kit
from services.kit.statement import Statement
from services.kit.transfers import Transfers, stamp

_TRANSFER: Final = "transfer"
_RETRY: Final = RetryPolicy(first=0.1, longest=5.0)
_NOW: Final = "(extract(epoch FROM kit_now()) * 1000000)::bigint * 1000"
_ADD: Final = f"""
INSERT INTO kit_payouts (id, ledger, subaccount, target_owner, target_subaccount, amount, fee,
    created_at_ns)
VALUES ($1, $2, $3, $4, $5, $6, $7, {_NOW})
"""
_GET: Final = """
SELECT id, ledger, subaccount, target_owner, target_subaccount, amount, fee, created_at_ns
FROM kit_payouts WHERE id = $1
"""
_RENEW: Final = (
    f"UPDATE kit_payouts SET created_at_ns = {_NOW} WHERE id = $1 RETURNING created_at_ns"
)
_PAID: Final = """
UPDATE kit_payouts SET block_index = paid.block_index
FROM unnest($1::uuid[], $2::bigint[]) AS paid (id, block_index) WHERE kit_payouts.id = paid.id
"""


@dataclass(frozen=True, slots=True)
class Payout:
    """An order. Base units.

    Attributes:
        id: of the act that owes it, or one of its own.
        ledger: `ledgers/{id}`.
        subaccount: of this service, which pays.
        to: owner and 32-byte subaccount who receive.
        amount: what they receive.
        fee: what the ledger takes beside it, as the payer saw it.
    """

    id: UUID
    ledger: str
    subaccount: bytes
    to: tuple[str, bytes]
    amount: int
    fee: int


@dataclass(frozen=True, slots=True)
class PaidOut:
    """A payout that was made, and the block that records it."""

    id: UUID
    block_index: int
    traceparent: str


Settle = Callable[[Connection, Sequence[PaidOut]], Awaitable[Sequence[events.Event]]]
"""Records payouts on the rows that owed them, in the transaction that ends them."""


class Payouts:
    """The payouts of one service."""

    def __init__(self, kit: Kit, pipelines: Pipelines, settle: Settle) -> None:
        self._database = kit.database
        self._transfers = Transfers(kit)
        self._pipelines = pipelines
        self._settle = settle
        # What is owed is paid in an emergency stop, too.
        self._definition = Definition(
            "payout",
            version=1,
            steps=(Step(_TRANSFER, self._transfer, retry=_RETRY),),
            settle=self._ended,
            stoppable=False,
        )
        pipelines.define(self._definition)
        self._held_up = kit.telemetry.metrics.counter(
            "icto_payouts_held_up_total", "Attempts to pay that a ledger refused.", "reason"
        )

    def ordered(self, payout: Payout) -> tuple[Claim, tuple[Statement, ...]]:
        """What a transaction writes to owe a payout, and the claim to adopt once it committed."""
        claim, begun = self._pipelines.begin(self._definition, payout.id)
        added = Statement(
            _ADD,
            (
                payout.id,
                payout.ledger,
                payout.subaccount,
                *payout.to,
                payout.amount,
                payout.fee,
            ),
        )
        return claim, (added, begun)

    def adopt(self, claim: Claim) -> None:
        """Pays at once what was ordered here."""
        self._pipelines.adopt(claim)

    async def _transfer(self, context: StepContext) -> bytes:
        """Makes the transfer. One that the ledger refuses is held up, not lost."""
        row: Any = await self._database.fetchrow(_GET, context.pipeline_id)
        try:
            block = await self._transfers.once(
                row["ledger"],
                _memo(row),
                row["created_at_ns"],
                lambda created_at: self._pay(row, created_at),
                lambda: self._database.fetchval(_RENEW, row["id"]),
            )
        except RemoteError as error:
            if error.outcome_unknown:
                raise
            self._held_up.labels(error.reason).inc()
            raise Error(Code.ABORTED, error.reason, error.message) from None
        return str(block).encode()

    async def _pay(self, row: Any, created_at: int) -> int:
        request = ledger_pb2.PayOutRequest(
            request_id=f"{row['id']}:{created_at}",
            ledger=row["ledger"],
            from_subaccount=row["subaccount"],
            to=ledger_pb2.Account(owner=row["target_owner"], subaccount=row["target_subaccount"]),
            amount=str(row["amount"]),
            fee=str(row["fee"]),
            memo=_memo(row),
            created_at_time=stamp(created_at),
        )
        answer = await self._transfers.ledger.PayOut(request)
        return int(answer.block_index)

    async def _ended(
        self, connection: Connection, ended: Sequence[Ended]
    ) -> Sequence[events.Event]:
        paid = [
            PaidOut(one.claim.id, int(one.records[_TRANSFER].result), one.claim.traceparent)
            for one in ended
        ]
        await connection.execute(_PAID, [p.id for p in paid], [p.block_index for p in paid])
        return await self._settle(connection, paid)


def _memo(row: Any) -> bytes:
    return memos.of("payout", str(row["id"]))
