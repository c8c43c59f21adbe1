"""Refunds: owed by a settlement or asked for by a user, decided, and paid by a pipeline.

A refund is paid once: it is moved to PROCESSING by compare-and-set in the transaction that begins
its pipeline, and the pipeline's transfer has a deduplication key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from contract import ids
from contract.errors import Code, Error, RemoteError
from icto.events.v1 import events_pb2 as events
from icto.payment.v1 import payment_pb2 as pb
from services.invoice_storage import domain, store
from services.invoice_storage.domain import Payment, Refund, RefundReason, RefundState
from services.invoice_storage.messages import refund_message
from services.invoice_storage.store import RefundEnd
from services.invoice_storage.treasury import Treasury
from services.kit import Call, Effect, Kit, amounts, not_found
from services.kit.database import Connection
from services.kit.journal import (
    Claim,
    Definition,
    Ended,
    Pipelines,
    PipelineState,
    RetryPolicy,
    Step,
    StepContext,
)
from services.kit.operations import Operation
from services.kit.statement import Statement
from services.kit.transfers import INSUFFICIENT_FUNDS

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

    def follow(self, owed: Owed) -> None:
        """Goes on with the transfer, once the settlement has committed."""
        if owed.claim is not None:
            self._pipelines.adopt(owed.claim)

    async def request(self, request: pb.RequestRefundRequest, call: Call) -> pb.Refund:
        """A user asks for the money of a payment."""
        payment_id = ids.parse_name("payments", request.payment, "payment")
        async with call.transaction() as tx:
            row = await store.lock_payment(tx, payment_id)
            payment = call.owned(row, "payment", request.payment)
            domain.check_requestable(payment)
            known = await store.refund_of(tx, payment.id)
            if known is not None:
                raise domain.refund_exists(known)
            refund = Refund(
                id=ids.new_id(payment.owner),
                payment_id=payment.id,
                owner=payment.owner,
                ledger=payment.ledger,
                amount=payment.refunded_amount or payment.amount,
                reason=RefundReason.USER_REQUEST,
                description=request.description,
                state=RefundState.PENDING,
                created_at=0,
            )
            try:
                await tx.apply(store.added_refund(refund))
            except asyncpg.UniqueViolationError:
                raise overtaken() from None
            response = refund_message(refund)
            return tx.answer(response, subject=response.name)

    async def cancel(self, request: pb.CancelRefundRequest, call: Call) -> pb.Refund:
        """A user takes a request back."""
        async with call.transaction() as tx:
            row = await self._locked(tx, request.name)
            refund = call.owned(row, "refund", request.name)
            if refund.reason is not RefundReason.USER_REQUEST:
                raise Error(
                    Code.FAILED_PRECONDITION,
                    "REFUND_NOT_REQUESTED",
                    "Only a refund that you asked for can be taken back.",
                )
            return await self._move(tx, call, refund, RefundState.CANCELLED)

    async def approve(self, request: pb.ApproveRefundRequest, call: Call) -> pb.Refund:
        """An administrator approves; the transfer begins with the approval."""
        async with call.transaction() as tx:
            refund = await self._found(tx, request.name)
            domain.check_transition(refund, RefundState.APPROVED)
            payment = await store.lock_payment(tx, refund.payment_id)
            if payment is None:
                raise not_found("payment", str(refund.payment_id))
            domain.check_approvable(payment, refund)
            response = await self._move(
                tx, call, refund, RefundState.APPROVED, request.justification
            )
            approved = replace(refund, state=RefundState.APPROVED)
            claim = await self._begin(tx, approved, call.principal)
            response.state = pb.REFUND_STATE_PROCESSING
        self._pipelines.adopt(claim)
        return response

    async def reject(self, request: pb.RejectRefundRequest, call: Call) -> pb.Refund:
        """An administrator refuses."""
        async with call.transaction() as tx:
            refund = await self._found(tx, request.name)
            domain.check_transition(refund, RefundState.REJECTED)
            return await self._move(tx, call, refund, RefundState.REJECTED, request.justification)

    async def process(self, request: pb.ProcessRefundRequest, call: Call) -> pb.Refund:
        """An administrator has a transfer that failed or was parked tried again, under its key."""
        journal = self._pipelines.journal
        async with call.transaction() as tx:
            refund = await self._found(tx, request.name)
            processing = refund.state is RefundState.PROCESSING
            if processing and await journal.unpark(tx, refund.id):
                response = refund_message(refund)
                act = call.act(
                    justification=request.justification, details={"amount": str(refund.amount)}
                )
                return tx.answer(response, subject=response.name, act=act)
            domain.check_transition(refund, RefundState.PROCESSING)
            if refund.state is RefundState.FAILED:
                await journal.resume(tx, refund.id, [_TRANSFER])
                await tx.apply(self._outbox.added([_told(events.ACT_STATUS_INITIATED, refund)]))
            return await self._move(tx, call, refund, RefundState.PROCESSING, request.justification)

    async def _begin(self, tx: Effect, refund: Refund, decided_by: str) -> Claim:
        """Compare-and-set to PROCESSING, and the pipeline with it."""
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

    async def _move(
        self,
        tx: Effect,
        call: Call,
        refund: Refund,
        target: RefundState,
        justification: str = "",
    ) -> pb.Refund:
        """Takes a refund to another state and tells the audit."""
        domain.check_transition(refund, target)
        by = call.principal
        if not await store.move_refund(tx, refund, target, decided_by=by):
            raise overtaken()
        response = refund_message(replace(refund, state=target, decided_by=by))
        act = call.act(
            previous_value=refund.state.name,
            new_value=target.name,
            justification=justification,
            details={"amount": str(refund.amount)},
        )
        return tx.answer(response, subject=response.name, act=act)

    async def _found(self, tx: Connection, name: str) -> Refund:
        refund = await self._locked(tx, name)
        if refund is None:
            raise not_found("refund", name)
        return refund

    async def _locked(self, tx: Connection, name: str) -> Refund | None:
        return await store.lock_refund(tx, ids.parse_name("refunds", name))

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
