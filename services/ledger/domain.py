"""The rules of ICRC-1 (dfinity/ICRC-1), applied to a working set of balances.

Amounts are base units, times are nanoseconds since the epoch. Nothing here does I/O: a `Book` is
filled by the store, applies operations in order, and is written back by the store.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final
from uuid import UUID

from services.kit.amounts import MAX_AMOUNT
from services.kit.errors import Code, Error
from services.kit.principal import DEFAULT_SUBACCOUNT

ICP_LEDGER: Final = UUID("00000000-0000-7000-8000-000000000001")
"""The token that fees are paid in; its resource name is `ledgers/icp`."""
ICP_TRANSFER_FEE: Final = 10_000

_SECOND: Final = 1_000_000_000
DEDUPLICATION_WINDOW: Final = 24 * 3600 * _SECOND
PERMITTED_DRIFT: Final = 120 * _SECOND
_HASH_DOMAIN: Final = b"icto-ledger-block-v1"
STANDARDS: Final = ("ICRC-1",)


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


class Operation(IntEnum):
    """What a block records."""

    MINT = 1
    BURN = 2
    TRANSFER = 3


@dataclass(frozen=True, slots=True)
class Transfer:
    """Arguments of icrc1_transfer, with the caller's account as `source`."""

    source: Account
    target: Account
    amount: int
    fee: int | None = None
    memo: bytes = b""
    created_at: int | None = None

    @property
    def duplicate_key(self) -> bytes | None:
        """What another transfer must share to be its duplicate; None without a time."""
        if self.created_at is None:
            return None
        parts = (
            *_account_parts(self.source),
            *_account_parts(self.target),
            _number(self.amount),
            b"" if self.fee is None else _number(self.fee),
            self.memo,
            _number(self.created_at),
        )
        return _digest(parts)


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
                b"" if self.created_at is None else _number(self.created_at),
            )
        )


class Book:
    """A ledger with the balances that a batch touches.

    `apply` either changes the book and returns the block, or raises and changes nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        balances: Mapping[Account, int],
        duplicates: Mapping[bytes, int],
        now: int,
    ) -> None:
        self.ledger = ledger
        self.balances = dict(balances)
        self.duplicates = dict(duplicates)
        self.blocks: list[Block] = []
        self._now = now

    def apply(self, transfer: Transfer) -> Block:
        """Applies one transfer.

        Raises:
            Error: one of ICRC-1's TransferErrors, as reason and metadata.
        """
        operation = _operation(self.ledger, transfer)
        fee = _fee(self.ledger, transfer, operation)
        key = self._check_duplicate(transfer)
        self._move(transfer, operation, fee)
        return self._append(transfer, operation, fee, key)

    def mint(self, target: Account, amount: int) -> Block:
        """Mints, as the ledger's creator does for the initial balances."""
        self._grow(amount)
        self._credit(target, amount)
        return self._append(Transfer(target, target, amount), Operation.MINT, 0, None)

    def _check_duplicate(self, transfer: Transfer) -> bytes | None:
        created = transfer.created_at
        if created is None:
            return None
        if created < self._now - DEDUPLICATION_WINDOW - PERMITTED_DRIFT:
            raise _refused("TOO_OLD", "created_at_time is too long ago; use a fresh one.")
        if created > self._now + PERMITTED_DRIFT:
            raise _refused(
                "CREATED_IN_FUTURE",
                "created_at_time is ahead of the ledger's time.",
                ledger_time=str(self._now),
            )
        key = transfer.duplicate_key
        index = self.duplicates.get(key) if key else None
        if index is not None:
            raise Error(
                Code.ALREADY_EXISTS,
                "DUPLICATE",
                f"This transfer was made before, in block {index}.",
                metadata={"duplicate_of": str(index)},
            )
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
        if fee and self.ledger.fee_collector:
            self._credit(self.ledger.fee_collector, fee)
        elif fee:
            self._shrink(fee)

    def _debit(self, account: Account, amount: int) -> None:
        balance = self.balances.get(account, 0)
        if balance < amount:
            raise _refused(
                "INSUFFICIENT_FUNDS",
                f"The account holds {balance}, but amount and fee need {amount}.",
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

    def _append(
        self, transfer: Transfer, operation: Operation, fee: int, key: bytes | None
    ) -> Block:
        block = Block(
            ledger_id=self.ledger.id,
            index=self.ledger.block_count,
            parent_hash=self.ledger.tip_hash,
            time=self._now,
            operation=operation,
            source=None if operation is Operation.MINT else transfer.source,
            target=None if operation is Operation.BURN else transfer.target,
            amount=transfer.amount,
            fee=fee,
            memo=transfer.memo,
            created_at=transfer.created_at,
        )
        self.blocks.append(block)
        self.ledger = replace(self.ledger, block_count=block.index + 1, tip_hash=block.hash)
        if key is not None:
            self.duplicates[key] = block.index
        return block


def touched(ledger: Ledger, transfers: Iterable[Transfer]) -> frozenset[Account]:
    """Every account whose balance the transfers may change."""
    accounts = {side for transfer in transfers for side in (transfer.source, transfer.target)}
    if ledger.fee_collector:
        accounts.add(ledger.fee_collector)
    return frozenset(accounts)


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
        if transfer.target == minter:
            raise _refused(
                "GENERIC_ERROR", "The minting account cannot pay itself.", error_code="2"
            )
        return Operation.MINT
    return (
        Operation.BURN if minter is not None and transfer.target == minter else Operation.TRANSFER
    )


def _fee(ledger: Ledger, transfer: Transfer, operation: Operation) -> int:
    """The fee of an operation, checked against what the caller expects."""
    expected = ledger.transfer_fee if operation is Operation.TRANSFER else 0
    if transfer.fee is not None and transfer.fee != expected:
        raise _refused(
            "BAD_FEE", f"The fee is {expected}, not {transfer.fee}.", expected_fee=str(expected)
        )
    smallest = max(ledger.transfer_fee, 1)
    if operation is Operation.BURN and transfer.amount < smallest:
        raise _refused("BAD_BURN", f"Burn at least {smallest}.", min_burn_amount=str(smallest))
    return expected


def _refused(reason: str, message: str, **metadata: str) -> Error:
    return Error(Code.FAILED_PRECONDITION, reason, message, metadata=metadata)


def _account_parts(account: Account | None) -> tuple[bytes, bytes]:
    return (b"", b"") if account is None else (account.owner.encode(), account.subaccount)


def _number(value: int) -> bytes:
    return value.to_bytes(16, "big")


def _digest(parts: Iterable[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()
