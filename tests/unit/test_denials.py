"""Refusals that a replica saw: none is lost, whatever happens while they are written."""

from typing import Any

import pytest

from contract.errors import Code, Error
from services.kit.replica.denials import Denial, Denials

ONE = Denial("somebody", "edge", "/a.B/C", "ACCESS_DENIED")


class Outbox:
    """Keeps what it is given."""

    def added(self, events: list[Any]) -> list[Any]:
        return events

    def hint(self) -> None:
        """Nobody waits."""


class Database:
    """Sees another refusal whenever it writes, and may be away."""

    def __init__(self) -> None:
        self.denials: Denials | None = None
        self.away = False
        self.counts: list[int] = []

    async def apply(self, events: list[Any]) -> None:
        assert self.denials is not None
        self.denials.note(ONE)
        if self.away:
            raise Error(Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", "It is away.")
        self.counts += [int(event.act.details["count"]) for event in events]


async def test_a_refusal_while_others_are_written_is_written_next() -> None:
    database: Any = Database()
    denials = database.denials = Denials(database, Outbox())  # type: ignore[arg-type]
    denials.note(ONE)
    denials.note(ONE)
    await denials._write()
    await denials._write()
    assert database.counts == [2, 1]


async def test_refusals_wait_for_a_database_that_is_away() -> None:
    database: Any = Database()
    denials = database.denials = Denials(database, Outbox())  # type: ignore[arg-type]
    denials.note(ONE)
    database.away = True
    with pytest.raises(Error):
        await denials._write()
    database.away = False
    await denials._write()
    assert database.counts == [2]
