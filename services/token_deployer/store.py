"""SQL of the token registry. One function an operation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from contract import ids
from icto.token.v1 import token_pb2
from services.kit.storage import Database, Statement
from services.kit.storage.database import refusal
from services.kit.storage.statement import numbers
from services.token_deployer import domain, messages
from services.token_deployer.domain import Account, State, Token

_ENDED: Final = numbers((State.ACTIVE, State.ABANDONED))
_PAYMENT_KEY: Final = "tokens_payment_key"
_COLUMNS: Final = """
    id, operation, owner, spec, state, failure, retry_count, cycles_used, create_time, deploy_time,
    custodian_owner, custodian_subaccount
"""
_RESERVE: Final = """
INSERT INTO tokens (id, operation, owner, display_name, symbol, spec, state, payment,
    custodian_owner, custodian_subaccount)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (operation) DO NOTHING RETURNING create_time
"""
_BY_OPERATION: Final = f"SELECT {_COLUMNS} FROM tokens WHERE operation = $1"
_GET: Final = f"SELECT {_COLUMNS} FROM tokens WHERE id = $1"
_ENTER: Final = f"""
UPDATE tokens SET state = $2, failure = '', retry_count = retry_count + $3
WHERE id = $1 AND state NOT IN ({_ENDED})
"""
_FAIL: Final = f"""
UPDATE tokens SET state = $2, failure = $3 WHERE id = $1 AND state NOT IN ({_ENDED})
"""
_ACTIVATE: Final = f"""
UPDATE tokens SET state = {State.ACTIVE:d}, failure = '', cycles_used = $2,
    deploy_time = coalesce(deploy_time, $3)
WHERE id = $1 AND kit_require(state <> {State.ABANDONED:d}, $4)
"""
# One statement, so that a late deployment either finds the tombstone or is found by it. Its payment
# stays consumed: what was paid for it goes back, and pays for nothing else.
_GIVE_UP: Final = f"""
INSERT INTO tokens (id, operation, owner, display_name, symbol, spec, state)
VALUES ($1, $2, '', '', '', '', {State.ABANDONED:d})
ON CONFLICT (operation) DO UPDATE SET
    state = CASE WHEN tokens.state = {State.ACTIVE:d} THEN {State.ACTIVE:d}
        ELSE {State.ABANDONED:d} END
RETURNING id, state
"""
_ADD_TERMS: Final = """
INSERT INTO token_terms (term, token_id) SELECT term, $2 FROM unnest($1::text[]) AS term
ON CONFLICT DO NOTHING
"""
_HAND_OVER: Final = """
UPDATE tokens SET custodian_owner = NULL, custodian_subaccount = NULL WHERE id = $1
"""
_LIST: Final = f"""
SELECT {_COLUMNS} FROM tokens
WHERE state = {State.ACTIVE:d} AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2
"""
_LIST_OWNED: Final = f"""
SELECT {_COLUMNS} FROM tokens
WHERE owner = $3 AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2
"""
# A token with two matching words shows once, at the smaller of them.
_SEARCH: Final = f"""
SELECT term, {_COLUMNS} FROM token_terms JOIN tokens ON id = token_id
WHERE term >= $1 AND term < $2 AND (term, token_id) > ($3, $4)
  AND NOT EXISTS (
    SELECT FROM token_terms AS smaller WHERE smaller.token_id = id
    AND smaller.term >= $1 AND smaller.term < token_terms.term)
ORDER BY term, token_id LIMIT $5
"""
_SYMBOL_TAKEN: Final = f"""
SELECT EXISTS (
    SELECT FROM tokens WHERE upper(symbol) = upper($1) AND state <> {State.ABANDONED:d})
"""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token and its times; `found` when an earlier call had reserved it."""

    token: Token
    create_time: datetime
    deploy_time: datetime | None
    found: bool = True

    @property
    def id(self) -> UUID:
        """Its token's."""
        return self.token.id


async def reserve(database: Database, token: Token, payment: str) -> StoredToken:
    """Reserves the symbol for the operation, or returns what the operation reserved before.

    Raises:
        Error: ALREADY_EXISTS, another operation has the symbol or consumed the payment;
            FAILED_PRECONDITION, the operation was given up.
    """
    row, conflict = None, ""
    try:
        row = await database.fetchrow(
            _RESERVE,
            token.id,
            token.operation,
            token.owner,
            token.spec.display_name,
            token.spec.symbol,
            messages.spec_message(token.spec).SerializeToString(),
            int(token.state),
            payment or None,
            token.custodian and token.custodian.owner,
            token.custodian and token.custodian.subaccount,
        )
    except asyncpg.UniqueViolationError as error:
        conflict = error.constraint_name or ""
    if row is not None:
        return StoredToken(token, row["create_time"], None, found=False)
    row = await database.fetchrow(_BY_OPERATION, token.operation)
    if row is not None and row["state"] == State.ABANDONED:
        raise domain.abandoned(token.operation)
    if row is not None:
        return _stored(row)
    if conflict == _PAYMENT_KEY:
        raise domain.payment_consumed(payment)
    raise domain.symbol_taken(token.spec.symbol)


async def give_up(database: Database, operation: str) -> tuple[UUID, bool]:
    """Gives an operation up for good, whether it was heard of or not.

    Returns the id of its token and whether that was delivered before; then nothing is given up.
    """
    row: Any = await database.fetchrow(_GIVE_UP, ids.new_id(operation), operation)
    return row["id"], row["state"] == State.ACTIVE


async def get(database: Database, token_id: UUID) -> StoredToken | None:
    """One token."""
    row = await database.fetchrow(_GET, token_id)
    return _stored(row) if row else None


async def of_operation(database: Database, operation: str) -> StoredToken | None:
    """The token of an operation."""
    row = await database.fetchrow(_BY_OPERATION, operation)
    return _stored(row) if row and row["state"] != State.ABANDONED else None


def handed_over(stored: StoredToken) -> StoredToken:
    """The token in its owner's hands."""
    return replace(stored, token=replace(stored.token, custodian=None))


def handover(token_id: UUID) -> Statement:
    """Records that a token is in its owner's hands."""
    return Statement(_HAND_OVER, (token_id,))


async def enter(database: Database, token_id: UUID, stage: State, *, retry: bool) -> None:
    """Records that a stage begins, before anything is asked of the chain."""
    await database.execute(_ENTER, token_id, int(stage), int(retry))


async def fail(database: Database, token_id: UUID, state: State, failure: str) -> None:
    """Records that a stage failed for good."""
    await database.execute(_FAIL, token_id, int(state), failure)


def activated(stored: StoredToken, cycles: int, moment: datetime) -> StoredToken:
    """The token once it is deployed."""
    token = replace(stored.token, state=State.ACTIVE, failure="", cycles_used=cycles)
    return replace(stored, token=token, deploy_time=stored.deploy_time or moment)


def activation(active: StoredToken) -> tuple[Statement, ...]:
    """Marks a token as deployed and makes it findable."""
    token = active.token
    terms = sorted(domain.search_terms(token.spec))
    given_up = refusal(domain.abandoned(token.operation))
    return (
        Statement(_ACTIVATE, (token.id, token.cycles_used, active.deploy_time, given_up)),
        Statement(_ADD_TERMS, (terms, token.id)),
    )


async def list_active(database: Database, before: UUID | None, limit: int) -> list[StoredToken]:
    """Deployed tokens, newest first."""
    return [_stored(row) for row in await database.fetch(_LIST, before, limit)]


async def list_owned(
    database: Database, owner: str, before: UUID | None, limit: int
) -> list[StoredToken]:
    """Tokens of one owner in any state, newest first."""
    return [_stored(row) for row in await database.fetch(_LIST_OWNED, before, limit, owner)]


async def search(
    database: Database, prefix: str, after: tuple[str, UUID], limit: int
) -> Sequence[tuple[str, StoredToken]]:
    """Deployed tokens with a term that starts with `prefix`, each with that term, in its order."""
    beyond = prefix + "\U0010ffff"
    rows = await database.fetch(_SEARCH, prefix, beyond, *after, limit)
    return [(row["term"], _stored(row)) for row in rows]


async def symbol_taken(database: Database, symbol: str) -> bool:
    """Whether a token has or reserves the symbol, in any case."""
    return bool(await database.fetchval(_SYMBOL_TAKEN, symbol))


def _stored(row: Any) -> StoredToken:
    spec = messages.parse_spec(token_pb2.TokenSpec.FromString(row["spec"]))
    token = Token(
        id=row["id"],
        operation=row["operation"],
        owner=row["owner"],
        spec=spec,
        custodian=Account(row["custodian_owner"], row["custodian_subaccount"])
        if row["custodian_owner"]
        else None,
        state=State(row["state"]),
        failure=row["failure"],
        retry_count=row["retry_count"],
        cycles_used=row["cycles_used"],
    )
    return StoredToken(token, row["create_time"], row["deploy_time"])
