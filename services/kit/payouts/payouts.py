"""Orders payouts and pays them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from contract.errors import Code, Error, RemoteError
from icto.events.v1 import events_pb2 as events
from icto.ledger.v1 import ledger_pb2
from services.kit.journal.model import Claim, Definition, Ended, RetryPolicy, Step, StepContext
from services.kit.journal.pipelines import Pipelines
from services.kit.kit import Kit
from services.kit.money import memos
from services.kit.money.transfers import BAD_FEE, Transfers, stamp
from services.kit.storage.database import Connection
from services.kit.storage.statement import Statement

log = logging.getLogger(__name__)

_TRANSFER: Final = "transfer"
_PAYOUT: Final = "payout"
# What is owed is owed until it is paid: no number of attempts ends that.
_RETRY: Final = RetryPolicy(first=0.1, longest=30.0, attempts=2**31 - 1)
_SECONDS: Final = 3.0
_BATCH: Final = 100
_NOW: Final = "(extract(epoch FROM kit_now()) * 1000000)::bigint * 1000"
_ADD: Final = f"""
INSERT INTO kit_payouts (id, ledger, subaccount, target_owner, target_subaccount, amount, fee,
    created_at_ns)
VALUES ($1, $2, $3, $4, $5, $6, $7, {_NOW})
"""
_COLUMNS: Final = """
    id, ledger, subaccount, target_owner, target_subaccount, amount, fee, created_at_ns
"""
_GET: Final = f"SELECT {_COLUMNS} FROM kit_payouts WHERE id = $1"
# Only for whoever knows the present one: a replica that was frozen meanwhile would pay again.
_RENEW: Final = f"""
UPDATE kit_payouts SET created_at_ns = {_NOW} WHERE id = $1 AND created_at_ns = $2
RETURNING created_at_ns
"""
# The payer's account holds amount and fee together, whatever the fee is.
_TAKE_FEE: Final = f"""
UPDATE kit_payouts SET amount = amount + fee - $3, fee = $3
WHERE id = $1 AND fee = $2 AND amount + fee > $3
RETURNING {_COLUMNS}
"""
_PAID: Final = """
UPDATE kit_payouts SET block_index = paid.block_index
FROM unnest($1::uuid[], $2::bigint[]) AS paid (id, block_index) WHERE kit_payouts.id = paid.id
RETURNING kit_payouts.id, fee
"""
_OVERDUE: Final = """
SELECT count(*) FROM kit_payouts
WHERE block_index IS NULL AND create_time < kit_now() - interval '1 minute'
"""


@dataclass(frozen=True, slots=True)
class Payout:
    """An order. Base units.

    Attributes:
        id: of the act that owes it, or one of its own.
        ledger: `ledgers/{id}`.
        subaccount: of this service, which pays.
        to: owner and 32-byte subaccount who receive.
        amount: what they receive, if the fee stays as it is.
        fee: what the ledger takes beside it, as the payer saw it. Should it change before it is
            paid, both together stay what they are.
    """

    id: UUID
    ledger: str
    subaccount: bytes
    to: tuple[str, bytes]
    amount: int
    fee: int


@dataclass(frozen=True, slots=True)
class PaidOut:
    """A payout that was made, the block that records it, and the fee that was taken."""

    id: UUID
    block_index: int
    traceparent: str
    fee: int


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
            _PAYOUT,
            version=1,
            steps=(Step(_TRANSFER, self._transfer, retry=_RETRY),),
            settle=self._ended,
            stoppable=False,
        )
        pipelines.define(self._definition)
        metrics = kit.telemetry.metrics
        self._held_up = metrics.counter(
            "icto_payouts_held_up_total", "Attempts to pay that a ledger refused.", "reason"
        )
        self._overdue = metrics.gauge(
            "icto_payouts_overdue", "Payouts that are owed for more than a minute."
        )

    async def run(self) -> None:
        """Counts what is overdue, and lets go on what was parked, as long as the replica lives.

        The journal parks what it takes for poison; what is owed waits for no person.
        """
        while True:
            try:
                self._overdue.set(await self._database.fetchval(_OVERDUE))
                await self._resume()
            except Error as error:
                log.warning("payouts cannot be looked at now: %s", error)
            await asyncio.sleep(_SECONDS)

    async def _resume(self) -> None:
        journal, after = self._pipelines.journal, UUID(int=0)
        while runs := await journal.parked(after, _BATCH):
            for run in runs:
                if run.definition == _PAYOUT:
                    log.warning("payout %s was parked, and goes on: %s", run.id, run.parked_reason)
                    async with self._database.transaction() as connection:
                        await journal.unpark(connection, run.id)
            after = runs[-1].id

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
            block = await self._made(row)
        except RemoteError as error:
            if error.outcome_unknown or error.retriable:
                raise
            log.warning("payout %s from %s is held up: %s", row["id"], row["ledger"], error)
            self._held_up.labels(error.reason).inc()
            raise Error(Code.ABORTED, error.reason, error.message) from None
        return str(block).encode()

    async def _made(self, row: Any) -> int:
        """The block of the transfer, which is made at the ledger's present fee."""
        try:
            return await self._once(row)
        except RemoteError as error:
            if error.reason != BAD_FEE:
                raise
            expected = int(error.metadata["expected_fee"])
            # A ledger looks at the fee first: it may have made the transfer when that was right.
            found = await self._transfers.find(row["ledger"], _memo(row))
            if found is not None:
                return found
            changed = await self._database.fetchrow(_TAKE_FEE, row["id"], row["fee"], expected)
            if changed is None:
                raise
        # Under the same request id: should the first one arrive after all, it is refused.
        return await self._once(changed)

    async def _once(self, row: Any) -> int:
        return await self._transfers.once(
            row["ledger"],
            _memo(row),
            row["created_at_ns"],
            lambda created_at: self._pay(row, created_at),
            lambda: self._renewed(row),
        )

    async def _renewed(self, row: Any) -> int:
        """A fresh deduplication time, kept in place of the one that was read.

        Raises:
            Error: ABORTED, another replica has kept one; what it did must be looked for first.
        """
        fresh: int | None = await self._database.fetchval(_RENEW, row["id"], row["created_at_ns"])
        if fresh is None:
            raise Error(Code.ABORTED, "PAYOUT_RENEWED", "Another replica goes on with this payout.")
        return fresh

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
        blocks = {one.claim.id: int(one.records[_TRANSFER].result) for one in ended}
        traces = {one.claim.id: one.claim.traceparent for one in ended}
        rows = await connection.fetch(_PAID, list(blocks), list(blocks.values()))
        paid = [PaidOut(r["id"], blocks[r["id"]], traces[r["id"]], r["fee"]) for r in rows]
        return await self._settle(connection, paid)


def _memo(row: Any) -> bytes:
    return memos.of("payout", str(row["id"]))
