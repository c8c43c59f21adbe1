"""What the token registry refuses: tombstones, consumed payments, taken symbols. On a database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest

from contract import ids
from contract.errors import Error
from services.kit.storage.database import Database
from services.token_deployer import store
from services.token_deployer.domain import State, Token, TokenSpec, complete
from services.token_deployer.store import StoredToken
from tests.support.installation import new_symbol
from tests.support.postgres import Postgres
from tests.support.tokens import somebody

OWNER = somebody()


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    schema = await postgres.schema("services.token_deployer")
    async with schema.replica() as replica:
        yield replica.database


def token(operation: str, symbol: str = "") -> Token:
    symbol = symbol or new_symbol()
    spec = complete(TokenSpec("A token", symbol, 1000), OWNER)
    return Token(ids.new_id(symbol.upper()), operation, OWNER, spec, State.INSTALLING)


async def reserved(
    database: Database, operation: str, payment: str = "", symbol: str = ""
) -> StoredToken:
    return await store.reserve(database, token(operation, symbol), payment)


async def activate(database: Database, stored: StoredToken) -> None:
    active = store.activated(stored, 1, datetime.now(UTC))
    await database.apply(*store.activation(active))


async def refusal(work: Awaitable[Any]) -> str:
    with pytest.raises(Error) as caught:
        await work
    return caught.value.reason


async def test_what_was_given_up_before_anybody_heard_of_it_stays_given_up(
    database: Database,
) -> None:
    """F-25: the original call arrives after the refund."""
    _, delivered = await store.give_up(database, "deployments/1")
    assert not delivered
    assert await refusal(reserved(database, "deployments/1")) == "OPERATION_ABANDONED"


async def test_what_was_given_up_on_its_way_is_never_delivered(database: Database) -> None:
    """F-25: the call was at the chain when its operation was given up."""
    stored = await reserved(database, "deployments/1", "payments/1")
    token_id, delivered = await store.give_up(database, "deployments/1")
    assert (token_id, delivered) == (stored.token.id, False)
    assert await refusal(activate(database, stored)) == "OPERATION_ABANDONED"
    assert await refusal(reserved(database, "deployments/1")) == "OPERATION_ABANDONED"
    # Neither of these raises it from the dead.
    await store.enter(database, token_id, State.INSTALLING, retry=True)
    await store.fail(database, token_id, State.INSTALL_FAILED, "late")
    found = await store.get(database, token_id)
    assert found is not None
    assert found.token.state is State.ABANDONED


async def test_what_was_delivered_is_not_given_up(database: Database) -> None:
    stored = await reserved(database, "deployments/1")
    await activate(database, stored)
    assert await store.give_up(database, "deployments/1") == (stored.token.id, True)
    found = await store.get(database, stored.token.id)
    assert found is not None
    assert found.token.state is State.ACTIVE


async def test_delivering_and_giving_up_at_once_is_one_of_them(database: Database) -> None:
    """F-25: exactly one of delivered and refunded, whoever comes first."""
    outcomes = []
    for number in range(20):
        stored = await reserved(database, f"deployments/{number}")
        ended = await asyncio.gather(
            activate(database, stored),
            store.give_up(database, f"deployments/{number}"),
            return_exceptions=True,
        )
        activated, (_, delivered) = ended[0] is None, ended[1]  # type: ignore[misc]
        assert activated is delivered, ended
        outcomes.append(delivered)
    assert len(outcomes) == 20


async def test_a_payment_is_consumed_once(database: Database) -> None:
    """F-19: a payment id that is told twice, or forged from somebody else's."""
    await reserved(database, "deployments/1", "payments/1")
    assert await refusal(reserved(database, "deployments/2", "payments/1")) == "PAYMENT_CONSUMED"
    assert (await reserved(database, "deployments/1", "payments/1")).found
    # Giving the operation up gives the money back, and not the payment.
    await store.give_up(database, "deployments/1")
    assert await refusal(reserved(database, "deployments/2", "payments/1")) == "PAYMENT_CONSUMED"


async def test_a_symbol_is_taken_from_its_reservation_on_in_any_case(database: Database) -> None:
    """F-26, F-63."""
    await reserved(database, "deployments/1", symbol="ABCD")
    assert await refusal(reserved(database, "deployments/2", symbol="abcd")) == "SYMBOL_TAKEN"
    await store.give_up(database, "deployments/1")
    assert not (await reserved(database, "deployments/2", symbol="abcd")).found


async def test_a_symbol_that_many_want_at_once_goes_to_one(database: Database) -> None:
    outcomes = await asyncio.gather(
        *(reserved(database, f"deployments/{n}", symbol="ONLY") for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, StoredToken) for outcome in outcomes) == 1
