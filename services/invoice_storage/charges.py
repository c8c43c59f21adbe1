"""Charging and settling: the money of one operation, taken once, then earned or owed back."""

from dataclasses import replace

import asyncpg
from typing_extensions import override

from contract import ids
from contract.errors import Code, Error, RemoteError, not_found
from icto.events.v1 import events_pb2 as events
from icto.payment.v1 import payment_pb2 as pb
from services.invoice_storage import domain, store
from services.invoice_storage.domain import (
    Payment,
    PaymentState,
    Settlement,
)
from services.invoice_storage.handlers import PaymentHandlers
from services.invoice_storage.messages import moment, payment_message
from services.invoice_storage.refunds import overtaken
from services.kit.audit.audit_events import event
from services.kit.serving import Call


class Charges(PaymentHandlers):
    """Payments of operations."""

    @override
    async def Charge(self, request: pb.ChargeRequest, call: Call) -> pb.Payment:
        """Takes the money of an operation, or finds that it was taken."""
        payment = await self._begun(request, call)
        if payment.state is PaymentState.FAILED:
            raise _refused(payment.failure, payment.failure)
        if payment.state is not PaymentState.IN_FLIGHT:
            return payment_message(payment)
        block = await self._taken(payment, call)
        charged = await self._charged(payment, block)
        response = payment_message(charged)
        act = call.act(
            operation=payment.operation,
            details={"amount": str(payment.amount), "block_index": str(block)},
        )
        written = store.completed(payment, block)
        await call.commit(response, written, subject=response.name, act=act)
        self._faults.point("payment.charge.committed")
        return response

    async def _begun(self, request: pb.ChargeRequest, call: Call) -> Payment:
        """The payment of the operation, begun now or before."""
        quote_id = ids.parse_name("quotes", request.quote, "quote")
        known = await store.payment_of(self._database, request.operation)
        if known is None:
            await store.begin_payment(
                self._database,
                ids.new_id(call.principal),
                request.operation,
                quote_id,
                call.principal,
                moment(request.accept_time),
            )
            known = await store.payment_of(self._database, request.operation)
        if known is None:
            raise not_found("quote", request.quote)
        if known.owner != call.principal or known.quote_id != quote_id:
            raise Error(
                Code.ALREADY_EXISTS,
                "OPERATION_REUSED",
                f"{request.operation} is paid for by another quote.",
            )
        return known

    async def _taken(self, payment: Payment, call: Call) -> int:
        """The block of the charge. A definite refusal is recorded, and gives the quote back."""
        if payment.amount == 0:
            return 0
        try:
            return await self._treasury.charge(
                payment, lambda: store.renew_charge(self._database, payment)
            )
        except RemoteError as error:
            if not error.definite:
                raise
            return await self._given_up(payment, error, call)

    async def _given_up(self, payment: Payment, error: RemoteError, call: Call) -> int:
        """Ends a charge that was refused; its block, when another attempt made it.

        Another attempt may wait in a frozen replica of the ledger, and would be paid for by the
        approval of whatever the quote is used for next: so the ledger is told first, and only what
        can never be made any more is recorded as failed.
        """
        current = await store.get_payment(self._database, payment.id) or payment
        block = await self._treasury.give_up(current)
        if block is not None:
            return block
        await self._record_failure(current, error, call)
        raise _refused(error.reason, error.message, error.metadata)

    async def _record_failure(self, payment: Payment, error: RemoteError, call: Call) -> None:
        act = call.act(
            status=events.ACT_STATUS_FAILED,
            severity=events.SEVERITY_ERROR,
            operation=payment.operation,
            details={"reason": error.reason},
        )
        act.error_reason = error.reason
        told = event(ids.resource_name("payments", payment.id), act)
        parts = (*store.failed(payment, error.reason), self._outbox.added([told]))
        await self._database.apply(*parts)

    async def _charged(self, payment: Payment, block: int) -> Payment:
        return replace(
            payment,
            state=PaymentState.COMPLETED,
            block_index=block,
            charge_time=await store.now(self._database),
        )

    @override
    async def SettlePayment(self, request: pb.SettlePaymentRequest, call: Call) -> pb.Payment:
        """Splits a payment into what was delivered for and what goes back."""
        payment = await store.payment_of(self._database, request.operation)
        if payment is None:
            raise not_found("payment", request.operation)
        settlement = domain.settle(payment.lines, request.delivered_steps)
        if payment.state in (PaymentState.SETTLED, PaymentState.REFUNDED):
            return await self._settled_before(payment, settlement)
        owed = await self._refunds.owe(payment, settlement.refunded, request.failure)
        after = replace(
            payment,
            state=PaymentState.SETTLED,
            delivered_amount=settlement.delivered,
            refunded_amount=settlement.refunded,
        )
        response = payment_message(after, owed.refund)
        act = call.act(
            operation=payment.operation,
            details={
                "delivered": str(settlement.delivered),
                "refunded": str(settlement.refunded),
            },
        )
        written = (store.settled(payment, settlement), *owed.written)
        try:
            await call.commit(response, *written, subject=response.name, act=act)
        except asyncpg.UniqueViolationError:
            # The user asked for a refund just now, or another attempt settled.
            raise overtaken() from None
        self._faults.point("payment.settle.committed")
        self._refunds.follow(owed.claim)
        return response

    async def _settled_before(self, payment: Payment, settlement: Settlement) -> pb.Payment:
        """A repeat: the same split is answered, another one is refused."""
        if payment.delivered_amount != settlement.delivered:
            raise Error(
                Code.FAILED_PRECONDITION,
                "PAYMENT_SETTLED",
                "The payment was settled before, and otherwise.",
            )
        return payment_message(payment, await store.refund_of(self._database, payment.id))


def _refused(reason: str, message: str, metadata: dict[str, str] | None = None) -> Error:
    return Error(Code.FAILED_PRECONDITION, reason, message, metadata=metadata)
