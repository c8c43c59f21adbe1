"""A ledger over days: calls, the time between them, and a naive account book beside it (domain 6).

Each call gets a book that is filled anew, as the store fills it; what one call leaves is what the
next one finds.
"""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contract import principal
from contract.errors import Error
from services.ledger import domain
from services.ledger.domain import Account, Allowance, Approval, Block, Book, Ledger, Transfer

START: Final = 1_800_000_000_000_000_000
HOUR: Final = 3600 * 1_000_000_000
FEE: Final = 3
PEOPLE: Final = [
    Account(principal.of_public_key(bytes([number]) * 32), bytes(31) + bytes([sub]))
    for number in range(3)
    for sub in range(2)
]
MINTER: Final = Account(principal.of_public_key(b"m" * 32))
LEDGER: Final = Ledger(UUID(int=7), "Test", "TST", 8, FEE, PEOPLE[0].owner, MINTER)

people = st.sampled_from(PEOPLE)
amounts = st.integers(0, 60)


@dataclass
class Paper:
    """What somebody with a pencil would keep."""

    holds: dict[Account, int] = field(default_factory=dict)
    may_take: dict[tuple[Account, Account], tuple[int, int | None]] = field(default_factory=dict)
    burned: int = 0
    minted: int = 0

    def allowance(self, payer: Account, spender: Account, now: int) -> int:
        amount, until = self.may_take.get((payer, spender), (0, None))
        return amount if until is None or until > now else 0


class LedgerMachine(RuleBasedStateMachine):
    """Any course of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.ledger = LEDGER
        self.balances: dict[Account, int] = {}
        self.allowances: dict[tuple[Account, Account], Allowance] = {}
        self.duplicates: dict[bytes, int | None] = {}
        self.blocks: list[Block] = []
        self.paper = Paper()
        self.calls: list[tuple[Transfer | Approval, int]] = []

    def ask(self, request: Transfer | Approval) -> str:
        """Applies a call; the reason when it is refused."""
        accounts = domain.touched([request]) | {self.ledger.fee_collector}
        pairs = domain.spenders([request])
        book = Book(
            self.ledger,
            {a: self.balances[a] for a in accounts if a in self.balances},
            self.duplicates,
            self.now,
            {pair: self.allowances[pair] for pair in pairs if pair in self.allowances},
        )
        try:
            block = book.apply(request)
        except Error as error:
            assert not book.blocks
            return error.reason
        self.ledger = book.ledger
        self.balances |= book.balances
        self.allowances |= book.allowances
        self.duplicates = book.duplicates
        self.blocks += book.blocks
        if request.created_at is not None:
            self.calls.append((request, block.index))
        return ""

    @rule(hours=st.integers(0, 30))
    def time_goes_by(self, hours: int) -> None:
        self.now += hours * HOUR + 1

    @rule(to=people, amount=amounts)
    def mint(self, to: Account, amount: int) -> None:
        assert self.ask(Transfer(MINTER, to, amount)) == ""
        self.paper.holds[to] = self.paper.holds.get(to, 0) + amount
        self.paper.minted += amount

    @rule(payer=people, to=people, amount=amounts, timed=st.booleans())
    def transfer(self, payer: Account, to: Account, amount: int, *, timed: bool) -> None:
        created = self.now if timed else None
        self.moved(Transfer(payer, to, amount, created_at=created), "")

    @rule(payer=people, spender=people, to=people, amount=amounts)
    def transfer_from(self, payer: Account, spender: Account, to: Account, amount: int) -> None:
        allowance = self.paper.allowance(payer, spender, self.now)
        short = spender != payer and allowance < amount + FEE
        expected = "INSUFFICIENT_ALLOWANCE" if short else ""
        request = Transfer(payer, to, amount, spender=spender)
        if self.moved(request, expected) and spender != payer:
            _, until = self.paper.may_take[payer, spender]
            self.paper.may_take[payer, spender] = (allowance - amount - FEE, until)

    def moved(self, request: Transfer, expected: str) -> bool:
        """A transfer on paper, unless it is refused as expected."""
        payer, needed = request.source, request.amount + FEE
        duplicate = any(call == request for call, _ in self.calls)
        if duplicate:
            expected = "DUPLICATE"
        elif not expected and self.paper.holds.get(payer, 0) < needed:
            expected = "INSUFFICIENT_FUNDS"
        assert self.ask(request) == expected
        if expected:
            return False
        self.paper.holds[payer] -= needed
        self.paper.holds[request.target] = self.paper.holds.get(request.target, 0) + request.amount
        self.paper.burned += FEE
        return True

    @rule(
        payer=people,
        spender=people,
        amount=st.integers(0, 200),
        hours=st.none() | st.integers(-1, 40),
        expected=st.none() | st.integers(0, 5),
    )
    def approve(
        self, payer: Account, spender: Account, amount: int, hours: int | None, expected: int | None
    ) -> None:
        until = None if hours is None else self.now + hours * HOUR
        current = self.paper.allowance(payer, spender, self.now)
        reason = ""
        if payer.owner == spender.owner:
            reason = "GENERIC_ERROR"
        elif until is not None and until <= self.now:
            reason = "EXPIRED"
        elif expected is not None and expected != current:
            reason = "ALLOWANCE_CHANGED"
        elif self.paper.holds.get(payer, 0) < FEE:
            reason = "INSUFFICIENT_FUNDS"
        request = Approval(payer, spender, amount, expected_allowance=expected, expires=until)
        assert self.ask(request) == reason
        if not reason:
            self.paper.may_take[payer, spender] = (amount, until)
            self.paper.holds[payer] -= FEE
            self.paper.burned += FEE

    @rule(payer=people, amount=st.integers(0, 20))
    def burn(self, payer: Account, amount: int) -> None:
        held = self.paper.holds.get(payer, 0)
        expected = "BAD_BURN" if amount < FEE else "INSUFFICIENT_FUNDS" if held < amount else ""
        assert self.ask(Transfer(payer, MINTER, amount)) == expected
        if not expected:
            self.paper.holds[payer] -= amount
            self.paper.burned += amount

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """F-8: what names its time is found again for a day, and is too old after that."""
        if not self.calls:
            return
        request, _ = data.draw(st.sampled_from(self.calls))
        assert request.created_at is not None
        age = self.now - request.created_at
        window = domain.DEDUPLICATION_WINDOW + domain.PERMITTED_DRIFT
        assert self.ask(request) == ("TOO_OLD" if age > window else "DUPLICATE")

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        """Cross-cutting invariant 4."""
        held = {account: amount for account, amount in self.balances.items() if amount}
        assert held == {account: n for account, n in self.paper.holds.items() if n}
        assert all(amount >= 0 for amount in self.balances.values())
        assert self.ledger.total_supply == sum(held.values())
        assert self.ledger.total_supply == self.paper.minted - self.paper.burned
        assert MINTER not in held

    @invariant()
    def the_chain_holds(self) -> None:
        hashes = [block.hash for block in self.blocks]
        assert domain.verify_chain(self.blocks, hashes) is None
        assert self.ledger.block_count == len(self.blocks)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
