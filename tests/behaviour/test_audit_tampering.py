"""Whatever the owner of the database does to the audit, verification names the place (F-21)."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from icto.events.v1 import events_pb2 as events
from mesh.cli.client import Client
from mesh.postgres import role_name
from services.audit_storage import domain
from services.audit_storage.domain import Head
from tests.support.administration import administrator
from tests.support.installation import Installation, deployed, installation, until

Database = Any
"""A connection that may do anything."""

VICTIM = 3
"""The entry that somebody does not want to be known."""
_TABLES = ("entries", "head", "checkpoints")


@pytest.fixture(scope="module")
async def mesh_with_history() -> AsyncIterator[Installation]:
    """A mesh with two checkpoints, and nothing that acts any more."""
    async with installation(environment={"ICTO_AUDIT_CHECKPOINT_SECONDS": "0.5"}) as running:
        alice = await running.user()
        for _ in range(2):
            await deployed(alice)
            await until(newest_entry_is_signed(running))
        await alice.close()
        yield running


@pytest.fixture(scope="module")
async def auditor(mesh_with_history: Installation) -> AsyncIterator[Client]:
    """Somebody who may verify."""
    async with administrator(mesh_with_history) as client:
        await until(newest_entry_is_signed(mesh_with_history))
        yield client


@contextlib.asynccontextmanager
async def tampering(mesh: Installation) -> AsyncIterator[Database]:
    """The database in the hands of a superuser, who no trigger stops; undone at the end."""
    async with mesh.superuser() as database:
        await database.execute("SET search_path = audit_storage")
        for table in _TABLES:
            await database.execute(f"CREATE TEMP TABLE old_{table} AS TABLE {table}")
        await database.execute("SET session_replication_role = replica")
        try:
            yield database
        finally:
            for table in _TABLES:
                await database.execute(f"DELETE FROM {table}")
                await database.execute(f"INSERT INTO {table} SELECT * FROM old_{table}")


async def alter(database: Database) -> None:
    """Changes what one entry says."""
    event = await forged(database)
    await database.execute("UPDATE entries SET event = $1 WHERE sequence = $2", event, VICTIM)


async def alter_copy(database: Database) -> None:
    """Changes only the copy that searches see."""
    await database.execute("UPDATE entries SET action = 'Nothing' WHERE sequence = $1", VICTIM)


async def remove(database: Database) -> None:
    """Takes one entry out."""
    await database.execute("DELETE FROM entries WHERE sequence = $1", VICTIM)


async def cut(database: Database) -> None:
    """Cuts off a tail that a checkpoint covers, and sets the head back."""
    await database.execute("DELETE FROM entries WHERE sequence > $1", VICTIM)
    await database.execute(
        "UPDATE head SET (sequence, entry_hash) ="
        " (SELECT sequence, entry_hash FROM entries WHERE sequence = $1)",
        VICTIM,
    )


async def cut_with_checkpoints(database: Database) -> None:
    """As before, and takes away the checkpoints that tell of it."""
    await cut(database)
    await database.execute("DELETE FROM checkpoints WHERE sequence > $1", VICTIM)


async def rewrite(database: Database) -> None:
    """Changes an entry and makes the chain consistent again, with a fresh hash for every entry."""
    event = await forged(database)
    await database.execute("UPDATE entries SET event = $1 WHERE sequence = $2", event, VICTIM)
    head = Head()
    for row in await database.fetch(
        "SELECT sequence, event, record_time FROM entries ORDER BY sequence"
    ):
        before = head.entry_hash
        digest = domain.entry_hash(row["sequence"], before, row["record_time"], row["event"])
        head = Head(row["sequence"], digest)
        await database.execute(
            "UPDATE entries SET previous_hash = $1, entry_hash = $2 WHERE sequence = $3",
            before, digest, head.sequence,
        )  # fmt: skip
    await database.execute(
        "UPDATE head SET sequence = $1, entry_hash = $2", head.sequence, head.entry_hash
    )


async def rewrite_with_checkpoints(database: Database) -> None:
    """As before, and puts the fresh hashes into the checkpoints, which cannot be signed."""
    await rewrite(database)
    await database.execute(
        "UPDATE checkpoints SET entry_hash = entries.entry_hash FROM entries"
        " WHERE entries.sequence = checkpoints.sequence"
    )


Place = Callable[[list[int]], int]


def the_victim(checkpoints: list[int]) -> int:
    del checkpoints
    return VICTIM


def the_entry_after_it(checkpoints: list[int]) -> int:
    del checkpoints
    return VICTIM + 1


def the_first_checkpoint_of_it(checkpoints: list[int]) -> int:
    return min(sequence for sequence in checkpoints if sequence >= VICTIM)


def the_first_checkpoint_after_it(checkpoints: list[int]) -> int:
    return min(sequence for sequence in checkpoints if sequence > VICTIM)


@pytest.mark.parametrize(
    ("tamper", "kind", "place"),
    [
        (alter, "ALTERED", the_victim),
        (alter_copy, "ALTERED", the_victim),
        (remove, "GAP", the_victim),
        (cut, "TRUNCATED", the_entry_after_it),
        (cut_with_checkpoints, "BAD_CHECKPOINT", the_first_checkpoint_after_it),
        (rewrite, "REWRITTEN", the_first_checkpoint_of_it),
        (rewrite_with_checkpoints, "BAD_CHECKPOINT", the_first_checkpoint_of_it),
    ],
)
async def test_verification_names_the_place(
    mesh_with_history: Installation,
    auditor: Client,
    tamper: Callable[[Database], Awaitable[None]],
    kind: str,
    place: Place,
) -> None:
    assert await fault(auditor) is None
    async with tampering(mesh_with_history) as database:
        rows = await database.fetch("SELECT sequence FROM checkpoints")
        checkpoints = [row["sequence"] for row in rows]
        assert len(checkpoints) >= 2
        await tamper(database)
        found = await fault(auditor)
    assert found is not None
    assert (found["kind"], found["sequence"]) == (
        f"CHAIN_FAULT_KIND_{kind}", str(place(checkpoints)),
    )  # fmt: skip
    assert await fault(auditor) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET action = ''",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE checkpoints SET sequence = 0",
        "DELETE FROM checkpoints",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "DROP TABLE checkpoints",
    ],
)
async def test_the_service_itself_cannot_change_what_it_wrote(
    mesh_with_history: Installation, statement: str
) -> None:
    async with mesh_with_history.superuser() as database:
        await database.execute("SET search_path = audit_storage")
        installation_id = await database.fetchval("SELECT id FROM icto_installation.identity")
        await database.execute(f"SET ROLE {role_name(installation_id, 'audit_storage')}")
        with pytest.raises(asyncpg.PostgresError) as refused:
            await database.execute(statement)
    assert re.search("append-only|must be owner|permission denied", str(refused.value))


async def test_what_was_rewritten_is_not_signed(
    mesh_with_history: Installation, auditor: Client
) -> None:
    """Nothing that comes after a rewritten entry gets a checkpoint, or the rewriting would."""
    log = mesh_with_history.run.logs
    async with tampering(mesh_with_history) as database:
        before = await database.fetchval("SELECT max(sequence) FROM checkpoints")
        await rewrite(database)
        head = await database.fetchrow("SELECT sequence, entry_hash FROM head")
        await database.execute(
            "INSERT INTO entries SELECT (jsonb_populate_record(entries,"
            " jsonb_build_object('sequence', $1::bigint, 'id', gen_random_uuid()))).*"
            " FROM entries WHERE sequence = $2",
            head["sequence"] + 1, head["sequence"],
        )  # fmt: skip

        async def refused() -> bool:
            return any("not signed:" in path.read_text() for path in log.glob("audit_storage-*"))

        await until(refused)
        assert await database.fetchval("SELECT max(sequence) FROM checkpoints") == before
    assert await fault(auditor) is None


async def fault(auditor: Client) -> dict[str, Any] | None:
    """What verification finds."""
    answer = (await auditor.rest("GET", "/v1/auditEntries:verify")).body
    assert answer["intact"] == ("fault" not in answer)
    found: dict[str, Any] | None = answer.get("fault")
    return found


async def forged(database: Database) -> bytes:
    """The victim's event, with somebody else to blame."""
    row = await database.fetchval("SELECT event FROM entries WHERE sequence = $1", VICTIM)
    event = events.Event.FromString(row)
    event.act.justification = "somebody else did it"
    return event.SerializeToString(deterministic=True)


def newest_entry_is_signed(mesh: Installation) -> Callable[[], Awaitable[bool]]:
    async def signed() -> bool:
        async with mesh.superuser() as database:
            pending = await database.fetchval(
                "SELECT (SELECT sequence FROM audit_storage.head)"
                " - coalesce((SELECT max(sequence) FROM audit_storage.checkpoints), 0)"
            )
            waiting = 0
            for service in ("backend", "ledger", "invoice_storage", "token_deployer", "gateway"):
                waiting += await database.fetchval(f"SELECT count(*) FROM {service}.kit_outbox")
            return bool(pending == 0 and waiting == 0)

    return signed
