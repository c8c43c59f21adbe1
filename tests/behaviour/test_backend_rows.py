"""Limits of users, and the history of the configuration, as the database decides them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from contract import ids
from contract.errors import Error
from services.backend import config_rules, config_store, release_rules, store
from services.backend.config_store import Revision
from services.backend.domain import Limits
from services.kit.storage.database import Database
from tests.support.postgres import Postgres, Schema

GENEROUS = Limits(tokens=1000, per_day=1000, cooldown=timedelta(0))


@pytest.fixture
async def schema(postgres: Postgres) -> Schema:
    return await postgres.schema("services.backend")


@pytest.fixture
async def database(schema: Schema) -> AsyncIterator[Database]:
    async with schema.replica() as replica:
        yield replica.database


async def order(database: Database, limits: Limits, user: str = "ann") -> str:
    """Asks for a deployment; the reason when it is refused."""
    try:
        await database.apply(store.counted_deployment(user, limits))
    except Error as error:
        return error.reason
    return ""


async def refusal(work: Awaitable[Any]) -> str:
    with pytest.raises(Error) as caught:
        await work
    return caught.value.reason


# F-16: limits that nobody enforced.


async def test_a_user_has_so_many_tokens_those_on_their_way_among_them(database: Database) -> None:
    limits = Limits(tokens=2, per_day=1000, cooldown=timedelta(0))
    outcomes = await asyncio.gather(*(order(database, limits) for _ in range(5)))
    assert sorted(outcomes) == ["", "", *["TOKEN_LIMIT"] * 3]
    assert not await order(database, limits, "ben")
    async with database.transaction() as connection:
        await store.release_tokens(connection, ["ann"])
    assert [await order(database, limits) for _ in range(2)] == ["", "TOKEN_LIMIT"]


async def test_a_user_asks_so_often_in_a_day(database: Database, schema: Schema) -> None:
    limits = Limits(tokens=1000, per_day=2, cooldown=timedelta(0))
    assert [await order(database, limits) for _ in range(3)] == ["", "", "DAILY_LIMIT"]
    await schema.shift_clock(timedelta(hours=23, minutes=59))
    assert await order(database, limits) == "DAILY_LIMIT"
    await schema.shift_clock(timedelta(hours=24, minutes=1))
    assert [await order(database, limits) for _ in range(3)] == ["", "", "DAILY_LIMIT"]


async def test_a_user_waits_between_two_deployments(database: Database, schema: Schema) -> None:
    limits = Limits(tokens=1000, per_day=1000, cooldown=timedelta(seconds=60))
    outcomes = await asyncio.gather(*(order(database, limits) for _ in range(4)))
    assert sorted(outcomes) == ["", *["COOLDOWN"] * 3]
    await schema.shift_clock(timedelta(seconds=59))
    assert await order(database, limits) == "COOLDOWN"
    await schema.shift_clock(timedelta(seconds=61))
    assert not await order(database, limits)


async def test_what_was_refused_counts_for_nothing(database: Database, schema: Schema) -> None:
    none_left = Limits(tokens=1, per_day=1000, cooldown=timedelta(0))
    await order(database, none_left)
    for _ in range(3):
        assert await order(database, none_left) == "TOKEN_LIMIT"
    async with schema.connection() as connection:
        row: Any = await connection.fetchrow(
            "SELECT deployment_count, token_count, day_count FROM users"
        )
    assert tuple(row) == (1, 1, 1)


# Configuration.


def revision(number: int) -> Revision:
    config = config_rules.initial()
    config.revision = number
    return Revision(config, "ann", f"change {number}")


async def test_a_revision_is_written_once(database: Database) -> None:
    await config_store.add_first(database, revision(1))
    await config_store.add_first(database, revision(1))
    await database.apply(config_store.added(revision(2)))
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.apply(config_store.added(revision(2)))
    newest = await config_store.newest(database)
    assert newest is not None
    assert newest.config.revision == 2
    history = await config_store.history(database, None, 10)
    assert [(r.config.revision, r.justification) for r in history] == [
        (2, "change 2"),
        (1, "change 1"),
    ]


async def test_changes_come_one_after_the_other(database: Database) -> None:
    """Compare-and-set: of many who start from one revision, one wins."""
    await config_store.add_first(database, revision(1))

    async def change() -> None:
        async with database.transaction() as connection:
            await config_store.lock(connection)
            newest = await config_store.newest(connection)
            assert newest is not None
            config_rules.check_revision(1, newest.config.revision)
            await connection.apply(config_store.added(revision(2)))

    outcomes = await asyncio.gather(*(change() for _ in range(5)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert {o.reason for o in outcomes if isinstance(o, Error)} == {"CONFIG_CHANGED"}


async def test_a_stop_is_released_by_two_people_within_a_while(
    database: Database, schema: Schema
) -> None:
    window = release_rules.WINDOW

    async def ask(who: str) -> int:
        async with database.transaction() as connection:
            await config_store.ask_release(connection, who)
            _, wishes = await config_store.release_wishes(connection, window)
            return len(wishes)

    assert [await ask("ann"), await ask("ann"), await ask("ben")] == [1, 1, 2]
    async with database.transaction() as connection:
        await config_store.forget_release(connection)
    assert await ask("ann") == 1
    await schema.shift_clock(window + timedelta(seconds=1))
    assert [await ask("ben"), await ask("ann")] == [1, 2]


# Orders that ended without having been charged.

PERIOD = timedelta(days=30)
ENDED, RUNNING = 3, 1


async def ordered(schema: Schema, *, state: int = ENDED, launch: bool = True, **row: Any) -> UUID:
    """An order with its pipeline, as it is in the tables."""
    order_id = ids.new_id("ann")
    values: dict[str, Any] = {"id": order_id, "owner": "ann", "spec": b"", "quote": "quotes/1"}
    values |= {"cost": "1", "trace_id": ""} | row
    if launch:
        values |= {"shape": b"create_token 0 0", "ended": state != RUNNING}
    names, marks = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
    async with schema.connection() as connection:
        await connection.execute(
            f"INSERT INTO {'launches' if launch else 'deployments'} ({names}) VALUES ({marks})",
            *values.values(),
        )
        await connection.execute(
            "INSERT INTO kit_pipelines (id, definition, version, input, traceparent, state)"
            " VALUES ($1, 'x', 1, '', '', $2)",
            order_id,
            state,
        )
    return order_id


async def test_only_orders_that_ended_long_ago_without_having_been_charged_are_forgotten(
    database: Database, schema: Schema
) -> None:
    """With their pipelines. Whatever was paid, given away free or is under way stays."""
    gone = [await ordered(schema), await ordered(schema, launch=False)]
    drawn = await ordered(schema, token="tokens/1")
    kept = [
        drawn,
        await ordered(schema, payment="payments/1"),
        await ordered(schema, state=RUNNING),
        await ordered(schema, quote=""),
        await ordered(schema, earlier=drawn, payment="payments/2"),
        await ordered(schema, drawn_by=ids.new_id("ann")),
        await ordered(schema, launch=False, payment="payments/3"),
        await ordered(schema, launch=False, token="tokens/2"),
        await ordered(schema, launch=False, state=RUNNING),
        await ordered(schema, launch=False, quote=""),
    ]

    async def forgotten() -> int:
        async with database.transaction() as connection:
            return await store.forget_unpaid(connection, PERIOD)

    await schema.shift_clock(PERIOD - timedelta(seconds=5))
    assert await forgotten() == 0
    await schema.shift_clock(PERIOD + timedelta(seconds=5))
    assert await forgotten() == len(gone)
    assert await forgotten() == 0
    async with schema.connection() as connection:
        left = await connection.fetch(
            "SELECT id FROM kit_pipelines WHERE id IN"
            " (SELECT id FROM launches UNION ALL SELECT id FROM deployments)"
        )
        assert {row["id"] for row in left} == set(kept)
        assert await connection.fetchval("SELECT count(*) FROM kit_pipelines") == len(kept)
