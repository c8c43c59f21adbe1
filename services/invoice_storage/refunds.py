"""Refunds: owed by a settlement or asked for by a user, decided, and paid by a pipeline.

A refund is paid once: it is moved to PROCESSING by compare-and-set in the transaction that begins
its pipeline, and the pipeline's transfer has a deduplication key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from contract import ids
from contract.errors import Code, Error, RemoteError
from icto.events.v1 import events_pb2 as events
from services.invoice_storage import store
from services.invoice_storage.domain import Payment, Refund, RefundReason, RefundState
from services.invoice_storage.store import RefundEnd
from services.invoice_storage.treasury import Treasury
from services.kit.audit.operations import Operation
from services.kit.journal.model import (
    Claim,
    Definition,
    Ended,
    PipelineState,
    RetryPolicy,
    Step,
    StepContext,
)
from services.kit.journal.pipelines import Pipelines
from services.kit.money import amounts
from services.kit.money.transfers import INSUFFICIENT_FUNDS
from services.kit.serving import Effect, Kit
from services.kit.storage import Connection, Statement

AUTOMATIC: Final = "automatic"
TREASURY_SHORT: Final = "TREASURY_SHORT"
_TRANSFERRED: Final = Operation("RefundPayment")
_TRANSFER: Final = "transfer"
_RETRY: Final = RetryPolicy(first=0.1, longest=5.0)


@dataclass(frozen=True, slots=True)
class Owed:
    """What a settlement writes about money that goes back."""

    refund: Refund | None = None
    written: tuple[Statement, ...] = ()
    claim: Claim | None = None


class Refunds:
    """Refunds of payments."""

    def __init__(self, kit: Kit, treasury: Treasury) -> None:
        self._database = kit.database
        self._outbox = kit.outbox
        self._platform = kit.platform
        self._treasury = treasury
        transfer = Step(_TRANSFER, self._transfer, retry=_RETRY)
        self.definition = Definition("refund", 1, (transfer,), self._settle)
        self._pipelines = Pipelines(kit)
        self._pipelines.define(self.definition)
        self._short = kit.telemetry.metrics.counter(
            "icto_refunds_held_up_total",
            "Attempts to pay a refund that the treasury was short for.",
        )

    async def run(self) -> None:
        """Pays refunds, as long as the replica lives."""
        await self._pipelines.run()

    async def owe(self, payment: Payment, amount: int, failure: str) -> Owed:
        """What goes back of a payment: paid at once up to a limit, else a person decides.

        A request that its payer has open becomes this refund: it must not take longer for that.
        """
        if amount == 0:
            return Owed()
        limit = amounts.parse(self._platform.config.payment.automatic_refund_limit, "limit")
        automatic = amount <= limit
        asked = await store.refund_of(self._database, payment.id)
        refund = Refund(
            id=asked.id if asked else ids.new_id(payment.owner),
            payment_id=payment.id,
            owner=payment.owner,
            ledger=payment.ledger,
            amount=amount,
            reason=RefundReason.SERVICE_FAILURE,
            description=failure or "What was paid for was not delivered.",
            state=RefundState.PROCESSING if automatic else RefundState.PENDING,
            created_at=0,
            decided_by=AUTOMATIC if automatic else "",
        )
        written = store.changed_request(refund) if asked else store.added_refund(refund)
        if not automatic:
            return Owed(refund, (written,))
        claim, *begun = self._transfer_begun(refund)
        return Owed(refund, (written, *begun), claim)

    def follow(self, claim: Claim | None) -> None:
        """Goes on with a transfer, once what began it has committed."""
        if claim is not None:
            self._pipelines.adopt(claim)

    async def unpark(self, tx: Effect, refund: Refund) -> bool:
        """Has a transfer that waits for a person tried again; whether it did wait."""
        return await self._pipelines.journal.unpark(tx, refund.id)

    async def resume(self, tx: Effect, refund: Refund) -> None:
        """Has a transfer that failed tried again, under its key, and tells the audit."""
        await self._pipelines.journal.resume(tx, refund.id, [_TRANSFER])
        await tx.apply(self._outbox.added([_told(events.ACT_STATUS_INITIATED, refund)]))

    async def begin(self, tx: Effect, refund: Refund, decided_by: str) -> Claim:
        """Compare-and-set to PROCESSING, and the pipeline with it.

        Raises:
            Error: ABORTED, it was decided otherwise meanwhile.
        """
        target = RefundState.PROCESSING
        if not await store.move_refund(tx, refund, target, decided_by=decided_by):
            raise overtaken()
        claim, *begun = self._transfer_begun(replace(refund, decided_by=decided_by))
        await tx.apply(*begun)
        return claim

    def _transfer_begun(self, refund: Refund) -> tuple[Claim, Statement, Statement]:
        """A transfer that begins, and what is written of it; its end is told of by `_settle`."""
        claim, begun = self._pipelines.begin(self.definition, refund.id)
        return claim, begun, self._outbox.added([_told(events.ACT_STATUS_INITIATED, refund)])

    async def _transfer(self, context: StepContext) -> bytes:
        """Pays the refund. A treasury that is short holds it up, until it no longer is."""
        refund = await store.get_refund(self._database, context.pipeline_id)
        if refund is None:
            raise RuntimeError("a pipeline without its refund")
        try:
            block = await self._treasury.pay_back(
                refund, lambda: store.renew_refund(self._database, refund)
            )
        except RemoteError as error:
            if error.reason != INSUFFICIENT_FUNDS:
                raise
            self._short.inc()
            await store.set_problem(self._database, refund.id, TREASURY_SHORT)
            raise Error(
                Code.UNAVAILABLE, TREASURY_SHORT, "The treasury cannot pay the refund now."
            ) from None
        return str(block).encode()

    async def _settle(
        self, connection: Connection, ended: Sequence[Ended]
    ) -> Sequence[events.Event]:
        """Records how transfers ended, and tells the audit."""
        refunds = await store.finish_refunds(connection, [_end(one) for one in ended])
        traces = {one.claim.id: one.claim.traceparent for one in ended}
        return [_told(_status(refund), refund, traces[refund.id]) for refund in refunds]


def _end(ended: Ended) -> RefundEnd:
    record = ended.records[_TRANSFER]
    if ended.state is PipelineState.SUCCEEDED:
        return RefundEnd(ended.claim.id, RefundState.COMPLETED, int(record.result), "")
    return RefundEnd(ended.claim.id, RefundState.FAILED, None, record.error_reason)


def _status(refund: Refund) -> "events.ActStatus.ValueType":
    if refund.state is RefundState.COMPLETED:
        return events.ACT_STATUS_COMPLETED
    return events.ACT_STATUS_FAILED


def _told(
    status: "events.ActStatus.ValueType", refund: Refund, traceparent: str = ""
) -> events.Event:
    """What the audit is told of a transfer that began or ended."""
    return _TRANSFERRED.told(
        status,
        ids.resource_name("refunds", refund.id),
        principal=refund.owner,
        caller="invoice_storage",
        error_reason=refund.problem if status == events.ACT_STATUS_FAILED else "",
        details={"amount": str(refund.amount), "decided_by": refund.decided_by},
        traceparent=traceparent,
    )


def overtaken() -> Error:
    """The refund is not what it was a moment ago; whoever looks again sees why."""
    return Error(Code.ABORTED, "REFUND_CHANGED", "Somebody else decided on the refund meanwhile.")
