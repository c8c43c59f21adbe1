"""The rules of ICRC-1 and ICRC-2 (dfinity/ICRC-1), applied to a working set of balances.

Amounts are base units, times are nanoseconds since the epoch. Nothing here does I/O: a `Book` is
filled by the store, applies operations in order, and is written back by the store.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final
from uuid import UUID

from contract.errors import Code, Error
from contract.principal import DEFAULT_SUBACCOUNT
from contract.units import Unit
from services.kit.money.amounts import MAX_AMOUNT

ICP_LEDGER: Final = UUID("00000000-0000-7000-8000-000000000001")
"""The token that fees are paid in; its resource name is `ledgers/icp`."""
ICP_TRANSFER_FEE: Final = 10_000

_SECOND: Final = 1_000_000_000
DEDUPLICATION_WINDOW: Final = 24 * 3600 * _SECOND
PERMITTED_DRIFT: Final = 120 * _SECOND
_HASH_DOMAIN: Final = b"icto-ledger-block-v1"
STANDARDS: Final = ("ICRC-1", "ICRC-2")


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """An ICRC-1 account; the subaccount is always 32 bytes."""

    owner: str
    subaccount: bytes = DEFAULT_SUBACCOUNT


@dataclass(frozen=True, slots=True)
class Ledger:
    """One token's ledger, without its balances."""

    id: UUID
    display_name: str
    symbol: str
    decimals: int
    transfer_fee: int
    controller: str
    minting_account: Account | None = None
    fee_collector: Account | None = None
    total_supply: int = 0
    block_count: int = 0
    tip_hash: bytes = b""

    @property
    def unit(self) -> Unit:
        """What its token is counted in."""
        return Unit(self.symbol, self.decimals)


class Operation(IntEnum):
    """What a block records."""

    MINT = 1
    BURN = 2
    TRANSFER = 3
    TRANSFER_FROM = 4
    APPROVE = 5


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a spender may take, fees included, until a moment in nanoseconds, if any."""

    amount: int
    expires: int | None = None

    def at(self, now: int) -> int:
        """What of it is good now."""
        return 0 if self.expires is not None and self.expires <= now else self.amount


NO_ALLOWANCE: Final = Allowance(0)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Arguments of icrc1_transfer, or with a spender of icrc2_transfer_from."""

    source: Account
    target: Account
    amount: int
    fee: int | None = None
    memo: bytes = b""
    created_at: int | None = None
    spender: Account | None = None

    @property
    def duplicate_key(self) -> bytes | None:
        """What another call must share to be its duplicate; None without a time.

        The caller is part of it: the spender if there is one, else the source.
        """
        if self.created_at is None:
            return None
        return _digest(
            (
                b"transfer",
                *_account_parts(self.spender),
                *_account_parts(self.source),
                *_account_parts(self.target),
                *_common_parts(self),
            )
        )


@dataclass(frozen=True, slots=True)
class Approval:
    """Arguments of icrc2_approve, with the caller's account as `source`."""

    source: Account
    spender: Account
    amount: int
    expected_allowance: int | None = None
    expires: int | None = None
    fee: int | None = None
    memo: bytes = b""
    created_at: int | None = None

    @property
    def duplicate_key(self) -> bytes | None:
        """What another call must share to be its duplicate; None without a time."""
        if self.created_at is None:
            return None
        return _digest(
            (
                b"approve",
                *_account_parts(self.source),
                *_account_parts(self.spender),
                _optional(self.expected_allowance),
                _optional(self.expires),
                *_common_parts(self),
            )
        )


Request = Transfer | Approval


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the chain."""

    ledger_id: UUID
    index: int
    parent_hash: bytes
    time: int
    operation: Operation
    source: Account | None
    target: Account | None
    amount: int
    fee: int
    memo: bytes
    created_at: int | None
    spender: Account | None = None
    expires: int | None = None

    @property
    def hash(self) -> bytes:
        """SHA-256 over the length-prefixed fields, the parent's hash included."""
        return _digest(
            (
                _HASH_DOMAIN,
                self.ledger_id.bytes,
                _number(self.index),
                self.parent_hash,
                _number(self.time),
                _number(self.operation),
                *_account_parts(self.source),
                *_account_parts(self.target),
                _number(self.amount),
                _number(self.fee),
                self.memo,
                _optional(self.created_at),
                *_account_parts(self.spender),
                _optional(self.expires),
            )
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What the accounts of a block held right after it; None for one that the block has not."""

    source: int | None
    target: int | None
    collector: int | None


class Book:
    """A ledger with the balances and allowances that a batch touches.

    `apply` either changes the book and returns the block, or raises and changes nothing.
    `duplicates` tells the block of each call that is remembered; None when it was given up.
    """

    def __init__(
        self,
        ledger: Ledger,
        balances: Mapping[Account, int],
        duplicates: Mapping[bytes, int | None],
        now: int,
        allowances: Mapping[tuple[Account, Account], Allowance] | None = None,
    ) -> None:
        self.ledger = ledger
        self.balances = dict(balances)
        self.duplicates = dict(duplicates)
        self.allowances = dict(allowances or {})
        self.blocks: list[Block] = []
        self.held: list[Held] = []
        """For each block, in the same order."""
        self._now = now

    def apply(self, request: Request) -> Block:
        """Applies one call.

        Raises:
            Error: one of the standards' errors, as reason and metadata.
        """
        if isinstance(request, Approval):
            return self._approve(request)
        return self._transfer(request)

    def _transfer(self, transfer: Transfer) -> Block:
        operation = _operation(self.ledger, transfer)
        fee = _fee(self.ledger, transfer.fee, operation)
        _check_burn(self.ledger, transfer, operation)
        key = self._check_duplicate(transfer)
        self._check_allowance(transfer, fee)
        self._move(transfer, operation, fee)
        return self._append(transfer, operation, fee, key)

    def _approve(self, approval: Approval) -> Block:
        if approval.source == self.ledger.minting_account:
            raise _refused("GENERIC_ERROR", "The minting account cannot approve.", error_code="3")
        if approval.spender.owner == approval.source.owner:
            raise _refused("GENERIC_ERROR", "Nobody approves themselves.", error_code="4")
        fee = _fee(self.ledger, approval.fee, Operation.APPROVE)
        key = self._check_duplicate(approval)
        if approval.expires is not None and approval.expires <= self._now:
            raise _refused(
                "EXPIRED", "The approval would end in the past.", ledger_time=str(self._now)
            )
        current = self._allowance(approval.source, approval.spender).at(self._now)
        if approval.expected_allowance is not None and approval.expected_allowance != current:
            raise _refused(
                "ALLOWANCE_CHANGED",
                f"The allowance is {self._told(current)},"
                f" not {self._told(approval.expected_allowance)}.",
                current_allowance=str(current),
            )
        self._debit(approval.source, fee)
        self._collect(fee)
        allowance = Allowance(approval.amount, approval.expires)
        self.allowances[approval.source, approval.spender] = allowance
        return self._append(approval, Operation.APPROVE, fee, key)

    def _told(self, amount: int) -> str:
        return self.ledger.unit.describe(amount)

    def _allowance(self, source: Account, spender: Account) -> Allowance:
        return self.allowances.get((source, spender), NO_ALLOWANCE)

    def _check_allowance(self, transfer: Transfer, fee: int) -> None:
        """A spender other than the payer needs an allowance for amount and fee."""
        if transfer.spender is None or transfer.spender == transfer.source:
            return
        allowance = self._allowance(transfer.source, transfer.spender).at(self._now)
        if allowance < transfer.amount + fee:
            raise _refused(
                "INSUFFICIENT_ALLOWANCE",
                f"The allowance is {self._told(allowance)}, but amount and fee need"
                f" {self._told(transfer.amount + fee)}.",
                allowance=str(allowance),
            )

    def _use_allowance(self, transfer: Transfer, fee: int) -> None:
        if transfer.spender is None or transfer.spender == transfer.source:
            return
        before = self._allowance(transfer.source, transfer.spender)
        after = replace(before, amount=before.amount - transfer.amount - fee)
        self.allowances[transfer.source, transfer.spender] = after

    def mint(self, target: Account, amount: int) -> Block:
        """Mints, as the ledger's creator does for the initial balances."""
        self._grow(amount)
        self._credit(target, amount)
        return self._append(Transfer(target, target, amount), Operation.MINT, 0, None)

    def hand_over(self, controller: str, minter: Account | None) -> None:
        """Gives the ledger another controller and minting account.

        What the new minting account holds is burned, as everything is that is sent to it later:
        nobody can hold up a handover by sending a little there before it.
        """
        held = self.balances.get(minter, 0) if minter else 0
        if minter and held:
            self._debit(minter, held)
            self._shrink(held)
            self._append(Transfer(minter, minter, held), Operation.BURN, 0, None)
        self.ledger = replace(self.ledger, controller=controller, minting_account=minter)

    def _check_duplicate(self, request: Request) -> bytes | None:
        created = request.created_at
        if created is None:
            return None
        check_time(created, self._now)
        key = request.duplicate_key
        index = self.duplicates.get(key) if key else None
        if index is not None:
            raise Error(
                Code.ALREADY_EXISTS,
                "DUPLICATE",
                f"This call was made before, in block {index}.",
                metadata={"duplicate_of": str(index)},
            )
        if key in self.duplicates:
            raise _refused("TRANSFER_VOIDED", "This call was given up; it is never made.")
        return key

    def _move(self, transfer: Transfer, operation: Operation, fee: int) -> None:
        if operation is Operation.MINT:
            self._grow(transfer.amount)
        else:
            self._debit(transfer.source, transfer.amount + fee)
        if operation is Operation.BURN:
            self._shrink(transfer.amount)
        else:
            self._credit(transfer.target, transfer.amount)
        self._collect(fee)
        self._use_allowance(transfer, fee)

    def _collect(self, fee: int) -> None:
        """The fee goes to the collector, or leaves the supply."""
        if fee and self.ledger.fee_collector:
            self._credit(self.ledger.fee_collector, fee)
        elif fee:
            self._shrink(fee)

    def _debit(self, account: Account, amount: int) -> None:
        balance = self.balances.get(account, 0)
        if balance < amount:
            raise _refused(
                "INSUFFICIENT_FUNDS",
                f"The account holds {self._told(balance)}, but amount and fee need"
                f" {self._told(amount)}.",
                balance=str(balance),
            )
        self.balances[account] = balance - amount

    def _credit(self, account: Account, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount

    def _grow(self, amount: int) -> None:
        supply = self.ledger.total_supply + amount
        if supply > MAX_AMOUNT:
            raise _refused("GENERIC_ERROR", "The supply would exceed 2^128-1.", error_code="1")
        self.ledger = replace(self.ledger, total_supply=supply)

    def _shrink(self, amount: int) -> None:
        self.ledger = replace(self.ledger, total_supply=self.ledger.total_supply - amount)

    def _held(self, block: Block) -> Held:
        collector = self.ledger.fee_collector if block.fee else None
        return Held(*map(self._holding, (block.source, block.target, collector)))

    def _holding(self, account: Account | None) -> int | None:
        return None if account is None else self.balances.get(account, 0)

    def _append(self, request: Request, operation: Operation, fee: int, key: bytes | None) -> Block:
        target = request.target if isinstance(request, Transfer) else None
        block = Block(
            ledger_id=self.ledger.id,
            index=self.ledger.block_count,
            parent_hash=self.ledger.tip_hash,
            time=self._now,
            operation=operation,
            source=None if operation is Operation.MINT else request.source,
            target=None if operation is Operation.BURN else target,
            amount=request.amount,
            fee=fee,
            memo=request.memo,
            created_at=request.created_at,
            spender=request.spender,
            expires=request.expires if isinstance(request, Approval) else None,
        )
        self.blocks.append(block)
        self.held.append(self._held(block))
        self.ledger = replace(self.ledger, block_count=block.index + 1, tip_hash=block.hash)
        if key is not None:
            self.duplicates[key] = block.index
        return block


def check_time(created: int, now: int) -> None:
    """Passes when the ledger knows a call of this time again.

    Raises:
        Error: TOO_OLD, what it knew of then may be forgotten; CREATED_IN_FUTURE.
    """
    if created < now - DEDUPLICATION_WINDOW - PERMITTED_DRIFT:
        raise _refused("TOO_OLD", "created_at_time is too long ago; use a fresh one.")
    if created > now + PERMITTED_DRIFT:
        raise _refused(
            "CREATED_IN_FUTURE",
            "created_at_time is ahead of the ledger's time.",
            ledger_time=str(now),
        )


def touched(requests: Iterable[Request]) -> frozenset[Account]:
    """Every account, beside the ledger's own, whose balance the requests may change."""
    accounts: set[Account] = set()
    for request in requests:
        accounts.add(request.source)
        if isinstance(request, Transfer):
            accounts.add(request.target)
    return frozenset(accounts)


def spenders(requests: Iterable[Request]) -> frozenset[tuple[Account, Account]]:
    """Every pair of payer and spender whose allowance the requests may use or change."""
    return frozenset((r.source, r.spender) for r in requests if r.spender is not None)


def closed(name: str) -> Error:
    """The ledger belongs to a token that was given up."""
    return _refused("LEDGER_CLOSED", f"{name} is closed; nothing moves on it any more.")


def moved() -> Error:
    """Somebody else changed the ledger since it was read."""
    return Error(Code.ABORTED, "LEDGER_MOVED", "The ledger has changed meanwhile; try again.")


def new_ledger(ledger: Ledger, initial: Mapping[Account, int], now: int) -> Book:
    """A fresh ledger with its initial balances minted.

    Raises:
        Error: the minting account is among the holders, or the supply is too large.
    """
    if ledger.minting_account in initial:
        raise _refused("MINTER_HOLDS", "The minting account cannot hold a balance.")
    book = Book(ledger, {}, {}, now)
    for account, amount in initial.items():
        book.mint(account, amount)
    return book


def verify_chain(blocks: Iterable[Block], hashes: Iterable[bytes]) -> int | None:
    """Index of the first block that does not fit its stored hash or its parent, if any."""
    parent, expected = b"", 0
    for block, stored in zip(blocks, hashes, strict=True):
        if block.index != expected or block.parent_hash != parent or block.hash != stored:
            return block.index
        parent, expected = stored, expected + 1
    return None


def _operation(ledger: Ledger, transfer: Transfer) -> Operation:
    minter = ledger.minting_account
    if minter is not None and transfer.source == minter:
        if transfer.spender not in (None, minter):
            raise _refused(
                "GENERIC_ERROR", "The minting account cannot delegate mints.", error_code="5"
            )
        if transfer.target == minter:
            raise _refused(
                "GENERIC_ERROR", "The minting account cannot pay itself.", error_code="2"
            )
        return Operation.MINT
    if minter is not None and transfer.target == minter:
        return Operation.BURN
    return Operation.TRANSFER if transfer.spender is None else Operation.TRANSFER_FROM


def _fee(ledger: Ledger, given: int | None, operation: Operation) -> int:
    """The fee of an operation, checked against what the caller expects."""
    free = operation in (Operation.MINT, Operation.BURN)
    expected = 0 if free else ledger.transfer_fee
    if given is not None and given != expected:
        raise _refused(
            "BAD_FEE", f"The fee is {expected}, not {given}.", expected_fee=str(expected)
        )
    return expected


def _check_burn(ledger: Ledger, transfer: Transfer, operation: Operation) -> None:
    """Accounts cannot be drained by dust burns, which cost nothing: the least is the fee."""
    smallest = max(ledger.transfer_fee, 1)
    if operation is Operation.BURN and transfer.amount < smallest:
        raise _refused("BAD_BURN", f"Burn at least {smallest}.", min_burn_amount=str(smallest))


def _refused(reason: str, message: str, **metadata: str) -> Error:
    return Error(Code.FAILED_PRECONDITION, reason, message, metadata=metadata)


def _account_parts(account: Account | None) -> tuple[bytes, bytes]:
    return (b"", b"") if account is None else (account.owner.encode(), account.subaccount)


def _common_parts(request: Request) -> tuple[bytes, ...]:
    return (
        _number(request.amount),
        _optional(request.fee),
        request.memo,
        _optional(request.created_at),
    )


def _optional(value: int | None) -> bytes:
    return b"" if value is None else _number(value)


def _number(value: int) -> bytes:
    return value.to_bytes(16, "big")


def _digest(parts: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()
