"""Between the values of payments and their messages."""

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from contract import ids
from icto.config.v1 import config_pb2
from icto.ledger.v1 import ledger_pb2
from icto.payment.v1 import payment_pb2 as pb
from services.invoice_storage.domain import (
    Discount,
    Item,
    Line,
    PaidService,
    Payment,
    PaymentState,
    Price,
    Quote,
    Refund,
)
from services.kit.money import amounts


def parse_items(items: Sequence[pb.OrderItem]) -> list[Item]:
    """The positions of an order."""
    return [Item(item.step, PaidService(item.service)) for item in items]


def prices_of(config: config_pb2.PaymentConfig) -> dict[PaidService, Price]:
    """The price list of a configuration."""
    return {
        PaidService(price.service): Price(
            amounts.parse(price.amount, "price.amount"),
            price.free,
            price.price_variable,
            tuple(Discount(d.min_volume, d.basis_points) for d in price.discounts if d.active),
        )
        for price in config.prices
    }


def encode_lines(lines: Sequence[Line]) -> bytes:
    """Lines as they are stored."""
    return pb.Quote(lines=map(line_message, lines)).SerializeToString()


def decode_lines(stored: bytes) -> tuple[Line, ...]:
    """Lines as they were stored."""
    return tuple(
        Line(line.step, PaidService(line.service), int(line.price), int(line.amount))
        for line in pb.Quote.FromString(stored).lines
    )


def line_message(line: Line) -> pb.QuoteLine:
    """A line as its message."""
    return pb.QuoteLine(
        step=line.step,
        service=int(line.service),  # type: ignore[arg-type]  # the same numbers
        price=str(line.price),
        amount=str(line.amount),
    )


def quote_message(quote: Quote, treasury: str, now: datetime) -> pb.Quote:
    """A quote as its message."""
    state = pb.QUOTE_STATE_OPEN
    if quote.used_by is not None:
        state = pb.QUOTE_STATE_USED
    elif quote.expire_time <= now:
        state = pb.QUOTE_STATE_EXPIRED
    return pb.Quote(
        name=ids.resource_name("quotes", quote.id),
        owner=quote.owner,
        lines=map(line_message, quote.lines),
        total=str(quote.total),
        discount_basis_points=quote.discount_basis_points,
        ledger=quote.ledger,
        spender=ledger_pb2.Account(owner=treasury),
        approval_amount=str(quote.approval_amount),
        expire_time=timestamp(quote.expire_time),
        state=state,
        price_revision=quote.price_revision,
    )


def payment_message(payment: Payment, refund: Refund | None = None) -> pb.Payment:
    """A payment as its message."""
    charged = payment.state not in (PaymentState.IN_FLIGHT, PaymentState.FAILED)
    return pb.Payment(
        name=ids.resource_name("payments", payment.id),
        owner=payment.owner,
        operation=payment.operation,
        quote=ids.resource_name("quotes", payment.quote_id),
        ledger=payment.ledger,
        amount=str(payment.amount),
        state=int(payment.state),  # type: ignore[arg-type]  # the same numbers
        block_index=payment.block_index,
        delivered_amount=_optional(payment.delivered_amount),
        refunded_amount=_optional(payment.refunded_amount),
        refund=ids.resource_name("refunds", refund.id) if refund else "",
        invoice=ids.resource_name("invoices", payment.id) if charged else "",
        failure=payment.failure,
        create_time=timestamp(payment.create_time or ids.time_of(payment.id)),
        charge_time=timestamp(payment.charge_time) if payment.charge_time else None,
    )


def invoice_message(payment: Payment) -> pb.Invoice:
    """The invoice of a payment that was charged."""
    subtotal = sum(line.price for line in payment.lines)
    refunded = (payment.refunded_amount or 0) if payment.state is PaymentState.REFUNDED else 0
    return pb.Invoice(
        name=ids.resource_name("invoices", payment.id),
        owner=payment.owner,
        payment=ids.resource_name("payments", payment.id),
        lines=map(line_message, payment.lines),
        subtotal=str(subtotal),
        discount=str(subtotal - payment.amount),
        total=str(payment.amount),
        ledger=payment.ledger,
        state=_invoice_state(payment.amount, refunded),
        pay_time=timestamp(payment.charge_time) if payment.charge_time else None,
        refunded=str(refunded),
    )


def _invoice_state(total: int, refunded: int) -> "pb.InvoiceState.ValueType":
    if not refunded:
        return pb.INVOICE_STATE_PAID
    if refunded == total:
        return pb.INVOICE_STATE_REFUNDED
    return pb.INVOICE_STATE_PARTIALLY_REFUNDED


def refund_message(refund: Refund) -> pb.Refund:
    """A refund as its message."""
    created = refund.create_time or ids.time_of(refund.id)
    return pb.Refund(
        name=ids.resource_name("refunds", refund.id),
        owner=refund.owner,
        payment=ids.resource_name("payments", refund.payment_id),
        amount=str(refund.amount),
        ledger=refund.ledger,
        reason=int(refund.reason),  # type: ignore[arg-type]  # the same numbers
        description=refund.description,
        state=int(refund.state),  # type: ignore[arg-type]  # the same numbers
        problem=refund.problem,
        decided_by=refund.decided_by,
        block_index=refund.block_index,
        create_time=timestamp(created),
        update_time=timestamp(refund.update_time or created),
    )


def timestamp(moment: datetime) -> Timestamp:
    """A moment as its message."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def moment(stamp: Timestamp) -> datetime:
    """A message as a moment."""
    return stamp.ToDatetime(UTC)


def _optional(amount: int | None) -> str:
    return "" if amount is None else str(amount)
