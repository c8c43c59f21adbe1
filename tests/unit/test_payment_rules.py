"""Money: prices, shares that sum exactly, and refunds that go one way."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Code, Error
from contract.units import Unit
from icto.ledger.v1 import ledger_pb2
from icto.payment.v1 import payment_pb2
from services.invoice_storage import domain
from services.invoice_storage.domain import (
    Discount,
    Item,
    Lack,
    Line,
    PaidService,
    Payment,
    PaymentState,
    Price,
    Quote,
    Refund,
    RefundReason,
    RefundState,
)
from services.invoice_storage.treasury import is_charge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ICP = 100_000_000
PRICES = {
    PaidService.TOKEN: Price(ICP),
    PaidService.LOCK: Price(ICP // 2),
    PaidService.DISTRIBUTION: Price(0, free=True),
    PaidService.PIPELINE: Price(
        ICP // 2, variable=True, discounts=(Discount(5, 1_000), Discount(10, 2_500))
    ),
}
LAUNCH = [
    Item("base", PaidService.PIPELINE),
    Item("token", PaidService.TOKEN),
    Item("lock", PaidService.LOCK),
]
LINES, _ = domain.price_lines(LAUNCH, PRICES, 0, discounts=True)
QUOTE = Quote(UUID(int=1), "owner", LINES, 2 * ICP, 0, "ledgers/icp", 10_000, 1, NOW)
PAYMENT = Payment(
    UUID(int=2), "owner", "deployments/x", QUOTE.id, "ledgers/icp", 2 * ICP, LINES,
    PaymentState.SETTLED, 0, delivered_amount=0, refunded_amount=2 * ICP,
)  # fmt: skip
REFUND = Refund(
    UUID(int=3), PAYMENT.id, "owner", "ledgers/icp", 2 * ICP, RefundReason.SERVICE_FAILURE, "",
    RefundState.PENDING, 0,
)  # fmt: skip


def refused(check: Callable[..., Any], *arguments: Any, **options: Any) -> Error:
    with pytest.raises(Error) as caught:
        check(*arguments, **options)
    return caught.value


def test_an_order_names_each_step_once() -> None:
    domain.check_order(LAUNCH)
    assert refused(domain.check_order, [LAUNCH[0], LAUNCH[0]]).code is Code.INVALID_ARGUMENT


def test_a_service_without_a_price_is_refused_and_never_free() -> None:
    """F-15: a missing price was zero."""
    zero = {PaidService.TOKEN: Price(0)}
    for prices in ({}, zero):
        error = refused(domain.price_lines, LAUNCH[1:2], prices, 0, discounts=True)
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "PRICE_MISSING")
    lines, _ = domain.price_lines([Item("d", PaidService.DISTRIBUTION)], PRICES, 0, discounts=True)
    assert domain.total(lines, ICP) == 0


@pytest.mark.parametrize(
    ("volume", "discounts", "points"),
    [(0, True, 0), (4, True, 0), (5, True, 1_000), (10, True, 2_500), (10, False, 0)],
)
def test_the_best_tier_reached_is_charged(volume: int, points: int, *, discounts: bool) -> None:
    """F-27: the discount was computed and the base charged."""
    lines, largest = domain.price_lines(LAUNCH, PRICES, volume, discounts=discounts)
    assert largest == points
    base = ICP // 2
    assert [line.amount for line in lines] == [base - base * points // 10_000, ICP, ICP // 2]


def test_a_fixed_price_has_no_discount() -> None:
    assert domain.discount(Price(1, discounts=(Discount(0, 5_000),)), 100) == 0


def test_an_order_below_the_smallest_payment_is_refused() -> None:
    lines = (Line("a", PaidService.TOKEN, 5, 5),)
    assert domain.total(lines, 5) == 5
    assert refused(domain.total, lines, 6).reason == "PAYMENT_TOO_SMALL"


amounts = st.lists(st.integers(0, 10**12), min_size=1, max_size=6)


@given(amounts, st.data())
def test_what_is_delivered_and_what_goes_back_is_exactly_what_was_paid(
    charged: list[int], data: st.DataObject
) -> None:
    """F-59 and cross-cutting invariant 1: no unit is lost or made."""
    services = st.sampled_from(list(PaidService))
    lines = [Line(str(n), data.draw(services), a, a) for n, a in enumerate(charged)]
    delivered = data.draw(st.sets(st.sampled_from([line.step for line in lines])))
    settlement = domain.settle(lines, delivered)
    assert settlement.delivered + settlement.refunded == sum(charged)
    assert settlement.delivered >= sum(line.amount for line in lines if line.step in delivered)
    if not delivered:
        assert settlement.delivered == 0


def test_the_base_fee_of_a_launch_is_earned_with_the_first_thing_delivered() -> None:
    assert domain.settle(LINES, {"lock"}) == domain.Settlement(ICP, ICP)
    assert domain.settle(LINES, set()) == domain.Settlement(0, 2 * ICP)


def test_a_step_that_was_not_paid_cannot_be_delivered() -> None:
    error = refused(domain.settle, LINES, {"lock", "moon"})
    assert error.violations[0][0] == "delivered_steps"


def test_a_quote_pays_once_and_for_a_while() -> None:
    good = replace(QUOTE, expire_time=NOW + timedelta(seconds=1))
    domain.check_quote_usable(good, NOW)
    assert refused(domain.check_quote_usable, QUOTE, NOW).reason == "QUOTE_EXPIRED"
    used = replace(good, used_by="deployments/y")
    assert refused(domain.check_quote_usable, used, NOW).reason == "QUOTE_USED"


def test_an_approval_covers_the_fee_and_a_margin() -> None:
    assert QUOTE.required_allowance == 2 * ICP + 10_000
    assert QUOTE.approval_amount == 2 * ICP + 20_000


def test_a_missing_approval_is_told_precisely() -> None:
    """F-58: missing approval, short approval and short balance were one opaque failure."""
    needed = QUOTE.required_allowance
    for lack, allowance, soon, balance in (
        (Lack.ALLOWANCE, needed - 1, False, needed),
        (Lack.TIME, needed, True, needed),
        (Lack.BALANCE, needed, False, needed - 1),
        (None, needed, False, needed),
    ):
        assert domain.lack_of(QUOTE, allowance, soon, balance) == lack
    told = [domain.approval_problem(lack, QUOTE, needed - 1, Unit("ICP", 8)) for lack in Lack]
    assert told == [
        "Approve at least 2.0001 ICP; the allowance is 2.00009999 ICP.",
        "The approval ends before the charge could be made; approve again.",
        "The balance is 2.00009999 ICP, but total and fee need 2.0001 ICP.",
    ]


LEGAL = {
    (RefundState.PENDING, RefundState.APPROVED),
    (RefundState.PENDING, RefundState.REJECTED),
    (RefundState.PENDING, RefundState.CANCELLED),
    (RefundState.APPROVED, RefundState.PROCESSING),
    (RefundState.APPROVED, RefundState.REJECTED),
    (RefundState.PROCESSING, RefundState.COMPLETED),
    (RefundState.PROCESSING, RefundState.FAILED),
    (RefundState.FAILED, RefundState.PROCESSING),
}


@pytest.mark.parametrize("state", list(RefundState))
@pytest.mark.parametrize("target", list(RefundState))
def test_refunds_go_only_where_the_domain_says(state: RefundState, target: RefundState) -> None:
    refund = replace(REFUND, state=state)
    if (state, target) in LEGAL:
        domain.check_transition(refund, target)
    else:
        error = refused(domain.check_transition, refund, target)
        assert (error.reason, error.metadata) == ("REFUND_STATE", {"state": state.name})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": PaymentState.IN_FLIGHT}, "PAYMENT_NOT_COMPLETED"),
        ({"state": PaymentState.FAILED}, "PAYMENT_NOT_COMPLETED"),
        ({"state": PaymentState.REFUNDED}, "PAYMENT_REFUNDED"),
        ({"refunded_amount": 0}, "PAYMENT_DELIVERED"),
    ],
)
def test_only_what_was_charged_and_not_delivered_can_be_asked_back(
    changes: dict[str, Any], reason: str
) -> None:
    """F-3."""
    assert refused(domain.check_requestable, replace(PAYMENT, **changes)).reason == reason


def test_a_charge_may_be_asked_back() -> None:
    domain.check_requestable(replace(PAYMENT, state=PaymentState.COMPLETED))
    domain.check_requestable(PAYMENT)


def test_a_refund_is_approved_once_delivery_was_given_up() -> None:
    domain.check_approvable(PAYMENT, REFUND)
    for payment in (
        replace(PAYMENT, state=PaymentState.COMPLETED),
        replace(PAYMENT, refunded_amount=1),
    ):
        assert refused(domain.check_approvable, payment, REFUND).reason == "PAYMENT_NOT_SETTLED"


def test_a_payment_has_one_refund() -> None:
    error = domain.refund_exists(REFUND)
    assert (error.code, error.metadata) == (
        Code.ALREADY_EXISTS,
        {"refund": f"refunds/{REFUND.id}"},
    )


def test_memos_mark_one_transfer_each() -> None:
    memos = {PAYMENT.memo, replace(PAYMENT, operation="deployments/y").memo, REFUND.memo}
    assert len(memos) == 3
    assert {len(memo) for memo in memos} == {32}


@pytest.mark.parametrize(
    ("ours", "proto"),
    [
        (PaidService, payment_pb2.PaidService),
        (PaymentState, payment_pb2.PaymentState),
        (RefundReason, payment_pb2.RefundReason),
        (RefundState, payment_pb2.RefundState),
    ],
)
def test_states_have_the_numbers_of_the_proto(ours: Any, proto: Any) -> None:
    """F-6: reasons and states were mapped between two schemas, and lost on the way."""
    assert {int(state) for state in ours} == {int(value) for value in proto.values()} - {0}
    for state in ours:
        assert proto.Name(int(state)).endswith(f"_{state.name}")


@pytest.mark.parametrize(
    ("payer", "amount", "expected"),
    [("owner", 2 * ICP, True), ("somebody", 2 * ICP, False), ("owner", 2 * ICP - 1, False)],
)
def test_a_block_is_a_payment_s_charge_by_its_payer_and_its_amount(
    payer: str, amount: int, *, expected: bool
) -> None:
    """Anybody may copy a memo: what others paid under it, or less, settles nothing."""
    block = ledger_pb2.Block(amount=str(amount))
    getattr(block, "from").owner = payer
    assert is_charge(PAYMENT, block) is expected
