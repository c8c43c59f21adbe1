"""The rules of money: what an order costs, what was delivered for it, and what goes back.

Amounts are base units of the fee token. Every total is the exact sum of its lines, so that the
shares of what was not delivered can be paid back to the last unit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum, auto
from typing import Final, assert_never
from uuid import UUID

from contract.errors import Code, Error, invalid
from contract.units import Unit
from services.kit.money import memos

BASIS_POINTS: Final = 10_000
APPROVAL_MARGIN_FEES: Final = 2
"""An approval covers the charge's own fee, and one more in case the ledger raises it."""


class PaidService(IntEnum):
    """What can be paid for, numbered as icto.payment.v1.PaidService."""

    TOKEN = 1
    LOCK = 2
    DISTRIBUTION = 3
    PIPELINE = 4


@dataclass(frozen=True, slots=True)
class Discount:
    """Taken off from this many paid deployments on, in basis points."""

    min_volume: int
    basis_points: int


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a service."""

    amount: int
    free: bool = False
    variable: bool = False
    discounts: tuple[Discount, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One position of an order."""

    step: str
    service: PaidService


@dataclass(frozen=True, slots=True)
class Line:
    """One position of a quote: its price, and what is charged for it after the discount."""

    step: str
    service: PaidService
    price: int
    amount: int


@dataclass(frozen=True, slots=True)
class Quote:
    """A price that is honoured for a while."""

    id: UUID
    owner: str
    lines: tuple[Line, ...]
    total: int
    discount_basis_points: int
    ledger: str
    ledger_fee: int
    price_revision: int
    expire_time: datetime
    used_by: str | None = None

    @property
    def required_allowance(self) -> int:
        """What a charge takes from the allowance: the total and the ledger's fee."""
        return self.total + self.ledger_fee

    @property
    def approval_amount(self) -> int:
        """What the payer should approve."""
        return self.total + APPROVAL_MARGIN_FEES * self.ledger_fee


class PaymentState(IntEnum):
    """State of a payment, numbered as icto.payment.v1.PaymentState."""

    IN_FLIGHT = 1
    COMPLETED = 2
    FAILED = 3
    SETTLED = 4
    REFUNDED = 5


def _is_charged(state: PaymentState) -> bool:
    match state:
        case PaymentState.COMPLETED | PaymentState.SETTLED | PaymentState.REFUNDED:
            return True
        case PaymentState.IN_FLIGHT | PaymentState.FAILED:
            return False
        case _:
            assert_never(state)


CHARGED: Final = frozenset(filter(_is_charged, PaymentState))
"""States of a payment whose money was taken: those that have an invoice."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A charge and what became of it."""

    id: UUID
    owner: str
    operation: str
    quote_id: UUID
    ledger: str
    amount: int
    lines: tuple[Line, ...]
    state: PaymentState
    created_at: int
    block_index: int | None = None
    delivered_amount: int | None = None
    refunded_amount: int | None = None
    failure: str = ""
    create_time: datetime | None = None
    charge_time: datetime | None = None

    @property
    def memo(self) -> bytes:
        """Marks the charge on the ledger, so that it can be found there."""
        return memos.of("charge", self.operation)


class RefundReason(IntEnum):
    """Why money goes back, numbered as icto.payment.v1.RefundReason."""

    SERVICE_FAILURE = 1
    USER_REQUEST = 2


class RefundState(IntEnum):
    """State of a refund, numbered as icto.payment.v1.RefundState."""

    PENDING = 1
    APPROVED = 2
    PROCESSING = 3
    COMPLETED = 4
    FAILED = 5
    REJECTED = 6
    CANCELLED = 7


def _next_states(state: RefundState) -> frozenset[RefundState]:
    """The states that may follow a state."""
    match state:
        case RefundState.PENDING:
            return frozenset({RefundState.APPROVED, RefundState.REJECTED, RefundState.CANCELLED})
        case RefundState.APPROVED:
            return frozenset({RefundState.PROCESSING, RefundState.REJECTED})
        case RefundState.PROCESSING:
            return frozenset({RefundState.COMPLETED, RefundState.FAILED})
        case RefundState.FAILED:
            return frozenset({RefundState.PROCESSING})
        case RefundState.COMPLETED | RefundState.REJECTED | RefundState.CANCELLED:
            return frozenset()
        case _:
            assert_never(state)


@dataclass(frozen=True, slots=True)
class Refund:
    """Money on its way back."""

    id: UUID
    payment_id: UUID
    owner: str
    ledger: str
    amount: int
    reason: RefundReason
    description: str
    state: RefundState
    created_at: int
    problem: str = ""
    decided_by: str = ""
    block_index: int | None = None
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def memo(self) -> bytes:
        """Marks the transfer back on the ledger, so that it can be found there."""
        return memos.of("refund", str(self.id))


@dataclass(frozen=True, slots=True)
class Settlement:
    """What of a payment was delivered, and what goes back."""

    delivered: int
    refunded: int


def check_order(items: Sequence[Item]) -> None:
    """Passes when an order makes sense.

    Raises:
        Error: INVALID_ARGUMENT, it names a step twice.
    """
    steps = [item.step for item in items]
    if len(set(steps)) != len(steps):
        raise invalid("items", "names a step twice")


def price_lines(
    items: Sequence[Item], prices: Mapping[PaidService, Price], volume: int, *, discounts: bool
) -> tuple[tuple[Line, ...], int]:
    """Lines of an order, and the largest discount among them in basis points.

    A service without a price is refused, never free (F-15).

    Raises:
        Error: FAILED_PRECONDITION, a price is missing.
    """
    lines: list[Line] = []
    largest = 0
    for item in items:
        price = prices.get(item.service)
        if price is None or (price.amount == 0 and not price.free):
            raise Error(
                Code.FAILED_PRECONDITION,
                "PRICE_MISSING",
                f"There is no price for {item.service.name}; nothing can be sold.",
            )
        points = discount(price, volume) if discounts else 0
        largest = max(largest, points)
        charged = price.amount - price.amount * points // BASIS_POINTS
        lines.append(Line(item.step, item.service, price.amount, charged))
    return tuple(lines), largest


def discount(price: Price, volume: int) -> int:
    """Basis points off for a user of this volume: the best tier reached, if the price varies."""
    reached = [d.basis_points for d in price.discounts if d.min_volume <= volume]
    return max(reached, default=0) if price.variable else 0


def total(lines: Sequence[Line], minimum: int) -> int:
    """What lines add up to.

    Raises:
        Error: FAILED_PRECONDITION, it is below the smallest payment; nothing at all is not.
    """
    amount = sum(line.amount for line in lines)
    if 0 < amount < minimum:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PAYMENT_TOO_SMALL",
            f"The order costs {amount}; the smallest payment is {minimum}.",
        )
    return amount


def settle(lines: Sequence[Line], delivered_steps: Collection[str]) -> Settlement:
    """Splits what was charged: the shares of delivered steps, and the rest.

    The base fee of a launch counts as delivered as soon as anything was.

    Raises:
        Error: INVALID_ARGUMENT, a step that was not paid for.
    """
    unknown = set(delivered_steps) - {line.step for line in lines}
    if unknown:
        raise invalid("delivered_steps", f"names {', '.join(sorted(unknown))}, which was not paid")
    kept = sum(
        line.amount
        for line in lines
        if line.step in delivered_steps
        or (line.service is PaidService.PIPELINE and delivered_steps)
    )
    return Settlement(kept, sum(line.amount for line in lines) - kept)


def check_quote_usable(quote: Quote, now: datetime) -> None:
    """Passes when a quote may pay for an order now.

    Raises:
        Error: FAILED_PRECONDITION, it was used or has expired.
    """
    if quote.used_by is not None:
        raise Error(
            Code.FAILED_PRECONDITION, "QUOTE_USED", "The quote pays for another order already."
        )
    if quote.expire_time <= now:
        raise Error(
            Code.FAILED_PRECONDITION, "QUOTE_EXPIRED", "The quote has expired; ask for a new one."
        )


def check_transition(refund: Refund, target: RefundState) -> None:
    """Passes when a refund may go to the target state.

    Raises:
        Error: FAILED_PRECONDITION, it may not.
    """
    if target not in _next_states(refund.state):
        raise Error(
            Code.FAILED_PRECONDITION,
            "REFUND_STATE",
            f"The refund is {refund.state.name}; it cannot become {target.name}.",
            metadata={"state": refund.state.name},
        )


def check_requestable(payment: Payment) -> None:
    """Passes when a user may ask for the payment's money back (F-3).

    Raises:
        Error: FAILED_PRECONDITION, nothing was charged, or all of it was delivered for.
    """
    if payment.state not in CHARGED:
        raise Error(
            Code.FAILED_PRECONDITION, "PAYMENT_NOT_COMPLETED", "Nothing was charged for it yet."
        )
    if payment.state is PaymentState.REFUNDED:
        raise _refunded()
    if payment.state is PaymentState.SETTLED and payment.refunded_amount == 0:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PAYMENT_DELIVERED",
            "What was paid for was delivered; there is nothing to refund.",
        )


def check_approvable(payment: Payment, refund: Refund) -> None:
    """Passes when a refund may be approved: what it pays back was given up for good.

    Raises:
        Error: FAILED_PRECONDITION, delivery is still possible.
    """
    if payment.state is not PaymentState.SETTLED or payment.refunded_amount != refund.amount:
        raise Error(
            Code.FAILED_PRECONDITION,
            "PAYMENT_NOT_SETTLED",
            "What was paid for may still be delivered; cancel the operation first.",
        )


def refund_exists(refund: Refund) -> Error:
    """A payment has one refund."""
    return Error(
        Code.ALREADY_EXISTS,
        "REFUND_EXISTS",
        f"The payment has a refund already, which is {refund.state.name}.",
        metadata={"refund": f"refunds/{refund.id}"},
    )


def _refunded() -> Error:
    return Error(Code.FAILED_PRECONDITION, "PAYMENT_REFUNDED", "The payment was refunded.")


class Lack(Enum):
    """What keeps an approval from covering a quote."""

    ALLOWANCE = auto()
    TIME = auto()
    BALANCE = auto()


def lack_of(quote: Quote, allowance: int, expires_soon: bool, balance: int) -> Lack | None:
    """What an approval lacks to cover a quote; None when it lacks nothing (F-9)."""
    if allowance < quote.required_allowance:
        return Lack.ALLOWANCE
    if expires_soon:
        return Lack.TIME
    return Lack.BALANCE if balance < quote.required_allowance else None


def approval_problem(lack: Lack, quote: Quote, found: int, unit: Unit) -> str:
    """What an approval lacks, in words; `found` is the allowance or balance that falls short."""
    needed, there = unit.describe(quote.required_allowance), unit.describe(found)
    match lack:
        case Lack.ALLOWANCE:
            return f"Approve at least {needed}; the allowance is {there}."
        case Lack.TIME:
            return "The approval ends before the charge could be made; approve again."
        case Lack.BALANCE:
            return f"The balance is {there}, but total and fee need {needed}."
        case _:
            assert_never(lack)
