"""The ledger's rules against an independent, naive model of ICRC-1 and ICRC-2 (domain 6)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import principal
from contract.errors import Code, Error
from services.kit.money.amounts import MAX_AMOUNT
from services.ledger import domain
from services.ledger.domain import (
    Account,
    Allowance,
    Approval,
    Block,
    Book,
    Ledger,
    Operation,
    Request,
    Transfer,
)

NOW = 1_800_000_000_000_000_000
MINUTE = 60 * 1_000_000_000
WINDOW = 24 * 60 * MINUTE
DRIFT = 2 * MINUTE
FEE = 10
LEDGER_ID = UUID(int=7)

MINTER, COLLECTOR, ANN, BEN = (
    Account(principal.of_public_key(bytes([number]) * 32)) for number in range(4)
)
ANN_SAVINGS = Account(ANN.owner, bytes(31) + b"\x01")
ACCOUNTS = (MINTER, COLLECTOR, ANN, ANN_SAVINGS, BEN)

LEDGER = Ledger(
    id=LEDGER_ID,
    display_name="Test",
    symbol="TST",
    decimals=8,
    transfer_fee=FEE,
    controller=ANN.owner,
    minting_account=MINTER,
    fee_collector=None,
)

Refusals = Iterator[tuple[str, dict[str, str]]]


@dataclass
class Model:
    """What a reader of domain 6 would write on paper."""

    collector: Account | None
    balances: dict[Account, int] = field(default_factory=dict)
    allowances: dict[tuple[Account, Account], int] = field(default_factory=dict)
    seen: dict[Request, int] = field(default_factory=dict)
    burned_fees: int = 0
    minted: int = 0
    burned: int = 0
    count: int = 0

    def expect(self, request: Request) -> tuple[str, dict[str, str]] | None:
        """The error that the request must meet, or None; then it has been carried out."""
        if isinstance(request, Approval):
            refused = next(self.approval_refusals(request), None)
        else:
            refused = next(self.transfer_refusals(request), None)
        if refused is None:
            self.carry_out(request)
        return refused

    def fee_of(self, request: Request) -> int:
        free = isinstance(request, Transfer) and MINTER in (request.source, request.target)
        return 0 if free else FEE

    def allowance(self, request: Request) -> int:
        spender = request.spender
        return 0 if spender is None else self.allowances.get((request.source, spender), 0)

    def transfer_refusals(self, transfer: Transfer) -> Refusals:
        mint, burn = transfer.source == MINTER, transfer.target == MINTER
        needed = transfer.amount + self.fee_of(transfer)
        if mint and transfer.spender not in (None, MINTER):
            yield "GENERIC_ERROR", {"error_code": "5"}
        if mint and burn:
            yield "GENERIC_ERROR", {"error_code": "2"}
        yield from self.fee_refusals(transfer)
        if burn and transfer.amount < FEE:
            yield "BAD_BURN", {"min_burn_amount": str(FEE)}
        yield from self.time_refusals(transfer)
        if transfer.spender not in (None, transfer.source) and self.allowance(transfer) < needed:
            yield "INSUFFICIENT_ALLOWANCE", {"allowance": str(self.allowance(transfer))}
        if mint and sum(self.balances.values()) + transfer.amount > 2**128 - 1:
            yield "GENERIC_ERROR", {"error_code": "1"}
        if not mint:
            yield from self.balance_refusals(transfer.source, needed)

    def approval_refusals(self, approval: Approval) -> Refusals:
        if approval.source == MINTER:
            yield "GENERIC_ERROR", {"error_code": "3"}
        if approval.source.owner == approval.spender.owner:
            yield "GENERIC_ERROR", {"error_code": "4"}
        yield from self.fee_refusals(approval)
        yield from self.time_refusals(approval)
        if approval.expires is not None and approval.expires <= NOW:
            yield "EXPIRED", {"ledger_time": str(NOW)}
        if approval.expected_allowance not in (None, self.allowance(approval)):
            yield "ALLOWANCE_CHANGED", {"current_allowance": str(self.allowance(approval))}
        yield from self.balance_refusals(approval.source, FEE)

    def fee_refusals(self, request: Request) -> Refusals:
        fee = self.fee_of(request)
        if request.fee not in (None, fee):
            yield "BAD_FEE", {"expected_fee": str(fee)}

    def time_refusals(self, request: Request) -> Refusals:
        if request.created_at is None:
            return
        if request.created_at < NOW - WINDOW - DRIFT:
            yield "TOO_OLD", {}
        if request.created_at > NOW + DRIFT:
            yield "CREATED_IN_FUTURE", {"ledger_time": str(NOW)}
        if request in self.seen:
            yield "DUPLICATE", {"duplicate_of": str(self.seen[request])}

    def balance_refusals(self, source: Account, needed: int) -> Refusals:
        balance = self.balances.get(source, 0)
        if balance < needed:
            yield "INSUFFICIENT_FUNDS", {"balance": str(balance)}

    def carry_out(self, request: Request) -> None:
        fee = self.fee_of(request)
        if isinstance(request, Approval):
            self.add(request.source, -fee)
            self.allowances[request.source, request.spender] = request.amount
        else:
            self.move(request, fee)
        if self.collector is not None:
            self.add(self.collector, fee)
        else:
            self.burned_fees += fee
        if request.created_at is not None:
            self.seen[request] = self.count
        self.count += 1

    def move(self, transfer: Transfer, fee: int) -> None:
        if transfer.source != MINTER:
            self.add(transfer.source, -transfer.amount - fee)
        else:
            self.minted += transfer.amount
        if transfer.target != MINTER:
            self.add(transfer.target, transfer.amount)
        else:
            self.burned += transfer.amount
        if transfer.spender not in (None, transfer.source):
            assert transfer.spender is not None
            self.allowances[transfer.source, transfer.spender] = (
                self.allowance(transfer) - transfer.amount - fee
            )

    def add(self, account: Account, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount


accounts = st.sampled_from(ACCOUNTS)
amounts = st.one_of(
    st.integers(0, 2 * FEE), st.integers(0, 5_000), st.sampled_from([MAX_AMOUNT, 2**127])
)
common: dict[str, Any] = {
    "amount": amounts,
    "fee": st.sampled_from([None, None, 0, FEE, FEE + 1]),
    "memo": st.sampled_from([b"", b"memo"]),
    "created_at": st.sampled_from(
        [
            None,
            NOW,
            NOW + DRIFT,
            NOW + DRIFT + 1,
            NOW - WINDOW - DRIFT,
            NOW - WINDOW - DRIFT - 1,
        ]
    ),
}
transfers = st.builds(
    Transfer, source=accounts, target=accounts, spender=st.none() | accounts, **common
)
approvals = st.builds(
    Approval,
    source=accounts,
    spender=accounts,
    expected_allowance=st.sampled_from([None, None, 0, 1_000]),
    expires=st.sampled_from([None, None, NOW - 1, NOW, NOW + 1]),
    **common,
)
courses = st.lists(transfers | approvals, max_size=40)
collectors = st.sampled_from([None, COLLECTOR])


def book(ledger: Ledger = LEDGER, **balances: int) -> Book:
    """A book in which Ann holds something, minted as a chain of blocks."""
    holders = {"ann": ANN, "ben": BEN}
    initial = {holders[name]: amount for name, amount in balances.items()}
    return domain.new_ledger(ledger, initial, NOW)


def state(of: Book) -> tuple[Any, ...]:
    """Everything that a transfer could change."""
    return (
        of.ledger,
        dict(of.balances),
        dict(of.duplicates),
        dict(of.allowances),
        list(of.blocks),
    )


def refusal(of: Book, transfer: Request) -> Error:
    """The error of a call that must be refused, and must change nothing."""
    before = state(of)
    with pytest.raises(Error) as caught:
        of.apply(transfer)
    assert state(of) == before
    return caught.value


@given(courses, collectors)
def test_any_course_of_calls_ends_as_the_model_says(
    course: list[Request], collector: Account | None
) -> None:
    """Sum of balances = supply, no negative balance, fees accounted; refusals change nothing."""
    ledger = replace(LEDGER, fee_collector=collector)
    tried, model = book(ledger, ann=2_000), Model(collector)
    model.add(ANN, 2_000)
    model.minted, model.count = 2_000, 1
    for request in course:
        expected = model.expect(request)
        if expected is None:
            assert tried.apply(request).index == model.count - 1
        else:
            error = refusal(tried, request)
            assert (error.reason, error.metadata) == expected
        check_agreement(tried, model)
    hashes = [block.hash for block in tried.blocks]
    assert domain.verify_chain(tried.blocks, hashes) is None
    assert tried.ledger.tip_hash == hashes[-1]
    assert tried.ledger.block_count == len(hashes)


def check_agreement(tried: Book, model: Model) -> None:
    held = {account: amount for account, amount in tried.balances.items() if amount}
    assert held == {account: amount for account, amount in model.balances.items() if amount}
    assert {pair: a.amount for pair, a in tried.allowances.items()} == model.allowances
    assert tried.ledger.total_supply == sum(tried.balances.values())
    assert tried.ledger.total_supply == model.minted - model.burned - model.burned_fees
    assert min([*tried.balances.values(), *model.allowances.values()]) >= 0


@given(courses, collectors)
def test_a_course_touches_only_what_was_loaded_for_it(
    course: list[Request], collector: Account | None
) -> None:
    ledger = replace(LEDGER, fee_collector=collector)
    tried = Book(ledger, {ANN: 3_000}, {}, NOW)
    for request in course:
        with contextlib.suppress(Error):
            tried.apply(request)
    assert tried.balances.keys() <= domain.touched(course) | {ANN, collector}
    assert tried.allowances.keys() <= domain.spenders(course)


@pytest.mark.parametrize(
    ("transfer", "reason", "metadata"),
    [
        (Transfer(ANN, BEN, 1, fee=FEE - 1), "BAD_FEE", {"expected_fee": "10"}),
        (Transfer(MINTER, BEN, 1, fee=FEE), "BAD_FEE", {"expected_fee": "0"}),
        (Transfer(ANN, MINTER, 50, fee=FEE), "BAD_FEE", {"expected_fee": "0"}),
        (Transfer(ANN, MINTER, FEE - 1), "BAD_BURN", {"min_burn_amount": "10"}),
        (Transfer(ANN, MINTER, 0), "BAD_BURN", {"min_burn_amount": "10"}),
        (Transfer(ANN, BEN, 91), "INSUFFICIENT_FUNDS", {"balance": "100"}),
        (Transfer(BEN, ANN, 0), "INSUFFICIENT_FUNDS", {"balance": "0"}),
        (Transfer(ANN, MINTER, 101), "INSUFFICIENT_FUNDS", {"balance": "100"}),
        (Transfer(ANN, BEN, 1, created_at=NOW - WINDOW - DRIFT - 1), "TOO_OLD", {}),
        (
            Transfer(ANN, BEN, 1, created_at=NOW + DRIFT + 1),
            "CREATED_IN_FUTURE",
            {"ledger_time": str(NOW)},
        ),
        (Transfer(MINTER, MINTER, 1), "GENERIC_ERROR", {"error_code": "2"}),
        (Transfer(MINTER, BEN, MAX_AMOUNT), "GENERIC_ERROR", {"error_code": "1"}),
    ],
)
def test_each_transfer_error_has_the_standards_name_and_fields(
    transfer: Transfer, reason: str, metadata: dict[str, str]
) -> None:
    error = refusal(book(ann=100), transfer)
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, reason)
    assert error.metadata == metadata


def test_a_duplicate_names_the_block_of_the_first_one() -> None:
    tried = book(ann=1_000)
    transfer = Transfer(ANN, BEN, 5, memo=b"rent", created_at=NOW)
    first = tried.apply(transfer)
    error = refusal(tried, transfer)
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "DUPLICATE")
    assert error.metadata == {"duplicate_of": str(first.index)}


def test_a_call_that_was_given_up_is_never_made() -> None:
    transfer = Transfer(ANN, BEN, 5, memo=b"rent", created_at=NOW)
    key = transfer.duplicate_key
    assert key is not None
    tried = Book(book(ann=1_000).ledger, {ANN: 1_000}, {key: None}, NOW)
    assert refusal(tried, transfer).reason == "TRANSFER_VOIDED"
    tried.apply(replace(transfer, memo=b"food"))


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 6},
        {"memo": b"food"},
        {"fee": FEE},
        {"created_at": NOW + 1},
        {"target": COLLECTOR},
        {"source": ANN_SAVINGS},
    ],
)
def test_a_transfer_that_differs_in_one_argument_is_no_duplicate(other: dict[str, Any]) -> None:
    tried = book(ann=1_000)
    tried.apply(Transfer(ANN, ANN_SAVINGS, 500))
    transfer = Transfer(ANN, BEN, 5, memo=b"rent", created_at=NOW)
    tried.apply(transfer)
    tried.apply(replace(transfer, **other))


def test_without_a_time_nothing_is_a_duplicate() -> None:
    tried = book(ann=1_000)
    for _ in range(2):
        tried.apply(Transfer(ANN, BEN, 5))
    assert tried.balances[BEN] == 10
    assert tried.duplicates == {}


def test_fees_burn_unless_a_collector_is_named() -> None:
    burning, collecting = book(ann=100), book(replace(LEDGER, fee_collector=COLLECTOR), ann=100)
    for tried in (burning, collecting):
        tried.apply(Transfer(ANN, BEN, 20))
        assert tried.balances[ANN] == 70
    assert burning.ledger.total_supply == 90
    assert collecting.ledger.total_supply == 100
    assert collecting.balances[COLLECTOR] == FEE


def test_a_transfer_to_oneself_costs_the_fee() -> None:
    tried = book(ann=100)
    tried.apply(Transfer(ANN, ANN, 50))
    assert tried.balances[ANN] == 90


def test_without_a_fee_one_unit_may_be_burned() -> None:
    tried = book(replace(LEDGER, transfer_fee=0), ann=100)
    assert refusal(tried, Transfer(ANN, MINTER, 0)).metadata == {"min_burn_amount": "1"}
    assert tried.apply(Transfer(ANN, MINTER, 1)).operation is Operation.BURN


def test_a_ledger_without_minter_neither_mints_nor_burns() -> None:
    tried = book(replace(LEDGER, minting_account=None), ann=100)
    assert tried.apply(Transfer(ANN, MINTER, 1)).operation is Operation.TRANSFER
    assert refusal(tried, Transfer(BEN, ANN, 1)).reason == "INSUFFICIENT_FUNDS"


def test_the_minting_account_never_holds_a_balance() -> None:
    with pytest.raises(Error) as caught:
        domain.new_ledger(LEDGER, {MINTER: 1}, NOW)
    assert caught.value.reason == "MINTER_HOLDS"


def test_a_new_minting_account_has_what_it_held_burned() -> None:
    """Whoever sends something there holds up no handover."""
    tried = book(ann=100, ben=7)
    tried.hand_over(COLLECTOR.owner, BEN)
    assert (tried.ledger.controller, tried.ledger.minting_account) == (COLLECTOR.owner, BEN)
    assert (tried.balances[BEN], tried.ledger.total_supply) == (0, 100)
    burn = tried.blocks[-1]
    assert (burn.operation, burn.source, burn.amount, burn.fee) == (Operation.BURN, BEN, 7, 0)
    assert tried.apply(Transfer(BEN, ANN, 5)).operation is Operation.MINT


@pytest.mark.parametrize("minter", [COLLECTOR, None])
def test_a_handover_to_who_holds_nothing_adds_no_block(minter: Account | None) -> None:
    tried = book(ann=100)
    before = len(tried.blocks)
    tried.hand_over(ANN.owner, minter)
    assert (len(tried.blocks), tried.ledger.minting_account) == (before, minter)


def test_an_allowance_of_an_earlier_time_mints_nothing() -> None:
    """Nobody prints money with what a holder allowed before their account became the minter's."""
    tried = allowed(100)
    tried.hand_over(ANN.owner, ANN)
    assert refusal(tried, Transfer(ANN, BEN, 10, spender=BEN)).metadata == {"error_code": "5"}
    assert tried.apply(Transfer(ANN, BEN, 10, spender=ANN)).operation is Operation.MINT


def test_initial_balances_beyond_the_largest_amount_are_refused() -> None:
    with pytest.raises(Error) as caught:
        domain.new_ledger(LEDGER, {ANN: MAX_AMOUNT, BEN: 1}, NOW)
    assert caught.value.reason == "GENERIC_ERROR"


def test_blocks_tell_mint_burn_and_transfer_apart() -> None:
    tried = book(ann=100)
    tried.apply(Transfer(ANN, BEN, 20))
    tried.apply(Transfer(BEN, MINTER, 20))
    mint, transfer, burn = tried.blocks
    assert (mint.operation, mint.source, mint.target, mint.fee) == (Operation.MINT, None, ANN, 0)
    assert (transfer.operation, transfer.source, transfer.fee) == (Operation.TRANSFER, ANN, FEE)
    assert (burn.operation, burn.target, burn.fee) == (Operation.BURN, None, 0)


def allowed(amount: int, expires: int | None = None) -> Book:
    """Ann holds 1,000 and lets Ben spend some of it."""
    return Book(LEDGER, {ANN: 1_000}, {}, NOW, {(ANN, BEN): Allowance(amount, expires)})


def test_a_spender_takes_amount_and_fee_from_the_allowance() -> None:
    tried = allowed(100)
    block = tried.apply(Transfer(ANN, COLLECTOR, 60, spender=BEN))
    assert (block.operation, block.spender) == (Operation.TRANSFER_FROM, BEN)
    assert tried.allowances[ANN, BEN] == Allowance(30)
    assert tried.balances == {ANN: 930, COLLECTOR: 60}


@given(amount=st.integers(0, 900), missing=st.integers(1, FEE))
def test_an_allowance_that_is_one_unit_short_is_refused(amount: int, missing: int) -> None:
    """F-9: the fee was not counted."""
    tried = allowed(amount + FEE - missing)
    error = refusal(tried, Transfer(ANN, COLLECTOR, amount, spender=BEN))
    assert error.metadata == {"allowance": str(amount + FEE - missing)}
    tried = allowed(amount + FEE)
    tried.apply(Transfer(ANN, COLLECTOR, amount, spender=BEN))
    assert tried.allowances[ANN, BEN] == Allowance(0)


def test_a_spender_burns_without_a_fee() -> None:
    tried = allowed(100)
    assert tried.apply(Transfer(ANN, MINTER, 100, spender=BEN)).operation is Operation.BURN
    assert tried.allowances[ANN, BEN] == Allowance(0)


def test_the_allowance_is_looked_at_before_the_balance() -> None:
    error = refusal(allowed(100), Transfer(ANN, COLLECTOR, 5_000, spender=BEN))
    assert (error.reason, error.metadata) == ("INSUFFICIENT_ALLOWANCE", {"allowance": "100"})
    error = refusal(allowed(10_000), Transfer(ANN, COLLECTOR, 5_000, spender=BEN))
    assert (error.reason, error.metadata) == ("INSUFFICIENT_FUNDS", {"balance": "1000"})


def test_an_allowance_that_ended_is_worth_nothing() -> None:
    error = refusal(allowed(100, NOW), Transfer(ANN, COLLECTOR, 1, spender=BEN))
    assert (error.reason, error.metadata) == ("INSUFFICIENT_ALLOWANCE", {"allowance": "0"})
    tried = allowed(100, NOW + 1)
    tried.apply(Transfer(ANN, COLLECTOR, 1, spender=BEN))
    assert tried.allowances[ANN, BEN] == Allowance(89, NOW + 1)


def test_an_approval_replaces_amount_and_expiry() -> None:
    tried = allowed(100, NOW)
    block = tried.apply(Approval(ANN, BEN, 7, expected_allowance=0))
    assert tried.allowances[ANN, BEN] == Allowance(7)
    assert (block.operation, block.target, block.fee) == (Operation.APPROVE, None, FEE)
    assert tried.balances[ANN] == 1_000 - FEE


def test_an_allowance_may_exceed_the_balance() -> None:
    tried = allowed(0)
    tried.apply(Approval(ANN, BEN, MAX_AMOUNT))
    assert tried.allowances[ANN, BEN] == Allowance(MAX_AMOUNT)


@pytest.mark.parametrize(
    ("approval", "reason", "metadata"),
    [
        (Approval(MINTER, BEN, 1), "GENERIC_ERROR", {"error_code": "3"}),
        (Approval(ANN, ANN_SAVINGS, 1), "GENERIC_ERROR", {"error_code": "4"}),
        (Approval(ANN, BEN, 1, fee=0), "BAD_FEE", {"expected_fee": "10"}),
        (Approval(ANN, BEN, 1, expires=NOW), "EXPIRED", {"ledger_time": str(NOW)}),
        (
            Approval(ANN, BEN, 1, expected_allowance=99),
            "ALLOWANCE_CHANGED",
            {"current_allowance": "100"},
        ),
        (Approval(BEN, ANN, 1), "INSUFFICIENT_FUNDS", {"balance": "0"}),
    ],
)
def test_each_approval_error_has_the_standards_name_and_fields(
    approval: Approval, reason: str, metadata: dict[str, str]
) -> None:
    error = refusal(allowed(100), approval)
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, reason)
    assert error.metadata == metadata


def test_the_same_transfer_by_another_spender_is_no_duplicate() -> None:
    """Deduplication is by caller, and the caller is the spender."""
    tried = allowed(1_000)
    transfer = Transfer(ANN, COLLECTOR, 5, created_at=NOW, spender=BEN)
    tried.apply(transfer)
    tried.apply(replace(transfer, spender=ANN))
    tried.apply(replace(transfer, spender=None))
    assert refusal(tried, transfer).reason == "DUPLICATE"


def test_an_approval_and_a_transfer_are_never_duplicates() -> None:
    keys = {
        Transfer(ANN, BEN, 5, created_at=NOW).duplicate_key,
        Approval(ANN, BEN, 5, created_at=NOW).duplicate_key,
        Approval(ANN, BEN, 5, created_at=NOW, expires=0).duplicate_key,
        Approval(ANN, BEN, 5, created_at=NOW, expected_allowance=0).duplicate_key,
    }
    assert len(keys) == 4
    assert Approval(ANN, BEN, 5).duplicate_key is None
    assert Transfer(ANN, BEN, 5).duplicate_key is None


def test_a_closed_ledger_says_so() -> None:
    assert domain.closed("ledgers/x").reason == "LEDGER_CLOSED"


ALTERATIONS: dict[str, Any] = {
    "ledger_id": UUID(int=8),
    "index": 99,
    "parent_hash": bytes(32),
    "time": NOW + 1,
    "operation": Operation.BURN,
    "source": BEN,
    "target": ANN_SAVINGS,
    "amount": 21,
    "fee": FEE + 1,
    "memo": b"forged",
    "created_at": NOW + 1,
    "spender": BEN,
    "expires": NOW + 1,
}


def three_transfers() -> list[Block]:
    tried = book(ann=100)
    for _ in range(3):
        tried.apply(Transfer(ANN, BEN, 20, memo=b"real", created_at=None))
    return tried.blocks


@pytest.mark.parametrize("name", ALTERATIONS)
def test_any_change_to_a_block_shows(name: str) -> None:
    blocks = three_transfers()
    hashes = [block.hash for block in blocks]
    blocks[2] = replace(blocks[2], **{name: ALTERATIONS[name]})
    assert domain.verify_chain(blocks, hashes) == blocks[2].index


def test_every_field_of_a_block_is_covered_by_its_hash() -> None:
    assert set(ALTERATIONS) == set(Block.__dataclass_fields__)


def test_a_block_with_a_fresh_hash_breaks_the_next_one() -> None:
    blocks = three_transfers()
    blocks[1] = replace(blocks[1], amount=1)
    assert domain.verify_chain(blocks, [block.hash for block in blocks]) == 2


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_block_shows_at_the_next_one(missing: int) -> None:
    blocks = [block for block in three_transfers() if block.index != missing]
    assert domain.verify_chain(blocks, [block.hash for block in blocks]) == missing + 1


def test_parts_of_a_block_cannot_be_shifted_into_one_another() -> None:
    """Length prefixes: the same bytes split otherwise have another hash."""
    one = three_transfers()[1]
    shifted = replace(one, memo=one.memo[1:], parent_hash=one.parent_hash + one.memo[:1])
    assert shifted.hash != one.hash


@pytest.mark.parametrize("account", [None, ANN, ANN_SAVINGS])
def test_a_block_tells_no_account_from_any_account(account: Account | None) -> None:
    block = replace(three_transfers()[1], source=account)
    assert all(block.hash != replace(block, source=other).hash for other in others(account))


def others(account: Account | None) -> Iterator[Account | None]:
    yield from (other for other in (None, *ACCOUNTS) if other != account)


def test_a_ledger_that_changed_meanwhile_is_asked_again() -> None:
    assert (domain.moved().code, domain.moved().reason) == (Code.ABORTED, "LEDGER_MOVED")
