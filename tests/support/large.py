"""The largest rows that a service may have stored, written past its rules so that tests stay fast.

Each block adds rows of one table to a running mesh and takes them away at its end.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from contract import ids
from icto.backend.v1 import launches_pb2
from icto.ledger.v1 import ledger_pb2
from icto.lock.v1 import lock_pb2
from icto.payment.v1 import payment_pb2
from icto.token.v1 import token_pb2
from icto.vesting.v1 import vesting_pb2
from tests.support.installation import Installation, new_symbol
from tests.support.tokens import somebody

PRINCIPAL: Final = "k2t6j-2nvnp-4zjm3-25dtz-6xhaa-c7boj-5gayf-oj3xs-i43lp-teztq-6ae"
_HEAD: Final = "data:image/png;base64,"
LOGO: Final = _HEAD + "A" * (30_000 - len(_HEAD))
BENEFICIARIES: Final = 1_000
HOLDERS: Final = 100
_ACCOUNT: Final = ledger_pb2.Account(owner=PRINCIPAL, subaccount=b"\xff" * 32)
_AMOUNT: Final = "1" * 39
_ESCAPED: Final = "<"
"""Six characters in JSON as the edge writes it, and one on the wire."""


def token_spec(word: str, **changes: Any) -> token_pb2.TokenSpec:
    """A token with as much in each field as there may be."""
    standard: dict[str, Any] = {
        "display_name": word,
        "symbol": new_symbol(),
        "decimals": 18,
        "total_supply": _AMOUNT,
        "transfer_fee": "1000000",
        "logo": LOGO,
        "description": _ESCAPED * 2_000,
        "website": "https://example.com/" + "a" * 236,
        "initial_balances": [ledger_pb2.InitialBalance(account=_ACCOUNT, amount=_AMOUNT)] * HOLDERS,
    }
    return token_pb2.TokenSpec(**standard | changes)


def lock_spec(beneficiaries: int = BENEFICIARIES) -> lock_pb2.LockSpec:
    """A lock with many beneficiaries and a schedule of as many milestones as there may be."""
    return lock_pb2.LockSpec(
        display_name=_ESCAPED * 30,
        total_amount=_AMOUNT,
        schedule=milestones(),
        beneficiaries=[lock_pb2.Beneficiary(principal=PRINCIPAL, amount=_AMOUNT)] * beneficiaries,
    )


def milestones(length: int = 200) -> vesting_pb2.Schedule:
    """A schedule of as many milestones as there may be."""
    many = [
        vesting_pb2.Milestone(id=f"{n:032}", description=_ESCAPED * length, basis_points=83)
        for n in range(120)
    ]
    return vesting_pb2.Schedule(
        milestones=vesting_pb2.Milestones(attestor=PRINCIPAL, milestones=many)
    )


def launch_spec(locks: int = 8) -> launches_pb2.LaunchSpec:
    """A launch whose locks have a thousand beneficiaries each."""
    simple = vesting_pb2.Schedule(linear=vesting_pb2.Linear(duration=Duration(seconds=86_400)))
    one = lock_spec()
    one.schedule.CopyFrom(simple)
    return launches_pb2.LaunchSpec(
        display_name="Large", new_token=token_spec("Large"), locks=[one] * locks
    )


@contextlib.asynccontextmanager
async def rows(
    mesh: Installation, table: str, columns: str, values: Sequence[Sequence[Any]]
) -> AsyncIterator[list[UUID]]:
    """Rows of a table in this block. The first column is their id; returns the ids."""
    marks = ", ".join(f"${number}" for number in range(1, len(values[0]) + 1))
    async with mesh.superuser() as database:
        await database.execute(f"SET search_path = {table.partition('.')[0]}")
        await database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
    found = [row[0] for row in values]
    try:
        yield found
    finally:
        async with mesh.superuser() as database:
            await database.execute(f"DELETE FROM {table} WHERE id = ANY ($1::uuid[])", found)


@contextlib.asynccontextmanager
async def tokens(mesh: Installation, count: int, word: str) -> AsyncIterator[list[str]]:
    """So many tokens with the largest logos, newest first, each found by a word."""
    values = []
    for _ in range(count):
        spec = token_spec(word)
        token_id = ids.new_id(spec.symbol)
        operation = f"deployments/{token_id}"
        raw = spec.SerializeToString()
        values.append((token_id, operation, somebody(), word, spec.symbol, raw, 5))
    columns = "id, operation, owner, display_name, symbol, spec, state"
    async with rows(mesh, "token_deployer.tokens", columns, values) as found:
        async with mesh.superuser() as database:
            await database.executemany(
                "INSERT INTO token_deployer.token_terms VALUES ($1, $2)",
                [(word.casefold(), token_id) for token_id in found],
            )
        try:
            yield names("tokens", found)
        finally:
            async with mesh.superuser() as database:
                await database.execute(
                    "DELETE FROM token_deployer.token_terms WHERE token_id = ANY ($1::uuid[])",
                    found,
                )


@contextlib.asynccontextmanager
async def launches(
    mesh: Installation, owner: str, count: int, spec: Message
) -> AsyncIterator[list[str]]:
    """So many launches of an owner, newest first. None of them ever began."""
    raw = spec.SerializeToString()
    shape = f"create_token {len(spec.locks)} 0".encode()  # type: ignore[attr-defined]
    values = [(ids.new_id(owner), owner, raw, shape, "", "0", "0" * 32, True) for _ in range(count)]
    columns = "id, owner, spec, shape, quote, cost, trace_id, ended"
    async with rows(mesh, "backend.launches", columns, values) as found:
        yield names("launches", found)


@contextlib.asynccontextmanager
async def deployments(
    mesh: Installation, owner: str, count: int, **changes: Any
) -> AsyncIterator[list[str]]:
    """So many deployments of tokens with the largest logos, newest first; `changes` to these."""
    spec = token_spec("Large", **changes).SerializeToString()
    values = [(ids.new_id(owner), owner, spec, "", "0", "0" * 32) for _ in range(count)]
    columns = "id, owner, spec, quote, cost, trace_id"
    async with rows(mesh, "backend.deployments", columns, values) as found:
        yield names("deployments", found)


@contextlib.asynccontextmanager
async def locks(mesh: Installation, owner: str, count: int) -> AsyncIterator[list[str]]:
    """So many locks that unlock by as many milestones as there may be, newest first."""
    raw, escrow = lock_spec(beneficiaries=0).SerializeToString(), bytes(32)
    values: list[Sequence[Any]] = []
    for _ in range(count):
        one = ids.new_id(owner)
        where = f"launches/{one}/steps/lock_1", owner, f"ledgers/{one}", owner, escrow
        values.append((one, *where, raw, b"", 1, [], 1, 6))
    columns = (
        "id, operation, owner, ledger, escrow_owner, escrow_subaccount, spec, fingerprint,"
        " beneficiary_count, attestors, total, state"
    )
    async with rows(mesh, "lock_deployer.locks", columns, values) as found:
        yield names("locks", found)


@contextlib.asynccontextmanager
async def dead_letters(mesh: Installation, count: int) -> AsyncIterator[list[str]]:
    """So many dead letters of a million bytes, oldest first."""
    event, now = b"\xff" * 1_000_000, datetime.now(UTC)
    values = [(ids.new_id("x"), "lab", event, "no event", now) for _ in range(count)]
    columns = "id, source, event, reason, create_time"
    async with rows(mesh, "audit_storage.dead_letters", columns, values) as found:
        yield names("deadLetters", found)[::-1]


@contextlib.asynccontextmanager
async def payments(mesh: Installation, owner: str, count: int) -> AsyncIterator[list[str]]:
    """So many paid payments of a hundred lines each, newest first, as their invoices."""
    line = payment_pb2.QuoteLine(
        step=_ESCAPED * 64, service=payment_pb2.PAID_SERVICE_LOCK, price=_AMOUNT, amount=_AMOUNT
    )
    raw = payment_pb2.Quote(lines=[line] * 100).SerializeToString()
    made = [ids.new_id(owner) for _ in range(count)]
    quotes = [(one, owner, raw, 1, 0, "ledgers/icp", 0, 1) for one in made]
    quoted = "id, owner, lines, total, discount_basis_points, ledger, ledger_fee, price_revision"
    values = [
        (one, owner, f"launches/{one}", one, "ledgers/icp", 1, raw, 4, 1, 1, 1, 0) for one in made
    ]
    columns = (
        "id, owner, operation, quote_id, ledger, amount, lines, state, created_at_ns, block_index,"
        " delivered_amount, refunded_amount"
    )
    async with mesh.superuser() as database:
        await database.execute("SET search_path = invoice_storage")
        await database.executemany(
            f"INSERT INTO invoice_storage.quotes ({quoted}, expire_time)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())",
            quotes,
        )
    try:
        async with rows(mesh, "invoice_storage.payments", columns, values) as found:
            yield names("invoices", found)
    finally:
        async with mesh.superuser() as database:
            await database.execute(
                "DELETE FROM invoice_storage.quotes WHERE id = ANY ($1::uuid[])", made
            )


def names(collection: str, found: Sequence[UUID]) -> list[str]:
    """Names of rows, newest first."""
    return [ids.resource_name(collection, one) for one in sorted(found, reverse=True)]
