"""Handlers of refunds: asked for, taken back, decided on, tried again, and read."""

from dataclasses import replace

import asyncpg
from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, not_found
from icto.payment.v1 import payment_pb2 as pb
from services.invoice_storage import domain, store
from services.invoice_storage.domain import Refund, RefundReason, RefundState
from services.invoice_storage.handlers import PaymentHandlers, visible_owner
from services.invoice_storage.messages import refund_message
from services.invoice_storage.refunds import overtaken
from services.kit.answering import paging
from services.kit.serving import Call, Effect
from services.kit.storage import Connection


class RefundHandlers(PaymentHandlers):
    """What payers and administrators do about refunds."""

    @override
    async def RequestRefund(self, request: pb.RequestRefundRequest, call: Call) -> pb.Refund:
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

    @override
    async def CancelRefund(self, request: pb.CancelRefundRequest, call: Call) -> pb.Refund:
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

    @override
    async def GetRefund(self, request: pb.GetRefundRequest, call: Call) -> pb.Refund:
        """One refund."""
        row = await store.get_refund(self._database, ids.parse_name("refunds", request.name))
        return refund_message(call.owned(row, "refund", request.name))

    @override
    async def ListRefunds(
        self, request: pb.ListRefundsRequest, call: Call
    ) -> pb.ListRefundsResponse:
        """Refunds, newest first."""
        owner = visible_owner(request.owner, call, "MANAGE_REFUNDS")
        asked = paging.by_id(request)
        state = RefundState(request.state) if request.state else None
        rows = await store.list_refunds(self._database, owner, asked.after, asked.limit, state)
        page, token = asked.page(rows, map(refund_message, rows))
        return pb.ListRefundsResponse(refunds=page, next_page_token=token)

    @override
    async def ApproveRefund(self, request: pb.ApproveRefundRequest, call: Call) -> pb.Refund:
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
            claim = await self._refunds.begin(tx, approved, call.principal)
            response.state = pb.REFUND_STATE_PROCESSING
        self._refunds.follow(claim)
        return response

    @override
    async def RejectRefund(self, request: pb.RejectRefundRequest, call: Call) -> pb.Refund:
        """An administrator refuses."""
        async with call.transaction() as tx:
            refund = await self._found(tx, request.name)
            domain.check_transition(refund, RefundState.REJECTED)
            return await self._move(tx, call, refund, RefundState.REJECTED, request.justification)

    @override
    async def ProcessRefund(self, request: pb.ProcessRefundRequest, call: Call) -> pb.Refund:
        """An administrator has a transfer that failed or was parked tried again, under its key."""
        async with call.transaction() as tx:
            refund = await self._found(tx, request.name)
            processing = refund.state is RefundState.PROCESSING
            if processing and await self._refunds.unpark(tx, refund):
                response = refund_message(refund)
                act = call.act(
                    justification=request.justification, details={"amount": str(refund.amount)}
                )
                return tx.answer(response, subject=response.name, act=act)
            domain.check_transition(refund, RefundState.PROCESSING)
            if refund.state is RefundState.FAILED:
                await self._refunds.resume(tx, refund)
            return await self._move(tx, call, refund, RefundState.PROCESSING, request.justification)

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
