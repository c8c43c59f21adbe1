"""SQL of the ledger. One function an operation."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from services.kit.storage import Connection, Database, Statement
from services.kit.storage.database import refusal
from services.ledger import domain
from services.ledger.domain import Account, Allowance, Block, Book, Ledger, Operation, Request

_LEDGER_COLUMNS: Final = """
    id, display_name, symbol, decimals, transfer_fee, total_supply, minting_owner,
    minting_subaccount, fee_owner, fee_subaccount, controller, block_count, tip_hash, create_time
"""
# Read after the lock is held, so that the times of a chain's blocks never go back.
_NOW_NS: Final = "(extract(epoch FROM kit_clock_now()) * 1000000)::bigint * 1000"

_CLOSED: Final = "EXISTS (SELECT FROM closed_ledgers WHERE closed_ledgers.id = $1)"
# xmin names the transaction that wrote the row last: another one, and the ledger has changed.
_STATE: Final = f"{_LEDGER_COLUMNS}, {_NOW_NS} AS now, {_CLOSED} AS closed, xmin AS version"
_LOCK: Final = f"SELECT {_STATE} FROM ledgers WHERE id = $1 FOR UPDATE"
# In one statement, so that all of it is of one moment, with no time before it in the chain: what a
# block is written with was read after its parent was committed.
_BOOK: Final = f"""
SELECT {_STATE}, held.*, granted.*, remembered.* FROM ledgers,
LATERAL (
    SELECT array_agg(owner) AS owners, array_agg(subaccount) AS subaccounts,
        array_agg(balance) AS balances
    FROM balances JOIN (
        SELECT * FROM unnest($2::text[], $3::bytea[]) UNION SELECT fee_owner, fee_subaccount
    ) AS wanted (owner, subaccount) USING (owner, subaccount)
    WHERE ledger_id = $1) AS held,
LATERAL (
    SELECT array_agg(owner) AS payers, array_agg(subaccount) AS payer_subaccounts,
        array_agg(spender_owner) AS spenders, array_agg(spender_subaccount) AS spender_subaccounts,
        array_agg(allowance) AS allowances, array_agg(expire_ns) AS expiries
    FROM allowances JOIN unnest($4::text[], $5::bytea[], $6::text[], $7::bytea[])
        AS wanted (owner, subaccount, spender_owner, spender_subaccount)
        USING (owner, subaccount, spender_owner, spender_subaccount)
    WHERE ledger_id = $1) AS granted,
LATERAL (
    SELECT array_agg(key) AS keys, array_agg(block_index) AS indexes
    FROM duplicates WHERE ledger_id = $1 AND key = ANY ($8::bytea[])) AS remembered
WHERE id = $1
"""
_GET: Final = f"SELECT {_LEDGER_COLUMNS} FROM ledgers WHERE id = $1 AND NOT {_CLOSED}"
_CLOSE: Final = "INSERT INTO closed_ledgers (id) VALUES ($1) ON CONFLICT DO NOTHING"
_INSERT: Final = """
INSERT INTO ledgers (id, display_name, symbol, decimals, transfer_fee, total_supply,
    minting_owner, minting_subaccount, fee_owner, fee_subaccount, controller, block_count, tip_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_BALANCE: Final = f"""
SELECT coalesce((SELECT balance FROM balances
    WHERE ledger_id = $1 AND owner = $2 AND subaccount = $3), 0)::numeric
FROM ledgers WHERE id = $1 AND NOT {_CLOSED}
"""
_ALLOWANCE: Final = f"""
SELECT {_NOW_NS} AS now, allowance, expire_ns FROM ledgers LEFT JOIN allowances
    ON ledger_id = $1 AND owner = $2 AND subaccount = $3
    AND spender_owner = $4 AND spender_subaccount = $5
WHERE id = $1 AND NOT {_CLOSED}
"""
_SET_ALLOWANCES: Final = """
INSERT INTO allowances (ledger_id, owner, subaccount, spender_owner, spender_subaccount, allowance,
    expire_ns)
SELECT $1, * FROM unnest($2::text[], $3::bytea[], $4::text[], $5::bytea[], $6::numeric[],
    $7::bigint[])
ON CONFLICT (ledger_id, owner, subaccount, spender_owner, spender_subaccount)
DO UPDATE SET allowance = excluded.allowance, expire_ns = excluded.expire_ns
"""
_BLOCK_OF: Final = "SELECT block_index FROM duplicates WHERE ledger_id = $1 AND key = $2"
_SET_HEAD: Final = f"""
UPDATE ledgers SET total_supply = $2, block_count = $3, tip_hash = $4
WHERE id = $1 AND kit_require(xmin = $5 AND NOT {_CLOSED}, $6)
"""
_SET_BALANCES: Final = """
INSERT INTO balances (ledger_id, owner, subaccount, balance)
SELECT $1, * FROM unnest($2::text[], $3::bytea[], $4::numeric[])
ON CONFLICT (ledger_id, owner, subaccount) DO UPDATE SET balance = excluded.balance
"""
_ADD_BLOCKS: Final = """
INSERT INTO blocks (ledger_id, index, parent_hash, hash, time_ns, operation, from_owner,
    from_subaccount, to_owner, to_subaccount, amount, fee, memo, created_at_ns, spender_owner,
    spender_subaccount, expire_ns, from_balance, to_balance, fee_balance)
SELECT $1, * FROM unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::smallint[],
    $7::text[], $8::bytea[], $9::text[], $10::bytea[], $11::numeric[], $12::numeric[],
    $13::bytea[], $14::bigint[], $15::text[], $16::bytea[], $17::bigint[], $18::numeric[],
    $19::numeric[], $20::numeric[])
"""
_REMEMBER: Final = """
INSERT INTO duplicates (ledger_id, key, block_index, created_at_ns)
SELECT $1, * FROM unnest($2::bytea[], $3::bigint[], $4::bigint[])
"""
_VOID: Final = """
INSERT INTO duplicates (ledger_id, key, created_at_ns) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_FORGET: Final = """
DELETE FROM duplicates WHERE created_at_ns < $1
"""
_SET_CONTROLLER: Final = """
UPDATE ledgers SET controller = $2, minting_owner = $3, minting_subaccount = $4 WHERE id = $1
"""
_BLOCK_COLUMNS: Final = """
    ledger_id, index, parent_hash, hash, time_ns, operation, from_owner, from_subaccount, to_owner,
    to_subaccount, amount, fee, memo, created_at_ns, spender_owner, spender_subaccount, expire_ns
"""
_GET_BLOCK: Final = f"SELECT {_BLOCK_COLUMNS} FROM blocks WHERE ledger_id = $1 AND index = $2"
_LIST_BLOCKS: Final = f"""
SELECT {_BLOCK_COLUMNS} FROM blocks
WHERE ledger_id = $1 AND index >= $2 ORDER BY index LIMIT $3
"""
_FIND_BLOCKS: Final = f"""
SELECT {_BLOCK_COLUMNS} FROM blocks
WHERE ledger_id = $1 AND memo = $4 AND memo <> '' AND index >= $2 ORDER BY index LIMIT $3
"""

# The account's last block up to the one asked for, be it as payer, as payee or as fee collector.
_BALANCE_AFTER: Final = """
SELECT coalesce((
    SELECT balance FROM (
        (SELECT index, from_balance FROM blocks WHERE ledger_id = $1 AND index <= $4
            AND from_owner = $2 AND from_subaccount = $3 ORDER BY index DESC LIMIT 1)
        UNION ALL
        (SELECT index, to_balance FROM blocks WHERE ledger_id = $1 AND index <= $4
            AND to_owner = $2 AND to_subaccount = $3 ORDER BY index DESC LIMIT 1)
        UNION ALL
        (SELECT index, fee_balance FROM blocks WHERE ledger_id = $1 AND index <= $4
            AND fee_balance IS NOT NULL AND fee_owner = $2 AND fee_subaccount = $3
            ORDER BY index DESC LIMIT 1)
    ) AS newest (index, balance) ORDER BY index DESC LIMIT 1), 0)::numeric
FROM ledgers WHERE id = $1 AND block_count > $4
"""


@dataclass(frozen=True, slots=True)
class StoredLedger:
    """A ledger and when it was created."""

    ledger: Ledger
    create_time: datetime


async def get_ledger(database: Database, ledger_id: UUID) -> StoredLedger | None:
    """One ledger."""
    row = await database.fetchrow(_GET, ledger_id)
    return StoredLedger(_ledger(row), row["create_time"]) if row else None


@dataclass(frozen=True, slots=True)
class SeenLedger:
    """A ledger at a moment, its own time in nanoseconds; another version, and it has changed."""

    ledger: Ledger
    create_time: datetime
    now: int
    closed: bool
    version: int


async def lock_ledger(connection: Connection, ledger_id: UUID) -> SeenLedger | None:
    """One ledger, locked until the transaction ends."""
    row = await connection.fetchrow(_LOCK, ledger_id)
    return _seen(row) if row else None


async def read_book(
    source: Connection | Database, ledger_id: UUID, requests: Sequence[Request]
) -> tuple[SeenLedger, Book] | None:
    """One ledger, and the book that the requests are applied to."""
    accounts, pairs = list(domain.touched(requests)), list(domain.spenders(requests))
    row = await source.fetchrow(
        _BOOK,
        ledger_id,
        [account.owner for account in accounts],
        [account.subaccount for account in accounts],
        [payer.owner for payer, _ in pairs],
        [payer.subaccount for payer, _ in pairs],
        [spender.owner for _, spender in pairs],
        [spender.subaccount for _, spender in pairs],
        [key for key in (request.duplicate_key for request in requests) if key],
    )
    if row is None:
        return None
    seen = _seen(row)
    return seen, Book(seen.ledger, _balances(row), _duplicates(row), seen.now, _allowances(row))


def closed_ledger(ledger_id: UUID) -> Statement:
    """Closes a ledger, or keeps one from being created."""
    return Statement(_CLOSE, (ledger_id,))


def inserted_ledger(ledger: Ledger) -> Statement:
    """Adds a ledger, with the head it has. Its id must be new."""
    return Statement(
        _INSERT,
        (
            ledger.id,
            ledger.display_name,
            ledger.symbol,
            ledger.decimals,
            ledger.transfer_fee,
            ledger.total_supply,
            *_columns(ledger.minting_account),
            *_columns(ledger.fee_collector),
            ledger.controller,
            ledger.block_count,
            ledger.tip_hash,
        ),
    )


async def ensure_ledger(database: Database, ledger: Ledger) -> None:
    """Adds a ledger unless it is there."""
    statement = inserted_ledger(ledger)
    await database.execute(f"{statement.sql} ON CONFLICT DO NOTHING", *statement.args)


async def set_controller(
    connection: Connection, ledger_id: UUID, controller: str, minter: Account | None
) -> None:
    """Hands control to another principal."""
    account = (minter.owner, minter.subaccount) if minter else (None, None)
    await connection.execute(_SET_CONTROLLER, ledger_id, controller, *account)


async def balance(source: Connection | Database, ledger_id: UUID, account: Account) -> int | None:
    """Balance of one account; None when there is no such ledger."""
    found: int | None = await source.fetchval(
        _BALANCE, ledger_id, account.owner, account.subaccount
    )
    return found


async def balance_after(
    source: Connection | Database, ledger_id: UUID, account: Account, index: int
) -> int | None:
    """Balance of an account right after a block; None when there is no such block."""
    owner, subaccount = account.owner, account.subaccount
    found: int | None = await source.fetchval(_BALANCE_AFTER, ledger_id, owner, subaccount, index)
    return found


async def allowance(
    database: Database, ledger_id: UUID, payer: Account, spender: Account
) -> tuple[Allowance, int] | None:
    """What a spender may take of a payer's, and the ledger's time; None without such a ledger."""
    pair = payer.owner, payer.subaccount, spender.owner, spender.subaccount
    row = await database.fetchrow(_ALLOWANCE, ledger_id, *pair)
    if row is None:
        return None
    granted = row["allowance"] is not None
    found = Allowance(row["allowance"], row["expire_ns"]) if granted else domain.NO_ALLOWANCE
    return found, row["now"]


async def block_of(connection: Connection, ledger_id: UUID, key: bytes) -> int | None:
    """The block of the call that is remembered under a key; None when it was not made."""
    found: int | None = await connection.fetchval(_BLOCK_OF, ledger_id, key)
    return found


def written_head(book: Book, version: int) -> Statement:
    """Moves a ledger's head to where the book ends.

    It raises `domain.moved` unless the ledger is still the version that was read, and open.
    """
    ledger = book.ledger
    head = ledger.id, ledger.total_supply, ledger.block_count, ledger.tip_hash
    return Statement(_SET_HEAD, (*head, version, refusal(domain.moved())))


def written_book(book: Book, known: Collection[bytes] = ()) -> tuple[Statement, ...]:
    """Writes what a book changed beside the head: balances, blocks, duplicates not `known`."""
    ledger_id, blocks, accounts = book.ledger.id, book.blocks, list(book.balances)
    balances = (
        ledger_id,
        [a.owner for a in accounts],
        [a.subaccount for a in accounts],
        [book.balances[a] for a in accounts],
    )
    chain = (
        ledger_id,
        [b.index for b in blocks],
        [b.parent_hash for b in blocks],
        [b.hash for b in blocks],
        [b.time for b in blocks],
        [int(b.operation) for b in blocks],
        [b.source and b.source.owner for b in blocks],
        [b.source and b.source.subaccount for b in blocks],
        [b.target and b.target.owner for b in blocks],
        [b.target and b.target.subaccount for b in blocks],
        [b.amount for b in blocks],
        [b.fee for b in blocks],
        [b.memo for b in blocks],
        [b.created_at for b in blocks],
        [b.spender and b.spender.owner for b in blocks],
        [b.spender and b.spender.subaccount for b in blocks],
        [b.expires for b in blocks],
        [held.source for held in book.held],
        [held.target for held in book.held],
        [held.collector for held in book.held],
    )
    statements = [Statement(_SET_BALANCES, balances), Statement(_ADD_BLOCKS, chain)]
    if book.allowances:
        statements.append(_written_allowances(book))
    remembered = book.duplicates.items()
    new = [(key, index) for key, index in remembered if index is not None and key not in known]
    if new:
        times = {block.index: block.created_at for block in blocks}
        keys, indexes = [key for key, _ in new], [index for _, index in new]
        rows = (ledger_id, keys, indexes, [times[index] for index in indexes])
        statements.append(Statement(_REMEMBER, rows))
    return tuple(statements)


def _written_allowances(book: Book) -> Statement:
    rows = [
        (payer.owner, payer.subaccount, spender.owner, spender.subaccount, a.amount, a.expires)
        for (payer, spender), a in book.allowances.items()
    ]
    columns = (list(column) for column in zip(*rows, strict=True))
    return Statement(_SET_ALLOWANCES, (book.ledger.id, *columns))


def voided(ledger_id: UUID, key: bytes, created_at: int) -> Statement:
    """Remembers a key that no call may use any more. The ledger must be locked."""
    return Statement(_VOID, (ledger_id, key, created_at))


async def forget_duplicates(database: Database, older_than: int) -> None:
    """Drops keys whose time is before `older_than`, nanoseconds."""
    await database.execute(_FORGET, older_than)


async def now(database: Database) -> int:
    """The ledger's time, nanoseconds."""
    value: int = await database.fetchval(f"SELECT {_NOW_NS}")  # a constant
    return value


async def get_block(database: Database, ledger_id: UUID, index: int) -> Block | None:
    """One block."""
    row = await database.fetchrow(_GET_BLOCK, ledger_id, index)
    return _block(row) if row else None


async def list_blocks(
    database: Database, ledger_id: UUID, start: int, limit: int, memo: bytes = b""
) -> list[Block]:
    """Blocks from an index on; with a memo, only those that carry it."""
    if memo:
        rows = await database.fetch(_FIND_BLOCKS, ledger_id, start, limit, memo)
    else:
        rows = await database.fetch(_LIST_BLOCKS, ledger_id, start, limit)
    return [_block(row) for row in rows]


def _ledger(row: Any) -> Ledger:
    return Ledger(
        id=row["id"],
        display_name=row["display_name"],
        symbol=row["symbol"],
        decimals=row["decimals"],
        transfer_fee=row["transfer_fee"],
        controller=row["controller"],
        minting_account=_account(row["minting_owner"], row["minting_subaccount"]),
        fee_collector=_account(row["fee_owner"], row["fee_subaccount"]),
        total_supply=row["total_supply"],
        block_count=row["block_count"],
        tip_hash=row["tip_hash"],
    )


def _seen(row: Any) -> SeenLedger:
    return SeenLedger(_ledger(row), row["create_time"], row["now"], row["closed"], row["version"])


def _balances(row: Any) -> dict[Account, int]:
    """Balances of a book. What is aggregated from no row is NULL."""
    accounts = zip(row["owners"] or (), row["subaccounts"] or (), strict=True)
    return dict(zip(itertools.starmap(Account, accounts), row["balances"] or (), strict=True))


def _allowances(row: Any) -> dict[tuple[Account, Account], Allowance]:
    """Allowances of a book."""
    payers = zip(row["payers"] or (), row["payer_subaccounts"] or (), strict=True)
    spenders = zip(row["spenders"] or (), row["spender_subaccounts"] or (), strict=True)
    granted = zip(row["allowances"] or (), row["expiries"] or (), strict=True)
    return {
        (Account(*payer), Account(*spender)): Allowance(*allowance)
        for payer, spender, allowance in zip(payers, spenders, granted, strict=True)
    }


def _duplicates(row: Any) -> dict[bytes, int | None]:
    """Keys of a book that are remembered, each with its block."""
    return dict(zip(row["keys"] or (), row["indexes"] or (), strict=True))


def _block(row: Any) -> Block:
    return Block(
        ledger_id=row["ledger_id"],
        index=row["index"],
        parent_hash=row["parent_hash"],
        time=row["time_ns"],
        operation=Operation(row["operation"]),
        source=_account(row["from_owner"], row["from_subaccount"]),
        target=_account(row["to_owner"], row["to_subaccount"]),
        amount=row["amount"],
        fee=row["fee"],
        memo=row["memo"],
        created_at=row["created_at_ns"],
        spender=_account(row["spender_owner"], row["spender_subaccount"]),
        expires=row["expire_ns"],
    )


def _account(owner: str | None, subaccount: bytes | None) -> Account | None:
    return Account(owner, subaccount) if owner is not None and subaccount is not None else None


def _columns(account: Account | None) -> tuple[str | None, bytes | None]:
    return (account.owner, account.subaccount) if account else (None, None)
