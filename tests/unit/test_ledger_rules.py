"""The ledger's rules against an independent, naive model of ICRC-1 (domain 6)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import principal
from services.kit.amounts import MAX_AMOUNT
from services.kit.errors import Code, Error
from services.ledger import domain
from services.ledger.domain import Account, Block, Book, Ledger, Operation, Transfer

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
    seen: dict[Transfer, int] = field(default_factory=dict)
    burned_fees: int = 0
    minted: int = 0
    burned: int = 0
    count: int = 0

    def expect(self, transfer: Transfer) -> tuple[str, dict[str, str]] | None:
        """The error that the transfer must meet, or None; then it has been carried out."""
        mint, burn = transfer.source == MINTER, transfer.target == MINTER
        fee = 0 if mint or burn else FEE
        wrong = chain(
            self.arguments(transfer, fee, mint=mint, burn=burn),
            self.times(transfer),
            self.funds(transfer, fee, mint=mint),
        )
        refused = next(wrong, None)
        if refused is None:
            self.carry_out(transfer, fee)
        return refused

    def arguments(self, transfer: Transfer, fee: int, *, mint: bool, burn: bool) -> Refusals:
        if mint and burn:
            yield "GENERIC_ERROR", {"error_code": "2"}
        if transfer.fee not in (None, fee):
            yield "BAD_FEE", {"expected_fee": str(fee)}
        if burn and transfer.amount < FEE:
            yield "BAD_BURN", {"min_burn_amount": str(FEE)}

    def times(self, transfer: Transfer) -> Refusals:
        if transfer.created_at is None:
            return
        if transfer.created_at < NOW - WINDOW - DRIFT:
            yield "TOO_OLD", {}
        if transfer.created_at > NOW + DRIFT:
            yield "CREATED_IN_FUTURE", {"ledger_time": str(NOW)}
        if transfer in self.seen:
            yield "DUPLICATE", {"duplicate_of": str(self.seen[transfer])}

    def funds(self, transfer: Transfer, fee: int, *, mint: bool) -> Refusals:
        balance = self.balances.get(transfer.source, 0)
        if mint and sum(self.balances.values()) + transfer.amount > 2**128 - 1:
            yield "GENERIC_ERROR", {"error_code": "1"}
        if not mint and balance < transfer.amount + fee:
            yield "INSUFFICIENT_FUNDS", {"balance": str(balance)}

    def carry_out(self, transfer: Transfer, fee: int) -> None:
        if transfer.source != MINTER:
            self.add(transfer.source, -transfer.amount - fee)
        else:
            self.minted += transfer.amount
        if transfer.target != MINTER:
            self.add(transfer.target, transfer.amount)
        else:
            self.burned += transfer.amount
        if self.collector is not None:
            self.add(self.collector, fee)
        else:
            self.burned_fees += fee
        if transfer.created_at is not None:
            self.seen[transfer] = self.count
        self.count += 1

    def add(self, account: Account, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount


accounts = st.sampled_from(ACCOUNTS)
transfers = st.builds(
    Transfer,
    source=accounts,
    target=accounts,
    amount=st.one_of(
        st.integers(0, 2 * FEE), st.integers(0, 5_000), st.sampled_from([MAX_AMOUNT, 2**127])
    ),
    fee=st.sampled_from([None, None, 0, FEE, FEE + 1]),
    memo=st.sampled_from([b"", b"memo"]),
    created_at=st.sampled_from(
        [
            None,
            NOW,
            NOW + DRIFT,
            NOW + DRIFT + 1,
            NOW - WINDOW - DRIFT,
            NOW - WINDOW - DRIFT - 1,
        ]
    ),
)


def book(ledger: Ledger = LEDGER, **balances: int) -> Book:
    """A book in which Ann holds something, minted as a chain of blocks."""
    holders = {"ann": ANN, "ben": BEN}
    initial = {holders[name]: amount for name, amount in balances.items()}
    return domain.new_ledger(ledger, initial, NOW)


def state(of: Book) -> tuple[Any, ...]:
    """Everything that a transfer could change."""
    return of.ledger, dict(of.balances), dict(of.duplicates), list(of.blocks)


def refusal(of: Book, transfer: Transfer) -> Error:
    """The error of a transfer that must be refused, and must change nothing."""
    before = state(of)
    with pytest.raises(Error) as caught:
        of.apply(transfer)
    assert state(of) == before
    return caught.value


@given(st.lists(transfers, max_size=40), st.sampled_from([None, COLLECTOR]))
def test_any_course_of_transfers_ends_as_the_model_says(
    course: list[Transfer], collector: Account | None
) -> None:
    """Sum of balances = supply, no negative balance, fees accounted; refusals change nothing."""
    ledger = replace(LEDGER, fee_collector=collector)
    tried, model = book(ledger, ann=2_000), Model(collector)
    model.add(ANN, 2_000)
    model.minted, model.count = 2_000, 1
    for transfer in course:
        expected = model.expect(transfer)
        if expected is None:
            assert tried.apply(transfer).index == model.count - 1
        else:
            error = refusal(tried, transfer)
            assert (error.reason, error.metadata) == expected
        held = {account: amount for account, amount in tried.balances.items() if amount}
        assert held == {account: amount for account, amount in model.balances.items() if amount}
        assert tried.ledger.total_supply == sum(tried.balances.values())
        assert tried.ledger.total_supply == model.minted - model.burned - model.burned_fees
        assert min(tried.balances.values()) >= 0
    hashes = [block.hash for block in tried.blocks]
    assert domain.verify_chain(tried.blocks, hashes) is None
    assert tried.ledger.tip_hash == hashes[-1]
    assert tried.ledger.block_count == len(hashes)


@given(st.lists(transfers, max_size=40), st.sampled_from([None, COLLECTOR]))
def test_a_course_touches_only_the_accounts_that_were_loaded_for_it(
    course: list[Transfer], collector: Account | None
) -> None:
    ledger = replace(LEDGER, fee_collector=collector)
    tried = Book(ledger, {ANN: 3_000}, {}, NOW)
    for transfer in course:
        if tried.ledger.total_supply + transfer.amount <= MAX_AMOUNT:
            with_errors_ignored(tried, transfer)
    assert tried.balances.keys() <= domain.touched(ledger, course) | {ANN}


def with_errors_ignored(of: Book, transfer: Transfer) -> None:
    try:
        of.apply(transfer)
    except Error:
        return


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
