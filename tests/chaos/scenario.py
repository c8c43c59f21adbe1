"""What a scenario of the crash harness offers: users at work, and the truth about their work."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]
else:
    Connection = asyncpg.Connection


class Scenario(Protocol):
    """Users at work on one installation."""

    @property
    def points(self) -> Sequence[str]:
        """The crash points that their work passes."""

    @property
    def busy(self) -> int:
        """Operations kept in flight while a fault is prepared: more than it needs, as some end."""

    @property
    def in_flight(self) -> str:
        """SQL that counts operations that were accepted and have not ended."""

    async def prepare(self) -> None:
        """Makes the users."""

    async def begin(self) -> None:
        """One user begins one operation, until it is known whether it was accepted."""

    async def complete_one(self) -> None:
        """A user begins an operation that must succeed, and sees it succeed."""

    async def finish(self) -> None:
        """What is done once nothing is in flight any more."""

    async def counts(self, connection: Connection) -> Mapping[str, int]:
        """What happened, in numbers; the harness compares them with `least`."""

    def least(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Numbers below which a run proves nothing; some follow from how much was done."""

    async def problems(self, connection: Connection) -> Sequence[str]:
        """What should hold and does not."""
